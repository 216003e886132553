//! What goes to many stations, and comes from many: broadcasts and groups.

use std::io;
use std::sync::atomic::Ordering;

use dmm_proto::op::SocketOption;
use nix::errno::Errno;

use super::UdpSocket;
use crate::error::os;

/// Hops of packets to groups, unless chosen (RFC 1112 section 6.1).
const GROUP_HOPS: u32 = 1;

impl UdpSocket {
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
