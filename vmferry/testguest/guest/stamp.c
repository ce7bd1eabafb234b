#include "stamp.h"

#include <string.h>
#include <sys/random.h>

uint64_t stamp_magic;

enum { TEXTS = 16 };
static uint64_t texts[TEXTS][WORDS];
static uint64_t text_sums[TEXTS];

static uint64_t content_sum(const uint64_t *page)
{
	uint64_t sum = 0;
	for (unsigned word = CONTENT; word < WORDS; word++)
		sum += page[word] * weight(word);
	return sum;
}

enum fault page_fault(const uint64_t *page, uint64_t number, uint64_t sequence)
{
	if (page[MAGIC_WORD] != stamp_magic || page[NUMBER_WORD] != number)
		return FAULT_LOST;
	uint64_t sum = content_sum(page) + page[MAGIC_WORD] * weight(MAGIC_WORD) +
		       page[NUMBER_WORD] * weight(NUMBER_WORD) +
		       page[SEQUENCE_WORD] * weight(SEQUENCE_WORD);
	if (sum != page[CHECK_WORD])
		return FAULT_TORN;
	return header_fault(page, number, sequence);
}

const char *fault_name(enum fault fault)
{
	static const char *const names[] = {"none", "lost", "torn", "stale", "ahead"};
	return names[fault];
}

uint64_t fill_random(uint64_t *page, uint64_t *random)
{
	uint64_t sum = 0;
	for (unsigned word = CONTENT; word < WORDS; word++) {
		uint64_t value = next_random(random);
		page[word] = value;
		sum += value * weight(word);
	}
	return sum;
}

/* One of a few prepared texts, and a word in it changed so that two pages hardly ever agree. */
uint64_t fill_text(uint64_t *page, uint64_t *random)
{
	unsigned text = random_below(random, TEXTS);
	memcpy(page + CONTENT, texts[text] + CONTENT, PAGE - CONTENT * 8);
	uint64_t value = next_random(random);
	page[CONTENT] = value;
	return text_sums[text] + (value - texts[text][CONTENT]) * weight(CONTENT);
}

static void write_text(char *text, uint64_t *random)
{
	static const char *const words[] = {
		"the ", "ferry ", "leaves ", "harbour ", "at ", "seven ", "with ", "passengers ",
		"and ", "mail ", "for ", "islands ", "wind ", "from ", "west ", "calm ", "sea\n",
	};
	for (unsigned at = 0; at < PAGE;) {
		const char *word = words[random_below(random, sizeof words / sizeof *words)];
		size_t length = strlen(word);
		if (length > PAGE - at)
			length = PAGE - at;
		memcpy(text + at, word, length);
		at += length;
	}
}

void stamp_init(void)
{
	if (getrandom(&stamp_magic, sizeof stamp_magic, GRND_NONBLOCK) != sizeof stamp_magic)
		stamp_magic = __builtin_ia32_rdtsc();
	stamp_magic |= 1; /* never zero */
	uint64_t random = 1;
	for (unsigned text = 0; text < TEXTS; text++) {
		write_text((char *)texts[text], &random);
		text_sums[text] = content_sum(texts[text]);
	}
}
