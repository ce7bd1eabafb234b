/* Small reads past the page cache, each job on a disk and a CPU of its own, one at a time. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "load.h"

#define BLOCK 4096
#define PATIENCE_MS 20000

static int disks[WORKERS_MOST], disk_count;

static void run(struct worker *self)
{
	void *block;
	int disk = disks[self->index % disk_count];
	uint64_t blocks = (uint64_t)lseek(disk, 0, SEEK_END) / BLOCK;
	uint64_t random = (uint64_t)self->index + 88172645463325252u;
	if (!blocks || posix_memalign(&block, BLOCK, BLOCK))
		return;
	while (!atomic_load_explicit(&time_is_over, memory_order_relaxed)) {
		random ^= random << 13, random ^= random >> 7, random ^= random << 17;
		uint64_t began = now_ns();
		if (pread(disk, block, BLOCK, (off_t)(random % blocks * BLOCK)) == BLOCK)
			self->done++, self->bytes += BLOCK;
		else
			self->failed++;
		uint64_t took = now_ns() - began;
		if (took > self->longest_ns)
			self->longest_ns = took;
	}
	free(block);
}

void read_disks(int words, char **word)
{
	disk_count = 0;
	for (int i = 3; i < words && disk_count < WORKERS_MOST; i++) {
		int disk = -1;
		/* Disks behind SCSI are found a while after the start. */
		for (int ms = 0; disk < 0 && ms < PATIENCE_MS; ms += 50) {
			disk = open(word[i], O_RDONLY | O_DIRECT | O_CLOEXEC);
			if (disk < 0)
				usleep(50000);
		}
		if (disk < 0) {
			reply("error: %s: %s", word[i], strerror(errno));
			break;
		}
		disks[disk_count++] = disk;
	}
	if (disk_count == words - 3)
		run_workers(atoi(word[2]), atof(word[1]), run);
	while (disk_count > 0)
		close(disks[--disk_count]);
}
