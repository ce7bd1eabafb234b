#include "settings.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct settings default_settings = {
	.working_set = 64 << 20,
	.write_rate = 16 << 20,
	.content = RANDOM_WORDS,
	.threads = 1,
	.disk_rate = 1 << 20,
};

static const char *const orders[] = {"random", "sequential", NULL};
static const char *const contents[] = {"random", "one-word", "text", "same", NULL};

static const struct setting {
	const char *name;
	size_t offset;
	uint64_t least, most, multiple;
	bool rate;                /* "unlimited" is allowed */
	const char *const *words; /* or one of these, stored as its place */
} table[] = {
#define AT(field) #field, offsetof(struct settings, field)
	{AT(working_set), 0, 1ull << 46, 4096},
	{AT(cold), 0, 1ull << 46, 4096},
	{AT(untouched), 0, 1ull << 46, 4096},
	{AT(write_rate), 0, 1ull << 46, 1, .rate = true},
	{AT(hot_writes), 0, 99, 1},
	{AT(hot_pages), 0, 99, 1},
	{AT(order), .words = orders},
	{AT(content), .words = contents},
	{AT(threads), 1, MAX_THREADS, 1},
	{AT(read_share), 0, 99, 1},
	{AT(disk), 0, 1ull << 46, 4096},
	{AT(disk_rate), 0, 1ull << 46, 1, .rate = true},
#undef AT
};

static uint64_t *field(const struct settings *settings, const struct setting *setting)
{
	return (uint64_t *)((char *)settings + setting->offset);
}

static int set_word(uint64_t *place, const char *const *words, const char *value)
{
	for (unsigned i = 0; words[i]; i++)
		if (!strcmp(words[i], value)) {
			*place = i;
			return 0;
		}
	return -1;
}

/* `busy:5,idle:0.5`; empty is busy for ever. */
static int set_phases(struct phases *phases, const char *text)
{
	struct phases new = {0};
	while (*text) {
		if (new.count == MAX_PHASES)
			return -1;
		bool busy = !strncmp(text, "busy:", 5);
		if (!busy && strncmp(text, "idle:", 5))
			return -1;
		char *end;
		double seconds = strtod(text + 5, &end);
		if (end == text + 5 || !(seconds >= 0.001 && seconds <= 1e6))
			return -1;
		if (*end && (*end != ',' || !end[1]))
			return -1;
		new.phase[new.count].busy = busy;
		new.phase[new.count++].ns = seconds * 1e9;
		new.cycle_ns += (uint64_t)(seconds * 1e9);
		text = *end ? end + 1 : end;
	}
	*phases = new;
	return 0;
}

int settings_set(struct settings *settings, const char *key, const char *value, char *error,
		 size_t size)
{
	if (!strcmp(key, "phases")) {
		if (!set_phases(&settings->phases, value))
			return 0;
		snprintf(error, size, "phases: '%.80s' is not like busy:5,idle:3 (seconds)", value);
		return -1;
	}
	for (unsigned i = 0; i < sizeof table / sizeof *table; i++) {
		const struct setting *setting = &table[i];
		if (strcmp(setting->name, key))
			continue;
		if (setting->words) {
			if (!set_word(field(settings, setting), setting->words, value))
				return 0;
			snprintf(error, size, "%s: '%.80s' is not known", key, value);
			return -1;
		}
		if (setting->rate && !strcmp(value, "unlimited")) {
			*field(settings, setting) = UNLIMITED;
			return 0;
		}
		char *end;
		errno = 0;
		uint64_t number = strtoull(value, &end, 10);
		if (*value < '0' || *value > '9' || *end || errno || number < setting->least ||
		    number > setting->most || number % setting->multiple) {
			snprintf(error, size, "%s: '%.80s' is not a number from %llu to %llu%s", key,
				 value, (unsigned long long)setting->least,
				 (unsigned long long)setting->most,
				 setting->multiple > 1 ? ", a multiple of 4096" : "");
			return -1;
		}
		*field(settings, setting) = number;
		return 0;
	}
	snprintf(error, size, "'%.80s' is not a setting", key);
	return -1;
}

int settings_check(const struct settings *settings, char *error, size_t size)
{
	if (!settings->hot_writes != !settings->hot_pages) {
		snprintf(error, size, "hot_writes and hot_pages: set both or neither");
		return -1;
	}
	if (settings->working_set && settings->working_set / 4096 < settings->threads) {
		snprintf(error, size, "working_set: fewer pages than threads");
		return -1;
	}
	return 0;
}

int settings_from_command_line(struct settings *settings, const char *line, char *error,
			       size_t size)
{
	static const char prefix[] = "pagewriter.";
	char *words = strdup(line), *rest = words;
	int result = 0;
	for (char *word; !result && (word = strsep(&rest, " \n"));) {
		if (strncmp(word, prefix, sizeof prefix - 1))
			continue;
		char *key = word + sizeof prefix - 1, *value = strchr(key, '=');
		if (value)
			*value++ = 0;
		result = settings_set(settings, key, value ? value : "", error, size);
	}
	free(words);
	return result ? result : settings_check(settings, error, size);
}

size_t settings_to_json(const struct settings *settings, char *text, size_t size)
{
	size_t at = 0;
	for (unsigned i = 0; i < sizeof table / sizeof *table; i++) {
		const struct setting *setting = &table[i];
		uint64_t value = *field(settings, setting);
		if (setting->words)
			at += snprintf(text + at, size - at, "\"%s\":\"%s\",", setting->name,
				       setting->words[value]);
		else if (setting->rate && value == UNLIMITED)
			at += snprintf(text + at, size - at, "\"%s\":\"unlimited\",", setting->name);
		else
			at += snprintf(text + at, size - at, "\"%s\":%llu,", setting->name,
				       (unsigned long long)value);
	}
	at += snprintf(text + at, size - at, "\"phases\":\"");
	for (unsigned i = 0; i < settings->phases.count; i++)
		at += snprintf(text + at, size - at, "%s%s:%g", i ? "," : "",
			       settings->phases.phase[i].busy ? "busy" : "idle",
			       settings->phases.phase[i].ns / 1e9);
	return at + snprintf(text + at, size - at, "\"");
}
