#include "json.h"

#include <string.h>

static char *skip(char *at)
{
	return at + strspn(at, " \t\r");
}

/* A text without escapes other than \" and \\; ends it with a zero and returns what follows. */
static char *text_end(char *from)
{
	char *to = from, *at = from;
	for (; *at != '"'; at++) {
		if (*at == '\\' && (at[1] == '"' || at[1] == '\\'))
			at++;
		else if (*at == '\\' || !*at)
			return NULL;
		*to++ = *at;
	}
	*to = 0;
	return at + 1;
}

int json_object(char *text, struct json_member members[MOST_MEMBERS])
{
	char *at = skip(text);
	if (*at++ != '{')
		return -1;
	at = skip(at);
	int count = 0;
	char end = *at == '}' ? *at++ : ',';
	while (end == ',') {
		struct json_member *member = &members[count++];
		if (count > MOST_MEMBERS || *at != '"')
			return -1;
		member->key = at + 1;
		if (!(at = text_end(at + 1)))
			return -1;
		at = skip(at);
		if (*at++ != ':')
			return -1;
		at = skip(at);
		member->is_text = *at == '"';
		if (member->is_text) {
			member->value = at + 1;
			if (!(at = text_end(at + 1)))
				return -1;
			at = skip(at);
			end = *at++;
		} else {
			member->value = at;
			size_t length = strspn(at, "0123456789+-.eEaflnrstu");
			if (!length)
				return -1;
			char *value_end = at + length;
			at = skip(value_end);
			end = *at++;
			*value_end = 0;
		}
		if (end != ',' && end != '}')
			return -1;
		if (end == ',')
			at = skip(at);
	}
	return *skip(at) ? -1 : count;
}

void json_quote(const char *text, char *to, size_t size)
{
	size_t at = 0;
	to[at++] = '"';
	for (; *text && at < size - 3; text++) {
		if ((unsigned char)*text < 0x20 || (unsigned char)*text >= 0x7f)
			continue;
		if (*text == '"' || *text == '\\')
			to[at++] = '\\';
		to[at++] = *text;
	}
	to[at++] = '"';
	to[at] = 0;
}
