//! The table of functions that packetdrill calls (its `packetdrill.h`).
#![allow(unsafe_code, reason = "the border to C")]
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "each block reads or writes what one system call's arguments point to"
)]

use std::ffi::{CStr, c_char, c_int, c_long, c_longlong, c_ulong, c_void};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{ptr, slice, thread};

use dmm_proto::op::How;
use dmm_stack::TcpInfo;
use libc::{iovec, msghdr, nfds_t, pollfd, sockaddr, socklen_t, ssize_t, timeval};
use nix::errno::Errno;

use crate::messages::{gather, recvmsg, sendmsg};
use crate::options::{getsockopt, setsockopt};
use crate::world::World;

/// What packetdrill passes back to each function: nothing.
pub type User = *mut c_void;

/// The functions, in packetdrill's order.
#[repr(C)]
#[allow(missing_docs, reason = "each is the system call of its name")]
pub struct Interface {
    pub userdata: User,
    pub free: extern "C" fn(User),
    pub socket: extern "C" fn(User, c_int, c_int, c_int) -> c_int,
    pub bind: unsafe extern "C" fn(User, c_int, *const sockaddr, socklen_t) -> c_int,
    pub listen: extern "C" fn(User, c_int, c_int) -> c_int,
    pub accept: unsafe extern "C" fn(User, c_int, *mut sockaddr, *mut socklen_t) -> c_int,
    pub connect: unsafe extern "C" fn(User, c_int, *const sockaddr, socklen_t) -> c_int,
    pub read: unsafe extern "C" fn(User, c_int, *mut c_void, usize) -> ssize_t,
    pub readv: unsafe extern "C" fn(User, c_int, *const iovec, c_int) -> ssize_t,
    pub recv: unsafe extern "C" fn(User, c_int, *mut c_void, usize, c_int) -> ssize_t,
    pub recvfrom: unsafe extern "C" fn(
        User,
        c_int,
        *mut c_void,
        usize,
        c_int,
        *mut sockaddr,
        *mut socklen_t,
    ) -> ssize_t,
    pub recvmsg: unsafe extern "C" fn(User, c_int, *mut msghdr, c_int) -> ssize_t,
    pub write: unsafe extern "C" fn(User, c_int, *const c_void, usize) -> ssize_t,
    pub writev: unsafe extern "C" fn(User, c_int, *const iovec, c_int) -> ssize_t,
    pub send: unsafe extern "C" fn(User, c_int, *const c_void, usize, c_int) -> ssize_t,
    pub sendto: unsafe extern "C" fn(
        User,
        c_int,
        *const c_void,
        usize,
        c_int,
        *const sockaddr,
        socklen_t,
    ) -> ssize_t,
    pub sendmsg: unsafe extern "C" fn(User, c_int, *const msghdr, c_int) -> ssize_t,
    pub fcntl: extern "C" fn(User, c_int, c_int, c_long) -> c_int,
    pub ioctl: unsafe extern "C" fn(User, c_int, c_ulong, *mut c_int) -> c_int,
    pub close: extern "C" fn(User, c_int) -> c_int,
    pub shutdown: extern "C" fn(User, c_int, c_int) -> c_int,
    pub getsockopt:
        unsafe extern "C" fn(User, c_int, c_int, c_int, *mut c_void, *mut socklen_t) -> c_int,
    pub setsockopt:
        unsafe extern "C" fn(User, c_int, c_int, c_int, *const c_void, socklen_t) -> c_int,
    pub poll: unsafe extern "C" fn(User, *mut pollfd, nfds_t, c_int) -> c_int,
    pub netdev_send: unsafe extern "C" fn(User, *const c_void, usize) -> c_int,
    pub netdev_receive:
        unsafe extern "C" fn(User, *mut c_void, *mut usize, *mut c_longlong) -> c_int,
    pub usleep: extern "C" fn(User, u32) -> c_int,
    pub gettimeofday: unsafe extern "C" fn(User, *mut timeval, *mut c_void) -> c_int,
    pub epoll_create: extern "C" fn(User, c_int) -> c_int,
    pub epoll_ctl:
        unsafe extern "C" fn(User, c_int, c_int, c_int, *const libc::epoll_event) -> c_int,
    pub epoll_wait:
        unsafe extern "C" fn(User, c_int, *mut libc::epoll_event, c_int, c_int) -> c_int,
    pub pipe: extern "C" fn(User, *mut c_int) -> c_int,
    pub splice: extern "C" fn(User, c_int, *mut i64, c_int, *mut i64, usize, u32) -> c_int,
}

