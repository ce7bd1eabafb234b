/* The loads of the fast paths' benchmarks: one program in the guest, one command a line. */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define WORKERS_MOST 64

/* Adds to the reply of the command that runs. */
void reply(const char *format, ...) __attribute__((format(printf, 1, 2)));

struct worker {
	int index;
	uint64_t done, bytes, longest_ns, failed;
	void (*run)(struct worker *self);
	pthread_t thread;
};

/* Set when the time is over; loops look at it after each step. */
extern atomic_bool time_is_over;

uint64_t now_ns(void);

/* Run `count` workers for that time, each on the CPU of its index (round robin), and reply with
 * what they did. */
void run_workers(int count, double seconds, void (*run)(struct worker *self));

/* Keep the calling thread on one CPU. */
void stay_on(int index);

void read_disks(int words, char **word);    /* SECONDS JOBS DEVICE… */
void take_locks(int words, char **word);    /* SECONDS THREADS */
void read_clock(void);                      /* ns per clock_gettime by libc and by system call */
void tell_time(void);                       /* this moment by three clocks */
void set_up_card(int words, char **word);   /* CARD MTU */
void send_frames(int words, char **word);   /* SECONDS THREADS SIZE CARD */
void write_pages(int words, char **word);   /* THREADS BYTES; goes on until the guest ends */
void tell_pages(void);                      /* pages written so far */
