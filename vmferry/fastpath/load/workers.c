/* Threads that do one thing for some time, each on a CPU of its own as far as there are. */
#define _GNU_SOURCE
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

atomic_bool time_is_over;
static pthread_barrier_t begin;

uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void stay_on(int index)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET((unsigned)index % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
	sched_setaffinity(0, sizeof set, &set);
}

static void *start(void *argument)
{
	struct worker *self = argument;
	stay_on(self->index);
	pthread_barrier_wait(&begin);
	self->run(self);
	return NULL;
}

void run_workers(int count, double seconds, void (*run)(struct worker *self))
{
	static struct worker workers[WORKERS_MOST];
	if (count < 1 || count > WORKERS_MOST || seconds <= 0 || seconds > 3600) {
		reply("error: %d workers for %g s", count, seconds);
		return;
	}
	atomic_store(&time_is_over, false);
	pthread_barrier_init(&begin, NULL, (unsigned)count + 1);
	for (int i = 0; i < count; i++) {
		workers[i] = (struct worker){.index = i, .run = run};
		if (pthread_create(&workers[i].thread, NULL, start, &workers[i])) {
			reply("error: no more than %d threads", i);
			_exit(1); /* the first program starts this one again */
		}
	}
	pthread_barrier_wait(&begin);
	uint64_t began = now_ns();
	usleep((useconds_t)(seconds * 1e6) % 1000000);
	sleep((unsigned)seconds);
	atomic_store(&time_is_over, true);
	uint64_t took = now_ns() - began;
	for (int i = 0; i < count; i++)
		pthread_join(workers[i].thread, NULL);
	reply("{\"seconds\": %.6f, \"workers\": [", (double)took / 1e9);
	for (int i = 0; i < count; i++)
		reply("%s{\"done\": %lu, \"bytes\": %lu, \"longest_ns\": %lu, \"failed\": %lu}",
		      i ? ", " : "", workers[i].done, workers[i].bytes, workers[i].longest_ns,
		      workers[i].failed);
	reply("]}");
	pthread_barrier_destroy(&begin);
}