/// How long a packet is waited for, in virtual time: ten minutes.
const PATIENCE: Duration = Duration::from_secs(600);

/// One world a process: packetdrill plays one script.
static WORLD: Mutex<Option<World>> = Mutex::new(None);
/// Parts of TCP that the stack is to be without: `--so_flags` of packetdrill, names with commas between.
static WITHOUT: Mutex<String> = Mutex::new(String::new());
/// Something happened that a blocked call may wait for.
static NEWS: Condvar = Condvar::new();
/// A blocked call has looked at it.
static LOOKED: Condvar = Condvar::new();

fn new_world() -> World {
    World::new(&WITHOUT.lock().unwrap_or_else(PoisonError::into_inner))
}

fn lock() -> MutexGuard<'static, Option<World>> {
    WORLD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does something with the world. Blocked calls look at what came of it before anybody does more, and one
/// that returns has asked for the time before that moves on.
pub fn with<T>(work: impl FnOnce(&mut World) -> T) -> T {
    let mut world = lock();
    let me = thread::current().id();
    while world.as_ref().is_some_and(|world| world.returning.is_some_and(|other| other != me)) {
        world = LOOKED.wait(world).unwrap_or_else(PoisonError::into_inner);
    }
    let inside = world.get_or_insert_with(new_world);
    let result = work(inside);
    inside.to_look = inside.blocked;
    NEWS.notify_all();
    while world.as_ref().is_some_and(|world| world.to_look > 0) {
        world = LOOKED.wait(world).unwrap_or_else(PoisonError::into_inner);
    }
    result
}

/// What the connection of a descriptor knows of itself, if it is one of ours, and how long its send buffer
/// held it back.
pub fn info(fd: c_int) -> Option<(TcpInfo, Duration)> {
    let mut world = lock();
    let world = world.as_mut()?;
    let info = world.info(fd).ok()?;
    let now = world.now;
    Some((info, world.get(fd).ok()?.buffer.starved(now)))
}

/// Whether a descriptor is one of ours.
pub fn is_ours(fd: c_int) -> bool {
    lock().as_mut().is_some_and(|world| world.get(fd).is_ok())
}

/// Does `work` until it does not return `EAGAIN`, unless the socket does not block.
fn until_done<T>(
    fd: c_int,
    mut work: impl FnMut(&mut World) -> Result<T, Errno>,
) -> Result<T, Errno> {
    let mut world = lock();
    let mut blocked = false;
    loop {
        let inside = world.get_or_insert_with(new_world);
        let waits = inside.get(fd).is_ok_and(|socket| !socket.nonblocking);
        let result = work(inside);
        let goes_on = !waits || !matches!(result, Err(Errno::EAGAIN));
        if blocked {
            inside.to_look = inside.to_look.saturating_sub(1);
        }
        if goes_on {
            if blocked {
                inside.blocked -= 1;
                inside.returning = Some(thread::current().id());
            }
            LOOKED.notify_all();
            return result;
        }
        if !std::mem::replace(&mut blocked, true) {
            inside.blocked += 1;
        }
        LOOKED.notify_all();
        world = NEWS.wait(world).unwrap_or_else(PoisonError::into_inner);
    }
}

pub fn answer<T: TryInto<i32>>(result: Result<T, Errno>) -> c_int {
    match result {
        Ok(value) => value.try_into().unwrap_or(c_int::MAX),
        Err(errno) => {
            errno.set();
            -1
        }
    }
}

pub fn answer_len(result: Result<usize, Errno>) -> ssize_t {
    match result {
        Ok(len) => ssize_t::try_from(len).unwrap_or(ssize_t::MAX),
        Err(errno) => {
            errno.set();
            -1
        }
    }
}

/// # Safety
/// `address` points to `len` readable bytes, or is null.
pub unsafe fn read_address(address: *const sockaddr, len: socklen_t) -> Result<SocketAddr, Errno> {
    if address.is_null() {
        return Err(Errno::EFAULT);
    }
    if (len as usize) < size_of::<libc::sockaddr_in>() {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the caller vouches for the bytes, and their number was checked.
    let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
    if c_int::from(v4.sin_family) != libc::AF_INET {
        return Err(Errno::EAFNOSUPPORT);
    }
    let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
    Ok(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))))
}

