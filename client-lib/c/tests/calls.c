/*
 * Every call of dmm.h with every errno that its caller can bring about. Prints how many checks passed.
 *
 *   calls OUR_ADDRESS THEIR_ADDRESS THEIR_ECHO_PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dmm.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int checks;

static void check(int line, const char *what, long expected, long found)
{
	if (expected != found) {
		fprintf(stderr, "line %d: %s: %ld, not %ld (%s: %s)\n", line, what, found, expected,
			strerror(errno), dmm_error_text());
		exit(1);
	}
	checks++;
}

#define IS(expected, call) check(__LINE__, #call, (long)(expected), (long)(call))
#define FAILS(number, call) do { \
	errno = 0; \
	check(__LINE__, #call, -1, (long)(call)); \
	check(__LINE__, "errno of " #call, number, errno); \
} while (0)

static struct sockaddr_in name(const char *address, int port)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };

	inet_pton(AF_INET, address, &v4.sin_addr);
	return v4;
}

static int option(int handle, int level, int which)
{
	int value = -1;
	socklen_t len = sizeof(value);

	IS(0, dmm_getsockopt(handle, level, which, &value, &len));
	IS(sizeof(value), len);
	return value;
}

static struct tcp_info info(int handle)
{
	struct tcp_info found = { 0 };
	socklen_t len = sizeof(found);

	IS(0, dmm_getsockopt(handle, IPPROTO_TCP, TCP_INFO, &found, &len));
	IS(sizeof(found), len);
	return found;
}

/* After a turn of the daemon's in which whatever was asked before was done. */
static struct tcp_info settled(int handle)
{
	info(handle);
	return info(handle);
}

static struct sockaddr *any(struct sockaddr_in *v4)
{
	return (struct sockaddr *)v4;
}

