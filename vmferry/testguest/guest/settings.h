/* What the page writer shall do. Set by words of the kernel command line and by the agent. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define UNLIMITED UINT64_MAX

enum { MAX_THREADS = 64, MAX_PHASES = 32 };
enum content { RANDOM_WORDS, ONE_WORD, TEXT, SAME };
enum order { RANDOM_ORDER, SEQUENTIAL };

struct phases {
	unsigned count;
	uint64_t cycle_ns;
	struct {
		uint64_t busy;
		uint64_t ns;
	} phase[MAX_PHASES];
};

struct settings {
	uint64_t working_set; /* bytes that are written again and again */
	uint64_t cold;        /* bytes stamped once */
	uint64_t untouched;   /* bytes never written by us: zeros */
	uint64_t write_rate;  /* bytes of dirtied pages a second, or UNLIMITED */
	uint64_t hot_writes;  /* per cent of the writes that go to ... */
	uint64_t hot_pages;   /* ... so many per cent of the pages; 0 and 0: uniform */
	uint64_t order;
	uint64_t content;
	uint64_t threads;
	uint64_t read_share; /* per cent of the operations that only read and check */
	uint64_t disk;       /* bytes of the disk that are written; 0: none */
	uint64_t disk_rate;  /* bytes a second, or UNLIMITED */
	struct phases phases;
};

extern const struct settings default_settings;

/* Set one setting from its text. Returns 0, or -1 with the reason in `error`. */
int settings_set(struct settings *settings, const char *key, const char *value, char *error,
		 size_t size);

/* What no single setting can tell. Returns 0, or -1 with the reason in `error`. */
int settings_check(const struct settings *settings, char *error, size_t size);

/* Take the `pagewriter.KEY=VALUE` words of a kernel command line. */
int settings_from_command_line(struct settings *settings, const char *line, char *error,
			       size_t size);

/* The settings as members of a JSON object, without braces. */
size_t settings_to_json(const struct settings *settings, char *text, size_t size);
