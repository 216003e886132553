/*
 * Ends while eight threads are inside calls of the library: by one of the ways a process ends, at a
 * moment that the number says.
 *
 *   exits OUR_ADDRESS NUMBER
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dmm.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *ours;
static pthread_barrier_t together;

static int open_socket(int type)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET };
	int handle = dmm_socket(AF_INET, type, 0);

	inet_pton(AF_INET, ours, &v4.sin_addr);
	if (handle < 0 || dmm_bind(handle, (struct sockaddr *)&v4, sizeof(v4))) {
		fprintf(stderr, "exits: %s (%s)\n", strerror(errno), dmm_error_text());
		_exit(1);
	}
	return handle;
}

static int listening(void)
{
	int handle = open_socket(SOCK_STREAM);

	if (dmm_listen(handle, 4)) {
		fprintf(stderr, "exits: listen: %s\n", strerror(errno));
		_exit(1);
	}
	return handle;
}

static void *receive(void *unused)
{
	int handle = open_socket(SOCK_DGRAM);
	char bytes[64];

	(void)unused;
	pthread_barrier_wait(&together);
	for (;;)
		dmm_recv(handle, bytes, sizeof(bytes), 0);
	return NULL;
}

static void *take(void *unused)
{
	int handle = listening();

	(void)unused;
	pthread_barrier_wait(&together);
	for (;;)
		dmm_accept(handle, NULL, NULL);
	return NULL;
}

static void *wait_for_events(void *unused)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT };
	int epoll = dmm_epoll_create1(0);

	(void)unused;
	dmm_epoll_ctl(epoll, EPOLL_CTL_ADD, open_socket(SOCK_DGRAM), &event);
	pthread_barrier_wait(&together);
	for (;;)
		dmm_epoll_wait(epoll, &event, 1, -1);
	return NULL;
}

static void *poll_one(void *unused)
{
	struct pollfd poll = { .fd = listening(), .events = POLLIN };

	(void)unused;
	pthread_barrier_wait(&together);
	for (;;)
		dmm_poll(&poll, 1, 1);
	return NULL;
}

static void *open_and_close(void *unused)
{
	(void)unused;
	pthread_barrier_wait(&together);
	for (;;)
		dmm_close(open_socket(SOCK_DGRAM));
	return NULL;
}

static void *send_to_nobody(void *unused)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(9) };
	int handle = open_socket(SOCK_DGRAM);

	(void)unused;
	inet_pton(AF_INET, ours, &v4.sin_addr);
	v4.sin_addr.s_addr ^= htonl(1);
	pthread_barrier_wait(&together);
	for (;;)
		dmm_sendto(handle, "datagram", 8, 0, (struct sockaddr *)&v4, sizeof(v4));
	return NULL;
}

static void ignore(void)
{
}

int main(int argc, char **argv)
{
	void *(*const calls[8])(void *) = {
		receive, take, wait_for_events, poll_one, open_and_close, send_to_nobody, receive,
		open_and_close,
	};
	pthread_t thread;
	int number;

	if (argc != 3)
		return 2;
	ours = argv[1];
	number = atoi(argv[2]);
	atexit(ignore);
	pthread_barrier_init(&together, NULL, 9);
	for (int i = 0; i < 8; i++)
		if (pthread_create(&thread, NULL, calls[i], NULL))
			return 2;
	pthread_barrier_wait(&together);
	/* At another moment each time. */
	for (int turn = 0; turn < number % 97; turn++)
		sched_yield();
	switch (number % 4) {
	case 0:
		return 0;
	case 1:
		exit(0);
	case 2:
		_exit(0);
	default:
		/* As if killed. */
		kill(getpid(), SIGKILL);
		pause();
		return 1;
	}
}
