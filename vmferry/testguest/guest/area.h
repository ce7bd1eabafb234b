/* Memory that the page writer owns: growing and shrinking sets of numbered pages. */
#pragma once

#include <stdint.h>

#include "stamp.h"

enum { CHUNK_PAGES = 512, CHUNK = CHUNK_PAGES * PAGE };

struct area {
	const char *name;
	uint64_t id;        /* in the upper bits of the numbers that its pages are stamped with */
	uint64_t pages;
	uint32_t *expected; /* the sequence that each page must have; 0: never stamped, all zero */
	uint64_t **chunks;  /* where each 2 MiB is, in order of guest physical address */
	uint64_t have;      /* chunks that are mapped or were */
};

extern struct area working_set, cold_area, untouched_area;

/* Make it `pages` long; new pages are populated zeros. Nothing may run on it meanwhile. */
void area_resize(struct area *area, uint64_t pages);

static inline uint64_t *area_page(const struct area *area, uint64_t number)
{
	return area->chunks[number / CHUNK_PAGES] + number % CHUNK_PAGES * WORDS;
}

static inline uint64_t stamped_number(const struct area *area, uint64_t number)
{
	return area->id << 56 | number;
}