static void sockets(void)
{
	int handle;

	FAILS(EAFNOSUPPORT, dmm_socket(AF_UNIX, SOCK_STREAM, 0));
	FAILS(EINVAL, dmm_socket(AF_INET, SOCK_SEQPACKET, 0));
	FAILS(EPROTONOSUPPORT, dmm_socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
	FAILS(ENODEV, dmm_socket_via("nowhere", AF_INET, SOCK_STREAM, 0));
	IS(1, strstr(dmm_error_text(), "no stack named \"nowhere\"") != NULL);
	FAILS(EFAULT, dmm_socket_via(NULL, AF_INET, SOCK_STREAM, 0));
	FAILS(EBADF, dmm_close(-1));
	FAILS(EBADF, dmm_close(0));
	FAILS(EBADF, dmm_close(1 << 30));
	handle = dmm_socket(AF_INET, SOCK_STREAM, 0);
	IS(1, handle >= 1 << 30);
	IS(SOCK_STREAM, option(handle, SOL_SOCKET, SO_TYPE));
	IS(AF_INET, option(handle, SOL_SOCKET, SO_DOMAIN));
	IS(IPPROTO_TCP, option(handle, SOL_SOCKET, SO_PROTOCOL));
	IS(0, option(handle, SOL_SOCKET, SO_ACCEPTCONN));
	IS(O_RDWR, dmm_fcntl(handle, F_GETFL, 0));
	IS(0, dmm_fcntl(handle, F_SETFL, O_NONBLOCK));
	IS(O_RDWR | O_NONBLOCK, dmm_fcntl(handle, F_GETFL, 0));
	FAILS(EINVAL, dmm_fcntl(handle, F_GETLK, 0));
	IS(0, dmm_close(handle));
	FAILS(EBADF, dmm_close(handle));
	handle = dmm_socket_via("s0", AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	IS(O_RDWR | O_NONBLOCK, dmm_fcntl(handle, F_GETFL, 0));
	IS(0, dmm_close(handle));
	IS(0, strcmp(dmm_version(), "0.1.0"));
}

/* 0 if the socket has this congestion control. */
static int control(int handle, const char *wanted)
{
	char found[16] = { 0 };
	socklen_t len = sizeof(found);

	if (dmm_getsockopt(handle, IPPROTO_TCP, TCP_CONGESTION, found, &len) != 0)
		return -1;
	return strcmp(found, wanted);
}

static void options(void)
{
	int handle = dmm_socket(AF_INET, SOCK_STREAM, 0);
	int datagram = dmm_socket(AF_INET, SOCK_DGRAM, 0);
	struct timeval time = { .tv_sec = 3, .tv_usec = 500000 };
	struct linger linger = { .l_onoff = 1, .l_linger = 5 };
	socklen_t len = sizeof(time);
	int value = 1, v6;

	IS(0, dmm_setsockopt(handle, IPPROTO_TCP, TCP_NODELAY, &value, sizeof(value)));
	IS(1, option(handle, IPPROTO_TCP, TCP_NODELAY));
	FAILS(ENOPROTOOPT, dmm_setsockopt(datagram, IPPROTO_TCP, TCP_NODELAY, &value, sizeof(value)));
	FAILS(EINVAL, dmm_setsockopt(handle, IPPROTO_TCP, TCP_NODELAY, &value, 1));
	FAILS(EFAULT, dmm_setsockopt(handle, IPPROTO_TCP, TCP_NODELAY, NULL, sizeof(value)));
	FAILS(ENOPROTOOPT, dmm_setsockopt(handle, IPPROTO_TCP, 12345, &value, sizeof(value)));
	FAILS(ENOPROTOOPT, dmm_setsockopt(handle, 12345, TCP_NODELAY, &value, sizeof(value)));
	IS(0, dmm_setsockopt(handle, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)));
	time.tv_sec = time.tv_usec = 0;
	IS(0, dmm_getsockopt(handle, SOL_SOCKET, SO_RCVTIMEO, &time, &len));
	IS(3500, time.tv_sec * 1000 + time.tv_usec / 1000);
	time.tv_usec = 1000000;
	FAILS(EDOM, dmm_setsockopt(handle, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time)));
	FAILS(EOPNOTSUPP, dmm_setsockopt(handle, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)));
	linger.l_linger = 0;
	IS(0, dmm_setsockopt(handle, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)));
	IS(0, dmm_setsockopt(handle, SOL_SOCKET, SO_KEEPALIVE, &value, sizeof(value)));
	IS(1, option(handle, SOL_SOCKET, SO_KEEPALIVE));
	IS(7200, option(handle, IPPROTO_TCP, TCP_KEEPIDLE));
	value = 60;
	IS(0, dmm_setsockopt(handle, IPPROTO_TCP, TCP_KEEPIDLE, &value, sizeof(value)));
	value = 32768;
	FAILS(EINVAL, dmm_setsockopt(handle, IPPROTO_TCP, TCP_KEEPIDLE, &value, sizeof(value)));
	value = 60;
	IS(0, dmm_setsockopt(handle, IPPROTO_IP, IP_TTL, &value, sizeof(value)));
	IS(60, option(handle, IPPROTO_IP, IP_TTL));
	value = 256;
	FAILS(EINVAL, dmm_setsockopt(handle, IPPROTO_IP, IP_TTL, &value, sizeof(value)));
	FAILS(ENOPROTOOPT, dmm_setsockopt(handle, IPPROTO_IPV6, IPV6_UNICAST_HOPS, &value, sizeof(value)));
	value = 1;
	IS(0, dmm_setsockopt(handle, IPPROTO_TCP, TCP_CONGESTION, "bbr", 3));
	IS(0, control(handle, "bbr"));
	FAILS(ENOENT, dmm_setsockopt(handle, IPPROTO_TCP, TCP_CONGESTION, "vegas", 5));
	FAILS(EINVAL, dmm_setsockopt(handle, IPPROTO_TCP, TCP_CONGESTION, "", 0));
	unsigned rate = 1000000;
	IS(-1, option(handle, SOL_SOCKET, SO_MAX_PACING_RATE));
	IS(0, dmm_setsockopt(handle, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof(rate)));
	IS(1000000, option(handle, SOL_SOCKET, SO_MAX_PACING_RATE));
	rate = 0;
	FAILS(EINVAL, dmm_setsockopt(handle, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof(rate)));
	IS(0, dmm_setsockopt(handle, IPPROTO_TCP, TCP_CORK, &value, sizeof(value)));
	IS(1, option(handle, IPPROTO_TCP, TCP_CORK));
	IS(0, dmm_setsockopt(handle, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &value, sizeof(value)));
	IS(1, option(handle, IPPROTO_TCP, TCP_FASTOPEN_CONNECT));
	FAILS(ENOPROTOOPT, dmm_setsockopt(datagram, IPPROTO_TCP, TCP_CORK, &value, sizeof(value)));
	value = 5;
	FAILS(EINVAL, dmm_setsockopt(handle, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &value, sizeof(value)));
	IS(0, dmm_setsockopt(handle, IPPROTO_TCP, TCP_FASTOPEN, &value, sizeof(value)));
	IS(5, option(handle, IPPROTO_TCP, TCP_FASTOPEN));
	IS(536, option(handle, IPPROTO_TCP, TCP_MAXSEG));
	FAILS(EINVAL, dmm_setsockopt(handle, IPPROTO_TCP, TCP_MAXSEG, &value, sizeof(value)));
	value = -1;
	FAILS(EINVAL, dmm_setsockopt(handle, IPPROTO_TCP, TCP_FASTOPEN, &value, sizeof(value)));
	value = 1000;
	IS(0, dmm_setsockopt(handle, IPPROTO_TCP, TCP_MAXSEG, &value, sizeof(value)));
	IS(1000, option(handle, IPPROTO_TCP, TCP_MAXSEG));
	/* The bits of ECN are an application's on datagrams alone. */
	value = 0xb9;
	IS(0, dmm_setsockopt(handle, IPPROTO_IP, IP_TOS, &value, sizeof(value)));
	IS(0xb8, option(handle, IPPROTO_IP, IP_TOS));
	IS(0, dmm_setsockopt(datagram, IPPROTO_IP, IP_TOS, &value, sizeof(value)));
	IS(0xb9, option(datagram, IPPROTO_IP, IP_TOS));
	FAILS(ENOPROTOOPT, dmm_setsockopt(handle, IPPROTO_IPV6, IPV6_TCLASS, &value, sizeof(value)));
	IS(7, info(handle).tcpi_state);
	FAILS(ENOPROTOOPT, dmm_getsockopt(datagram, IPPROTO_TCP, TCP_INFO, &value, &len));
	v6 = dmm_socket(AF_INET6, SOCK_STREAM, 0);
	value = 256;
	FAILS(EINVAL, dmm_setsockopt(v6, IPPROTO_IPV6, IPV6_TCLASS, &value, sizeof(value)));
	value = 0x20;
	IS(0, dmm_setsockopt(v6, IPPROTO_IPV6, IPV6_TCLASS, &value, sizeof(value)));
	IS(0x20, option(v6, IPPROTO_IPV6, IPV6_TCLASS));
	value = -1;
	IS(0, dmm_setsockopt(v6, IPPROTO_IPV6, IPV6_TCLASS, &value, sizeof(value)));
	IS(0, option(v6, IPPROTO_IPV6, IPV6_TCLASS));
	IS(0, dmm_close(v6));
	FAILS(EBADF, dmm_getsockopt(7, SOL_SOCKET, SO_ERROR, &value, &len));
	FAILS(EFAULT, dmm_getsockopt(handle, SOL_SOCKET, SO_ERROR, NULL, NULL));
	IS(0, dmm_close(handle));
	IS(0, dmm_close(datagram));
}

