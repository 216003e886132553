/*
 * The twin in C of src/bin/bench-client.rs, call for call.
 *
 *   bench-client echo|send ADDRESS PORT COUNT copy|in-place
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dmm.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MESSAGE = 64, BLOCK = 65536 };

static char block[BLOCK];

static void fail(const char *what)
{
	fprintf(stderr, "bench-client: %s: %s (%s)\n", what, strerror(errno), dmm_error_text());
	exit(1);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Makes as many bytes, as a program would, and sends them. */
static void send_all(int handle, size_t len, int in_place)
{
	if (!in_place)
		memset(block, 7, len);
	while (len > 0) {
		ssize_t count;

		if (in_place) {
			void *room;

			count = dmm_reserve(handle, &room, len, 0);
			if (count < 0)
				fail("dmm_reserve");
			memset(room, 7, (size_t)count);
			if (dmm_commit(handle, room, (size_t)count))
				fail("dmm_commit");
		} else {
			count = dmm_send(handle, block, len, 0);
			if (count < 0)
				fail("dmm_send");
		}
		len -= (size_t)count;
	}
}

static void receive_all(int handle, size_t len, int in_place)
{
	while (len > 0) {
		ssize_t count;

		if (in_place) {
			const void *bytes;

			count = dmm_borrow(handle, &bytes, 0);
			if (count <= 0 || dmm_return(handle, bytes, (size_t)count))
				fail("dmm_borrow");
		} else {
			count = dmm_recv(handle, block, len, 0);
			if (count <= 0)
				fail("dmm_recv");
		}
		len -= (size_t)count;
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET };
	int handle, in_place, on = 1;
	unsigned long count;
	double began;

	if (argc != 6)
		return 2;
	inet_pton(AF_INET, argv[2], &v4.sin_addr);
	v4.sin_port = htons((unsigned short)atoi(argv[3]));
	count = strtoul(argv[4], NULL, 10);
	in_place = strcmp(argv[5], "in-place") == 0;
	handle = dmm_socket(AF_INET, SOCK_STREAM, 0);
	if (handle < 0 || dmm_connect(handle, (struct sockaddr *)&v4, sizeof(v4)))
		fail("dmm_connect");
	if (dmm_setsockopt(handle, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)))
		fail("dmm_setsockopt");
	if (strcmp(argv[1], "echo") == 0) {
		for (unsigned long trip = 0; trip < count / 10; trip++) {
			send_all(handle, MESSAGE, in_place);
			receive_all(handle, MESSAGE, in_place);
		}
		began = now();
		for (unsigned long trip = 0; trip < count; trip++) {
			send_all(handle, MESSAGE, in_place);
			receive_all(handle, MESSAGE, in_place);
		}
		printf("%f\n", (now() - began) * 1e6 / (double)count);
	} else {
		began = now();
		for (unsigned long sent = 0; sent < count; sent++)
			send_all(handle, BLOCK, in_place);
		/* The server ends once it has all of it. */
		if (dmm_shutdown(handle, SHUT_WR) || dmm_recv(handle, block, 1, 0) != 0)
			fail("the end of the stream");
		printf("%f\n", (double)count * BLOCK * 8 / 1e9 / (now() - began));
	}
	dmm_close(handle);
	return 0;
}
