/* What is wrong with our pages: faults met while writing and reading, and the check of all. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "area.h"

enum { MOST_FAULTS = 1000 };

/* Any thread may report; the first MOST_FAULTS are kept, all are counted. */
void report_fault(const struct area *area, uint64_t number, enum fault fault, uint64_t seen,
		  uint64_t expected);

/* Faults met by writers and readers since the last verification. */
uint64_t faults_met(void);

/* Check every page and block with the writers paused. Returns JSON members of the answer, for the
 * caller to free: pages, disk_blocks, disk_errors, faults, bad. Faults met before are among them. */
char *verify_all(void);

/* A test aid: spoil page `number` of the working set as a faulty migration would. */
int corrupt_page(uint64_t number, const char *kind, char *error, size_t size);
