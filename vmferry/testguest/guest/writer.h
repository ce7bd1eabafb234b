/* The writers: threads that dirty the working set as the settings say, and one for the disk. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "settings.h"

/* The settings in force. Change them only between writers_pause and writers_resume. */
extern struct settings settings;

/* Fit the areas to the settings, stamp what is new and start. On failure (memory) the reason is in
 * `error`, -1 is returned and nothing has changed. Call it with the writers paused. */
int writers_apply(const struct settings *wanted, char *error, size_t size);

/* Stop every writer at a page boundary and return when all have stopped. */
void writers_pause(void);
void writers_resume(void);

/* For a writer's thread: whether it shall stop now; then it does, until the writers resume.
 * Returns a number that changes with every resume. */
unsigned writers_checkpoint(void);
bool writers_pausing(void);

/* Start a thread that calls writers_checkpoint; it begins when the writers resume. */
void writers_start(void *(*run)(void *), void *argument);

/* Pages written and pages read, by all threads since the start. */
uint64_t pages_written(void);
uint64_t pages_read(void);