static void names_and_states(const char *ours)
{
	struct sockaddr_in v4 = name(ours, 0), found;
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
	socklen_t len = sizeof(found);
	int handle = dmm_socket(AF_INET, SOCK_STREAM, 0), second, datagram, value;
	char byte = 0;

	FAILS(EFAULT, dmm_bind(handle, NULL, sizeof(v4)));
	FAILS(EINVAL, dmm_bind(handle, any(&v4), 4));
	FAILS(EAFNOSUPPORT, dmm_bind(handle, (struct sockaddr *)&v6, sizeof(v6)));
	FAILS(ENOTCONN, dmm_getpeername(handle, any(&found), &len));
	FAILS(ENOTCONN, dmm_shutdown(handle, SHUT_WR));
	FAILS(EINVAL, dmm_shutdown(handle, 7));
	FAILS(ENOTCONN, dmm_recv(handle, &byte, 1, 0));
	FAILS(EPIPE, dmm_send(handle, &byte, 1, 0));
	FAILS(EINVAL, dmm_accept(handle, NULL, NULL));
	IS(0, dmm_bind(handle, any(&v4), sizeof(v4)));
	FAILS(EINVAL, dmm_bind(handle, any(&v4), sizeof(v4)));
	IS(0, dmm_listen(handle, 5));
	IS(1, option(handle, SOL_SOCKET, SO_ACCEPTCONN));
	IS(10, info(handle).tcpi_state);
	value = 3;
	IS(0, dmm_setsockopt(handle, IPPROTO_TCP, TCP_FASTOPEN, &value, sizeof(value)));
	IS(0, dmm_getsockname(handle, any(&found), &len));
	IS(sizeof(found), len);
	IS(v4.sin_addr.s_addr, found.sin_addr.s_addr);
	IS(1, found.sin_port != 0);
	/* Cut to the room, and told how long it is. */
	len = 4;
	IS(0, dmm_getsockname(handle, any(&found), &len));
	IS(sizeof(found), len);
	IS(0, dmm_fcntl(handle, F_SETFL, O_NONBLOCK));
	FAILS(EAGAIN, dmm_accept(handle, NULL, NULL));
	FAILS(EINVAL, dmm_accept4(handle, NULL, NULL, 1));
	FAILS(EISCONN, dmm_connect(handle, any(&v4), sizeof(v4)));
	second = dmm_socket(AF_INET, SOCK_STREAM, 0);
	IS(0, dmm_bind(second, any(&found), sizeof(found)));
	FAILS(EADDRINUSE, dmm_listen(second, 5));
	IS(0, dmm_close(second));
	IS(0, dmm_close(handle));

	datagram = dmm_socket(AF_INET, SOCK_DGRAM, 0);
	FAILS(EOPNOTSUPP, dmm_listen(datagram, 1));
	FAILS(EOPNOTSUPP, dmm_accept(datagram, NULL, NULL));
	FAILS(EDESTADDRREQ, dmm_send(datagram, &byte, 1, 0));
	FAILS(EAGAIN, dmm_recv(datagram, &byte, 1, MSG_DONTWAIT));
	FAILS(EFAULT, dmm_recv(datagram, NULL, 1, MSG_DONTWAIT));
	FAILS(EOPNOTSUPP, dmm_recv(datagram, &byte, 1, MSG_OOB));
	FAILS(EOPNOTSUPP, dmm_send(datagram, &byte, 1, MSG_OOB));
	IS(0, dmm_close(datagram));
}

