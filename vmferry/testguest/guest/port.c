#define _GNU_SOURCE
#include "port.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char folder[] = "/sys/class/virtio-ports";

static int named(const char *device, const char *name)
{
	char path[320], text[64] = "";
	snprintf(path, sizeof path, "%s/%s/name", folder, device);
	FILE *file = fopen(path, "re");
	if (!file)
		return 0;
	if (fgets(text, sizeof text, file))
		text[strcspn(text, "\n")] = 0;
	fclose(file);
	return !strcmp(text, name);
}

int port_open(const char *name, int flags)
{
	for (unsigned tries = 0;; tries++) {
		DIR *ports = opendir(folder);
		for (struct dirent *entry; ports && (entry = readdir(ports));) {
			if (entry->d_name[0] == '.' || !named(entry->d_name, name))
				continue;
			char path[320];
			snprintf(path, sizeof path, "/dev/%s", entry->d_name);
			int port = open(path, flags | O_CLOEXEC);
			if (port >= 0) {
				closedir(ports);
				return port;
			}
		}
		if (ports)
			closedir(ports);
		usleep(tries < 100 ? 10000 : 1000000);
	}
}
