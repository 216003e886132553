//! Where a datagram arrived, and where one is to come from (`IP_PKTINFO` in ip(7)).

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use dmm_proto::fifo::datagram::Header;
use nix::errno::Errno;

use super::UdpSocket;
use crate::error::os;
use crate::socket::Patience;

/// A datagram that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Bytes of it in the buffer.
    pub len: usize,
    /// Bytes that it had; more than `len` if the buffer was too short.
    pub whole: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// Where it was sent to: one of the stack's addresses, a broadcast address, or a group.
    pub to: SocketAddr,
}

impl UdpSocket {
    /// As [`UdpSocket::recv_from`], and says where the datagram was sent to.
    ///
    /// # Errors
    /// As [`UdpSocket::recv_from`].
    pub fn recv_arrival(&self, bytes: &mut [u8]) -> io::Result<Arrival> {
        self.arrival(self.read_patience(), bytes, false)
    }

    /// As [`UdpSocket::recv_arrival`], leaving the datagram where it is.
    ///
    /// # Errors
    /// As [`UdpSocket::recv_from`].
    pub fn peek_arrival(&self, bytes: &mut [u8]) -> io::Result<Arrival> {
        self.arrival(self.read_patience(), bytes, true)
    }

    /// As [`UdpSocket::recv_arrival`], or with `peek` as [`UdpSocket::peek_arrival`], on a socket that is
    /// non-blocking for this call (`MSG_DONTWAIT`).
    ///
    /// # Errors
    /// As those; `EAGAIN` instead of waiting.
    pub fn try_recv_arrival(&self, bytes: &mut [u8], peek: bool) -> io::Result<Arrival> {
        self.arrival(Patience::None, bytes, peek)
    }

    fn arrival(&self, patience: Patience, bytes: &mut [u8], peek: bool) -> io::Result<Arrival> {
        let Header { len: whole, peer, local } = self.receive(patience, bytes, peek)?;
        let unspecified = SocketAddr::new(self.inner.local.ip(), 0);
        Ok(Arrival {
            len: whole.min(bytes.len()),
            whole,
            from: peer.map_or(unspecified, |peer| peer.0),
            to: local.map_or(self.inner.local, |local| local.0),
        })
    }

    /// As [`UdpSocket::send_to`], from one of the stack's addresses. An unspecified one leaves the choice to
    /// the stack.
    ///
    /// # Errors
    /// As [`UdpSocket::send_to`]; `EINVAL` if `from` is of the other family than the destination, or an IPv4
    /// address that is not the stack's. Of IPv6, the stack drops such datagrams and counts them.
    pub fn send_from(
        &self,
        bytes: &[u8],
        from: IpAddr,
        to: impl ToSocketAddrs,
    ) -> io::Result<usize> {
        let to = to.to_socket_addrs()?.next().ok_or_else(|| os(Errno::EINVAL))?;
        self.send_between(self.write_patience(), bytes, (Some(from), Some(to)))
    }

    /// As [`UdpSocket::send_from`], or without an address of this end as [`UdpSocket::send_to`], or without one
    /// of the other as [`UdpSocket::send`], on a socket that is non-blocking for this call if `wait` is `false`.
    ///
    /// # Errors
    /// As those; `EAGAIN` instead of waiting.
    pub fn send_message(
        &self,
        bytes: &[u8],
        (from, to): (Option<IpAddr>, Option<SocketAddr>),
        wait: bool,
    ) -> io::Result<usize> {
        let patience = if wait { self.write_patience() } else { Patience::None };
        self.send_between(patience, bytes, (from, to))
    }

    pub(super) fn send_between(
        &self,
        patience: Patience,
        bytes: &[u8],
        (from, to): (Option<IpAddr>, Option<SocketAddr>),
    ) -> io::Result<usize> {
        let towards = match to {
            Some(to) => {
                self.check_destination(to)?;
                to
            }
            None => self.peer().ok_or_else(|| os(Errno::EDESTADDRREQ))?,
        };
        let from = from.filter(|from| !from.is_unspecified()).or_else(|| self.source_for(towards));
        let fits = |from: IpAddr| match from {
            IpAddr::V4(own) => towards.is_ipv4() && self.inner.stack.is_own(own),
            IpAddr::V6(_) => towards.is_ipv6(),
        };
        if from.is_some_and(|from| !fits(from)) {
            return Err(os(Errno::EINVAL));
        }
        self.transmit(patience, bytes, (from, to))
    }
}
