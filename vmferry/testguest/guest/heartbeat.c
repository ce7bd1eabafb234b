#define _GNU_SOURCE
#include "heartbeat.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "port.h"
#include "writer.h"

enum { PERIOD_NS = 2000000 };

/* 32 bytes, little-endian; beats.py reads the same. `check` makes the exclusive or of all 32-bit
 * words all ones, so that a reader finds the next record after a broken one. */
struct beat {
	uint32_t magic;
	uint32_t check;
	uint64_t sequence;
	uint64_t guest_ns;
	uint64_t work;
};

static uint32_t fold(uint64_t value)
{
	return (uint32_t)value ^ (uint32_t)(value >> 32);
}

static void *heartbeat_run(void *argument)
{
	(void)argument;
	struct beat beat = {.magic = 0x54414542}; /* "BEAT" */
	/* Never blocks: a beat that finds no room is dropped, and the next number tells. The driver
	 * takes a record whole or not at all. */
	int port = port_open("vmferry.heartbeat", O_WRONLY | O_NONBLOCK);
	uint64_t next = now_ns();
	for (;;) {
		next += PERIOD_NS;
		sleep_until(next);
		uint64_t now = now_ns();
		if (now > next + PERIOD_NS)
			next = now; /* late: no burst of beats that stand for nothing */
		beat.sequence++;
		beat.guest_ns = now;
		beat.work = pages_written();
		beat.check = ~(beat.magic ^ fold(beat.sequence) ^ fold(beat.guest_ns) ^ fold(beat.work));
		ssize_t ignored = write(port, &beat, sizeof beat);
		(void)ignored;
	}
	return NULL;
}

void heartbeat_start(void)
{
	pthread_attr_t attributes;
	pthread_attr_init(&attributes);
	pthread_attr_setinheritsched(&attributes, PTHREAD_EXPLICIT_SCHED);
	pthread_attr_setschedpolicy(&attributes, SCHED_FIFO);
	pthread_attr_setschedparam(&attributes, &(struct sched_param){.sched_priority = 50});
	pthread_t thread;
	if (pthread_create(&thread, &attributes, heartbeat_run, NULL))
		abort();
}
