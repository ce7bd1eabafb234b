#define _GNU_SOURCE
#include "area.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct area working_set = {.name = "working_set", .id = 1};
struct area cold_area = {.name = "cold", .id = 2};
struct area untouched_area = {.name = "untouched", .id = 3};

static int pagemap = -1;

/* The frame number of a mapped page; 0 where the kernel does not say. */
static uint64_t frame_of(const void *address)
{
	uint64_t entry = 0;
	if (pagemap < 0)
		pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pread(pagemap, &entry, sizeof entry, (uintptr_t)address / PAGE * 8) != sizeof entry)
		return 0;
	return entry & ((1ull << 55) - 1);
}

static int by_frame(const void *a, const void *b)
{
	uint64_t first = frame_of(*(uint64_t *const *)a), second = frame_of(*(uint64_t *const *)b);
	return (first > second) - (first < second);
}

static uint64_t *map_chunk(void)
{
	/* Twice the size, to keep the part that is aligned for a huge page. */
	char *raw = mmap(NULL, 2 * CHUNK, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (raw == MAP_FAILED)
		abort();
	char *chunk = (char *)(((uintptr_t)raw + CHUNK - 1) / CHUNK * CHUNK);
	if (chunk > raw)
		munmap(raw, chunk - raw);
	munmap(chunk + CHUNK, raw + CHUNK - chunk);
	madvise(chunk, CHUNK, MADV_HUGEPAGE);
	return (uint64_t *)chunk;
}

void area_resize(struct area *area, uint64_t pages)
{
	uint64_t before = (area->pages + CHUNK_PAGES - 1) / CHUNK_PAGES;
	uint64_t after = (pages + CHUNK_PAGES - 1) / CHUNK_PAGES;
	if (after > area->have) {
		area->chunks = realloc(area->chunks, after * sizeof *area->chunks);
		area->expected = realloc(area->expected, after * CHUNK_PAGES * sizeof *area->expected);
		if (!area->chunks || !area->expected)
			abort();
		for (; area->have < after; area->have++)
			area->chunks[area->have] = map_chunk();
	}
	for (uint64_t number = pages; number < area->pages; number++) {
		/* Zero what is cut off inside a chunk that stays, as populating does for the rest. */
		if (number / CHUNK_PAGES < after)
			__builtin_memset(area_page(area, number), 0, PAGE);
	}
	for (uint64_t chunk = after; chunk < before; chunk++)
		madvise(area->chunks[chunk], CHUNK, MADV_DONTNEED);
	for (uint64_t chunk = before; chunk < after; chunk++)
		madvise(area->chunks[chunk], CHUNK, MADV_POPULATE_WRITE);
	/* QEMU sends pages in order of guest physical address: `sequential` shall mean that order. */
	if (after > before)
		qsort(area->chunks + before, after - before, sizeof *area->chunks, by_frame);
	for (uint64_t number = area->pages; number < pages; number++)
		area->expected[number] = 0;
	area->pages = pages;
}
