/* Takes one command a line from the virtio-serial port and answers each with a length, a line feed
 * and so many bytes. Started by the test guest's first program in the place of its page writer. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "load.h"

#define WORDS_MOST 64

static char *answer;
static size_t answer_length, answer_room;

static void add(const char *data, size_t size)
{
	if (answer_length + size > answer_room) {
		answer_room = 2 * (answer_length + size);
		answer = realloc(answer, answer_room);
		if (!answer)
			abort();
	}
	memcpy(answer + answer_length, data, size);
	answer_length += size;
}

void reply(const char *format, ...)
{
	char *text;
	va_list arguments;
	va_start(arguments, format);
	int size = vasprintf(&text, format, arguments);
	va_end(arguments);
	if (size < 0)
		abort();
	add(text, (size_t)size);
	free(text);
}

static void read_file(const char *path)
{
	char data[4096];
	int file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0) {
		reply("error: %s: %s", path, strerror(errno));
		return;
	}
	for (ssize_t size; (size = read(file, data, sizeof data)) > 0;)
		add(data, (size_t)size);
	close(file);
}

static void write_file(const char *path, const char *text)
{
	int file = open(path, O_WRONLY | O_CLOEXEC);
	if (file < 0 || write(file, text, strlen(text)) < 0)
		reply("error: %s: %s", path, strerror(errno));
	if (file >= 0)
		close(file);
}

static void list_folder(const char *path)
{
	DIR *folder = opendir(path);
	if (!folder) {
		reply("error: %s: %s", path, strerror(errno));
		return;
	}
	for (struct dirent *entry; (entry = readdir(folder));)
		if (entry->d_name[0] != '.')
			reply("%s\n", entry->d_name);
	closedir(folder);
}

/* Lines of the kernel's log that have a text. */
static void search_log(const char *text)
{
	static char log[1 << 20];
	int size = klogctl(3, log, sizeof log - 1);
	if (size < 0)
		size = 0;
	log[size] = 0;
	for (char *rest = log, *line; (line = strsep(&rest, "\n"));)
		if (strstr(line, text))
			reply("%s\n", line);
}

static void carry_out(char *line)
{
	char *word[WORDS_MOST + 1] = {0};
	int words = 0;
	for (char *one; words < WORDS_MOST && (one = strsep(&line, " "));)
		if (*one)
			word[words++] = one;
	if (words == 0)
		return;
	if (!strcmp(word[0], "read") && words == 2)
		read_file(word[1]);
	else if (!strcmp(word[0], "write") && words == 3)
		write_file(word[1], word[2]);
	else if (!strcmp(word[0], "list") && words == 2)
		list_folder(word[1]);
	else if (!strcmp(word[0], "log") && words == 2)
		search_log(word[1]);
	else if (!strcmp(word[0], "disks") && words > 3)
		read_disks(words, word);
	else if (!strcmp(word[0], "locks") && words == 3)
		take_locks(words, word);
	else if (!strcmp(word[0], "clock"))
		read_clock();
	else if (!strcmp(word[0], "time"))
		tell_time();
	else if (!strcmp(word[0], "card") && words == 3)
		set_up_card(words, word);
	else if (!strcmp(word[0], "send") && words == 5)
		send_frames(words, word);
	else if (!strcmp(word[0], "pages") && words == 3)
		write_pages(words, word);
	else if (!strcmp(word[0], "pages"))
		tell_pages();
	else
		reply("error: what is '%s' with %d words?", word[0], words);
}

static int open_port(void)
{
	for (;; usleep(20000)) {
		DIR *folder = opendir("/dev");
		int port = -1;
		for (struct dirent *entry; folder && (entry = readdir(folder));)
			if (!strncmp(entry->d_name, "vport", 5))
				port = openat(dirfd(folder), entry->d_name, O_RDWR | O_CLOEXEC);
		if (folder)
			closedir(folder);
		if (port >= 0)
			return port;
	}
}

static void write_all(int port, const char *data, size_t size)
{
	while (size > 0) {
		ssize_t written = write(port, data, size);
		if (written <= 0) {
			usleep(10000);
			continue;
		}
		data += written;
		size -= (size_t)written;
	}
}

int main(void)
{
	mkdir("/sys/kernel/debug", 0700);
	mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	int port = open_port();
	char line[4096];
	size_t length = 0;
	for (;;) {
		ssize_t size = read(port, line + length, sizeof line - 1 - length);
		if (size <= 0) { /* nobody is connected */
			usleep(10000);
			continue;
		}
		length += (size_t)size;
		line[length] = 0;
		for (char *end; (end = strchr(line, '\n'));) {
			*end = 0;
			answer_length = 0;
			carry_out(line);
			char head[32];
			int head_size = snprintf(head, sizeof head, "%zu\n", answer_length);
			write_all(port, head, (size_t)head_size);
			write_all(port, answer, answer_length);
			length -= (size_t)(end + 1 - line);
			memmove(line, end + 1, length + 1);
		}
		if (length == sizeof line - 1)
			length = 0;
	}
}