static void streams(const char *theirs, int port)
{
	struct sockaddr_in v4 = name(theirs, port), nobody = name(theirs, 9), found;
	socklen_t len = sizeof(found);
	char out[6] = "stream", in[16] = { 0 };
	struct iovec parts[2] = { { out, 3 }, { out + 3, 3 } };
	struct iovec rooms[2] = { { in, 2 }, { in + 2, 4 } };
	int handle = dmm_socket(AF_INET, SOCK_STREAM, 0), other, most = 700, cork = 1;
	int epoll = dmm_epoll_create1(0);
	struct epoll_event event = { .events = EPOLLRDHUP };
	clock_t used;

	FAILS(ECONNREFUSED, dmm_connect(handle, any(&nobody), sizeof(nobody)));
	/* It may try again, and says less in a segment. */
	IS(0, dmm_setsockopt(handle, IPPROTO_TCP, TCP_MAXSEG, &most, sizeof(most)));
	IS(0, dmm_connect(handle, any(&v4), sizeof(v4)));
	IS(1, info(handle).tcpi_state);
	IS(most, info(handle).tcpi_advmss);
	IS(1, option(handle, IPPROTO_TCP, TCP_MAXSEG) <= most);
	/* The stack's, and then another. */
	IS(0, control(handle, "cubic"));
	IS(0, dmm_setsockopt(handle, IPPROTO_TCP, TCP_CONGESTION, "bbr", 4));
	IS(0, control(handle, "bbr"));
	FAILS(EINVAL, dmm_setsockopt(handle, IPPROTO_TCP, TCP_FASTOPEN, &most, sizeof(most)));
	FAILS(EINVAL, dmm_setsockopt(handle, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &most, sizeof(most)));
	FAILS(EISCONN, dmm_connect(handle, any(&v4), sizeof(v4)));
	IS(0, dmm_getpeername(handle, any(&found), &len));
	IS(v4.sin_addr.s_addr, found.sin_addr.s_addr);
	IS(v4.sin_port, found.sin_port);
	FAILS(EAGAIN, dmm_recv(handle, in, 1, MSG_DONTWAIT));
	IS(6, dmm_writev(handle, parts, 2));
	IS(1, dmm_recv(handle, in, 1, MSG_PEEK));
	IS('s', in[0]);
	while (dmm_recv(handle, in, 6, MSG_PEEK) < 6)
		;
	/* Bytes that wait are no end: who waits for that alone sleeps. */
	IS(0, dmm_epoll_ctl(epoll, EPOLL_CTL_ADD, handle, &event));
	used = clock();
	IS(0, dmm_epoll_wait(epoll, &event, 1, 400));
	IS(1, clock() - used < CLOCKS_PER_SEC / 8);
	IS(0, dmm_close(epoll));
	IS(6, dmm_readv(handle, rooms, 2));
	IS(0, memcmp(in, "stream", 6));
	FAILS(EINVAL, dmm_readv(handle, rooms, -1));
	FAILS(EFAULT, dmm_writev(handle, NULL, 1));
	IS(0, dmm_writev(handle, NULL, 0));
	IS(0, dmm_send(handle, NULL, 0, 0));
	/* The other number keeps it. */
	other = dmm_dup(handle);
	IS(1, other >= 0 && other != handle);
	IS(0, dmm_close(handle));
	FAILS(EBADF, dmm_write(handle, out, 1));
	/* What is corked waits for the end of that. */
	IS(6, info(other).tcpi_bytes_acked);
	IS(0, dmm_setsockopt(other, IPPROTO_TCP, TCP_CORK, &cork, sizeof(cork)));
	IS(3, dmm_write(other, out, 3));
	IS(3, settled(other).tcpi_notsent_bytes);
	cork = 0;
	IS(0, dmm_setsockopt(other, IPPROTO_TCP, TCP_CORK, &cork, sizeof(cork)));
	IS(0, settled(other).tcpi_notsent_bytes);
	IS(3, dmm_send(other, out + 3, 3, MSG_EOR));
	IS(0, dmm_shutdown(other, SHUT_WR));
	FAILS(EPIPE, dmm_write(other, out, 1));
	for (size_t got = 0; got < 6;) {
		ssize_t count = dmm_read(other, in + got, 6 - got);

		IS(1, count > 0);
		got += (size_t)count;
	}
	IS(0, memcmp(in, "stream", 6));
	IS(0, dmm_read(other, in, 1));
	IS(0, dmm_close(other));
}

