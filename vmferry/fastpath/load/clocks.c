/* What it costs to read the clock, and what it shows. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

#define LOOPS 41
#define LOOP_NS 3000000

static int by_libc(clockid_t clock, struct timespec *now)
{
	return clock_gettime(clock, now);
}

static int by_call(clockid_t clock, struct timespec *now)
{
	return (int)syscall(SYS_clock_gettime, clock, now);
}

static int ascending(const void *one, const void *other)
{
	double difference = *(const double *)one - *(const double *)other;
	return (difference > 0) - (difference < 0);
}

static uint64_t loop(int (*get)(clockid_t, struct timespec *), long times)
{
	struct timespec now;
	uint64_t began = now_ns();
	for (long i = 0; i < times; i++)
		get(CLOCK_MONOTONIC, &now);
	return now_ns() - began;
}

static void measure(const char *name, int (*get)(clockid_t, struct timespec *))
{
	double ns[LOOPS];
	long times = 16;
	while (loop(get, times) < LOOP_NS / 2 && times < 1 << 24)
		times *= 2;
	for (int i = 0; i < LOOPS; i++)
		ns[i] = (double)loop(get, times) / (double)times;
	qsort(ns, LOOPS, sizeof *ns, ascending);
	reply("\"%s\": %.2f, \"%s_slow\": %.2f", name, ns[LOOPS / 2], name, ns[LOOPS - 2]);
}

void read_clock(void)
{
	reply("{");
	measure("libc", by_libc);
	reply(", ");
	measure("call", by_call);
	reply("}");
}

void tell_time(void)
{
	static const struct {
		clockid_t clock;
		const char *name;
	} clocks[] = {{CLOCK_MONOTONIC, "monotonic"}, {CLOCK_REALTIME, "real"}, {CLOCK_BOOTTIME, "boot"}};
	for (unsigned i = 0; i < sizeof clocks / sizeof *clocks; i++) {
		struct timespec now;
		clock_gettime(clocks[i].clock, &now);
		reply("%s\"%s\": %ld.%09ld", i ? ", " : "{", clocks[i].name, (long)now.tv_sec, now.tv_nsec);
	}
	reply("}");
}
