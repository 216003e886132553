//! The calls on sockets, shaped like those of POSIX.
#![allow(unsafe_code, reason = "C passes buffers by pointers")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use libc::{iovec, size_t, sockaddr, socklen_t, ssize_t};
use nix::errno::Errno;

use crate::address;
use crate::errors::{call, done, os};
use crate::handles::{self, Handle};
use crate::socket::{Kind, Socket};

/// Vectors in one call at most (`IOV_MAX`).
const VECTORS_MAX: c_int = 1024;

/// As socket(2): a socket on the daemon's first stack. `domain` is `AF_INET` or `AF_INET6`, `type`
/// `SOCK_STREAM` or `SOCK_DGRAM`, perhaps with `SOCK_NONBLOCK` (`SOCK_CLOEXEC` has no effect: the
/// number means nothing to another program). The number is this library's, 2^30 or more: the
/// kernel's calls do not know it, nor this library's those of the kernel.
///
/// Errors: those of socket(2); `ENOENT` or `ECONNREFUSED` if no daemon answers at `DMM_SOCKET`,
/// `EACCES` if it does not admit this user, `ETIMEDOUT` if it does not answer.
#[unsafe(no_mangle)]
pub extern "C" fn dmm_socket(domain: c_int, r#type: c_int, protocol: c_int) -> c_int {
    call(|| open(None, domain, r#type, protocol))
}

/// As dmm_socket, on the stack of that name.
///
/// Errors: those of dmm_socket; `ENODEV` if the daemon has no such stack, `EFAULT` without a name.
///
/// # Safety
/// `stack` must be null or a string that ends in NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_socket_via(
    stack: *const c_char,
    domain: c_int,
    r#type: c_int,
    protocol: c_int,
) -> c_int {
    call(|| {
        if stack.is_null() {
            return Err(os(Errno::EFAULT));
        }
        // SAFETY: as the caller promised.
        let stack = unsafe { CStr::from_ptr(stack) };
        let stack = stack.to_str().map_err(|_| os(Errno::ENODEV))?;
        open(Some(stack.to_owned()), domain, r#type, protocol)
    })
}

fn open(stack: Option<String>, domain: c_int, kind: c_int, protocol: c_int) -> io::Result<c_int> {
    let v6 = match domain {
        libc::AF_INET => false,
        libc::AF_INET6 => true,
        _ => return Err(os(Errno::EAFNOSUPPORT)),
    };
    let flags = kind & (libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC);
    let stream = match (kind & !flags, protocol) {
        (libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => true,
        (libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => false,
        (libc::SOCK_STREAM | libc::SOCK_DGRAM, _) => return Err(os(Errno::EPROTONOSUPPORT)),
        _ => return Err(os(Errno::EINVAL)),
    };
    let socket = Socket::new(Kind { v6, stream }, stack, flags & libc::SOCK_NONBLOCK != 0)?;
    handles::open(Handle::Socket(Arc::new(socket)))
}

/// As close(2). A call of another thread that waits on the socket goes on, and the socket ends with
/// it. What was written is still sent.
///
/// Errors: `EBADF`.
#[unsafe(no_mangle)]
pub extern "C" fn dmm_close(handle: c_int) -> c_int {
    call(|| {
        if let Handle::Socket(socket) = handles::close(handle)? {
            socket.closed(handle);
        }
        Ok(0)
    })
}

/// As dup(2): another number for the same socket, or epoll instance.
///
/// Errors: `EBADF`, `EMFILE`.
#[unsafe(no_mangle)]
pub extern "C" fn dmm_dup(handle: c_int) -> c_int {
    call(|| handles::open(handles::get(handle)?))
}

/// As bind(2). A TCP socket's address is only noted: whether it is free, and which port 0 stands for,
/// shows when it listens or connects.
///
/// Errors: those of bind(2).
///
/// # Safety
/// `address` must point to `len` readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_bind(
    handle: c_int,
    address: *const sockaddr,
    len: socklen_t,
) -> c_int {
    call(|| {
        let socket = handles::socket(handle)?;
        // SAFETY: as the caller promised.
        let address = unsafe { address::read(address, len) }?;
        done(socket.bind(address))
    })
}

/// As listen(2). A second call changes nothing.
///
/// Errors: those of listen(2); of bind(2) too, see dmm_bind.
#[unsafe(no_mangle)]
pub extern "C" fn dmm_listen(handle: c_int, backlog: c_int) -> c_int {
    // Below zero it is the longest, as on Linux; the daemon has a bound of its own.
    call(|| done(handles::socket(handle)?.listen(u32::try_from(backlog).unwrap_or(u32::MAX))))
}

/// As accept(2).
///
/// Errors: those of accept(2).
///
/// # Safety
/// `address` must be null, or `len` point to the number of bytes that may be written to it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_accept(
    handle: c_int,
    address: *mut sockaddr,
    len: *mut socklen_t,
) -> c_int {
    // SAFETY: the same promises.
    unsafe { dmm_accept4(handle, address, len, 0) }
}

/// As accept4(2), with `SOCK_NONBLOCK` among `flags` or not.
///
/// Errors: those of accept4(2).
///
/// # Safety
/// As of dmm_accept.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_accept4(
    handle: c_int,
    address: *mut sockaddr,
    len: *mut socklen_t,
    flags: c_int,
) -> c_int {
    call(|| {
        if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
            return Err(os(Errno::EINVAL));
        }
        let listener = handles::socket(handle)?;
        let (socket, peer) = listener.accept(flags & libc::SOCK_NONBLOCK != 0)?;
        // SAFETY: as the caller promised.
        unsafe { address::write(peer, address, len) }?;
        handles::open(Handle::Socket(Arc::new(socket)))
    })
}