/* Without a copy: and what misuse is told. */
static void in_place(const char *theirs, int port)
{
	struct sockaddr_in v4 = name(theirs, port);
	int handle = dmm_socket(AF_INET, SOCK_STREAM, 0);
	const void *bytes = NULL, *stale;
	void *room = NULL, *again;
	char byte;

	FAILS(ENOTCONN, dmm_borrow(handle, &bytes, 0));
	FAILS(EPIPE, dmm_reserve(handle, &room, 1, 0));
	IS(0, dmm_connect(handle, any(&v4), sizeof(v4)));
	FAILS(EAGAIN, dmm_borrow(handle, &bytes, MSG_DONTWAIT));
	FAILS(EFAULT, dmm_borrow(handle, NULL, 0));
	FAILS(EOPNOTSUPP, dmm_borrow(handle, &bytes, MSG_PEEK));
	FAILS(EINVAL, dmm_reserve(handle, &room, 0, 0));
	IS(7, dmm_reserve(handle, &room, 7, 0));
	FAILS(EBUSY, dmm_reserve(handle, &again, 7, 0));
	FAILS(EBUSY, dmm_write(handle, "x", 1));
	FAILS(EINVAL, dmm_commit(handle, room, 8));
	FAILS(EINVAL, dmm_commit(handle, (char *)room + 1, 1));
	memcpy(room, "in turn", 7);
	IS(0, dmm_commit(handle, room, 7));
	FAILS(EINVAL, dmm_commit(handle, room, 7));
	while (dmm_borrow(handle, &bytes, 0) < 7)
		IS(0, dmm_return(handle, bytes, 0));
	IS(0, memcmp(bytes, "in turn", 7));
	FAILS(EBUSY, dmm_borrow(handle, &stale, 0));
	FAILS(EBUSY, dmm_read(handle, &byte, 1));
	FAILS(EINVAL, dmm_return(handle, bytes, 8));
	FAILS(EINVAL, dmm_return(handle, NULL, 1));
	IS(0, dmm_return(handle, bytes, 3));
	FAILS(EINVAL, dmm_return(handle, bytes, 3));
	IS(4, dmm_borrow(handle, &bytes, 0));
	IS(0, memcmp(bytes, "turn", 4));
	/* Closed with both on loan: they go with it. */
	IS(1, dmm_reserve(handle, &room, 100, 0) > 0);
	IS(0, dmm_close(handle));
	FAILS(EBADF, dmm_return(handle, bytes, 4));
	FAILS(EBADF, dmm_commit(handle, room, 1));
	/* Reading there now is wrong, and harms nobody. */
	byte = *(const volatile char *)bytes;
	(void)byte;
}

