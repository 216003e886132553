//! getsockopt(2) and setsockopt(2), of the options that scripts use.
#![allow(unsafe_code, reason = "the border to C")]
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "each block reads or writes what one system call's arguments point to"
)]

use std::ffi::{c_int, c_void};

use dmm_proto::congestion::CongestionControl;
use dmm_proto::op::SocketOption;
use libc::socklen_t;
use nix::errno::Errno;

use crate::interface::{User, answer, readable, with};
use crate::socket::Role;

/// `linux/tcp.h`.
const TCP_NOTSENT_LOWAT: c_int = 25;
const TCP_INQ: c_int = 36;

/// What a socket without a connection says of its segments (tcp(7)).
const MSS_DEFAULT: u32 = 536;
/// getsockopt(2).
///
/// # Safety
/// As getsockopt(2) has it.
pub unsafe extern "C" fn getsockopt(
    _: User,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    let result = with(|world| {
        let socket = world.get(fd)?;
        match (level, name) {
            (libc::SOL_SOCKET, libc::SO_ERROR) => {
                let Role::Stream(stream) = &mut socket.role else { return Ok(0) };
                let failed = match stream.connected {
                    Some(Err(errno)) if !stream.told => Some(errno),
                    _ => stream.broken.take(),
                };
                stream.told |= failed.is_some();
                Ok(failed.map_or(0, |errno| errno as c_int))
            }
            (libc::SOL_SOCKET, libc::SO_SNDBUF) => {
                Ok(c_int::try_from(socket.buffer.limit()).unwrap_or(c_int::MAX))
            }
            (libc::SOL_SOCKET, libc::SO_RCVBUF) => Ok(1 << 18),
            (libc::IPPROTO_TCP, TCP_NOTSENT_LOWAT) => Ok(socket.low_water.cast_signed()),
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => {
                let set = socket.options.iter().rev().find(|o| o.0 == SocketOption::MaxSegment);
                let set = set.map_or(MSS_DEFAULT, |(_, bytes)| *bytes);
                let bytes = world.info(fd).map_or(set, |info| info.snd_mss);
                Ok(c_int::try_from(bytes).unwrap_or(c_int::MAX))
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    });
    answer(result.map(|number| {
        // SAFETY: as getsockopt(2) has it.
        unsafe {
            if *len as usize >= size_of::<c_int>() {
                value.cast::<c_int>().write_unaligned(number);
                *len = size_of::<c_int>() as socklen_t;
            }
        }
        0
    }))
}

/// setsockopt(2).
///
/// # Safety
/// As setsockopt(2) has it.
pub unsafe extern "C" fn setsockopt(
    _: User,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    // SAFETY: as setsockopt(2) has it.
    let bytes = match unsafe { readable(value, len as usize) } {
        Ok(bytes) => bytes,
        Err(errno) => return answer::<i32>(Err(errno)),
    };
    // ip(7): options of a byte may be given as one.
    let short = bytes.first().map(|byte| u32::from(*byte)).filter(|_| level == libc::SOL_IP);
    let number = bytes.first_chunk().map(|first| u32::from_ne_bytes(*first)).or(short);
    answer(with(|world| {
        world.get(fd)?;
        if (level, name) == (libc::IPPROTO_TCP, libc::TCP_CONGESTION) {
            let name = String::from_utf8_lossy(bytes);
            let control = CongestionControl::from_name(name.trim_end_matches('\0'));
            let control = control.ok_or(Errno::ENOENT)?;
            world.set(fd, SocketOption::CongestionControl, (control as u8).into())?;
            return Ok(0);
        }
        let number = number.ok_or(Errno::EINVAL)?;
        match (level, name) {
            (libc::IPPROTO_TCP, libc::TCP_NODELAY) => {
                world.set(fd, SocketOption::NoDelay, number)?;
            }
            (libc::IPPROTO_TCP, libc::TCP_CORK) => {
                world.get(fd)?.corked = number != 0;
                world.set(fd, SocketOption::Cork, u32::from(number != 0))?;
            }
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) => {
                world.set(fd, SocketOption::UserTimeout, number)?;
            }
            (libc::IPPROTO_TCP, libc::TCP_FASTOPEN) => {
                world.set(fd, SocketOption::FastOpen, number)?;
            }
            (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT) => {
                world.get(fd)?.fast = number != 0;
            }
            (libc::SOL_IP, libc::IP_TOS) => world.set(fd, SocketOption::TrafficClass, number)?,
            (libc::SOL_IP, libc::IP_MTU_DISCOVER | libc::IP_FREEBIND) => {}
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => {
                world.set(fd, SocketOption::MaxSegment, number)?;
            }
            (libc::IPPROTO_TCP, TCP_NOTSENT_LOWAT) => {
                let fallback = world.low_water;
                let socket = world.get(fd)?;
                socket.low_water = number;
                socket.buffer.set_low_water(Some(number).filter(|bytes| *bytes > 0).or(fallback));
            }
            (libc::IPPROTO_TCP, TCP_INQ) => world.get(fd)?.tells_rest = number != 0,
            (libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE) => {
                world.set(fd, SocketOption::PacingRate, number)?;
            }
            (libc::SOL_SOCKET, libc::SO_SNDBUF) => world.get(fd)?.buffer.set_limit(number),
            (libc::SOL_SOCKET, libc::SO_ZEROCOPY) => {
                world.get(fd)?.notices.zerocopy = number != 0;
            }
            (libc::SOL_SOCKET, libc::SO_TIMESTAMPING) => {
                let socket = world.get(fd)?;
                let queued = match &socket.role {
                    Role::Stream(stream) => stream.client.writer.queued(),
                    _ => 0,
                };
                let acknowledged = socket.buffer.written - queued;
                socket.notices.set_stamping(number, acknowledged);
            }
            (libc::SOL_SOCKET, libc::SO_LINGER) => {
                let seconds = bytes.get(4..8).is_some_and(|s| s.iter().all(|byte| *byte == 0));
                world.set(fd, SocketOption::ResetOnClose, u32::from(number != 0 && seconds))?;
            }
            (
                libc::SOL_SOCKET,
                libc::SO_REUSEADDR | libc::SO_RCVBUF | libc::SO_KEEPALIVE | libc::SO_MARK,
            ) => {}
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(0)
    }))
}
