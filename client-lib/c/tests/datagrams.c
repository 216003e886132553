/*
 * Datagrams with what goes beside them: addresses, errors, broadcasts, shared ports. Both ends are on one
 * stack, which sends to itself. Prints how many checks passed.
 *
 *   datagrams OUR_ADDRESS THEIR_ADDRESS BROADCAST_ADDRESS
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dmm.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static struct sockaddr *any(struct sockaddr_in *v4)
{
	return (struct sockaddr *)v4;
}

static int set(int handle, int level, int which, int value)
{
	return dmm_setsockopt(handle, level, which, &value, sizeof(value));
}

static int option(int handle, int level, int which)
{
	int value = -1;
	socklen_t len = sizeof(value);

	IS(0, dmm_getsockopt(handle, level, which, &value, &len));
	return value;
}

/* A socket on a port of any address, that waits for 30 s at most. */
static int bound(int port)
{
	int handle = dmm_socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in at = name("0.0.0.0", port);
	struct timeval patience = { .tv_sec = 30 };

	IS(0, dmm_setsockopt(handle, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)));
	IS(0, dmm_bind(handle, any(&at), sizeof(at)));
	return handle;
}

/* Receives into two buffers. Returns where it was sent to, if that is told. */
static struct in_addr receive(int handle, size_t control_len, int expected, int flags)
{
	char head[3], tail[5];
	union {
		char bytes[256];
		struct cmsghdr align;
	} control;
	struct sockaddr_in from;
	struct iovec parts[] = { { head, sizeof(head) }, { tail, sizeof(tail) } };
	struct msghdr message = {
		.msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = parts, .msg_iovlen = 2,
		.msg_control = control.bytes, .msg_controllen = control_len,
	};
	struct cmsghdr *told;
	struct in_pktinfo info = { .ipi_addr.s_addr = 0 };

	IS(expected, dmm_recvmsg(handle, &message, 0));
	IS(flags, message.msg_flags);
	IS(sizeof(from), message.msg_namelen);
	IS(0, memcmp(head, "dat", 3));
	IS(0, memcmp(tail, "agram", expected - 3));
	for (told = CMSG_FIRSTHDR(&message); told; told = CMSG_NXTHDR(&message, told)) {
		IS(IPPROTO_IP, told->cmsg_level);
		IS(IP_PKTINFO, told->cmsg_type);
		memcpy(&info, CMSG_DATA(told), sizeof(info));
		IS(1, info.ipi_ifindex);
	}
	return info.ipi_addr;
}

