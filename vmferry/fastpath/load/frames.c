/* Frames of one size to nobody, from a thread on each CPU; the kernel chooses the queue by it. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

#define FRAME_MOST 65536
#define EXPERIMENTAL 0x88b5 /* IEEE 802: for local experiments */

static char card[IFNAMSIZ];
static size_t frame_size;

void set_up_card(int words, char **word)
{
	(void)words;
	struct ifreq request = {0};
	int line = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", word[1]);
	request.ifr_mtu = atoi(word[2]);
	if (ioctl(line, SIOCSIFMTU, &request) < 0)
		reply("error: MTU %s: %s", word[2], strerror(errno));
	request.ifr_flags = IFF_UP | IFF_RUNNING | IFF_PROMISC;
	if (ioctl(line, SIOCSIFFLAGS, &request) < 0)
		reply("error: %s: %s", word[1], strerror(errno));
	close(line);
}

static void run(struct worker *self)
{
	static const unsigned char head[] = {2, 0, 0, 0, 0, 0x99, 2, 0, 0, 0, 0, 1};
	char *frame = calloc(1, FRAME_MOST);
	int line = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0); /* receives nothing */
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(card)};
	if (!frame || line < 0 || bind(line, (struct sockaddr *)&to, sizeof to) < 0) {
		self->failed = 1;
		return;
	}
	memcpy(frame, head, sizeof head);
	uint16_t kind = htons(EXPERIMENTAL);
	memcpy(frame + sizeof head, &kind, sizeof kind);
	while (!atomic_load_explicit(&time_is_over, memory_order_relaxed)) {
		uint64_t began = now_ns();
		ssize_t sent = send(line, frame, frame_size, 0);
		if (sent > 0)
			self->done++, self->bytes += (uint64_t)sent;
		else
			self->failed++;
		uint64_t took = now_ns() - began;
		if (took > self->longest_ns)
			self->longest_ns = took;
	}
	close(line);
	free(frame);
}

void send_frames(int words, char **word)
{
	(void)words;
	snprintf(card, sizeof card, "%s", word[4]);
	frame_size = (size_t)atol(word[3]);
	if (frame_size < 60 || frame_size > FRAME_MOST)
		reply("error: frames of %zu bytes", frame_size);
	else
		run_workers(atoi(word[2]), atof(word[1]), run);
}
