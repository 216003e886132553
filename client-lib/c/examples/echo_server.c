/*
 * An echo server for TCP and UDP on one thread: sockets of DMM and a descriptor of the kernel in one
 * dmm_epoll_wait. It ends when standard input does.
 *
 *   cc echo_server.c $(pkg-config --cflags --libs dmm) -o echo_server
 *   ./echo_server 10.1.0.2 7
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dmm.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EVENTS = 64, ROOM = 65536 };

/* What came on a connection and did not go back yet. */
struct connection {
	int handle;
	size_t begin, end;
	char bytes[ROOM];
};

static void fail(const char *what)
{
	fprintf(stderr, "echo_server: %s: %s (%s)\n", what, strerror(errno), dmm_error_text());
	exit(1);
}

static int open_socket(int type, const char *address, int port)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int is_v4 = inet_pton(AF_INET, address, &v4.sin_addr);
	int handle;

	if (!is_v4 && !inet_pton(AF_INET6, address, &v6.sin6_addr)) {
		fprintf(stderr, "echo_server: %s is no address\n", address);
		exit(2);
	}
	handle = dmm_socket(is_v4 ? AF_INET : AF_INET6, type | SOCK_NONBLOCK, 0);
	if (handle < 0)
		fail("dmm_socket");
	if (is_v4 ? dmm_bind(handle, (struct sockaddr *)&v4, sizeof(v4))
		  : dmm_bind(handle, (struct sockaddr *)&v6, sizeof(v6)))
		fail("dmm_bind");
	return handle;
}

static void watch(int epoll, int operation, int handle, unsigned int events, void *data)
{
	struct epoll_event event = { .events = events, .data.ptr = data };

	if (dmm_epoll_ctl(epoll, operation, handle, &event))
		fail("dmm_epoll_ctl");
}

static void accept_all(int epoll, int listener)
{
	int handle;

	while ((handle = dmm_accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		struct connection *connection = malloc(sizeof(*connection));

		if (!connection)
			fail("malloc");
		connection->handle = handle;
		connection->begin = connection->end = 0;
		watch(epoll, EPOLL_CTL_ADD, handle, EPOLLIN, connection);
	}
	if (errno != EAGAIN)
		fail("dmm_accept4");
}

/* Reads while there is room, writes while there is something, and watches for what is in the way. */
static void echo(int epoll, struct connection *connection)
{
	ssize_t count;

	for (;;) {
		if (connection->begin < connection->end) {
			count = dmm_send(connection->handle, connection->bytes + connection->begin,
					 connection->end - connection->begin, 0);
			if (count < 0 && errno == EAGAIN) {
				watch(epoll, EPOLL_CTL_MOD, connection->handle, EPOLLOUT, connection);
				return;
			}
			if (count < 0)
				break;
			connection->begin += (size_t)count;
			continue;
		}
		count = dmm_recv(connection->handle, connection->bytes, ROOM, 0);
		if (count < 0 && errno == EAGAIN) {
			watch(epoll, EPOLL_CTL_MOD, connection->handle, EPOLLIN, connection);
			return;
		}
		if (count <= 0)
			break;
		connection->begin = 0;
		connection->end = (size_t)count;
	}
	dmm_close(connection->handle);
	free(connection);
}

static void echo_datagrams(int handle)
{
	static char bytes[ROOM];
	struct sockaddr_storage from;
	socklen_t len = sizeof(from);
	ssize_t count;

	while ((count = dmm_recvfrom(handle, bytes, sizeof(bytes), 0, (struct sockaddr *)&from,
				     &len)) >= 0) {
		/* UDP may lose a datagram: so it does if there is no room. */
		dmm_sendto(handle, bytes, (size_t)count, 0, (struct sockaddr *)&from, len);
		len = sizeof(from);
	}
	if (errno != EAGAIN)
		fail("dmm_recvfrom");
}

int main(int argc, char **argv)
{
	struct epoll_event events[EVENTS];
	struct sockaddr_storage local;
	socklen_t len = sizeof(local);
	int epoll, listener, datagrams, port;
	char byte;

	if (argc != 3) {
		fprintf(stderr, "usage: echo_server ADDRESS PORT\n");
		return 2;
	}
	listener = open_socket(SOCK_STREAM, argv[1], atoi(argv[2]));
	if (dmm_listen(listener, 1024))
		fail("dmm_listen");
	if (dmm_getsockname(listener, (struct sockaddr *)&local, &len))
		fail("dmm_getsockname");
	/* The port stands in the same place in both families. */
	port = ntohs(((struct sockaddr_in *)&local)->sin_port);
	datagrams = open_socket(SOCK_DGRAM, argv[1], port);
	epoll = dmm_epoll_create1(EPOLL_CLOEXEC);
	if (epoll < 0)
		fail("dmm_epoll_create1");
	watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, &listener);
	watch(epoll, EPOLL_CTL_ADD, datagrams, EPOLLIN, &datagrams);
	/* The kernel's. */
	watch(epoll, EPOLL_CTL_ADD, STDIN_FILENO, EPOLLIN, NULL);
	printf("listening on port %d\n", port);
	fflush(stdout);
	for (;;) {
		int count = dmm_epoll_wait(epoll, events, EVENTS, -1);

		if (count < 0)
			fail("dmm_epoll_wait");
		for (int i = 0; i < count; i++) {
			void *data = events[i].data.ptr;

			if (data == NULL) {
				if (read(STDIN_FILENO, &byte, 1) == 0)
					return 0;
			} else if (data == &listener) {
				accept_all(epoll, listener);
			} else if (data == &datagrams) {
				echo_datagrams(datagrams);
			} else {
				echo(epoll, data);
			}
		}
	}
}
