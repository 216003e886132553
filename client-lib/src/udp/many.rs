//! What goes to many stations, and comes from many: broadcasts and groups.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering;

use dmm_proto::op::{SocketOption, Submission};
use nix::errno::Errno;

use super::{Inner, UdpSocket};
use crate::error::os;
use crate::waiter::lock;

/// Hops of packets to groups, unless chosen (RFC 1112 section 6.1).
const GROUP_HOPS: u32 = 1;

impl UdpSocket {
    /// Makes the socket a member of a group: what is sent to it and this socket's port arrives here. `interface`
    /// is one of the stack's addresses, or 0.0.0.0.
    ///
    /// # Errors
    /// `EINVAL` if it is no group, or this no socket of IPv4; `ENODEV` for an address that is not the stack's, or
    /// if it has none; `EADDRINUSE` if the socket is a member already; `ENOBUFS` for more than 20 groups of a
    /// socket or 256 of an instance; `EOPNOTSUPP` if this kind of stack has no groups; `ECONNRESET` if the
    /// daemon ended.
    pub fn join_multicast_v4(&self, group: &Ipv4Addr, interface: &Ipv4Addr) -> io::Result<()> {
        self.check_link_v4(*interface)?;
        self.set_group((*group).into(), true)
    }

    /// Ends what [`UdpSocket::join_multicast_v4`] began. A closed socket leaves its groups by itself.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` if the socket is no member; else as that.
    pub fn leave_multicast_v4(&self, group: &Ipv4Addr, interface: &Ipv4Addr) -> io::Result<()> {
        self.check_link_v4(*interface)?;
        self.set_group((*group).into(), false)
    }

    /// As [`UdpSocket::join_multicast_v4`], for IPv6. `interface` is 1 for the stack's link, or 0.
    ///
    /// # Errors
    /// As that; `ENODEV` for another number.
    pub fn join_multicast_v6(&self, group: &Ipv6Addr, interface: u32) -> io::Result<()> {
        check_link_v6(interface)?;
        self.set_group((*group).into(), true)
    }

    /// Ends what [`UdpSocket::join_multicast_v6`] began.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` if the socket is no member; else as that.
    pub fn leave_multicast_v6(&self, group: &Ipv6Addr, interface: u32) -> io::Result<()> {
        check_link_v6(interface)?;
        self.set_group((*group).into(), false)
    }

    fn check_link_v4(&self, interface: Ipv4Addr) -> io::Result<()> {
        match interface.is_unspecified() || self.inner.stack.is_own(interface) {
            true => Ok(()),
            false => Err(os(Errno::ENODEV)),
        }
    }

    fn set_group(&self, group: IpAddr, joins: bool) -> io::Result<()> {
        if !group.is_multicast() {
            return Err(os(Errno::EINVAL));
        }
        let Inner { client, core, peer, .. } = &*self.inner;
        // One question at a time.
        let _peer = lock(peer);
        let before = lock(&core.answer).take();
        let group = SocketAddr::new(group, 0).into();
        let set = Submission::Group { socket: core.socket(), group, joins };
        let answered =
            client.session.ask(core.instance(), set).and_then(|()| client.answered(core));
        // It says nothing of this end's address.
        *lock(&core.answer) = before;
        answered.map(drop)
    }

    /// Which of the stack's addresses datagrams to groups come from, if the socket is bound to none
    /// (`IP_MULTICAST_IF`); 0.0.0.0 leaves the choice to the stack.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` for an address that is not the stack's.
    pub fn set_multicast_if_v4(&self, interface: &Ipv4Addr) -> io::Result<()> {
        self.check_link_v4(*interface).map_err(|_| os(Errno::EADDRNOTAVAIL))?;
        self.inner.core.options.group_source.store(interface.to_bits(), Ordering::Relaxed);
        Ok(())
    }

