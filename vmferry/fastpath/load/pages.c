/* Writes memory page by page, as fast as it goes, until the guest ends. */
#include <stdlib.h>
#include <sys/mman.h>

#include "load.h"

#define PAGE 4096

static size_t bytes_each;
static _Atomic uint64_t written[WORKERS_MOST];

static void *run(void *argument)
{
	int index = (int)(intptr_t)argument;
	stay_on(index);
	char *area = mmap(NULL, bytes_each, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (area == MAP_FAILED)
		return NULL;
	for (uint64_t round = 1;; round++)
		for (size_t at = 0; at < bytes_each; at += PAGE) {
			*(volatile uint64_t *)(area + at) = round;
			atomic_fetch_add_explicit(&written[index], 1, memory_order_relaxed);
		}
}

void write_pages(int words, char **word)
{
	(void)words;
	int threads = atoi(word[1]);
	pthread_t thread;
	if (threads < 1 || threads > WORKERS_MOST) {
		reply("error: %d threads", threads);
		return;
	}
	bytes_each = (size_t)atoll(word[2]) / (size_t)threads / PAGE * PAGE;
	for (int i = 0; i < threads; i++)
		if (pthread_create(&thread, NULL, run, (void *)(intptr_t)i))
			reply("error: no more than %d threads", i);
}

void tell_pages(void)
{
	uint64_t sum = 0;
	for (int i = 0; i < WORKERS_MOST; i++)
		sum += atomic_load_explicit(&written[i], memory_order_relaxed);
	reply("{\"pages\": %lu}", sum);
}
