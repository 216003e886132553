/*
 * Sends bytes to an echo server and checks what comes back, reading and writing as dmm_poll says.
 *
 *   cc echo_client.c $(pkg-config --cflags --libs dmm) -o echo_client
 *   ./echo_client 10.1.0.2 7 1000000
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dmm.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 32768 };

static void fail(const char *what)
{
	fprintf(stderr, "echo_client: %s: %s (%s)\n", what, strerror(errno), dmm_error_text());
	exit(1);
}

/* The byte at a position: no block repeats another. */
static char byte_at(unsigned long position)
{
	return (char)(position * 31 + (position >> 8) * 7);
}

static int open_connection(const char *address, int port)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int is_v4 = inet_pton(AF_INET, address, &v4.sin_addr);
	int on = 1, error = 0, handle, result;
	socklen_t len = sizeof(error);
	struct pollfd poll;

	if (!is_v4 && !inet_pton(AF_INET6, address, &v6.sin6_addr)) {
		fprintf(stderr, "echo_client: %s is no address\n", address);
		exit(2);
	}
	handle = dmm_socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (handle < 0)
		fail("dmm_socket");
	if (dmm_setsockopt(handle, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)))
		fail("dmm_setsockopt");
	result = is_v4 ? dmm_connect(handle, (struct sockaddr *)&v4, sizeof(v4))
		       : dmm_connect(handle, (struct sockaddr *)&v6, sizeof(v6));
	if (result && errno != EINPROGRESS)
		fail("dmm_connect");
	poll = (struct pollfd){ .fd = handle, .events = POLLOUT };
	if (dmm_poll(&poll, 1, 30000) != 1)
		fail("dmm_poll");
	if (dmm_getsockopt(handle, SOL_SOCKET, SO_ERROR, &error, &len))
		fail("dmm_getsockopt");
	if (error) {
		errno = error;
		fail("dmm_connect");
	}
	return handle;
}

int main(int argc, char **argv)
{
	static char block[BLOCK];
	unsigned long wanted, sent = 0, received = 0;
	int handle;

	if (argc != 4) {
		fprintf(stderr, "usage: echo_client ADDRESS PORT BYTES\n");
		return 2;
	}
	handle = open_connection(argv[1], atoi(argv[2]));
	wanted = strtoul(argv[3], NULL, 10);
	while (received < wanted) {
		short events = (short)(POLLIN | (sent < wanted ? POLLOUT : 0));
		struct pollfd poll = { .fd = handle, .events = events };

		if (dmm_poll(&poll, 1, 30000) != 1)
			fail("dmm_poll");
		if (poll.revents & POLLOUT) {
			size_t len = wanted - sent < BLOCK ? wanted - sent : BLOCK;
			ssize_t count;

			for (size_t i = 0; i < len; i++)
				block[i] = byte_at(sent + i);
			count = dmm_write(handle, block, len);
			if (count < 0 && errno != EAGAIN)
				fail("dmm_write");
			sent += count > 0 ? (unsigned long)count : 0;
		}
		if (poll.revents & (POLLIN | POLLERR | POLLHUP)) {
			ssize_t count = dmm_read(handle, block, BLOCK);

			if (count == 0 || (count < 0 && errno != EAGAIN))
				fail("dmm_read");
			for (ssize_t i = 0; i < count; i++) {
				if (block[i] != byte_at(received + (unsigned long)i)) {
					fprintf(stderr, "echo_client: byte %lu differs\n",
						received + (unsigned long)i);
					return 1;
				}
			}
			received += count > 0 ? (unsigned long)count : 0;
		}
	}
	if (dmm_shutdown(handle, SHUT_WR))
		fail("dmm_shutdown");
	/* The server's own end. */
	if (dmm_fcntl(handle, F_SETFL, 0) || dmm_read(handle, block, 1) != 0)
		fail("the end of the stream");
	dmm_close(handle);
	printf("%lu bytes came back\n", received);
	return 0;
}
