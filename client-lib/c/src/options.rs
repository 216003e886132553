//! Options and flags of sockets.
#![allow(unsafe_code, reason = "C passes values by pointers")]

use std::ffi::{c_int, c_void};
use std::io;
use std::time::Duration;

use dmm::{CongestionControl, TcpInfo};
use libc::{linger, socklen_t, timeval};
use nix::errno::Errno;

use crate::datagrams;
use crate::errors::{call, done, os};
use crate::handles;
use crate::socket::{Choices, ECN_BITS, Socket, State};

/// States of sockets by Linux's numbers (`tcp_states.h`).
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;
/// What TCP sends in a segment to a peer of which it knows nothing (RFC 9293 section 3.7.1).
const MSS_DEFAULT: u16 = 536;
/// Bytes of the name of a congestion control at most (`TCP_CA_NAME_MAX`).
const NAME_BYTES: usize = 16;

/// As setsockopt(2), with `SO_RCVTIMEO`, `SO_SNDTIMEO`, `SO_KEEPALIVE`, `SO_REUSEADDR` (which makes no
/// difference: a port in TIME-WAIT is free), `SO_LINGER` (off, or on with 0 seconds: a reset),
/// `TCP_NODELAY`, `TCP_CORK`, `TCP_KEEPIDLE`, `TCP_USER_TIMEOUT`, `TCP_MAXSEG` (before it listens or
/// connects), `TCP_CONGESTION` (`reno`, `cubic`, `dctcp` or `bbr`), `SO_MAX_PACING_RATE`, `TCP_FASTOPEN`, `TCP_FASTOPEN_CONNECT`, `IP_TTL`, `IP_TOS`, `IPV6_UNICAST_HOPS` and
/// `IPV6_TCLASS`. With `TCP_FASTOPEN_CONNECT` a non-blocking connect says `EINPROGRESS` all the same;
/// the socket is writable once the SYN waits for its first write. Of UDP sockets also `SO_BROADCAST`,
/// `SO_REUSEPORT` (before it is bound), `IP_MULTICAST_TTL`, `IPV6_MULTICAST_HOPS`, `IP_MULTICAST_LOOP`,
/// `IPV6_MULTICAST_LOOP`, `IP_MULTICAST_IF`, `IPV6_MULTICAST_IF`, `IP_ADD_MEMBERSHIP`, `IP_DROP_MEMBERSHIP`,
/// `IPV6_JOIN_GROUP` and `IPV6_LEAVE_GROUP` (where a stack's one link has number 1), and `IP_PKTINFO` and `IPV6_RECVPKTINFO`, which dmm_recvmsg answers.
///
/// Errors: those of setsockopt(2); `ENOPROTOOPT` for other options.
///
/// # Safety
/// `value` must point to `len` readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_setsockopt(
    handle: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    call(|| {
        let socket = handles::socket(handle)?;
        // SAFETY: as the caller promised.
        let int = || unsafe { read::<c_int>(value, len) };
        // SAFETY: as the caller promised.
        let time = || unsafe { read::<timeval>(value, len) }.and_then(duration);
        let stream = |choice: io::Result<()>| match socket.kind.stream {
            true => choice,
            false => Err(os(Errno::ENOPROTOOPT)),
        };
        let on = || int().map(|value| value != 0);
        done(match (level, name) {
            (libc::SOL_SOCKET, libc::SO_RCVTIMEO) => {
                let timeout = time()?;
                socket.choose(|choices| choices.read_timeout = timeout)
            }
            (libc::SOL_SOCKET, libc::SO_SNDTIMEO) => {
                let timeout = time()?;
                socket.choose(|choices| choices.write_timeout = timeout)
            }
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => {
                let on = on()?;
                socket.choose(|choices| choices.keepalive = on)
            }
            (libc::SOL_SOCKET, libc::SO_REUSEADDR) => {
                let on = on()?;
                socket.choose(|choices| choices.reuse_address = on)
            }
            (libc::SOL_SOCKET, libc::SO_LINGER) => {
                // SAFETY: as the caller promised.
                let linger = unsafe { read::<linger>(value, len) }?;
                if linger.l_onoff != 0 && linger.l_linger != 0 {
                    return Err(os(Errno::EOPNOTSUPP));
                }
                stream(socket.choose(|choices| choices.reset_on_close = linger.l_onoff != 0))
            }
            (libc::IPPROTO_TCP, libc::TCP_NODELAY) => {
                let on = on()?;
                stream(socket.choose(|choices| choices.nodelay = on))
            }
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) => {
                // As on Linux (`MAX_TCP_KEEPIDLE`).
                let seconds = at_least(1, int()?)?;
                if seconds > 32_767 {
                    return Err(os(Errno::EINVAL));
                }
                stream(socket.choose(|choices| choices.keepalive_s = Some(seconds)))
            }
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) => {
                let millis = at_least(0, int()?)?;
                stream(socket.choose(|choices| choices.user_timeout_ms = millis))
            }
            (libc::IPPROTO_TCP, libc::TCP_CORK) => {
                let on = on()?;
                stream(socket.choose(|choices| choices.cork = on))
            }
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => {
                // As Linux has it (`TCP_MIN_MSS`, `MAX_TCP_WINDOW`); 0 is none.
                let bytes = u16::try_from(int()?).ok();
                let bytes = bytes.filter(|bytes| matches!(bytes, 0 | 88..=32_767));
                let bytes = bytes.ok_or_else(|| os(Errno::EINVAL))?;
                let most = (bytes != 0).then_some(bytes);
                stream(socket.choose(|choices| choices.max_segment = most))
            }
            (libc::IPPROTO_TCP, libc::TCP_FASTOPEN) => {
                let waiting = at_least(0, int()?)?;
                match socket.state()? {
                    State::Fresh(_) | State::Listener(_) => {
                        stream(socket.choose(|choices| choices.fast_open = waiting))
                    }
                    _ => stream(Err(os(Errno::EINVAL))),
                }
            }
            (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT) => match (int()?, socket.state()?) {
                (value @ 0..=1, State::Fresh(_)) => {
                    stream(socket.choose(|choices| choices.fast_connect = value == 1))
                }
                _ => stream(Err(os(Errno::EINVAL))),
            },
            (libc::IPPROTO_TCP, libc::TCP_CONGESTION) => {
                // SAFETY: as the caller promised.
                let control = unsafe { name_of_control(value, len) }?;
                stream(socket.choose(|choices| choices.congestion = Some(control)))
            }
            (libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE) => {
                // As on Linux, it may have 32 bits or 64.
                let rate = if len as usize >= size_of::<u64>() {
                    // SAFETY: as the caller promised.
                    unsafe { read::<u64>(value, len) }?
                } else {
                    // SAFETY: as the caller promised.
                    unsafe { read::<u32>(value, len) }?.into()
                };
                let rate = u32::try_from(rate).unwrap_or(u32::MAX);
                if rate == 0 {
                    return Err(os(Errno::EINVAL));
                }
                stream(socket.choose(|choices| choices.pacing_rate = rate))
            }
            // As on Linux, of IP_TOS the lower bits count.
            (libc::IPPROTO_IP, libc::IP_TOS) if !socket.kind.v6 => {
                let class = int()? as u8;
                socket.choose(|choices| choices.traffic_class = class)
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) if socket.kind.v6 => {
                let class = match int()? {
                    // The default (ipv6(7)).
                    -1 => 0,
                    class => u8::try_from(class).map_err(|_| os(Errno::EINVAL))?,
                };
                socket.choose(|choices| choices.traffic_class = class)
            }
            (libc::IPPROTO_IP, libc::IP_TTL) if !socket.kind.v6 => set_hops(&socket, int()?),
            (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) if socket.kind.v6 => {
                set_hops(&socket, int()?)
            }
            // SAFETY: as the caller promised.
            _ => unsafe { datagrams::set(&socket, (level, name), (value, len)) },
        })
    })
}