/// # Safety
/// `address` and `len` are those of accept(2): both null, or a length and as many writable bytes.
unsafe fn write_address(peer: SocketAddr, address: *mut sockaddr, len: *mut socklen_t) {
    let SocketAddr::V4(peer) = peer else { return };
    if address.is_null() || len.is_null() {
        return;
    }
    // SAFETY: an all-zero address is a valid one.
    let mut v4: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    v4.sin_family = libc::AF_INET as libc::sa_family_t;
    v4.sin_port = peer.port().to_be();
    v4.sin_addr.s_addr = peer.ip().to_bits().to_be();
    // SAFETY: the caller vouches for `len`, and for as many bytes as it says.
    unsafe {
        let fits = (*len as usize).min(size_of::<libc::sockaddr_in>());
        ptr::copy_nonoverlapping((&raw const v4).cast::<u8>(), address.cast(), fits);
        *len = size_of::<libc::sockaddr_in>() as socklen_t;
    }
}

/// # Safety
/// `bytes` points to `len` writable bytes, or is null or bad as only tests of bad arguments pass it.
pub unsafe fn writable<'a>(bytes: *mut c_void, len: usize) -> Result<&'a mut [u8], Errno> {
    match (bytes as usize, len) {
        (_, 0) => Ok(&mut []),
        // What no mapping of a program has.
        (address, _) if !(4096..=usize::MAX / 2).contains(&address) => Err(Errno::EFAULT),
        // SAFETY: by the caller's word.
        _ => Ok(unsafe { slice::from_raw_parts_mut(bytes.cast(), len) }),
    }
}

/// # Safety
/// As [`writable`], to be read.
pub unsafe fn readable<'a>(bytes: *const c_void, len: usize) -> Result<&'a [u8], Errno> {
    // SAFETY: by the caller's word.
    unsafe { writable(bytes.cast_mut(), len) }.map(|bytes| &*bytes)
}

fn read_at(fd: c_int, bytes: &mut [u8], flags: c_int) -> Result<usize, Errno> {
    let peek = flags & libc::MSG_PEEK != 0;
    let work = |world: &mut World| world.read(fd, bytes, peek);
    if flags & libc::MSG_DONTWAIT != 0 { with(work) } else { until_done(fd, work) }
}

pub fn write_at(fd: c_int, bytes: &[u8], flags: c_int) -> Result<usize, Errno> {
    if let Some(peer) = with(|world| world.take_deferred(fd)) {
        return open_with(fd, peer, bytes, flags);
    }
    with(|world| world.announce(fd, bytes.len(), flags))?;
    let result = write_all(fd, bytes, flags);
    if result.is_ok_and(|len| len > 0) {
        with(|world| world.wrote(fd, flags));
    }
    with(|world| world.conclude(fd, flags))?;
    result
}

fn write_all(fd: c_int, bytes: &[u8], flags: c_int) -> Result<usize, Errno> {
    if flags & libc::MSG_DONTWAIT != 0 {
        return with(|world| world.write(fd, bytes));
    }
    let mut written = 0;
    loop {
        let waits = with(|world| world.get(fd).is_ok_and(|socket| !socket.nonblocking));
        let result = until_done(fd, |world| world.write(fd, &bytes[written..]));
        match result {
            Ok(len) => written += len,
            Err(_) if written > 0 => return Ok(written),
            Err(errno) => return Err(errno),
        }
        if written == bytes.len() || !waits {
            return Ok(written);
        }
    }
}

pub fn read_parts(fd: c_int, parts: Vec<&mut [u8]>, flags: c_int) -> Result<usize, Errno> {
    let mut total = 0;
    for part in parts {
        let wanted = part.len();
        let result = if total == 0 {
            read_at(fd, part, flags)
        } else {
            with(|world| world.read(fd, part, false))
        };
        match result {
            Ok(len) => total += len,
            Err(_) if total > 0 => return Ok(total),
            Err(errno) => return Err(errno),
        }
        if total < wanted {
            break;
        }
    }
    Ok(total)
}

extern "C" fn free(_: User) {
    // The process ends, and its descriptors were closed behind our back.
    std::mem::forget(lock().take());
}

extern "C" fn socket(_: User, domain: c_int, kind: c_int, _: c_int) -> c_int {
    let kind = kind & 0xf;
    if domain != libc::AF_INET || kind != libc::SOCK_STREAM {
        return answer::<i32>(Err(Errno::EAFNOSUPPORT));
    }
    with(World::socket)
}