/// As connect(2). A non-blocking one answers `EINPROGRESS`; the socket is then writable once it has
/// ended, and `SO_ERROR` says how.
///
/// Errors: those of connect(2).
///
/// # Safety
/// `address` must point to `len` readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_connect(
    handle: c_int,
    address: *const sockaddr,
    len: socklen_t,
) -> c_int {
    call(|| {
        let socket = handles::socket(handle)?;
        // SAFETY: as the caller promised.
        let address = unsafe { address::read(address, len) }?;
        done(socket.connect(address))
    })
}

/// As shutdown(2): `SHUT_RD`, `SHUT_WR` or `SHUT_RDWR`.
///
/// Errors: those of shutdown(2).
#[unsafe(no_mangle)]
pub extern "C" fn dmm_shutdown(handle: c_int, how: c_int) -> c_int {
    call(|| {
        let how = match how {
            libc::SHUT_RD => Shutdown::Read,
            libc::SHUT_WR => Shutdown::Write,
            libc::SHUT_RDWR => Shutdown::Both,
            _ => return Err(os(Errno::EINVAL)),
        };
        done(handles::socket(handle)?.shutdown(how))
    })
}

/// As getsockname(2).
///
/// Errors: those of getsockname(2).
///
/// # Safety
/// `len` must point to the number of bytes that may be written to `address`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_getsockname(
    handle: c_int,
    address: *mut sockaddr,
    len: *mut socklen_t,
) -> c_int {
    call(|| {
        let local = handles::socket(handle)?.local_addr()?;
        // SAFETY: as the caller promised.
        done(unsafe { address::write(local, address, len) })
    })
}

/// As getpeername(2).
///
/// Errors: those of getpeername(2).
///
/// # Safety
/// `len` must point to the number of bytes that may be written to `address`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_getpeername(
    handle: c_int,
    address: *mut sockaddr,
    len: *mut socklen_t,
) -> c_int {
    call(|| {
        let peer = handles::socket(handle)?.peer_addr()?;
        // SAFETY: as the caller promised.
        done(unsafe { address::write(peer, address, len) })
    })
}

/// As read(2).
///
/// Errors: those of recv(2).
///
/// # Safety
/// `buffer` must point to `len` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_read(handle: c_int, buffer: *mut c_void, len: size_t) -> ssize_t {
    // SAFETY: the same promises.
    unsafe { dmm_recv(handle, buffer, len, 0) }
}