/// As getsockopt(2), with the options of dmm_setsockopt (`TCP_CONGESTION` of a socket that chose none once it is
/// connected, `ENOTCONN` before), and `TCP_INFO`, `SO_ERROR`, `SO_TYPE`, `SO_DOMAIN`,
/// `SO_PROTOCOL` and `SO_ACCEPTCONN`.
///
/// Errors: those of getsockopt(2); `ENOPROTOOPT` for other options.
///
/// # Safety
/// `len` must point to the number of bytes that may be written to `value`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_getsockopt(
    handle: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    call(|| {
        let socket = handles::socket(handle)?;
        let choices = socket.choices();
        let number = |number: c_int| {
            // SAFETY: as the caller promised.
            unsafe { write(number, value, len) }
        };
        let hops = || c_int::try_from(choices.hops.unwrap_or(64)).unwrap_or(c_int::MAX);
        let class = || match socket.kind.stream {
            true => c_int::from(choices.traffic_class & !ECN_BITS),
            false => c_int::from(choices.traffic_class),
        };
        done(match (level, name) {
            (libc::SOL_SOCKET, libc::SO_ERROR) => number(socket.take_error()?),
            (libc::SOL_SOCKET, libc::SO_TYPE) => number(match socket.kind.stream {
                true => libc::SOCK_STREAM,
                false => libc::SOCK_DGRAM,
            }),
            (libc::SOL_SOCKET, libc::SO_DOMAIN) => number(match socket.kind.v6 {
                true => libc::AF_INET6,
                false => libc::AF_INET,
            }),
            (libc::SOL_SOCKET, libc::SO_PROTOCOL) => number(match socket.kind.stream {
                true => libc::IPPROTO_TCP,
                false => libc::IPPROTO_UDP,
            }),
            (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => {
                number(c_int::from(matches!(socket.state()?, State::Listener(_))))
            }
            // SAFETY: as the caller promised.
            (libc::SOL_SOCKET, libc::SO_RCVTIMEO) => unsafe {
                write(time(choices.read_timeout), value, len)
            },
            // SAFETY: as the caller promised.
            (libc::SOL_SOCKET, libc::SO_SNDTIMEO) => unsafe {
                write(time(choices.write_timeout), value, len)
            },
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => number(c_int::from(choices.keepalive)),
            (libc::SOL_SOCKET, libc::SO_REUSEADDR) => number(c_int::from(choices.reuse_address)),
            (libc::SOL_SOCKET, libc::SO_LINGER) => {
                let linger = linger { l_onoff: choices.reset_on_close.into(), l_linger: 0 };
                // SAFETY: as the caller promised.
                unsafe { write(linger, value, len) }
            }
            (libc::IPPROTO_TCP, libc::TCP_INFO) if socket.kind.stream => {
                let info = info(&socket)?.to_linux();
                // SAFETY: as the caller promised.
                unsafe { write(info, value, len) }
            }
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG) if socket.kind.stream => {
                number(max_segment(&socket, &choices)?)
            }
            (libc::IPPROTO_TCP, libc::TCP_CONGESTION) if socket.kind.stream => {
                let mut name = [0; NAME_BYTES];
                let control = control(&socket, &choices)?.name().as_bytes();
                name[..control.len()].copy_from_slice(control);
                // SAFETY: as the caller promised.
                unsafe { write(name, value, len) }
            }
            // SAFETY: as the caller promised.
            (libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE) if socket.kind.stream => unsafe {
                let chosen = choices.pacing_rate;
                write(if chosen == 0 { u32::MAX } else { chosen }, value, len)
            },
            (libc::IPPROTO_TCP, _) if socket.kind.stream => number(of_tcp(&choices, name)?),
            (libc::IPPROTO_IP, libc::IP_TTL) if !socket.kind.v6 => number(hops()),
            (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) if socket.kind.v6 => number(hops()),
            (libc::IPPROTO_IP, libc::IP_TOS) if !socket.kind.v6 => number(class()),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) if socket.kind.v6 => number(class()),
            _ => number(datagrams::get(&socket, (level, name))?),
        })
    })
}

