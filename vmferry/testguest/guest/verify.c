#define _GNU_SOURCE
#include "verify.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "disk.h"
#include "writer.h"

static struct {
	const struct area *area;
	uint64_t number, seen, expected;
	enum fault fault;
} faults[MOST_FAULTS];
static uint64_t count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void report_fault(const struct area *area, uint64_t number, enum fault fault, uint64_t seen,
		  uint64_t expected)
{
	pthread_mutex_lock(&lock);
	if (count < MOST_FAULTS) {
		faults[count].area = area;
		faults[count].number = number;
		faults[count].fault = fault;
		faults[count].seen = fault == FAULT_LOST ? 0 : seen;
		faults[count].expected = expected;
	}
	count++;
	pthread_mutex_unlock(&lock);
}

uint64_t faults_met(void)
{
	pthread_mutex_lock(&lock);
	uint64_t met = count;
	pthread_mutex_unlock(&lock);
	return met;
}

static uint64_t check_stamped(const struct area *area)
{
	for (uint64_t number = 0; number < area->pages; number++) {
		const uint64_t *page = area_page(area, number);
		uint32_t expected = area->expected[number];
		enum fault fault = page_fault(page, stamped_number(area, number), expected);
		if (fault != FAULT_NONE)
			report_fault(area, number, fault, page[SEQUENCE_WORD], expected);
	}
	return area->pages;
}

static uint64_t check_zero(const struct area *area)
{
	for (uint64_t number = 0; number < area->pages; number++) {
		const uint64_t *page = area_page(area, number);
		uint64_t any = 0;
		for (unsigned word = 0; word < WORDS; word++)
			any |= page[word];
		if (any)
			report_fault(area, number, FAULT_LOST, 0, 0);
	}
	return area->pages;
}

char *verify_all(void)
{
	writers_pause();
	uint64_t pages = check_stamped(&working_set) + check_stamped(&cold_area) +
			 check_zero(&untouched_area);
	uint64_t blocks = disk_verify();
	writers_resume();

	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	pthread_mutex_lock(&lock);
	fprintf(out,
		"\"pages\":%llu,\"disk_blocks\":%llu,\"disk_errors\":%llu,\"faults\":%llu,"
		"\"bad\":[",
		(unsigned long long)pages, (unsigned long long)blocks,
		(unsigned long long)disk_errors(), (unsigned long long)count);
	for (uint64_t i = 0; i < count && i < MOST_FAULTS; i++)
		fprintf(out,
			"%s{\"area\":\"%s\",\"page\":%llu,\"kind\":\"%s\",\"seen\":%llu,"
			"\"expected\":%llu}",
			i ? "," : "", faults[i].area->name, (unsigned long long)faults[i].number,
			fault_name(faults[i].fault), (unsigned long long)faults[i].seen,
			(unsigned long long)faults[i].expected);
	fprintf(out, "]");
	count = 0;
	pthread_mutex_unlock(&lock);
	fclose(out);
	return text;
}

int corrupt_page(uint64_t number, const char *kind, char *error, size_t size)
{
	if (number >= working_set.pages) {
		snprintf(error, size, "the working set has only %llu pages",
			 (unsigned long long)working_set.pages);
		return -1;
	}
	writers_pause();
	uint64_t *page = area_page(&working_set, number);
	int result = 0;
	if (!strcmp(kind, "torn")) {
		page[WORDS - 1] ^= 1;
	} else if (!strcmp(kind, "stale")) {
		change_word(page, SEQUENCE_WORD, page[SEQUENCE_WORD] - 1);
	} else if (!strcmp(kind, "lost")) {
		memset(page, 0, PAGE);
	} else {
		snprintf(error, size, "kind: torn, stale or lost");
		result = -1;
	}
	writers_resume();
	return result;
}
