/* labload: loads whose effect on a fast path can be counted, for guests and hosts of the lab.
 *
 *   labload lock THREADS SECONDS         all threads take one spinlock of the kernel, again and again
 *   labload disk JOBS SECONDS FILE...    each job, on a CPU of its own, reads 4 KiB at random places
 *   labload clock CALLS                  reads the clock with and without a system call
 *
 * Each prints one JSON object.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MOST 64
#define BLOCK 4096

struct job {
	pthread_t thread;
	int number;
	int file;
	unsigned long blocks; /* in the file */
	unsigned long done;
	long longest_ns;
	int failed;
};

static struct job jobs[MOST];
static atomic_int stop, waiting;

static long now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* All begin together. */
static void ready(void)
{
	atomic_fetch_sub(&waiting, 1);
	while (atomic_load(&waiting) > 0)
		sched_yield();
}

/* The threads share one table of files: to take a number in it and to give it back takes the
 * table's spinlock. */
static void *lock_job(void *argument)
{
	struct job *job = argument;
	ready();
	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		long start = now_ns();
		int copy = dup(0);
		if (copy < 0 || close(copy) < 0)
			job->failed = 1;
		long took = now_ns() - start;
		if (took > job->longest_ns)
			job->longest_ns = took;
		job->done++;
	}
	return NULL;
}

static void *disk_job(void *argument)
{
	struct job *job = argument;
	cpu_set_t cpus;
	CPU_ZERO(&cpus);
	CPU_SET(job->number % sysconf(_SC_NPROCESSORS_ONLN), &cpus);
	sched_setaffinity(0, sizeof cpus, &cpus);
	void *block;
	if (posix_memalign(&block, BLOCK, BLOCK))
		die("memory");
	unsigned long place = 88172645463325252UL + job->number;
	ready();
	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		place ^= place << 13, place ^= place >> 7, place ^= place << 17;
		long start = now_ns();
		if (pread(job->file, block, BLOCK, place % job->blocks * BLOCK) != BLOCK)
			job->failed = 1;
		long took = now_ns() - start;
		if (took > job->longest_ns)
			job->longest_ns = took;
		job->done++;
	}
	free(block);
	return NULL;
}

static void open_file(struct job *job, const char *path)
{
	struct stat about;
	job->file = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (job->file < 0 || fstat(job->file, &about) < 0)
		die(path);
	unsigned long size = about.st_size;
	if (S_ISBLK(about.st_mode) && ioctl(job->file, BLKGETSIZE64, &size) < 0)
		die(path);
	job->blocks = size / BLOCK;
	if (job->blocks == 0) {
		fprintf(stderr, "%s: smaller than a block\n", path);
		exit(1);
	}
}

static void run(int count, double seconds, void *(*work)(void *))
{
	atomic_store(&waiting, count + 1);
	for (int i = 0; i < count; i++) {
		jobs[i].number = i;
		if (pthread_create(&jobs[i].thread, NULL, work, &jobs[i]))
			die("thread");
	}
	ready();
	long start = now_ns();
	struct timespec rest = { (time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9) };
	nanosleep(&rest, NULL);
	atomic_store(&stop, 1);
	unsigned long total = 0;
	long longest = 0;
	int failed = 0;
	for (int i = 0; i < count; i++)
		pthread_join(jobs[i].thread, NULL);
	double took = (now_ns() - start) / 1e9;
	printf("{\"seconds\": %.6f, \"done\": [", took);
	for (int i = 0; i < count; i++) {
		printf("%s%lu", i ? ", " : "", jobs[i].done);
		total += jobs[i].done;
		failed |= jobs[i].failed;
		if (jobs[i].longest_ns > longest)
			longest = jobs[i].longest_ns;
	}
	printf("], \"per_second\": %.1f, \"longest_us\": %.1f, \"failed\": %s}\n", total / took,
	       longest / 1e3, failed ? "true" : "false");
}

static void clock_speed(unsigned long calls)
{
	struct timespec t;
	long start = now_ns();
	for (unsigned long i = 0; i < calls; i++)
		clock_gettime(CLOCK_MONOTONIC, &t);
	long plain = now_ns() - start;
	start = now_ns();
	for (unsigned long i = 0; i < calls; i++)
		syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
	long called = now_ns() - start;
	printf("{\"calls\": %lu, \"clock_gettime_ns\": %.1f, \"system_call_ns\": %.1f}\n", calls,
	       (double)plain / calls, (double)called / calls);
}

int main(int count, char **words)
{
	const char *what = count > 2 ? words[1] : "";
	int number = count > 2 ? atoi(words[2]) : 0;
	if (!strcmp(what, "clock") && number > 0) {
		clock_speed(number);
		return 0;
	}
	double seconds = count > 3 ? atof(words[3]) : 0;
	if (number < 1 || number > MOST || seconds <= 0) {
		fputs("labload lock THREADS SECONDS | disk JOBS SECONDS FILE... | clock CALLS\n",
		      stderr);
		return 2;
	}
	if (!strcmp(what, "lock")) {
		run(number, seconds, lock_job);
	} else if (!strcmp(what, "disk") && count > 4) {
		for (int i = 0; i < number; i++)
			open_file(&jobs[i], words[4 + i % (count - 4)]);
		run(number, seconds, disk_job);
	} else {
		fputs("labload: see labload.c\n", stderr);
		return 2;
	}
	return 0;
}