/// As fcntl(2) of a socket, with `F_GETFL`, and `F_SETFL` with `O_NONBLOCK` or without.
///
/// Errors: `EBADF`; `EINVAL` for other commands.
#[unsafe(no_mangle)]
pub extern "C" fn dmm_fcntl(handle: c_int, command: c_int, value: c_int) -> c_int {
    call(|| {
        let socket = handles::socket(handle)?;
        match command {
            libc::F_GETFL if socket.choices().nonblocking => Ok(libc::O_RDWR | libc::O_NONBLOCK),
            libc::F_GETFL => Ok(libc::O_RDWR),
            libc::F_SETFL => {
                done(socket.choose(|choices| choices.nonblocking = value & libc::O_NONBLOCK != 0))
            }
            _ => Err(os(Errno::EINVAL)),
        }
    })
}

fn of_tcp(choices: &Choices, name: c_int) -> io::Result<c_int> {
    let number = |value: u32| c_int::try_from(value).unwrap_or(c_int::MAX);
    match name {
        libc::TCP_NODELAY => Ok(choices.nodelay.into()),
        libc::TCP_KEEPIDLE => Ok(number(choices.keepalive_s.unwrap_or(crate::socket::KEEPALIVE_S))),
        libc::TCP_USER_TIMEOUT => Ok(number(choices.user_timeout_ms)),
        libc::TCP_CORK => Ok(choices.cork.into()),
        libc::TCP_FASTOPEN => Ok(number(choices.fast_open)),
        libc::TCP_FASTOPEN_CONNECT => Ok(choices.fast_connect.into()),
        _ => Err(os(Errno::ENOPROTOOPT)),
    }
}

