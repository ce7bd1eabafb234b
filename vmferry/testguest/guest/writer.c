#define _GNU_SOURCE
#include "writer.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "area.h"
#include "disk.h"
#include "pace.h"
#include "verify.h"

enum { SLACK = 8 << 20 };

struct settings settings;

static atomic_uint pausing;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned started, parked, generation;
static uint64_t epoch_ns; /* when the settings came into force: phases count from here */

static struct writer {
	unsigned index;
	uint64_t random;
	uint64_t cursor, hot_cursor;
	_Atomic uint64_t written, read;
} __attribute__((aligned(64))) writers[MAX_THREADS];
static unsigned writer_count;

uint64_t pages_written(void)
{
	uint64_t sum = 0;
	for (unsigned i = 0; i < MAX_THREADS; i++)
		sum += atomic_load_explicit(&writers[i].written, memory_order_relaxed);
	return sum;
}

uint64_t pages_read(void)
{
	uint64_t sum = 0;
	for (unsigned i = 0; i < MAX_THREADS; i++)
		sum += atomic_load_explicit(&writers[i].read, memory_order_relaxed);
	return sum;
}

bool writers_pausing(void)
{
	return atomic_load_explicit(&pausing, memory_order_relaxed);
}

unsigned writers_checkpoint(void)
{
	static _Thread_local unsigned seen;
	if (seen && !writers_pausing())
		return seen;
	pthread_mutex_lock(&lock);
	parked++;
	pthread_cond_broadcast(&changed);
	while (pausing)
		pthread_cond_wait(&changed, &lock);
	parked--;
	seen = generation;
	pthread_mutex_unlock(&lock);
	return seen;
}

void writers_start(void *(*run)(void *), void *argument)
{
	pthread_t thread;
	if (pthread_create(&thread, NULL, run, argument))
		abort();
	pthread_mutex_lock(&lock);
	started++;
	pthread_mutex_unlock(&lock);
}