static void waiting(const char *ours, const char *theirs)
{
	struct sockaddr_in v4 = name(ours, 0), to;
	struct sockaddr_in nobody = name(theirs, 9);
	socklen_t len = sizeof(to);
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 77 }, found[4];
	struct pollfd polled[3];
	int one = dmm_socket(AF_INET, SOCK_DGRAM, 0), epoll, fresh, pipes[2], on = 1;

	IS(0, dmm_bind(one, any(&v4), sizeof(v4)));
	IS(0, dmm_getsockname(one, any(&to), &len));
	IS(0, pipe(pipes));
	FAILS(EINVAL, dmm_epoll_create1(1));
	epoll = dmm_epoll_create1(EPOLL_CLOEXEC);
	IS(0, dmm_epoll_ctl(epoll, EPOLL_CTL_ADD, one, &event));
	FAILS(EEXIST, dmm_epoll_ctl(epoll, EPOLL_CTL_ADD, one, &event));
	FAILS(EINVAL, dmm_epoll_ctl(one, EPOLL_CTL_ADD, one, &event));
	FAILS(EPERM, dmm_epoll_ctl(epoll, EPOLL_CTL_ADD, epoll, &event));
	FAILS(EBADF, dmm_epoll_ctl(epoll, EPOLL_CTL_ADD, 1 << 30 | 999, &event));
	FAILS(EINVAL, dmm_epoll_ctl(epoll, 99, one, &event));
	FAILS(EINVAL, dmm_epoll_wait(epoll, found, 0, 0));
	FAILS(EFAULT, dmm_epoll_ctl(epoll, EPOLL_CTL_MOD, one, NULL));
	event.events = EPOLLIN | EPOLLET;
	FAILS(EINVAL, dmm_epoll_ctl(epoll, EPOLL_CTL_MOD, one, &event));
	IS(0, dmm_epoll_wait(epoll, found, 4, 0));

	/* One of the kernel's beside it. */
	event = (struct epoll_event){ .events = EPOLLIN, .data.u64 = 88 };
	IS(0, dmm_epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[0], &event));
	IS(0, dmm_epoll_wait(epoll, found, 4, 10));
	IS(1, write(pipes[1], "x", 1));
	/* More room than there will ever be events for. */
	IS(1, dmm_epoll_wait(epoll, found, INT_MAX, 30000));
	IS(88, found[0].data.u64);
	IS(EPOLLIN, found[0].events);

	/* Once, and again after it is modified. */
	event = (struct epoll_event){ .events = EPOLLOUT | EPOLLONESHOT, .data.u64 = 99 };
	IS(0, dmm_epoll_ctl(epoll, EPOLL_CTL_DEL, pipes[0], NULL));
	IS(0, dmm_epoll_ctl(epoll, EPOLL_CTL_MOD, one, &event));
	IS(1, dmm_epoll_wait(epoll, found, 4, 30000));
	IS(99, found[0].data.u64);
	IS(EPOLLOUT, found[0].events);
	IS(0, dmm_epoll_wait(epoll, found, 4, 10));
	IS(0, dmm_epoll_ctl(epoll, EPOLL_CTL_MOD, one, &event));
	IS(1, dmm_epoll_wait(epoll, found, 4, 30000));
	IS(0, dmm_epoll_ctl(epoll, EPOLL_CTL_DEL, one, NULL));
	FAILS(ENOENT, dmm_epoll_ctl(epoll, EPOLL_CTL_DEL, one, NULL));

	/* A socket that is added before it is anything. */
	fresh = dmm_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	event = (struct epoll_event){ .events = EPOLLOUT, .data.u64 = 111 };
	IS(0, dmm_epoll_ctl(epoll, EPOLL_CTL_ADD, fresh, &event));
	FAILS(EINPROGRESS, dmm_connect(fresh, any(&nobody), sizeof(nobody)));
	IS(1, dmm_epoll_wait(epoll, found, 4, 30000));
	IS(111, found[0].data.u64);
	IS(1, (found[0].events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0);
	IS(ECONNREFUSED, option(fresh, SOL_SOCKET, SO_ERROR));
	IS(0, dmm_close(fresh));
	IS(0, dmm_epoll_wait(epoll, found, 4, 10));

	/* One that is refused out of hand: the daemon knows nothing of it any more, which harms nobody. */
	fresh = dmm_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	nobody.sin_port = 0;
	IS(0, dmm_epoll_ctl(epoll, EPOLL_CTL_ADD, fresh, &event));
	FAILS(EINPROGRESS, dmm_connect(fresh, any(&nobody), sizeof(nobody)));
	IS(1, dmm_epoll_wait(epoll, found, 4, 30000));
	IS(0, dmm_setsockopt(fresh, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)));
	/* The daemon answers what comes behind it. */
	IS(0, dmm_connect(one, any(&to), sizeof(to)));
	IS(0, option(one, SOL_SOCKET, SO_ERROR));
	IS(0, dmm_close(fresh));
	IS(0, dmm_close(epoll));

	/* Both kinds in one dmm_poll; the same twice; what is closed, and what is to be skipped. */
	polled[0] = (struct pollfd){ .fd = pipes[0], .events = POLLIN };
	polled[1] = (struct pollfd){ .fd = one, .events = POLLOUT };
	polled[2] = (struct pollfd){ .fd = -1, .events = POLLIN, .revents = 7 };
	IS(2, dmm_poll(polled, 3, -1));
	IS(POLLIN, polled[0].revents);
	IS(POLLOUT, polled[1].revents);
	IS(0, polled[2].revents);
	polled[1].events = POLLIN;
	polled[2] = polled[1];
	IS(1, dmm_poll(polled, 3, -1));
	IS(0, dmm_poll(polled + 1, 2, 10));
	polled[1].fd = 1 << 30 | 999;
	IS(1, dmm_poll(polled + 1, 2, -1));
	IS(POLLNVAL, polled[1].revents);
	IS(0, dmm_poll(NULL, 0, 1));
	FAILS(EFAULT, dmm_poll(NULL, 1, 1));
	IS(0, dmm_close(one));
	close(pipes[0]);
	close(pipes[1]);
}