unsafe extern "C" fn bind(_: User, fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: as bind(2) has it.
    let local = unsafe { read_address(address, len) };
    answer(local.and_then(|local| with(|world| world.bind(fd, local))).map(|()| 0))
}

extern "C" fn listen(_: User, fd: c_int, backlog: c_int) -> c_int {
    answer(with(|world| world.listen(fd, backlog)).map(|()| 0))
}

unsafe extern "C" fn accept(
    _: User,
    fd: c_int,
    address: *mut sockaddr,
    len: *mut socklen_t,
) -> c_int {
    answer(until_done(fd, |world| world.accept(fd)).map(|(new, peer)| {
        // SAFETY: as accept(2) has it.
        unsafe { write_address(peer, address, len) };
        new
    }))
}

unsafe extern "C" fn connect(
    _: User,
    fd: c_int,
    address: *const sockaddr,
    len: socklen_t,
) -> c_int {
    // SAFETY: as connect(2) has it.
    let peer = unsafe { read_address(address, len) };
    let result = peer.and_then(|peer| with(|world| world.connect(fd, peer)));
    let waits = with(|world| world.get(fd).is_ok_and(|socket| !socket.nonblocking));
    if result != Err(Errno::EINPROGRESS) || !waits {
        return answer(result.map(|()| 0));
    }
    let ended = until_done(fd, |world| match world.is_connected(fd, false) {
        Err(Errno::EALREADY) => Err(Errno::EAGAIN),
        result => result,
    });
    answer(ended.map(|()| 0))
}

unsafe extern "C" fn read(_: User, fd: c_int, bytes: *mut c_void, len: usize) -> ssize_t {
    // SAFETY: as read(2) has it.
    answer_len(unsafe { writable(bytes, len) }.and_then(|bytes| read_at(fd, bytes, 0)))
}

unsafe extern "C" fn readv(_: User, fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: as readv(2) has it.
    let parts = unsafe { gather(parts, usize::try_from(count).unwrap_or(0)) };
    answer_len(parts.and_then(|parts| read_parts(fd, parts, 0)))
}

unsafe extern "C" fn recv(
    _: User,
    fd: c_int,
    bytes: *mut c_void,
    len: usize,
    flags: c_int,
) -> ssize_t {
    // SAFETY: as recv(2) has it.
    answer_len(unsafe { writable(bytes, len) }.and_then(|bytes| read_at(fd, bytes, flags)))
}

unsafe extern "C" fn recvfrom(
    user: User,
    fd: c_int,
    bytes: *mut c_void,
    len: usize,
    flags: c_int,
    _: *mut sockaddr,
    _: *mut socklen_t,
) -> ssize_t {
    // SAFETY: as recvfrom(2) has it.
    unsafe { recv(user, fd, bytes, len, flags) }
}

unsafe extern "C" fn write(_: User, fd: c_int, bytes: *const c_void, len: usize) -> ssize_t {
    // SAFETY: as write(2) has it.
    answer_len(unsafe { readable(bytes, len) }.and_then(|bytes| write_at(fd, bytes, 0)))
}

unsafe extern "C" fn writev(_: User, fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: as writev(2) has it.
    let parts = unsafe { gather(parts, usize::try_from(count).unwrap_or(0)) };
    answer_len(parts.and_then(|parts| write_at(fd, &parts.concat(), 0)))
}

unsafe extern "C" fn send(
    _: User,
    fd: c_int,
    bytes: *const c_void,
    len: usize,
    flags: c_int,
) -> ssize_t {
    // SAFETY: as send(2) has it.
    answer_len(unsafe { readable(bytes, len) }.and_then(|bytes| write_at(fd, bytes, flags)))
}

unsafe extern "C" fn sendto(
    user: User,
    fd: c_int,
    bytes: *const c_void,
    len: usize,
    flags: c_int,
    address: *const sockaddr,
    address_len: socklen_t,
) -> ssize_t {
    if flags & libc::MSG_FASTOPEN == 0 {
        // SAFETY: as sendto(2) has it.
        return unsafe { send(user, fd, bytes, len, flags) };
    }
    if with(|world| world.is_connected(fd, true)) == Err(Errno::EISCONN) {
        // It has no effect then.
        // SAFETY: as sendto(2) has it.
        return unsafe { send(user, fd, bytes, len, flags) };
    }
    // SAFETY: as sendto(2) has it.
    let (peer, bytes) = unsafe { (read_address(address, address_len), readable(bytes, len)) };
    answer_len(peer.and_then(|peer| open_with(fd, peer, bytes?, flags)))
}

