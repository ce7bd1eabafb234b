/* PID 1 of the test guest: mounts, loads the drivers of the devices that are there, starts the page
 * writer and a shell on the serial port, and starts them again when they end. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Insert one module of /modules; one that is in already is no error. */
static void insert(const char *name)
{
	char path[128];
	snprintf(path, sizeof path, "/modules/%s.ko", name);
	int file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return; /* built into this kernel */
	syscall(SYS_finit_module, file, "", 0);
	close(file);
}

/* /modules/ID holds the names of what device type ID needs, in order. */
static void insert_list(const char *id)
{
	char path[128], name[64];
	snprintf(path, sizeof path, "/modules/%s", id);
	FILE *list = fopen(path, "re");
	while (list && fscanf(list, "%63s", name) == 1)
		insert(name);
	if (list)
		fclose(list);
}

static void insert_for_devices(void)
{
	static const char folder[] = "/sys/bus/virtio/devices";
	insert_list("pci");
	DIR *devices = opendir(folder);
	for (struct dirent *entry; devices && (entry = readdir(devices));) {
		if (entry->d_name[0] == '.')
			continue;
		char path[320];
		unsigned id = 0;
		snprintf(path, sizeof path, "%s/%s/device", folder, entry->d_name);
		FILE *file = fopen(path, "re");
		if (file && fscanf(file, "%x", &id) == 1) {
			snprintf(path, sizeof path, "virtio-%u", id);
			insert_list(path);
		}
		if (file)
			fclose(file);
	}
	if (devices)
		closedir(devices);
}

static void write_file(const char *path, const char *text)
{
	int file = open(path, O_WRONLY | O_CLOEXEC);
	if (file < 0)
		return;
	if (write(file, text, strlen(text)) < 0)
		perror(path);
	close(file);
}

static pid_t start_writer(void)
{
	pid_t child = fork();
	if (child == 0) {
		execl("/bin/pagewriter", "pagewriter", (char *)NULL);
		_exit(127);
	}
	return child;
}

static pid_t start_shell(void)
{
	pid_t child = fork();
	if (child == 0) {
		setsid();
		int serial = open("/dev/ttyS0", O_RDWR);
		if (serial < 0) {
			sleep(3600); /* no serial port */
			_exit(0);
		}
		ioctl(serial, TIOCSCTTY, 0);
		for (int standard = 0; standard < 3; standard++)
			dup2(serial, standard);
		setenv("PATH", "/bin", 1);
		setenv("HOME", "/", 1);
		setenv("TERM", "linux", 1);
		execl("/bin/sh", "-sh", (char *)NULL);
		_exit(127);
	}
	return child;
}

int main(void)
{
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mkdir("/dev", 0755);
	mkdir("/tmp", 01777);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	mkdir("/dev/pts", 0755);
	mount("devpts", "/dev/pts", "devpts", 0, NULL);
	/* Off by default below 512 MiB. The page writer wants memory that lies together, so that its
	 * order is the order of guest physical addresses. */
	write_file("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
	/* That made the kernel keep 5 % of the memory free. */
	write_file("/proc/sys/vm/min_free_kbytes", "2048");
	insert_for_devices();

	pid_t writer = start_writer(), shell = start_shell();
	for (;;) {
		pid_t dead = wait(NULL);
		if (dead == writer) {
			sleep(1);
			writer = start_writer();
		} else if (dead == shell) {
			shell = start_shell();
		}
	}
}
