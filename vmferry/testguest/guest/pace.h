/* How many operations are due now, so that a rate is kept smoothly and without long catching up. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "clock.h"
#include "settings.h"

enum {
	GRANULE_NS = 1000000,   /* operations come in groups of this much time */
	MOST_DEBT_NS = 10000000, /* what a late thread may catch up; the rest is given up */
	LONGEST_SLEEP_NS = 5000000, /* so that a pause is noticed soon */
	UNPACED = 64,           /* operations between two looks at the clock without a limit */
};

struct pace {
	double per_ns;      /* operations; below 0: no limit */
	const struct phases *phases;
	uint64_t epoch_ns;  /* where the first phase began */
	uint64_t last_ns;
	double due;
};

static inline bool pace_busy(const struct pace *pace, uint64_t now)
{
	const struct phases *phases = pace->phases;
	if (!phases || !phases->count)
		return true;
	uint64_t at = (now - pace->epoch_ns) % phases->cycle_ns;
	for (unsigned i = 0; i < phases->count; i++) {
		if (at < phases->phase[i].ns)
			return phases->phase[i].busy;
		at -= phases->phase[i].ns;
	}
	return true;
}

/* Operations to do before the next call; sleeps, at most 5 ms, where there are none. */
static inline unsigned pace_wait(struct pace *pace)
{
	uint64_t now = now_ns();
	if (!pace_busy(pace, now) || pace->per_ns == 0) {
		sleep_until(now + LONGEST_SLEEP_NS);
		pace->last_ns = now_ns();
		return 0;
	}
	if (pace->per_ns < 0)
		return UNPACED;
	uint64_t passed = now - pace->last_ns;
	pace->last_ns = now;
	pace->due += pace->per_ns * (passed < MOST_DEBT_NS ? passed : MOST_DEBT_NS);
	unsigned due = pace->due;
	double granule = pace->per_ns * GRANULE_NS;
	if (pace->due >= 1 && pace->due >= 0.9 * granule) {
		pace->due -= due;
		return due;
	}
	double missing = ((granule > 1 ? granule : 1) - pace->due) / pace->per_ns;
	sleep_until(now + (missing < LONGEST_SLEEP_NS ? (uint64_t)missing : LONGEST_SLEEP_NS));
	return 0;
}

static inline void pace_start(struct pace *pace, uint64_t bytes_per_second, double share,
			      const struct phases *phases, uint64_t epoch_ns)
{
	*pace = (struct pace){
		.per_ns = bytes_per_second == UNLIMITED ? -1 : bytes_per_second * share / 4096e9,
		.phases = phases,
		.epoch_ns = epoch_ns,
		.last_ns = now_ns(),
	};
}