/// As write(2). Never raises SIGPIPE.
///
/// Errors: those of send(2).
///
/// # Safety
/// `buffer` must point to `len` readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_write(handle: c_int, buffer: *const c_void, len: size_t) -> ssize_t {
    // SAFETY: the same promises.
    unsafe { dmm_send(handle, buffer, len, 0) }
}

/// As recv(2), with `MSG_DONTWAIT`, `MSG_PEEK` and, for datagrams, `MSG_TRUNC` among `flags`.
///
/// Errors: those of recv(2); `EOPNOTSUPP` for other flags.
///
/// # Safety
/// `buffer` must point to `len` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_recv(
    handle: c_int,
    buffer: *mut c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the same promises, and no address is wanted.
    unsafe { dmm_recvfrom(handle, buffer, len, flags, std::ptr::null_mut(), std::ptr::null_mut()) }
}

/// As recvfrom(2), with the flags of dmm_recv.
///
/// Errors: those of dmm_recv.
///
/// # Safety
/// `buffer` must point to `len` writable bytes; `address` must be null, or `address_len` point to the
/// number of bytes that may be written to it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_recvfrom(
    handle: c_int,
    buffer: *mut c_void,
    len: size_t,
    flags: c_int,
    address: *mut sockaddr,
    address_len: *mut socklen_t,
) -> ssize_t {
    call(AssertUnwindSafe(|| {
        const KNOWN: c_int = libc::MSG_DONTWAIT | libc::MSG_PEEK | libc::MSG_TRUNC;
        let socket = handles::socket(handle)?;
        if flags & !KNOWN != 0 {
            return Err(os(Errno::EOPNOTSUPP));
        }
        let is = |flag| flags & flag != 0;
        let (peek, wait) = (is(libc::MSG_PEEK), !is(libc::MSG_DONTWAIT));
        // SAFETY: as the caller promised.
        let bytes = unsafe { writable(buffer, len) }?;
        if socket.kind.stream {
            if is(libc::MSG_TRUNC) {
                return Err(os(Errno::EOPNOTSUPP));
            }
            let stream = socket.stream()?;
            return received(match (peek, wait) {
                (false, true) => (&stream).read(bytes),
                (false, false) => stream.try_read(bytes),
                (true, true) => stream.peek(bytes),
                (true, false) => stream.try_peek(bytes),
            });
        }
        let socket = socket.datagram()?;
        let (len, peer) = match (peek, wait) {
            (false, true) => socket.recv_from(bytes),
            (true, true) => socket.peek_from(bytes),
            (peek, false) => socket.try_recv_from(bytes, peek),
        }?;
        // SAFETY: as the caller promised.
        unsafe { address::write(peer, address, address_len) }?;
        received(Ok(len))
    }))
}

/// As send(2), with `MSG_DONTWAIT` and `MSG_EOR` among `flags` or not; `MSG_NOSIGNAL` is implied.
///
/// Errors: those of send(2); `EOPNOTSUPP` for other flags.
///
/// # Safety
/// `buffer` must point to `len` readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_send(
    handle: c_int,
    buffer: *const c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the same promises, and no address.
    unsafe { dmm_sendto(handle, buffer, len, flags, std::ptr::null(), 0) }
}

/// As sendto(2), with the flags of dmm_send. A connected stream's address is ignored.
///
/// Errors: those of dmm_send.
///
/// # Safety
/// `buffer` must point to `len` readable bytes; `address` must be null or point to `address_len`
/// readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_sendto(
    handle: c_int,
    buffer: *const c_void,
    len: size_t,
    flags: c_int,
    address: *const sockaddr,
    address_len: socklen_t,
) -> ssize_t {
    call(|| {
        let socket = handles::socket(handle)?;
        // Linux ignores it on datagrams, each of which is a record.
        let known = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_EOR;
        if flags & !known != 0 {
            return Err(os(Errno::EOPNOTSUPP));
        }
        let wait = flags & libc::MSG_DONTWAIT == 0;
        // SAFETY: as the caller promised.
        let bytes = unsafe { readable(buffer, len) }?;
        if socket.kind.stream {
            let stream = socket.stream().map_err(|_| os(Errno::EPIPE))?;
            if flags & libc::MSG_EOR != 0 {
                return received(stream.write_record(bytes, wait));
            }
            return received(if wait { (&stream).write(bytes) } else { stream.try_write(bytes) });
        }
        // SAFETY: as the caller promised.
        let read = || unsafe { address::read(address, address_len) };
        let to: Option<SocketAddr> = if address.is_null() { None } else { Some(read()?) };
        let socket = socket.datagram()?;
        received(match (to, wait) {
            (to, false) => socket.try_send_to(bytes, to),
            (Some(to), true) => socket.send_to(bytes, to),
            (None, true) => socket.send(bytes),
        })
    })
}

