/* Checked writes to the first disk: stamped blocks of 4 KiB, straight to the medium. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "settings.h"

/* Take over disk size and rate; starts the thread when first needed. The writers are paused.
 * Returns 0, or -1 with the reason in `error` (no disk, too small). */
int disk_apply(const struct settings *wanted, char *error, size_t size);

/* Read every block back that was written. The writers are paused. Returns how many were. */
uint64_t disk_verify(void);

uint64_t disk_written(void);
uint64_t disk_errors(void);