/// Connects, with what goes on the SYN; a call that blocks waits for the peer, and sends the rest.
pub fn open_with(fd: c_int, peer: SocketAddr, bytes: &[u8], flags: c_int) -> Result<usize, Errno> {
    let result = with(|world| world.open_with(fd, peer, bytes));
    let waits = with(|world| world.get(fd).is_ok_and(|socket| !socket.nonblocking));
    if result.is_ok() {
        with(|world| world.wrote(fd, flags));
    }
    let written = match result {
        Ok(written) if !waits => return Ok(written),
        Ok(written) => written,
        Err(Errno::EINPROGRESS) if waits => 0,
        Err(errno) => return Err(errno),
    };
    until_done(fd, |world| match world.is_connected(fd, false) {
        Err(Errno::EALREADY) => Err(Errno::EAGAIN),
        result => result,
    })?;
    match write_at(fd, &bytes[written..], flags) {
        Ok(more) => Ok(written + more),
        Err(_) if written > 0 => Ok(written),
        Err(errno) => Err(errno),
    }
}

extern "C" fn fcntl(_: User, fd: c_int, command: c_int, value: c_long) -> c_int {
    answer(with(|world| {
        let socket = world.get(fd)?;
        match command {
            libc::F_GETFL if socket.nonblocking => Ok(libc::O_RDWR | libc::O_NONBLOCK),
            libc::F_GETFL => Ok(libc::O_RDWR),
            libc::F_SETFL => {
                socket.nonblocking = value & c_long::from(libc::O_NONBLOCK) != 0;
                Ok(0)
            }
            libc::F_GETFD | libc::F_SETFD => Ok(0),
            _ => Err(Errno::EINVAL),
        }
    }))
}

unsafe extern "C" fn ioctl(_: User, fd: c_int, request: c_ulong, value: *mut c_int) -> c_int {
    let result = with(|world| {
        let stream = world.stream(fd)?;
        match request {
            libc::FIONREAD => Ok(stream.client.reader.available()),
            libc::TIOCOUTQ => Ok(usize::try_from(stream.client.writer.queued()).unwrap_or(0)),
            _ => Err(Errno::ENOTTY),
        }
    });
    answer(result.map(|bytes| {
        // SAFETY: as ioctl(2) has it for these requests.
        unsafe { *value = c_int::try_from(bytes).unwrap_or(c_int::MAX) };
        0
    }))
}

extern "C" fn close(_: User, fd: c_int) -> c_int {
    answer(with(|world| world.close(fd)).map(|()| 0))
}

extern "C" fn shutdown(_: User, fd: c_int, how: c_int) -> c_int {
    let how = match how {
        libc::SHUT_RD => How::Read,
        libc::SHUT_WR => How::Write,
        libc::SHUT_RDWR => How::Both,
        _ => return answer::<i32>(Err(Errno::EINVAL)),
    };
    answer(with(|world| world.shutdown(fd, how)).map(|()| 0))
}

unsafe extern "C" fn poll(_: User, fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
    // SAFETY: as poll(2) has it.
    let fds = unsafe { slice::from_raw_parts_mut(fds, count as usize) };
    let mut world = lock();
    let inside = world.get_or_insert_with(new_world);
    let until =
        inside.now + Duration::from_millis(u64::try_from(timeout).unwrap_or(u64::MAX >> 20));
    loop {
        let inside = world.get_or_insert_with(new_world);
        let mut ready = 0;
        for entry in fds.iter_mut() {
            let always = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
            entry.revents = inside.ready(entry.fd) & (entry.events | always);
            ready += c_int::from(entry.revents != 0);
        }
        if ready > 0 || timeout == 0 || inside.now >= until {
            return ready;
        }
        world = NEWS.wait(world).unwrap_or_else(PoisonError::into_inner);
    }
}

unsafe extern "C" fn netdev_send(_: User, packet: *const c_void, len: usize) -> c_int {
    // SAFETY: packetdrill passes a whole packet.
    answer(
        unsafe { readable(packet, len) }
            .map(|packet| with(|world| world.receive(packet)))
            .map(|()| 0),
    )
}