/// As readv(2).
///
/// Errors: those of recv(2).
///
/// # Safety
/// `vectors` must point to `count` vectors, each of writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_readv(handle: c_int, vectors: *const iovec, count: c_int) -> ssize_t {
    call(AssertUnwindSafe(|| {
        let stream = handles::socket(handle)?.stream()?;
        // SAFETY: as the caller promised.
        let vectors = unsafe { all(vectors, count) }?;
        let slice = |vector: &iovec| {
            // SAFETY: as the caller promised.
            unsafe { writable(vector.iov_base, vector.iov_len) }.map(IoSliceMut::new)
        };
        let mut slices = vectors.iter().map(slice).collect::<io::Result<Vec<_>>>()?;
        received((&stream).read_vectored(&mut slices))
    }))
}

/// As writev(2).
///
/// Errors: those of send(2).
///
/// # Safety
/// `vectors` must point to `count` vectors, each of readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_writev(handle: c_int, vectors: *const iovec, count: c_int) -> ssize_t {
    call(|| {
        let stream = handles::socket(handle)?.stream().map_err(|_| os(Errno::EPIPE))?;
        // SAFETY: as the caller promised.
        let vectors = unsafe { all(vectors, count) }?;
        let slice = |vector: &iovec| {
            // SAFETY: as the caller promised.
            unsafe { readable(vector.iov_base, vector.iov_len) }.map(IoSlice::new)
        };
        let slices = vectors.iter().map(slice).collect::<io::Result<Vec<_>>>()?;
        received((&stream).write_vectored(&slices))
    })
}

/// A count of bytes as calls return it.
pub(crate) fn received(result: io::Result<usize>) -> io::Result<ssize_t> {
    // A slice has at most `isize::MAX` bytes.
    result.map(|len| len as ssize_t)
}

/// # Safety
/// `buffer` must be null or point to `len` writable bytes, which nobody else uses meanwhile.
pub(crate) unsafe fn writable<'a>(buffer: *mut c_void, len: size_t) -> io::Result<&'a mut [u8]> {
    check(buffer, len)?;
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as the caller promised. They may never have been written to, and are only written to.
    Ok(unsafe { std::slice::from_raw_parts_mut(buffer.cast(), len) })
}

/// # Safety
/// `buffer` must be null or point to `len` readable bytes, which nobody changes meanwhile.
pub(crate) unsafe fn readable<'a>(buffer: *const c_void, len: size_t) -> io::Result<&'a [u8]> {
    check(buffer, len)?;
    if len == 0 {
        return Ok(&[]);
    }
    // SAFETY: as the caller promised.
    Ok(unsafe { std::slice::from_raw_parts(buffer.cast(), len) })
}

fn check(buffer: *const c_void, len: size_t) -> io::Result<()> {
    match len {
        0 => Ok(()),
        _ if buffer.is_null() => Err(os(Errno::EFAULT)),
        _ if isize::try_from(len).is_err() => Err(os(Errno::EINVAL)),
        _ => Ok(()),
    }
}

/// # Safety
/// `vectors` must point to `count` vectors.
pub(crate) unsafe fn all<'a>(vectors: *const iovec, count: c_int) -> io::Result<&'a [iovec]> {
    if !(0..=VECTORS_MAX).contains(&count) {
        return Err(os(Errno::EINVAL));
    }
    if count == 0 {
        return Ok(&[]);
    }
    if vectors.is_null() {
        return Err(os(Errno::EFAULT));
    }
    // SAFETY: as the caller promised.
    Ok(unsafe { std::slice::from_raw_parts(vectors, count as usize) })
}