    /// What [`UdpSocket::set_multicast_if_v4`] set.
    ///
    /// # Errors
    /// None at present.
    pub fn multicast_if_v4(&self) -> io::Result<Ipv4Addr> {
        let chosen = self.inner.core.options.group_source.load(Ordering::Relaxed);
        Ok(Ipv4Addr::from_bits(chosen))
    }

    /// Where a datagram comes from that says nothing of that itself.
    pub(super) fn source_for(&self, to: SocketAddr) -> Option<IpAddr> {
        let chosen = self.inner.core.options.group_source.load(Ordering::Relaxed);
        let bound =
            matches!(self.inner.local.ip(), IpAddr::V4(own) if self.inner.stack.is_own(own));
        let applies = chosen != 0 && !bound && to.is_ipv4() && to.ip().is_multicast();
        applies.then(|| Ipv4Addr::from_bits(chosen).into())
    }

    /// With `true`, it may send to broadcast addresses (`SO_BROADCAST` in socket(7)).
    ///
    /// # Errors
    /// `ECONNRESET` if the daemon ended.
    pub fn set_broadcast(&self, broadcast: bool) -> io::Result<()> {
        self.set_option(SocketOption::Broadcast, broadcast.into())?;
        self.inner.core.options.broadcast.store(broadcast, Ordering::Relaxed);
        Ok(())
    }

    /// What [`UdpSocket::set_broadcast`] set; `false` at first.
    ///
    /// # Errors
    /// None at present.
    pub fn broadcast(&self) -> io::Result<bool> {
        Ok(self.inner.core.options.broadcast.load(Ordering::Relaxed))
    }

    /// Sets how many hops packets to groups may make, of IPv6 as well: 0 to 255, of which 0 keeps them on this
    /// stack.
    ///
    /// # Errors
    /// `EINVAL` beyond that; `ECONNRESET` if the daemon ended.
    pub fn set_multicast_ttl_v4(&self, hops: u32) -> io::Result<()> {
        if hops > 255 {
            return Err(os(Errno::EINVAL));
        }
        self.set_option(SocketOption::GroupHops, hops)?;
        self.inner.core.options.group_hops.store(hops + 1, Ordering::Relaxed);
        Ok(())
    }

    /// What [`UdpSocket::set_multicast_ttl_v4`] set; 1 at first.
    ///
    /// # Errors
    /// None at present.
    pub fn multicast_ttl_v4(&self) -> io::Result<u32> {
        let chosen = self.inner.core.options.group_hops.load(Ordering::Relaxed);
        Ok(chosen.checked_sub(1).unwrap_or(GROUP_HOPS))
    }

    /// With `false`, packets to groups do not come back to this stack's own sockets, of either family.
    ///
    /// # Errors
    /// `ECONNRESET` if the daemon ended.
    pub fn set_multicast_loop_v4(&self, on: bool) -> io::Result<()> {
        self.set_option(SocketOption::GroupLoop, on.into())?;
        self.inner.core.options.group_silent.store(!on, Ordering::Relaxed);
        Ok(())
    }

    /// What [`UdpSocket::set_multicast_loop_v4`] set; `true` at first.
    ///
    /// # Errors
    /// None at present.
    pub fn multicast_loop_v4(&self) -> io::Result<bool> {
        Ok(!self.inner.core.options.group_silent.load(Ordering::Relaxed))
    }

    /// As [`UdpSocket::set_multicast_loop_v4`].
    ///
    /// # Errors
    /// As that.
    pub fn set_multicast_loop_v6(&self, on: bool) -> io::Result<()> {
        self.set_multicast_loop_v4(on)
    }

    /// As [`UdpSocket::multicast_loop_v4`].
    ///
    /// # Errors
    /// None at present.
    pub fn multicast_loop_v6(&self) -> io::Result<bool> {
        self.multicast_loop_v4()
    }
}

/// The one link of a stack has number 1; 0 leaves the choice.
fn check_link_v6(interface: u32) -> io::Result<()> {
    if interface <= 1 { Ok(()) } else { Err(os(Errno::ENODEV)) }
}
