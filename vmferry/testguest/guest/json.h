/* Just enough JSON for requests: one flat object of texts, numbers and words. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum { MOST_MEMBERS = 32 };

struct json_member {
	const char *key, *value; /* into the parsed text; a number or word as it is written */
	bool is_text;
};

/* Parse `text` in place. Returns the number of members, or -1 where it is no such object. */
int json_object(char *text, struct json_member members[MOST_MEMBERS]);

/* Quote `text` into `to`, with what JSON forbids left out. */
void json_quote(const char *text, char *to, size_t size);
