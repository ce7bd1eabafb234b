/* The stamp of a page or disk block: how one that we own looks, is changed and is checked.
 *
 * A page is 512 words. Words 0 to 3 are the header: magic, number, sequence, checksum; the rest is
 * content. The checksum is a sum of every other word times an odd weight of its place, so a change
 * of one word changes it by one multiplication, and a page whose halves are of different times
 * does not add up.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { PAGE = 4096, WORDS = PAGE / 8 };
enum { MAGIC_WORD, NUMBER_WORD, SEQUENCE_WORD, CHECK_WORD, CONTENT };

enum fault { FAULT_NONE, FAULT_LOST, FAULT_TORN, FAULT_STALE, FAULT_AHEAD };

/* Differs in every boot: a block that an earlier boot left on the disk is not ours. */
extern uint64_t stamp_magic;

static inline uint64_t weight(unsigned word)
{
	return 2 * (uint64_t)word + 1;
}

static inline void change_word(uint64_t *page, unsigned word, uint64_t value)
{
	page[CHECK_WORD] += (value - page[word]) * weight(word);
	page[word] = value;
}

/* Set header and checksum of a page whose content adds up to content_sum. */
static inline void seal(uint64_t *page, uint64_t number, uint64_t sequence, uint64_t content_sum)
{
	page[MAGIC_WORD] = stamp_magic;
	page[NUMBER_WORD] = number;
	page[SEQUENCE_WORD] = sequence;
	page[CHECK_WORD] = content_sum + stamp_magic * weight(MAGIC_WORD) +
			   number * weight(NUMBER_WORD) + sequence * weight(SEQUENCE_WORD);
}

/* The header alone, in a few loads: enough to notice a lost or stale page before writing over it. */
static inline enum fault header_fault(const uint64_t *page, uint64_t number, uint64_t sequence)
{
	if (page[MAGIC_WORD] != stamp_magic || page[NUMBER_WORD] != number)
		return FAULT_LOST;
	if (page[SEQUENCE_WORD] == sequence)
		return FAULT_NONE;
	return page[SEQUENCE_WORD] < sequence ? FAULT_STALE : FAULT_AHEAD;
}

/* The whole page. */
enum fault page_fault(const uint64_t *page, uint64_t number, uint64_t sequence);

const char *fault_name(enum fault fault);

/* Fill the content words and return their sum. `random` is the caller's generator state. */
uint64_t fill_random(uint64_t *page, uint64_t *random);
uint64_t fill_text(uint64_t *page, uint64_t *random);

/* Prepare stamp_magic and the texts. */
void stamp_init(void);

/* A 64-bit linear congruential generator: two instructions a word, and no compressor sees it. */
static inline uint64_t next_random(uint64_t *state)
{
	return *state = *state * 6364136223846793005u + 1442695040888963407u;
}

/* A number below `limit`, from the generator's good upper bits. */
static inline uint64_t random_below(uint64_t *state, uint64_t limit)
{
	return (uint64_t)((unsigned __int128)next_random(state) * limit >> 64);
}
