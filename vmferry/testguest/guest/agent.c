#define _GNU_SOURCE
#include "agent.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "disk.h"
#include "json.h"
#include "port.h"
#include "settings.h"
#include "verify.h"
#include "writer.h"

enum { LINE = 4096 };

struct request {
	struct json_member members[MOST_MEMBERS];
	int count;
};

static const char *start_trouble;

static const char *member(const struct request *request, const char *key)
{
	for (int i = 0; i < request->count; i++)
		if (!strcmp(request->members[i].key, key))
			return request->members[i].value;
	return NULL;
}

/* Each answers with JSON members into `out`, or returns -1 with the reason in `error`. */
static int do_ping(const struct request *request, FILE *out, char *error, size_t size)
{
	(void)request, (void)error, (void)size;
	fprintf(out, "\"guest_ns\":%llu", (unsigned long long)now_ns());
	return 0;
}

static int do_status(const struct request *request, FILE *out, char *error, size_t size)
{
	(void)request, (void)error, (void)size;
	char text[2048];
	settings_to_json(&settings, text, sizeof text);
	fprintf(out,
		"\"guest_ns\":%llu,\"pages_written\":%llu,\"pages_read\":%llu,"
		"\"disk_blocks_written\":%llu,\"disk_errors\":%llu,\"faults\":%llu,"
		"\"settings\":{%s}",
		(unsigned long long)now_ns(), (unsigned long long)pages_written(),
		(unsigned long long)pages_read(), (unsigned long long)disk_written(),
		(unsigned long long)disk_errors(), (unsigned long long)faults_met(), text);
	if (*start_trouble) {
		json_quote(start_trouble, text, sizeof text);
		fprintf(out, ",\"trouble\":%s", text);
	}
	return 0;
}

static int do_set(const struct request *request, FILE *out, char *error, size_t size)
{
	struct settings wanted = settings;
	for (int i = 0; i < request->count; i++) {
		const struct json_member *member = &request->members[i];
		if (!strcmp(member->key, "do") || !strcmp(member->key, "id"))
			continue;
		if (settings_set(&wanted, member->key, member->value, error, size))
			return -1;
	}
	if (settings_check(&wanted, error, size))
		return -1;
	writers_pause();
	int result = writers_apply(&wanted, error, size);
	writers_resume();
	return result ? result : do_status(request, out, error, size);
}

static int do_verify(const struct request *request, FILE *out, char *error, size_t size)
{
	(void)request, (void)error, (void)size;
	char *members = verify_all();
	fputs(members, out);
	free(members);
	return 0;
}

static int do_corrupt(const struct request *request, FILE *out, char *error, size_t size)
{
	const char *page = member(request, "page"), *kind = member(request, "kind");
	if (!page || !kind) {
		snprintf(error, size, "corrupt needs page and kind");
		return -1;
	}
	fprintf(out, "\"page\":%llu", strtoull(page, NULL, 10));
	return corrupt_page(strtoull(page, NULL, 10), kind, error, size);
}

static const struct {
	const char *name;
	int (*run)(const struct request *, FILE *, char *, size_t);
} requests[] = {
	{"ping", do_ping},
	{"status", do_status},
	{"set", do_set},
	{"verify", do_verify},
	{"corrupt", do_corrupt}, /* a test aid: shows that verification finds what it must */
};

static int handle(const struct request *request, FILE *out, char *error, size_t size)
{
	const char *name = member(request, "do");
	for (unsigned i = 0; name && i < sizeof requests / sizeof *requests; i++)
		if (!strcmp(requests[i].name, name))
			return requests[i].run(request, out, error, size);
	snprintf(error, size, "do: ping, status, set or verify");
	return -1;
}

static void answer(int port, char *line)
{
	struct request request;
	char error[512] = "not a JSON object of texts and numbers", quoted[1100];
	request.count = json_object(line, request.members);

	char *members = NULL;
	size_t size;
	FILE *out = open_memstream(&members, &size);
	int result = request.count < 0 ? -1 : handle(&request, out, error, sizeof error);
	fclose(out);

	/* The number lets a client tell its answer from one that an earlier client left unread. */
	const char *id = request.count < 0 ? NULL : member(&request, "id");
	json_quote(error, quoted, sizeof quoted);
	char *text = NULL;
	int length = result ? asprintf(&text, "{\"id\":%llu,\"ok\":false,\"error\":%s}\n",
				       id ? strtoull(id, NULL, 10) : 0, quoted)
			    : asprintf(&text, "{\"id\":%llu,\"ok\":true,%s}\n",
				       id ? strtoull(id, NULL, 10) : 0, members);
	for (int at = 0; at < length;) {
		ssize_t done = write(port, text + at, length - at);
		if (done <= 0)
			break;
		at += done;
	}
	free(text);
	free(members);
}

void agent_run(const char *trouble)
{
	start_trouble = trouble;
	int port = port_open("vmferry.agent", O_RDWR);
	static char line[LINE];
	size_t length = 0;
	for (;;) {
		char byte[512];
		ssize_t count = read(port, byte, sizeof byte);
		if (count <= 0) { /* nobody there: what was half said is void */
			length = 0;
			usleep(20000);
			continue;
		}
		for (ssize_t i = 0; i < count; i++) {
			if (byte[i] != '\n') {
				if (length < LINE - 1)
					line[length++] = byte[i];
				continue;
			}
			line[length] = 0;
			if (length)
				answer(port, line);
			length = 0;
		}
	}
}