/* Sends from an address. */
static long send_from(int handle, struct sockaddr_in to, const char *from, int link)
{
	union {
		char bytes[CMSG_SPACE(sizeof(struct in_pktinfo))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec parts[] = { { "da", 2 }, { "ta", 2 }, { "gram", 4 } };
	struct msghdr message = {
		.msg_name = &to, .msg_namelen = sizeof(to), .msg_iov = parts, .msg_iovlen = 3,
		.msg_control = control.bytes, .msg_controllen = sizeof(control.bytes),
	};
	struct cmsghdr *asked = CMSG_FIRSTHDR(&message);
	struct in_pktinfo info = { .ipi_ifindex = link };

	asked->cmsg_level = IPPROTO_IP;
	asked->cmsg_type = IP_PKTINFO;
	asked->cmsg_len = CMSG_LEN(sizeof(info));
	inet_pton(AF_INET, from, &info.ipi_spec_dst);
	memcpy(CMSG_DATA(asked), &info, sizeof(info));
	return dmm_sendmsg(handle, &message, 0);
}

static void messages(const char *ours, const char *theirs)
{
	static char some[8];
	struct iovec huge[3] = { { some, LONG_MAX }, { some, LONG_MAX }, { some, LONG_MAX } };
	int one = bound(4001), other = bound(4002);
	struct sockaddr_in to = name(ours, 4002);
	struct iovec part = { "x", 1 };
	struct cmsghdr wrong = { .cmsg_len = 1000, .cmsg_level = IPPROTO_IP, .cmsg_type = IP_PKTINFO };
	struct msghdr message = { .msg_name = &to, .msg_namelen = sizeof(to), .msg_iov = &part, .msg_iovlen = 1 };

	IS(0, option(other, IPPROTO_IP, IP_PKTINFO));
	IS(8, send_from(one, to, ours, 0));
	IS(0, receive(other, 256, 8, 0).s_addr);
	IS(0, set(other, IPPROTO_IP, IP_PKTINFO, 1));
	IS(1, option(other, IPPROTO_IP, IP_PKTINFO));
	IS(8, send_from(one, to, "0.0.0.0", 1));
	IS(to.sin_addr.s_addr, receive(other, 256, 8, 0).s_addr);
	IS(8, send_from(one, to, ours, 0));
	IS(0, receive(other, 8, 8, MSG_CTRUNC).s_addr);
	IS(9, dmm_sendto(one, "datagrams", 9, 0, any(&to), sizeof(to)));
	IS(to.sin_addr.s_addr, receive(other, 256, 8, MSG_TRUNC).s_addr);
	/* An address that is not the stack's, a link that it has not, and what is too long for its buffer. */
	FAILS(EINVAL, send_from(one, to, theirs, 0));
	FAILS(ENODEV, send_from(one, to, ours, 7));
	message.msg_control = &wrong;
	message.msg_controllen = sizeof(wrong);
	FAILS(EINVAL, dmm_sendmsg(one, &message, 0));
	FAILS(EFAULT, dmm_sendmsg(one, NULL, 0));
	FAILS(EFAULT, dmm_recvmsg(one, NULL, 0));
	FAILS(EOPNOTSUPP, dmm_recvmsg(one, &message, MSG_OOB));
	FAILS(EBADF, dmm_recvmsg(7, &message, 0));
	message.msg_iovlen = 1025;
	FAILS(EINVAL, dmm_sendmsg(one, &message, 0));
	/* Longer than all memory, and than a number holds. */
	message = (struct msghdr){ .msg_iov = huge, .msg_iovlen = 3 };
	FAILS(EMSGSIZE, dmm_sendmsg(one, &message, 0));
	FAILS(EAGAIN, dmm_recvmsg(one, &message, MSG_DONTWAIT));
	IS(0, dmm_close(one));
	IS(0, dmm_close(other));
}

static void errors(const char *ours, const char *theirs)
{
	int handle = bound(4001), error;
	struct sockaddr_in nobody = name(ours, 9);
	char byte;

	IS(0, dmm_connect(handle, any(&nobody), sizeof(nobody)));
	IS(1, dmm_send(handle, "x", 1, 0));
	FAILS(ECONNREFUSED, dmm_recv(handle, &byte, 1, 0));
	FAILS(EAGAIN, dmm_recv(handle, &byte, 1, MSG_DONTWAIT));
	nobody = name(theirs, 9);
	IS(0, dmm_connect(handle, any(&nobody), sizeof(nobody)));
	IS(1, dmm_send(handle, "x", 1, 0));
	do
		error = option(handle, SOL_SOCKET, SO_ERROR);
	while (error == 0);
	IS(ECONNREFUSED, error);
	IS(0, option(handle, SOL_SOCKET, SO_ERROR));
	IS(0, dmm_close(handle));
}

static void broadcasts(const char *broadcast)
{
	int one = bound(4001), other = bound(4002);
	struct sockaddr_in to = name(broadcast, 4002), all = name("255.255.255.255", 4002);

	FAILS(EACCES, dmm_sendto(one, "datagram", 8, 0, any(&to), sizeof(to)));
	FAILS(EACCES, dmm_sendto(one, "datagram", 8, 0, any(&all), sizeof(all)));
	FAILS(EACCES, dmm_connect(one, any(&to), sizeof(to)));
	IS(0, option(one, SOL_SOCKET, SO_BROADCAST));
	IS(0, set(one, SOL_SOCKET, SO_BROADCAST, 1));
	IS(1, option(one, SOL_SOCKET, SO_BROADCAST));
	IS(0, set(other, IPPROTO_IP, IP_PKTINFO, 1));
	IS(8, dmm_sendto(one, "datagram", 8, 0, any(&to), sizeof(to)));
	IS(to.sin_addr.s_addr, receive(other, 256, 8, 0).s_addr);
	IS(0, dmm_connect(one, any(&all), sizeof(all)));
	IS(8, dmm_send(one, "datagram", 8, 0));
	IS(all.sin_addr.s_addr, receive(other, 256, 8, 0).s_addr);
	IS(0, dmm_close(one));
	IS(0, dmm_close(other));
}

static void sharing(void)
{
	struct sockaddr_in at = name("0.0.0.0", 4001);
	int handles[3], i, alone = dmm_socket(AF_INET, SOCK_DGRAM, 0);

	for (i = 0; i < 3; i++) {
		handles[i] = dmm_socket(AF_INET, SOCK_DGRAM, 0);
		IS(0, option(handles[i], SOL_SOCKET, SO_REUSEPORT));
		IS(0, set(handles[i], SOL_SOCKET, SO_REUSEPORT, 1));
		IS(1, option(handles[i], SOL_SOCKET, SO_REUSEPORT));
		IS(0, dmm_bind(handles[i], any(&at), sizeof(at)));
		FAILS(EINVAL, set(handles[i], SOL_SOCKET, SO_REUSEPORT, 0));
	}
	FAILS(EADDRINUSE, dmm_bind(alone, any(&at), sizeof(at)));
	for (i = 0; i < 3; i++)
		IS(0, dmm_close(handles[i]));
	IS(0, dmm_bind(alone, any(&at), sizeof(at)));
	IS(0, dmm_close(alone));
}

static void groups(void)
{
	int v4 = dmm_socket(AF_INET, SOCK_DGRAM, 0), v6 = dmm_socket(AF_INET6, SOCK_DGRAM, 0);
	int stream = dmm_socket(AF_INET, SOCK_STREAM, 0);
	unsigned char hops = 7;

	IS(1, option(v4, IPPROTO_IP, IP_MULTICAST_TTL));
	IS(1, option(v4, IPPROTO_IP, IP_MULTICAST_LOOP));
	IS(0, dmm_setsockopt(v4, IPPROTO_IP, IP_MULTICAST_TTL, &hops, 1));
	IS(7, option(v4, IPPROTO_IP, IP_MULTICAST_TTL));
	IS(0, set(v4, IPPROTO_IP, IP_MULTICAST_TTL, -1));
	IS(1, option(v4, IPPROTO_IP, IP_MULTICAST_TTL));
	FAILS(EINVAL, set(v4, IPPROTO_IP, IP_MULTICAST_TTL, 256));
	IS(0, set(v4, IPPROTO_IP, IP_MULTICAST_LOOP, 0));
	IS(0, option(v4, IPPROTO_IP, IP_MULTICAST_LOOP));
	FAILS(ENOPROTOOPT, set(v4, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 1));
	FAILS(ENOPROTOOPT, set(stream, IPPROTO_IP, IP_MULTICAST_TTL, 1));
	IS(0, set(v6, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 255));
	IS(255, option(v6, IPPROTO_IPV6, IPV6_MULTICAST_HOPS));
	FAILS(EINVAL, set(v6, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 2));
	IS(0, set(v6, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 0));
	IS(0, option(v6, IPPROTO_IPV6, IPV6_MULTICAST_LOOP));
	IS(0, set(v6, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1));
	IS(1, option(v6, IPPROTO_IPV6, IPV6_RECVPKTINFO));
	FAILS(ENOPROTOOPT, set(v6, IPPROTO_IP, IP_PKTINFO, 1));
	IS(0, dmm_close(v4));
	IS(0, dmm_close(v6));
	IS(0, dmm_close(stream));
}

/* Joins before the socket is bound, which counts from then on. */
static void members(const char *ours, const char *theirs)
{
	struct sockaddr_in at = name("0.0.0.0", 4002), to = name("239.1.2.3", 4002);
	int one = bound(4001), other = dmm_socket(AF_INET, SOCK_DGRAM, 0), v6 = dmm_socket(AF_INET6, SOCK_DGRAM, 0);
	struct timeval patience = { .tv_sec = 30 };
	struct ip_mreq asked = { .imr_multiaddr = to.sin_addr };
	struct ip_mreqn wide = { .imr_multiaddr = to.sin_addr };
	struct ipv6_mreq asked_v6 = { .ipv6mr_interface = 1 };
	struct in_addr source = name(ours, 0).sin_addr;

	inet_pton(AF_INET6, "ff05::1:3", &asked_v6.ipv6mr_multiaddr);
	IS(0, dmm_setsockopt(other, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)));
	FAILS(EADDRNOTAVAIL, dmm_setsockopt(other, IPPROTO_IP, IP_DROP_MEMBERSHIP, &asked, sizeof(asked)));
	IS(0, dmm_setsockopt(other, IPPROTO_IP, IP_ADD_MEMBERSHIP, &asked, sizeof(asked)));
	FAILS(EADDRINUSE, dmm_setsockopt(other, IPPROTO_IP, IP_ADD_MEMBERSHIP, &asked, sizeof(asked)));
	IS(0, dmm_bind(other, any(&at), sizeof(at)));
	FAILS(EADDRINUSE, dmm_setsockopt(other, IPPROTO_IP, IP_ADD_MEMBERSHIP, &wide, sizeof(wide)));
	IS(0, set(other, IPPROTO_IP, IP_PKTINFO, 1));
	IS(0, dmm_setsockopt(one, IPPROTO_IP, IP_MULTICAST_IF, &source, sizeof(source)));
	source = name(theirs, 0).sin_addr;
	FAILS(EADDRNOTAVAIL, dmm_setsockopt(one, IPPROTO_IP, IP_MULTICAST_IF, &source, sizeof(source)));
	IS(8, dmm_sendto(one, "datagram", 8, 0, any(&to), sizeof(to)));
	IS(to.sin_addr.s_addr, receive(other, 256, 8, 0).s_addr);
	IS(0, dmm_setsockopt(other, IPPROTO_IP, IP_DROP_MEMBERSHIP, &asked, sizeof(asked)));
	asked.imr_interface = name(theirs, 0).sin_addr;
	FAILS(ENODEV, dmm_setsockopt(other, IPPROTO_IP, IP_ADD_MEMBERSHIP, &asked, sizeof(asked)));
	asked = (struct ip_mreq){ .imr_multiaddr = name(ours, 0).sin_addr };
	FAILS(EINVAL, dmm_setsockopt(other, IPPROTO_IP, IP_ADD_MEMBERSHIP, &asked, sizeof(asked)));
	FAILS(EINVAL, dmm_setsockopt(other, IPPROTO_IP, IP_ADD_MEMBERSHIP, &asked, 7));
	IS(0, dmm_setsockopt(v6, IPPROTO_IPV6, IPV6_JOIN_GROUP, &asked_v6, sizeof(asked_v6)));
	IS(0, dmm_setsockopt(v6, IPPROTO_IPV6, IPV6_LEAVE_GROUP, &asked_v6, sizeof(asked_v6)));
	FAILS(ENODEV, set(v6, IPPROTO_IPV6, IPV6_MULTICAST_IF, 2));
	IS(0, dmm_close(one));
	IS(0, dmm_close(other));
	IS(0, dmm_close(v6));
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	messages(argv[1], argv[2]);
	errors(argv[1], argv[2]);
	broadcasts(argv[3]);
	sharing();
	groups();
	members(argv[1], argv[2]);
	printf("%d checks passed\n", checks);
	return 0;
}
