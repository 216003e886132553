/*
 * The C API of DMM: sockets on user-space stacks, shaped like those of POSIX.
 *
 * Link with -ldmm (pkg-config --cflags --libs dmm). A program finds the daemon dmmd at DMM_SOCKET,
 * /run/dmm/dmmd.sock unless set, with its first dmm_socket call.
 *
 * Results and errors: a call that fails returns -1 and sets errno, as the kernel's does; what is said
 * below of errors is beside that call's manual page. dmm_error_text() says more, in words. If the
 * daemon ends, calls on its sockets fail with ECONNRESET, those that only send once there is no more room;
 * the next dmm_socket looks for a daemon anew.
 *
 * Threads: any thread may use any socket, several the same one. No call raises SIGPIPE, and none ends
 * with EINTR: it goes on after a signal handler returns. No call is safe within a signal handler.
 *
 * Processes: numbers mean nothing to another program. A forked child must open sockets of its own;
 * calls on its parent's fail with EBADF.
 */

#ifndef DMM_H
#define DMM_H

#include <poll.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// As socket(2): a socket on the daemon's first stack. `domain` is `AF_INET` or `AF_INET6`, `type`
// `SOCK_STREAM` or `SOCK_DGRAM`, perhaps with `SOCK_NONBLOCK` (`SOCK_CLOEXEC` has no effect: the
// number means nothing to another program). The number is this library's, 2^30 or more: the
// kernel's calls do not know it, nor this library's those of the kernel.
//
// Errors: those of socket(2); `ENOENT` or `ECONNREFUSED` if no daemon answers at `DMM_SOCKET`,
// `EACCES` if it does not admit this user, `ETIMEDOUT` if it does not answer.
int dmm_socket(int domain, int type, int protocol);

// As dmm_socket, on the stack of that name.
//
// Errors: those of dmm_socket; `ENODEV` if the daemon has no such stack, `EFAULT` without a name.
//
// # Safety
// `stack` must be null or a string that ends in NUL.
int dmm_socket_via(const char *stack, int domain, int type, int protocol);

// As close(2). A call of another thread that waits on the socket goes on, and the socket ends with
// it. What was written is still sent.
//
// Errors: `EBADF`.
int dmm_close(int handle);

// As dup(2): another number for the same socket, or epoll instance.
//
// Errors: `EBADF`, `EMFILE`.
int dmm_dup(int handle);

// As bind(2). A TCP socket's address is only noted: whether it is free, and which port 0 stands for,
// shows when it listens or connects.
//
// Errors: those of bind(2).
//
// # Safety
// `address` must point to `len` readable bytes.
int dmm_bind(int handle,
             const struct sockaddr *address,
             socklen_t len);

// As listen(2). A second call changes nothing.
//
// Errors: those of listen(2); of bind(2) too, see dmm_bind.
int dmm_listen(int handle, int backlog);

// As accept(2).
//
// Errors: those of accept(2).
//
// # Safety
// `address` must be null, or `len` point to the number of bytes that may be written to it.
int dmm_accept(int handle, struct sockaddr *address, socklen_t *len);

// As accept4(2), with `SOCK_NONBLOCK` among `flags` or not.
//
// Errors: those of accept4(2).
//
// # Safety
// As of dmm_accept.
int dmm_accept4(int handle, struct sockaddr *address, socklen_t *len, int flags);

// As connect(2). A non-blocking one answers `EINPROGRESS`; the socket is then writable once it has
// ended, and `SO_ERROR` says how.
//
// Errors: those of connect(2).
//
// # Safety
// `address` must point to `len` readable bytes.
int dmm_connect(int handle, const struct sockaddr *address, socklen_t len);

// As shutdown(2): `SHUT_RD`, `SHUT_WR` or `SHUT_RDWR`.
//
// Errors: those of shutdown(2).
int dmm_shutdown(int handle, int how);

// As getsockname(2).
//
// Errors: those of getsockname(2).
//
// # Safety
// `len` must point to the number of bytes that may be written to `address`.
int dmm_getsockname(int handle, struct sockaddr *address, socklen_t *len);

// As getpeername(2).
//
// Errors: those of getpeername(2).
//
// # Safety
// `len` must point to the number of bytes that may be written to `address`.
int dmm_getpeername(int handle, struct sockaddr *address, socklen_t *len);

// As read(2).
//
// Errors: those of recv(2).
//
// # Safety
// `buffer` must point to `len` writable bytes.
ssize_t dmm_read(int handle, void *buffer, size_t len);

// As write(2). Never raises SIGPIPE.
//
// Errors: those of send(2).
//
// # Safety
// `buffer` must point to `len` readable bytes.
ssize_t dmm_write(int handle, const void *buffer, size_t len);

// As recv(2), with `MSG_DONTWAIT`, `MSG_PEEK` and, for datagrams, `MSG_TRUNC` among `flags`.
//
// Errors: those of recv(2); `EOPNOTSUPP` for other flags.
//
// # Safety
// `buffer` must point to `len` writable bytes.
ssize_t dmm_recv(int handle, void *buffer, size_t len, int flags);

