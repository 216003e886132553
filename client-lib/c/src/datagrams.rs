//! Options that UDP sockets alone act upon.
#![allow(unsafe_code, reason = "C passes values by pointers")]

use std::ffi::{c_int, c_void};
use std::io;

use dmm::UdpSocket;
use libc::socklen_t;
use nix::errno::Errno;

use crate::errors::os;
use crate::options::read;
use crate::socket::{Socket, State};

/// What was chosen of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choices {
    pub(crate) reuse_port: bool,
    /// The address that a datagram was sent to is told beside it.
    pub(crate) packet_info: bool,
    broadcast: bool,
    group_hops: u8,
    group_loop: bool,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            reuse_port: false,
            packet_info: false,
            broadcast: false,
            group_hops: 1,
            group_loop: true,
        }
    }
}

impl Choices {
    /// Tells the socket of what it does not know yet.
    pub(crate) fn apply(&self, socket: &UdpSocket) -> io::Result<()> {
        if socket.broadcast()? != self.broadcast {
            socket.set_broadcast(self.broadcast)?;
        }
        if socket.multicast_ttl_v4()? != u32::from(self.group_hops) {
            socket.set_multicast_ttl_v4(self.group_hops.into())?;
        }
        if socket.multicast_loop_v4()? != self.group_loop {
            socket.set_multicast_loop_v4(self.group_loop)?;
        }
        Ok(())
    }
}

/// Sets an option.
///
/// # Safety
/// `value` must be null or point to `len` readable bytes.
pub(crate) unsafe fn set(
    socket: &Socket,
    (level, name): (c_int, c_int),
    (value, len): (*const c_void, socklen_t),
) -> io::Result<()> {
    // SAFETY: as the caller promised.
    let int = || unsafe { read::<c_int>(value, len) };
    let on = || int().map(|value| value != 0);
    match (level, name) {
        // Of a stream, it makes no difference.
        (libc::SOL_SOCKET, libc::SO_BROADCAST) => {
            let on = on()?;
            socket.choose(|choices| choices.datagrams.broadcast = on)
        }
        // Linux takes it later too, when it has no effect any more.
        (libc::SOL_SOCKET, libc::SO_REUSEPORT) if !socket.kind.stream => match socket.state()? {
            State::Fresh(_) => {
                let on = on()?;
                socket.choose(|choices| choices.datagrams.reuse_port = on)
            }
            _ => Err(os(Errno::EINVAL)),
        },
        _ if socket.kind.stream => Err(os(Errno::ENOPROTOOPT)),
        (libc::IPPROTO_IP, libc::IP_PKTINFO) | (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
            if socket.kind.v6 == (level == libc::IPPROTO_IPV6) =>
        {
            let on = on()?;
            socket.choose(|choices| choices.datagrams.packet_info = on)
        }
        (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL) if !socket.kind.v6 => {
            // SAFETY: as the caller promised. ip(7): a byte will do.
            group_hops(socket, unsafe { int_or_byte(value, len) }?)
        }
        (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS) if socket.kind.v6 => {
            group_hops(socket, int()?)
        }
        (libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP) if !socket.kind.v6 => {
            // SAFETY: as above.
            let on = unsafe { int_or_byte(value, len) }? != 0;
            socket.choose(|choices| choices.datagrams.group_loop = on)
        }
        (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP) if socket.kind.v6 => match int()? {
            on @ 0..=1 => socket.choose(|choices| choices.datagrams.group_loop = on == 1),
            _ => Err(os(Errno::EINVAL)),
        },
        _ => Err(os(Errno::ENOPROTOOPT)),
    }
}

/// -1 is the default (ip(7), ipv6(7)).
fn group_hops(socket: &Socket, hops: c_int) -> io::Result<()> {
    let hops = match hops {
        -1 => 1,
        hops => u8::try_from(hops).map_err(|_| os(Errno::EINVAL))?,
    };
    socket.choose(|choices| choices.datagrams.group_hops = hops)
}

/// # Safety
/// As of [`read`].
unsafe fn int_or_byte(value: *const c_void, len: socklen_t) -> io::Result<c_int> {
    if (1..size_of::<c_int>() as socklen_t).contains(&len) {
        // SAFETY: as the caller promised.
        return unsafe { read::<u8>(value, len) }.map(c_int::from);
    }
    // SAFETY: as the caller promised.
    unsafe { read::<c_int>(value, len) }
}

/// An option's value.
pub(crate) fn get(socket: &Socket, (level, name): (c_int, c_int)) -> io::Result<c_int> {
    let choices = socket.choices().datagrams;
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_BROADCAST) => Ok(choices.broadcast.into()),
        _ if socket.kind.stream => Err(os(Errno::ENOPROTOOPT)),
        (libc::IPPROTO_IP, libc::IP_PKTINFO) | (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
            if socket.kind.v6 == (level == libc::IPPROTO_IPV6) =>
        {
            Ok(choices.packet_info.into())
        }
        (libc::SOL_SOCKET, libc::SO_REUSEPORT) => Ok(choices.reuse_port.into()),
        (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL) if !socket.kind.v6 => {
            Ok(choices.group_hops.into())
        }
        (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS) if socket.kind.v6 => {
            Ok(choices.group_hops.into())
        }
        (libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP) if !socket.kind.v6 => {
            Ok(choices.group_loop.into())
        }
        (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP) if socket.kind.v6 => {
            Ok(choices.group_loop.into())
        }
        _ => Err(os(Errno::ENOPROTOOPT)),
    }
}
