#define _GNU_SOURCE
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "area.h"
#include "pace.h"
#include "verify.h"
#include "writer.h"

/* Only the numbers and the table are used: its pages are on the disk. */
static struct area blocks = {.name = "disk", .id = 4};
static const char *const devices[] = {"/dev/vda", "/dev/sda", NULL};
static int device = -1;
static bool running;
static _Atomic uint64_t written, errors;

uint64_t disk_written(void)
{
	return written;
}

uint64_t disk_errors(void)
{
	return errors;
}

static void write_block(uint64_t *buffer, uint64_t *random)
{
	uint64_t number = random_below(random, blocks.pages);
	uint32_t next = blocks.expected[number] + 1;
	seal(buffer, stamped_number(&blocks, number), next, fill_random(buffer, random));
	if (pwrite(device, buffer, PAGE, number * PAGE) == PAGE) {
		blocks.expected[number] = next;
		written++;
	} else {
		/* What the block holds now cannot be told: it counts again when it is next written. */
		blocks.expected[number] = 0;
		errors++;
	}
}

static void *disk_run(void *argument)
{
	uint64_t *buffer = argument, random = stamp_magic ^ 4;
	struct pace pace = {0};
	unsigned seen = 0;
	for (;;) {
		unsigned current = writers_checkpoint();
		if (current != seen) {
			seen = current;
			pace_start(&pace, blocks.pages ? settings.disk_rate : 0, 1, NULL, 0);
		}
		for (unsigned left = pace_wait(&pace); left && !writers_pausing(); left--)
			write_block(buffer, &random);
	}
	return NULL;
}

int disk_apply(const struct settings *wanted, char *error, size_t size)
{
	if (wanted->disk && device < 0)
		for (unsigned i = 0; devices[i] && device < 0; i++)
			device = open(devices[i], O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC);
	if (wanted->disk && device < 0) {
		snprintf(error, size, "disk: the guest has no disk");
		return -1;
	}
	uint64_t bytes = 0;
	if (wanted->disk && (ioctl(device, BLKGETSIZE64, &bytes) || bytes < wanted->disk)) {
		snprintf(error, size, "disk: the guest's disk has only %llu bytes",
			 (unsigned long long)bytes);
		return -1;
	}
	uint64_t pages = wanted->disk / PAGE;
	if (pages > blocks.pages) {
		blocks.expected = realloc(blocks.expected, pages * sizeof *blocks.expected);
		if (!blocks.expected)
			abort();
		memset(blocks.expected + blocks.pages, 0,
		       (pages - blocks.pages) * sizeof *blocks.expected);
	}
	blocks.pages = pages;
	if (pages && !running) {
		running = true;
		writers_start(disk_run, aligned_alloc(PAGE, PAGE));
	}
	return 0;
}

uint64_t disk_verify(void)
{
	uint64_t checked = 0, *buffer = aligned_alloc(PAGE, PAGE);
	for (uint64_t number = 0; number < blocks.pages; number++) {
		uint32_t expected = blocks.expected[number];
		if (!expected)
			continue;
		checked++;
		if (pread(device, buffer, PAGE, number * PAGE) != PAGE) {
			memset(buffer, 0, PAGE);
			errors++;
		}
		enum fault fault = page_fault(buffer, stamped_number(&blocks, number), expected);
		if (fault != FAULT_NONE)
			report_fault(&blocks, number, fault, buffer[SEQUENCE_WORD], expected);
	}
	free(buffer);
	return checked;
}
