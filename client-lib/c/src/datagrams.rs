//! Options that UDP sockets alone act upon.
#![allow(unsafe_code, reason = "C passes values by pointers")]

use std::ffi::{c_int, c_void};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use dmm::UdpSocket;
use libc::{in_addr, ip_mreq, ipv6_mreq, socklen_t};
use nix::errno::Errno;

use crate::errors::os;
use crate::options::read;
use crate::socket::{Socket, State};

/// Groups of a socket at most, as the daemon has it.
const MEMBERSHIPS_MAX: usize = 20;

/// What was chosen of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choices {
    pub(crate) reuse_port: bool,
    /// The address that a datagram was sent to is told beside it.
    pub(crate) packet_info: bool,
    broadcast: bool,
    group_hops: u8,
    group_loop: bool,
    group_source: Ipv4Addr,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            reuse_port: false,
            packet_info: false,
            broadcast: false,
            group_hops: 1,
            group_loop: true,
            group_source: Ipv4Addr::UNSPECIFIED,
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
        socket.set_multicast_if_v4(&self.group_source)
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
        (libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP | libc::IP_DROP_MEMBERSHIP)
            if !socket.kind.v6 =>
        {
            // SAFETY: as the caller promised. An `ip_mreqn` begins like it, and has the link's number.
            let asked = unsafe { read::<ip_mreq>(value, len) }?;
            let (group, link) = (address(asked.imr_multiaddr), address(asked.imr_interface));
            socket.set_group(Group::V4(group, link), name == libc::IP_ADD_MEMBERSHIP)
        }
        (libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP | libc::IPV6_DROP_MEMBERSHIP)
            if socket.kind.v6 =>
        {
            // SAFETY: as the caller promised.
            let asked = unsafe { read::<ipv6_mreq>(value, len) }?;
            let group = Ipv6Addr::from_octets(asked.ipv6mr_multiaddr.s6_addr);
            let joins = name == libc::IPV6_ADD_MEMBERSHIP;
            socket.set_group(Group::V6(group, asked.ipv6mr_interface), joins)
        }
        (libc::IPPROTO_IP, libc::IP_MULTICAST_IF) if !socket.kind.v6 => {
            let source = match (len as usize) < size_of::<ip_mreq>() {
                // SAFETY: as the caller promised.
                true => unsafe { read::<in_addr>(value, len) }.map(address)?,
                // SAFETY: as the caller promised.
                false => unsafe { read::<ip_mreq>(value, len) }
                    .map(|asked| address(asked.imr_interface))?,
            };
            socket.choose(|choices| choices.datagrams.group_source = source)
        }
        (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF) if socket.kind.v6 => match int()? {
            // The one link of a stack.
            0 | 1 => Ok(()),
            _ => Err(os(Errno::ENODEV)),
        },
        _ => Err(os(Errno::ENOPROTOOPT)),
    }
}

/// A group, and the link to be a member on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// By an address of the link.
    V4(Ipv4Addr, Ipv4Addr),
    /// By its number.
    V6(Ipv6Addr, u32),
}

impl Group {
    /// Makes a socket a member, or one no longer.
    pub(crate) fn set(&self, socket: &UdpSocket, joins: bool) -> io::Result<()> {
        match (self, joins) {
            (Self::V4(group, link), true) => socket.join_multicast_v4(group, link),
            (Self::V4(group, link), false) => socket.leave_multicast_v4(group, link),
            (Self::V6(group, link), true) => socket.join_multicast_v6(group, *link),
            (Self::V6(group, link), false) => socket.leave_multicast_v6(group, *link),
        }
    }

    const fn is_multicast(&self) -> bool {
        match self {
            Self::V4(group, _) => group.is_multicast(),
            Self::V6(group, _) => group.is_multicast(),
        }
    }

    /// Notes it for a socket that is nothing yet.
    pub(crate) fn note(self, groups: &mut Vec<Self>, joins: bool) -> io::Result<()> {
        let at = groups.iter().position(|other| *other == self);
        match (joins, at) {
            _ if !self.is_multicast() => Err(os(Errno::EINVAL)),
            (true, Some(_)) => Err(os(Errno::EADDRINUSE)),
            (true, None) if groups.len() == MEMBERSHIPS_MAX => Err(os(Errno::ENOBUFS)),
            (true, None) => {
                groups.push(self);
                Ok(())
            }
            (false, Some(at)) => {
                groups.swap_remove(at);
                Ok(())
            }
            (false, None) => Err(os(Errno::EADDRNOTAVAIL)),
        }
    }
}

fn address(raw: in_addr) -> Ipv4Addr {
    Ipv4Addr::from_octets(raw.s_addr.to_ne_bytes())
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