unsafe extern "C" fn netdev_receive(
    _: User,
    buffer: *mut c_void,
    count: *mut usize,
    time_usecs: *mut c_longlong,
) -> c_int {
    let sent = with(|world| {
        world.pass_to_packet(PATIENCE);
        world.sent.pop_front()
    });
    let Some((at, packet)) = sent else {
        // packetdrill asks again, without end: it is to be run with a timeout.
        Errno::ETIMEDOUT.set();
        return -1;
    };
    // SAFETY: packetdrill passes a buffer, its length, and a place for the time.
    unsafe {
        let len = packet.len().min(*count);
        ptr::copy_nonoverlapping(packet.as_ptr(), buffer.cast(), len);
        *count = len;
        *time_usecs = at.as_micros().cast_signed();
    }
    0
}

extern "C" fn usleep(_: User, micros: u32) -> c_int {
    with(|world| world.pass(world.now + Duration::from_micros(micros.into())));
    0
}

unsafe extern "C" fn gettimeofday(_: User, time: *mut timeval, _: *mut c_void) -> c_int {
    // Who asks over and over waits for time to pass.
    let now = with(|world| {
        // Nor does time pass for a call that has just returned.
        if world.returning.take().is_none() {
            world.pass(world.now + Duration::from_micros(1));
        }
        world.now.as_micros()
    });
    LOOKED.notify_all();
    // SAFETY: as gettimeofday(2) has it.
    unsafe {
        (*time).tv_sec = (now / 1_000_000).cast_signed();
        (*time).tv_usec = (now % 1_000_000).cast_signed();
    }
    0
}

extern "C" fn epoll_create(_: User, _: c_int) -> c_int {
    with(World::epoll)
}

unsafe extern "C" fn epoll_ctl(
    _: User,
    epoll: c_int,
    op: c_int,
    fd: c_int,
    event: *const libc::epoll_event,
) -> c_int {
    // SAFETY: as epoll_ctl(2) has it: an event, but for a deletion.
    let event = (op != libc::EPOLL_CTL_DEL).then(|| unsafe { event.read_unaligned() });
    let watch = event.map(|event| (event.events, event.u64));
    answer(with(|world| world.watch(epoll, fd, watch)).map(|()| 0))
}

unsafe extern "C" fn epoll_wait(
    _: User,
    epoll: c_int,
    events: *mut libc::epoll_event,
    most: c_int,
    _: c_int,
) -> c_int {
    let ready = with(|world| world.watched(epoll, usize::try_from(most).unwrap_or(0)));
    answer(ready.map(|ready| {
        for (at, (bits, data)) in ready.iter().enumerate() {
            let event = libc::epoll_event { events: *bits, u64: *data };
            // SAFETY: as epoll_wait(2) has it: there are `most` of them.
            unsafe { events.add(at).write_unaligned(event) };
        }
        c_int::try_from(ready.len()).unwrap_or(c_int::MAX)
    }))
}

extern "C" fn pipe(_: User, _: *mut c_int) -> c_int {
    answer::<i32>(Err(Errno::ENOSYS))
}

extern "C" fn splice(
    _: User,
    _: c_int,
    _: *mut i64,
    _: c_int,
    _: *mut i64,
    _: usize,
    _: u32,
) -> c_int {
    answer::<i32>(Err(Errno::ENOSYS))
}

/// Fills packetdrill's table. `flags` may name parts of TCP to be without: `sack`, `rack`, `prr`, `frto`,
/// `paws`, with commas between; `ecn` there means to be with it.
///
/// # Safety
/// `flags` is null or a string, and `interface` points to a table.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn packetdrill_interface_init(
    flags: *const c_char,
    interface: *mut Interface,
) {
    let without = if flags.is_null() {
        String::new()
    } else {
        // SAFETY: by the caller's word.
        unsafe { CStr::from_ptr(flags) }.to_string_lossy().into_owned()
    };
    *WITHOUT.lock().unwrap_or_else(PoisonError::into_inner) = without;
    let table = Interface {
        userdata: ptr::null_mut(),
        free,
        socket,
        bind,
        listen,
        accept,
        connect,
        read,
        readv,
        recv,
        recvfrom,
        recvmsg,
        write,
        writev,
        send,
        sendto,
        sendmsg,
        fcntl,
        ioctl,
        close,
        shutdown,
        getsockopt,
        setsockopt,
        poll,
        netdev_send,
        netdev_receive,
        usleep,
        gettimeofday,
        epoll_create,
        epoll_ctl,
        epoll_wait,
        pipe,
        splice,
    };
    // SAFETY: by the caller's word.
    unsafe { interface.write(table) };
}