// As recvfrom(2), with the flags of dmm_recv.
//
// Errors: those of dmm_recv.
//
// # Safety
// `buffer` must point to `len` writable bytes; `address` must be null, or `address_len` point to the
// number of bytes that may be written to it.
ssize_t dmm_recvfrom(int handle,
                     void *buffer,
                     size_t len,
                     int flags,
                     struct sockaddr *address,
                     socklen_t *address_len);

// As send(2), with `MSG_DONTWAIT` and `MSG_EOR` among `flags` or not; `MSG_NOSIGNAL` is implied.
//
// Errors: those of send(2); `EOPNOTSUPP` for other flags.
//
// # Safety
// `buffer` must point to `len` readable bytes.
ssize_t dmm_send(int handle, const void *buffer, size_t len, int flags);

// As sendto(2), with the flags of dmm_send. A connected stream's address is ignored.
//
// Errors: those of dmm_send.
//
// # Safety
// `buffer` must point to `len` readable bytes; `address` must be null or point to `address_len`
// readable bytes.
ssize_t dmm_sendto(int handle,
                   const void *buffer,
                   size_t len,
                   int flags,
                   const struct sockaddr *address,
                   socklen_t address_len);

// As readv(2).
//
// Errors: those of recv(2).
//
// # Safety
// `vectors` must point to `count` vectors, each of writable bytes.
ssize_t dmm_readv(int handle, const struct iovec *vectors, int count);

// As writev(2).
//
// Errors: those of send(2).
//
// # Safety
// `vectors` must point to `count` vectors, each of readable bytes.
ssize_t dmm_writev(int handle, const struct iovec *vectors, int count);

// As epoll_create1(2): an instance for this library's sockets and the kernel's descriptors. Its
// number is this library's. `flags` may hold `EPOLL_CLOEXEC`, without effect.
//
// Errors: `EINVAL` for other flags, `EMFILE`.
int dmm_epoll_create1(int flags);

// As epoll_ctl(2). `target` is a socket of this library, for which `EPOLLIN`, `EPOLLOUT`,
// `EPOLLRDHUP` and `EPOLLONESHOT` may be asked, level-triggered; or a descriptor of the kernel, for
// which all that epoll_ctl(2) knows. A socket of this library leaves the instance when the number is
// closed by which it was added, or the socket with its last number.
//
// Errors: those of epoll_ctl(2); `EINVAL` for `EPOLLET` and `EPOLLEXCLUSIVE` with a socket of this
// library, `EXDEV` for one of an ended daemon beside one of another.
//
// # Safety
// `event` must be null or point to an event.
int dmm_epoll_ctl(int epoll,
                  int operation,
                  int target,
                  struct epoll_event *event);

// As epoll_wait(2). A signal does not end the wait.
//
// Errors: those of epoll_wait(2), but for `EINTR`.
//
// # Safety
// `events` must point to room for `max` events.
int dmm_epoll_wait(int epoll, struct epoll_event *events, int max, int timeout_ms);

// What was wrong with the calling thread's last call that failed, in words: more than errno says
// where there is no daemon, or no stack of that name. Empty if none failed. The text stays until
// the thread's next call that fails.
const char *dmm_error_text(void);

// The version of the library, such as "0.1.0". Static.
const char *dmm_version(void);

// Lends received bytes of a TCP connection where they lie: `*bytes` points to as many as the result
// says, 16 KiB at most, which stay until dmm_return, and may not be written to. 0 is the end of the
// stream: then there is nothing to return. Waits as recv(2) does; `flags` may hold `MSG_DONTWAIT`.
//
// Errors: those of dmm_recv; `EBUSY` while bytes of the socket are lent already, as any other call
// that receives then fails; `EFAULT` without `bytes`.
//
// # Safety
// `bytes` must be null or point to a pointer. What it then points to is not to be used after
// dmm_return or the socket's last dmm_close: it does no harm but to what is read.
ssize_t dmm_borrow(int handle, const void **bytes, int flags);

// Gives back what dmm_borrow lent at `bytes`, the first `consumed` bytes read; the others are received
// again.
//
// Errors: `EBADF`; `EINVAL` if nothing is lent at `bytes` (returned already, say), or less than
// `consumed`.
int dmm_return(int handle,
               const void *bytes,
               size_t consumed);

// Reserves room to send on a TCP connection: `*bytes` points to as many writable bytes as the result
// says, at least 1, `len` and 16 KiB at most, until dmm_commit. Waits for room as send(2) does;
// `flags` may hold `MSG_DONTWAIT`.
//
// Errors: those of dmm_send; `EBUSY` while room of the socket is reserved already, as any other call
// that sends then fails; `EFAULT` without `bytes`, `EINVAL` if `len` is 0.
//
// # Safety
// As of dmm_borrow. What is written there after dmm_commit may be sent.
ssize_t dmm_reserve(int handle,
                    void **bytes,
                    size_t len,
                    int flags);