struct reader {
	int handle;
	ssize_t result;
	int number;
};

static void *read_one(void *data)
{
	struct reader *reader = data;
	char byte;

	reader->result = dmm_read(reader->handle, &byte, 1);
	reader->number = errno;
	return NULL;
}

/* errno is each thread's own, and a socket may be used, and closed, under another's call. */
static void threads(const char *theirs, int port)
{
	struct sockaddr_in v4 = name(theirs, port);
	struct timeval time = { .tv_usec = 200000 };
	struct reader reader = { .handle = dmm_socket(AF_INET, SOCK_DGRAM, 0) };
	pthread_t thread;

	IS(0, dmm_connect(reader.handle, any(&v4), sizeof(v4)));
	IS(0, dmm_setsockopt(reader.handle, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)));
	IS(0, pthread_create(&thread, NULL, read_one, &reader));
	FAILS(EBADF, dmm_close(7));
	IS(0, dmm_close(reader.handle));
	IS(0, pthread_join(thread, NULL));
	IS(-1, reader.result);
	/* It waited for its time, or came too late. */
	IS(1, reader.number == EAGAIN || reader.number == EBADF);
	IS(EBADF, errno);
}

int main(int argc, char **argv)
{
	int port;

	if (argc != 4)
		return 2;
	port = atoi(argv[3]);
	sockets();
	options();
	names_and_states(argv[1]);
	streams(argv[2], port);
	in_place(argv[2], port);
	waiting(argv[1], argv[2]);
	threads(argv[2], port);
	printf("%d checks passed\n", checks);
	return 0;
}