void writers_pause(void)
{
	pthread_mutex_lock(&lock);
	pausing++;
	while (parked < started)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

void writers_resume(void)
{
	pthread_mutex_lock(&lock);
	generation++;
	pausing--;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static uint64_t fill(uint64_t *page, uint64_t *random)
{
	return settings.content == TEXT ? fill_text(page, random) : fill_random(page, random);
}

static void stamp(struct area *area, uint64_t number, uint64_t *random)
{
	uint64_t *page = area_page(area, number);
	seal(page, stamped_number(area, number), ++area->expected[number], fill(page, random));
}

static inline void write_page(uint64_t number, uint64_t *random)
{
	uint64_t *page = area_page(&working_set, number);
	uint32_t *expected = &working_set.expected[number];
	enum fault fault = header_fault(page, stamped_number(&working_set, number), *expected);
	if (__builtin_expect(fault != FAULT_NONE, 0)) {
		/* Keep the evidence: this write is about to heal the page. */
		report_fault(&working_set, number, fault, page[SEQUENCE_WORD], *expected);
		stamp(&working_set, number, random);
		return;
	}
	switch (settings.content) {
	case SAME:
		*(volatile uint64_t *)&page[SEQUENCE_WORD] = *expected;
		break;
	case ONE_WORD:
		change_word(page, CONTENT + random_below(random, WORDS - CONTENT), next_random(random));
		change_word(page, SEQUENCE_WORD, ++*expected);
		break;
	default:
		stamp(&working_set, number, random);
	}
}

static void read_page(uint64_t number)
{
	const uint64_t *page = area_page(&working_set, number);
	uint32_t expected = working_set.expected[number];
	enum fault fault = page_fault(page, stamped_number(&working_set, number), expected);
	if (fault != FAULT_NONE)
		report_fault(&working_set, number, fault, page[SEQUENCE_WORD], expected);
}

/* Writer i of n owns the pages i, i+n, i+2n, ... so that no page has two writers. */
static uint64_t choose(struct writer *self, uint64_t mine, uint64_t hot)
{
	uint64_t low = 0, count = mine, *cursor = &self->cursor;
	if (hot) {
		if (random_below(&self->random, 100) < settings.hot_writes) {
			count = hot;
			cursor = &self->hot_cursor;
		} else {
			low = hot;
			count = mine - hot;
		}
	}
	uint64_t place;
	if (settings.order == SEQUENTIAL) {
		place = *cursor < count ? *cursor : 0;
		*cursor = place + 1;
	} else {
		place = random_below(&self->random, count);
	}
	return (low + place) * settings.threads + self->index;
}

static void *writer_run(void *argument)
{
	struct writer *self = argument;
	struct pace pace = {0};
	uint64_t mine = 0, hot = 0;
	unsigned seen = 0;
	for (;;) {
		unsigned current = writers_checkpoint();
		if (current != seen) {
			seen = current;
			bool works = self->index < settings.threads && working_set.pages;
			mine = works ? (working_set.pages - self->index + settings.threads - 1) /
					       settings.threads
				     : 0;
			hot = settings.hot_pages ? mine * settings.hot_pages / 100 : 0;
			if (settings.hot_pages && !hot && mine > 1)
				hot = 1;
			/* The rate is of writes; the reads come on top. */
			double share = 100.0 / (100 - settings.read_share) / settings.threads;
			pace_start(&pace, works ? settings.write_rate : 0, share, &settings.phases,
				   epoch_ns);
		}
		for (unsigned left = pace_wait(&pace); left && !writers_pausing(); left--) {
			uint64_t number = choose(self, mine, hot);
			if (settings.read_share &&
			    random_below(&self->random, 100) < settings.read_share) {
				read_page(number);
				self->read++;
			} else {
				write_page(number, &self->random);
				/* Only this thread writes it: no locked instruction is needed. */
				atomic_store_explicit(
					&self->written,
					atomic_load_explicit(&self->written, memory_order_relaxed) + 1,
					memory_order_relaxed);
			}
		}
	}
	return NULL;
}

static uint64_t available_bytes(void)
{
	unsigned long long kib = 0;
	char line[128];
	FILE *file = fopen("/proc/meminfo", "re");
	while (file && fgets(line, sizeof line, file))
		if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return kib << 10;
}

static void resize(struct area *area, uint64_t bytes, bool growing, bool stamped)
{
	static uint64_t random;
	uint64_t before = area->pages;
	if (growing != (bytes / PAGE > before))
		return;
	if (!random)
		random = stamp_magic;
	area_resize(area, bytes / PAGE);
	for (uint64_t number = before; stamped && number < area->pages; number++)
		stamp(area, number, &random);
}

int writers_apply(const struct settings *wanted, char *error, size_t size)
{
	uint64_t before = (working_set.pages + cold_area.pages + untouched_area.pages) * PAGE;
	uint64_t after = wanted->working_set + wanted->cold + wanted->untouched;
	uint64_t more = after > before ? after - before : 0, available = available_bytes();
	/* 4 bytes a page for the table, the rest of the last chunk of each area, and room to live. */
	if (more && more + more / 1024 + SLACK > available) {
		snprintf(error, size,
			 "%llu MiB more do not fit: the guest has %llu MiB, and %u MiB stay free",
			 (unsigned long long)more >> 20, (unsigned long long)available >> 20,
			 SLACK >> 20);
		return -1;
	}
	if (disk_apply(wanted, error, size))
		return -1;
	settings = *wanted;
	for (int growing = 0; growing < 2; growing++) { /* first make room */
		resize(&working_set, wanted->working_set, growing, true);
		resize(&cold_area, wanted->cold, growing, true);
		resize(&untouched_area, wanted->untouched, growing, false);
	}
	epoch_ns = now_ns();
	for (; writer_count < settings.threads; writer_count++) {
		struct writer *writer = &writers[writer_count];
		writer->index = writer_count;
		writer->random = stamp_magic + writer_count;
		writers_start(writer_run, writer);
	}
	return 0;
}