// Sends the first `filled` bytes of what dmm_reserve reserved at `bytes`, perhaps none, and gives back
// the rest.
//
// Errors: `EBADF`; `EINVAL` if nothing is reserved at `bytes` (committed already, say), or less than
// `filled`; `EPIPE` if the direction was shut down meanwhile, `ECONNRESET` if the daemon ended.
int dmm_commit(int handle,
               void *bytes,
               size_t filled);

// As recvmsg(2), with the flags of dmm_recv. Of datagrams the address that they were sent to is told if
// `IP_PKTINFO` or `IPV6_RECVPKTINFO` was set (ip(7), ipv6(7)): `ipi_ifindex` is 1 for the stack's link, and
// `ipi_spec_dst` is an address to answer from, or 0.0.0.0 for one of the stack's choice.
//
// Errors: those of recvmsg(2); `EOPNOTSUPP` for other flags.
//
// # Safety
// `message` must point to a message whose parts are as recvmsg(2) has them.
ssize_t dmm_recvmsg(int handle,
                    struct msghdr *message,
                    int flags);

// As sendmsg(2), with the flags of dmm_send. Datagrams may carry `IP_PKTINFO` or `IPV6_PKTINFO`, whose
// `ipi_spec_dst` or `ipi6_addr` is the address to come from.
//
// Errors: those of sendmsg(2); `EOPNOTSUPP` for other flags.
//
// # Safety
// `message` must point to a message whose parts are as sendmsg(2) has them.
ssize_t dmm_sendmsg(int handle,
                    const struct msghdr *message,
                    int flags);

// As setsockopt(2), with `SO_RCVTIMEO`, `SO_SNDTIMEO`, `SO_KEEPALIVE`, `SO_REUSEADDR` (which makes no
// difference: a port in TIME-WAIT is free), `SO_LINGER` (off, or on with 0 seconds: a reset),
// `TCP_NODELAY`, `TCP_CORK`, `TCP_KEEPIDLE`, `TCP_USER_TIMEOUT`, `TCP_MAXSEG` (before it listens or
// connects), `TCP_CONGESTION` (`reno`, `cubic`, `dctcp` or `bbr`), `SO_MAX_PACING_RATE`, `TCP_FASTOPEN`, `TCP_FASTOPEN_CONNECT`, `IP_TTL`, `IP_TOS`, `IPV6_UNICAST_HOPS` and
// `IPV6_TCLASS`. With `TCP_FASTOPEN_CONNECT` a non-blocking connect says `EINPROGRESS` all the same;
// the socket is writable once the SYN waits for its first write. Of UDP sockets also `SO_BROADCAST`,
// `SO_REUSEPORT` (before it is bound), `IP_MULTICAST_TTL`, `IPV6_MULTICAST_HOPS`, `IP_MULTICAST_LOOP`,
// `IPV6_MULTICAST_LOOP`, `IP_MULTICAST_IF`, `IPV6_MULTICAST_IF`, `IP_ADD_MEMBERSHIP`, `IP_DROP_MEMBERSHIP`,
// `IPV6_JOIN_GROUP` and `IPV6_LEAVE_GROUP` (where a stack's one link has number 1), and `IP_PKTINFO` and `IPV6_RECVPKTINFO`, which dmm_recvmsg answers.
//
// Errors: those of setsockopt(2); `ENOPROTOOPT` for other options.
//
// # Safety
// `value` must point to `len` readable bytes.
int dmm_setsockopt(int handle,
                   int level,
                   int name,
                   const void *value,
                   socklen_t len);

// As getsockopt(2), with the options of dmm_setsockopt (`TCP_CONGESTION` of a socket that chose none once it is
// connected, `ENOTCONN` before), and `TCP_INFO`, `SO_ERROR`, `SO_TYPE`, `SO_DOMAIN`,
// `SO_PROTOCOL` and `SO_ACCEPTCONN`.
//
// Errors: those of getsockopt(2); `ENOPROTOOPT` for other options.
//
// # Safety
// `len` must point to the number of bytes that may be written to `value`.
int dmm_getsockopt(int handle,
                   int level,
                   int name,
                   void *value,
                   socklen_t *len);

// As fcntl(2) of a socket, with `F_GETFL`, and `F_SETFL` with `O_NONBLOCK` or without.
//
// Errors: `EBADF`; `EINVAL` for other commands.
int dmm_fcntl(int handle, int command, int value);

// As poll(2), of this library's sockets and the kernel's descriptors; `POLLIN`, `POLLOUT` and
// `POLLRDHUP` may be asked of the former. Each call makes its preparations anew: for many sockets, or
// often, use dmm_epoll_wait. A signal does not end the wait.
//
// Errors: those of poll(2), but for `EINTR`.
//
// # Safety
// `descriptors` must point to `count` of them.
int dmm_poll(struct pollfd *descriptors,
             nfds_t count,
             int timeout_ms);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* DMM_H */