/// The congestion control of a name, which need not end with a zero.
///
/// # Safety
/// `value` must be null or point to `len` readable bytes.
unsafe fn name_of_control(value: *const c_void, len: socklen_t) -> io::Result<CongestionControl> {
    let mut name = [0; NAME_BYTES];
    let len = (len as usize).min(NAME_BYTES - 1);
    if len == 0 {
        return Err(os(Errno::EINVAL));
    }
    if value.is_null() {
        return Err(os(Errno::EFAULT));
    }
    // SAFETY: as the caller promised; the other is ours.
    unsafe { name.as_mut_ptr().copy_from_nonoverlapping(value.cast::<u8>(), len) };
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(len);
    let name = std::str::from_utf8(&name[..end]).map_err(|_| os(Errno::ENOENT))?;
    CongestionControl::from_name(name).ok_or_else(|| os(Errno::ENOENT))
}

/// What was chosen, or what the stack gave the connection: before that nobody can tell.
fn control(socket: &Socket, choices: &Choices) -> io::Result<CongestionControl> {
    let given = match (choices.congestion, socket.state()?) {
        (None, State::Stream(stream)) => stream.congestion_control()?,
        (chosen, _) => chosen,
    };
    given.ok_or_else(|| os(Errno::ENOTCONN))
}

/// What the socket knows of itself; of one that is no connection, its state (`tcp_states.h`).
fn info(socket: &Socket) -> io::Result<TcpInfo> {
    let of_state = |state| Ok(TcpInfo { state, ..TcpInfo::default() });
    match socket.state()? {
        State::Stream(stream) => stream.info(),
        State::Listener(_) => of_state(LISTEN),
        State::Fresh(_) | State::Datagram(_) => of_state(CLOSE),
    }
}

/// A connection's is what its segments carry; before there is one, what was chosen.
fn max_segment(socket: &Socket, choices: &Choices) -> io::Result<c_int> {
    match socket.state()? {
        State::Stream(stream) => Ok(c_int::try_from(stream.max_segment()?).unwrap_or(c_int::MAX)),
        _ => Ok(choices.max_segment.unwrap_or(MSS_DEFAULT).into()),
    }
}

fn at_least(least: u32, value: c_int) -> io::Result<u32> {
    u32::try_from(value).ok().filter(|value| *value >= least).ok_or_else(|| os(Errno::EINVAL))
}

/// -1 is the default (ip(7)).
fn set_hops(socket: &Socket, hops: c_int) -> io::Result<()> {
    let hops = match hops {
        -1 => 64,
        1..=255 => hops as u32,
        _ => return Err(os(Errno::EINVAL)),
    };
    socket.choose(|choices| choices.hops = Some(hops))
}

/// Zero is no timeout (socket(7)).
fn duration(time: timeval) -> io::Result<Option<Duration>> {
    let micros = u32::try_from(time.tv_usec).ok().filter(|micros| *micros < 1_000_000);
    let micros = micros.ok_or_else(|| os(Errno::EDOM))?;
    // sock_set_timeout(): a negative time is none at all.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let span = Duration::new(seconds, micros * 1000);
    Ok((!span.is_zero()).then_some(span))
}

fn time(span: Option<Duration>) -> timeval {
    let span = span.unwrap_or_default();
    timeval {
        tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        tv_usec: span.subsec_micros().into(),
    }
}

/// # Safety
/// `value` must be null or point to `len` readable bytes, which are a value of `T`.
pub(crate) unsafe fn read<T: Copy>(value: *const c_void, len: socklen_t) -> io::Result<T> {
    if (len as usize) < size_of::<T>() {
        return Err(os(Errno::EINVAL));
    }
    if value.is_null() {
        return Err(os(Errno::EFAULT));
    }
    // SAFETY: long enough; it need not be aligned.
    Ok(unsafe { value.cast::<T>().read_unaligned() })
}

/// # Safety
/// `len` must be null or point to the number of bytes that may be written to `value`.
unsafe fn write<T: Copy>(from: T, value: *mut c_void, len: *mut socklen_t) -> io::Result<()> {
    if value.is_null() || len.is_null() {
        return Err(os(Errno::EFAULT));
    }
    // SAFETY: as the caller promised; it need not be aligned.
    let room = unsafe { len.read_unaligned() } as usize;
    let some = room.min(size_of::<T>());
    let bytes = std::ptr::from_ref(&from).cast::<u8>();
    // SAFETY: within both, which do not overlap: one is ours.
    unsafe { value.cast::<u8>().copy_from_nonoverlapping(bytes, some) };
    // SAFETY: as above. Sizes of options are small.
    unsafe { len.write_unaligned(some as socklen_t) };
    Ok(())
}
