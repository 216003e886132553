//! A UDP socket: whole datagrams through the same FIFOs.
//!
//! Owned by programs. A datagram is written whole or not at all, so two threads that send never
//! mix theirs.

mod arrival;
mod many;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dmm_proto::fifo::datagram::{Header, PAYLOAD_MAX};
use dmm_proto::op::{SocketOption, Submission};
use dmm_proto::session::StackInfo;
use nix::errno::Errno;

use crate::client::Client;
use crate::error::{from_daemon, os};
use crate::socket::{Core, Patience, Role};
use crate::tcp::{check_hops, hops_of};
use crate::waiter::lock;
pub use arrival::Arrival;

/// A UDP socket, shaped like [`std::net::UdpSocket`]. Closed when its last clone is dropped.
pub struct UdpSocket {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    core: Arc<Core>,
    local: SocketAddr,
    /// What is known of the stack that it is on.
    stack: StackInfo,
    /// The only peer, if it is connected; locked while that changes.
    peer: Mutex<Option<SocketAddr>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let core = &self.core;
        self.client.session.close(core, std::iter::once_with(|| core.instance()));
        if matches!(core.role, Role::Datagram { local, .. } if local.port() != 0) {
            self.client.session.wait_until_closed(core);
        }
    }
}

impl UdpSocket {
    /// Binds on the daemon's first stack. Tries the addresses in turn; port 0 lets the stack choose.
    ///
    /// # Errors
    /// As bind(2): `EADDRINUSE`, `EADDRNOTAVAIL`, ...; and as [`Client::global`].
    pub fn bind(on: impl ToSocketAddrs) -> io::Result<Self> {
        Client::global()?.bind_udp(None, on)
    }

    /// Binds on the stack of that name.
    ///
    /// # Errors
    /// As [`UdpSocket::bind`]; [`crate::Error::UnknownStack`] (`ENODEV`).
    pub fn bind_via(stack: &str, on: impl ToSocketAddrs) -> io::Result<Self> {
        Client::global()?.bind_udp(Some(stack), on)
    }

    /// Makes `to` the only peer: others' datagrams are dropped, [`UdpSocket::send`] goes there.
    ///
    /// # Errors
    /// As connect(2) for a datagram socket, `EAFNOSUPPORT` for a peer of the other family among them;
    /// `ECONNRESET` if the daemon ended.
    pub fn connect(&self, to: impl ToSocketAddrs) -> io::Result<()> {
        let mut last = os(Errno::EINVAL);
        for peer in to.to_socket_addrs()? {
            match self.set_peer(peer) {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn set_peer(&self, to: SocketAddr) -> io::Result<()> {
        let Inner { client, core, peer, .. } = &*self.inner;
        if self.family_differs(to) {
            return Err(os(Errno::EAFNOSUPPORT));
        }
        let mut peer = lock(peer);
        *lock(&core.answer) = None;
        let socket = core.socket();
        let set = Submission::SetPeer { socket, peer: Some(to.into()) };
        client.session.ask(core.instance(), set)?;
        client.answered(core)?;
        *peer = Some(to);
        Ok(())
    }

    /// Sends a datagram to the first address that `to` gives. Waits for room unless non-blocking.
    ///
    /// # Errors
    /// `EMSGSIZE` above 65,507 bytes; `EAFNOSUPPORT` from an IPv4 socket to an IPv6 address, and
    /// `ENETUNREACH` the other way round unless it is bound to `::`; `EINVAL` for port 0; `EACCES` for a
    /// broadcast address without [`UdpSocket::set_broadcast`]; `EAGAIN` if
    /// it may not wait any longer, `ECONNRESET` if the daemon ended.
    pub fn send_to(&self, bytes: &[u8], to: impl ToSocketAddrs) -> io::Result<usize> {
        let to = to.to_socket_addrs()?.next().ok_or_else(|| os(Errno::EINVAL))?;
        self.send_between(self.write_patience(), bytes, (None, Some(to)))
    }

    /// Sends a datagram to the connected peer.
    ///
    /// # Errors
    /// `EDESTADDRREQ` without one; `ECONNREFUSED` and others of udp(7) if an earlier datagram did not get
    /// there; else as [`UdpSocket::send_to`].
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.send_between(self.write_patience(), bytes, (None, None))
    }

    /// Refuses where no datagram can go. What the stack alone knows, it drops and counts.
    fn check_destination(&self, to: SocketAddr) -> io::Result<()> {
        if self.family_differs(to) {
            // udpv6_sendmsg() takes an IPv4 address as a mapped one, to which no route leads from
            // an IPv6 address.
            let errno = if to.is_ipv4() { Errno::ENETUNREACH } else { Errno::EAFNOSUPPORT };
            return Err(os(errno));
        }
        let broadcast = matches!(to.ip(), IpAddr::V4(v4) if self.inner.stack.is_broadcast(v4));
        match to.port() {
            0 => Err(os(Errno::EINVAL)),
            _ if broadcast && !self.broadcast()? => Err(os(Errno::EACCES)),
            _ => Ok(()),
        }
    }

    /// Whether nothing can go from this socket to `to` because of its family. One that is bound to
    /// `::` sends to both (`IPV6_V6ONLY` in ipv6(7)).
    fn family_differs(&self, to: SocketAddr) -> bool {
        let local = self.inner.local;
        let dual = local.is_ipv6() && local.ip().is_unspecified();
        local.is_ipv4() != to.is_ipv4() && !dual
    }

    fn write_patience(&self) -> Patience {
        self.inner.core.options.write_patience()
    }

    fn read_patience(&self) -> Patience {
        self.inner.core.options.read_patience()
    }

    /// As [`UdpSocket::send_to`], or without an address as [`UdpSocket::send`], on a socket that is
    /// non-blocking for this call (`MSG_DONTWAIT`).
    ///
    /// # Errors
    /// As those; `EAGAIN` instead of waiting.
    pub fn try_send_to(&self, bytes: &[u8], to: Option<SocketAddr>) -> io::Result<usize> {
        self.send_between(Patience::None, bytes, (None, to))
    }

    /// As [`UdpSocket::recv_from`], or with `peek` as [`UdpSocket::peek_from`], on a socket that is
    /// non-blocking for this call (`MSG_DONTWAIT`).
    ///
    /// # Errors
    /// As those; `EAGAIN` instead of waiting.
    pub fn try_recv_from(&self, bytes: &mut [u8], peek: bool) -> io::Result<(usize, SocketAddr)> {
        self.receive_from(Patience::None, bytes, peek)
    }

    fn transmit(
        &self,
        patience: Patience,
        bytes: &[u8],
        (from, to): (Option<IpAddr>, Option<SocketAddr>),
    ) -> io::Result<usize> {
        // RFC 768 over RFC 791: 65,535 - 20 - 8.
        if bytes.len() > PAYLOAD_MAX {
            return Err(os(Errno::EMSGSIZE));
        }
        let Inner { client, core, .. } = &*self.inner;
        let local = from.map(|from| SocketAddr::new(from, self.inner.local.port()).into());
        let header = Header { len: bytes.len(), peer: to.map(Into::into), local };
        let outcome = client.session.wait(&core.waiters, patience, || {
            if client.session.is_dead() {
                return Some(Err(os(Errno::ECONNRESET)));
            }
            if core.is_broken() {
                return Some(Err(core.pending_error().unwrap_or_else(|| os(Errno::EPIPE))));
            }
            // As on Linux, what was said of an earlier one is told first, whichever call comes next.
            if let Some(error) = core.tell_trouble() {
                return Some(Err(error));
            }
            let (sent, tell) = {
                let mut tx = lock(&core.tx);
                let mut sent = tx.write_datagram(&header, bytes);
                if !sent {
                    tx.want_room();
                    sent = tx.write_datagram(&header, bytes);
                }
                (sent, tx.must_tell())
            };
            if tell {
                let send = Submission::Send { socket: core.socket() };
                if let Err(error) = client.session.ask(core.instance(), send) {
                    return Some(Err(error));
                }
            }
            sent.then_some(Ok(bytes.len()))
        });
        outcome.unwrap_or_else(|ended| Err(client.session.failure(ended, Errno::EAGAIN)))
    }

    /// Receives a datagram, cut to the buffer's length, and says whose it is.
    ///
    /// # Errors
    /// `EAGAIN` if it may not wait any longer, `ECONNRESET` if the daemon ended. Of a connected socket also
    /// what the network said of a datagram that it sent (udp(7)): `ECONNREFUSED` if nobody is bound to the
    /// peer's port, `EHOSTUNREACH`, `EMSGSIZE`, ..., each told once by one call.
    pub fn recv_from(&self, bytes: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.receive_from(self.read_patience(), bytes, false)
    }

    /// As [`UdpSocket::recv_from`], leaving the datagram where it is.
    ///
    /// # Errors
    /// As [`UdpSocket::recv_from`].
    pub fn peek_from(&self, bytes: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.receive_from(self.read_patience(), bytes, true)
    }

    /// As [`UdpSocket::recv_from`], for a connected socket.
    ///
    /// # Errors
    /// As [`UdpSocket::recv_from`].
    pub fn recv(&self, bytes: &mut [u8]) -> io::Result<usize> {
        self.receive_from(self.read_patience(), bytes, false).map(|(len, _)| len)
    }

    /// As [`UdpSocket::peek_from`], for a connected socket.
    ///
    /// # Errors
    /// As [`UdpSocket::recv_from`].
    pub fn peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
        self.receive_from(self.read_patience(), bytes, true).map(|(len, _)| len)
    }

    fn receive_from(
        &self,
        patience: Patience,
        bytes: &mut [u8],
        peek: bool,
    ) -> io::Result<(usize, SocketAddr)> {
        let header = self.receive(patience, bytes, peek)?;
        let unspecified = SocketAddr::new(self.inner.local.ip(), 0);
        Ok((header.len.min(bytes.len()), header.peer.map_or(unspecified, |peer| peer.0)))
    }

    fn receive(&self, patience: Patience, bytes: &mut [u8], peek: bool) -> io::Result<Header> {
        let Inner { client, core, .. } = &*self.inner;
        let mut owes = false;
        let outcome = client.session.wait(&core.waiters, patience, || {
            if let Some(error) = core.tell_trouble() {
                return Some(Err(error));
            }
            let header = {
                let mut rx = lock(&core.rx);
                let header = rx.read_datagram(bytes, peek);
                owes = header.is_some() && !peek && rx.owes_receive();
                header
            };
            match header {
                Some(header) => Some(Ok(header)),
                None => core.pending_error().map(Err),
            }
        });
        let failure = |ended| Err(client.session.failure(ended, Errno::EAGAIN));
        let header = outcome.unwrap_or_else(failure)?;
        if owes {
            let receive = Submission::Receive { socket: core.socket() };
            // The datagram is consumed: a daemon that died meanwhile shows at the next call.
            let _ = client.session.ask(core.instance(), receive);
        }
        Ok(header)
    }

    fn peer(&self) -> Option<SocketAddr> {
        *lock(&self.inner.peer)
    }

    /// This end's address, with the port that the stack chose.
    ///
    /// # Errors
    /// None at present.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let answered = lock(&self.inner.core.answer).and_then(|answer| answer.local);
        Ok(answered.unwrap_or(self.inner.local))
    }

    /// The connected peer.
    ///
    /// # Errors
    /// `ENOTCONN` without one, or if its port is 0, which Linux does not count as one.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        let peer = lock(&self.inner.peer).filter(|peer| peer.port() != 0);
        peer.ok_or_else(|| os(Errno::ENOTCONN))
    }

    /// Another handle to the same socket.
    ///
    /// # Errors
    /// None at present.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { inner: Arc::clone(&self.inner) })
    }

    /// With `true`, calls that would wait fail with `EAGAIN`.
    ///
    /// # Errors
    /// None at present.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.inner.core.options.nonblocking.store(nonblocking, Ordering::Relaxed);
        Ok(())
    }

    /// How long receiving may wait; it then fails with `EAGAIN`.
    ///
    /// # Errors
    /// `EINVAL` for zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.inner.core.options.set_read_timeout(timeout)
    }

    /// What [`UdpSocket::set_read_timeout`] set.
    ///
    /// # Errors
    /// None at present.
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.inner.core.options.read_timeout())
    }

    /// How long sending may wait for room; it then fails with `EAGAIN`.
    ///
    /// # Errors
    /// `EINVAL` for zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.inner.core.options.set_write_timeout(timeout)
    }

    /// What [`UdpSocket::set_write_timeout`] set.
    ///
    /// # Errors
    /// None at present.
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.inner.core.options.write_timeout())
    }

    /// Sets the hop limit of packets sent: 1 to 255.
    ///
    /// # Errors
    /// `EINVAL` beyond that; `ECONNRESET` if the daemon ended.
    pub fn set_ttl(&self, hops: u32) -> io::Result<()> {
        check_hops(hops)?;
        let Inner { client, core, .. } = &*self.inner;
        let (socket, option) = (core.socket(), SocketOption::HopLimit);
        let set = Submission::SetOption { socket, option, value: hops };
        client.session.ask(core.instance(), set)?;
        core.options.hop_limit.store(hops, Ordering::Relaxed);
        Ok(())
    }

    /// The hop limit that was set, 64 if none was.
    ///
    /// # Errors
    /// None at present.
    pub fn ttl(&self) -> io::Result<u32> {
        Ok(hops_of(self.inner.core.options.hop_limit.load(Ordering::Relaxed)))
    }

    /// Sets the traffic class of packets sent (`IP_TOS`, `IPV6_TCLASS`), the two bits of ECN included.
    ///
    /// # Errors
    /// `ECONNRESET` if the daemon ended.
    pub fn set_traffic_class(&self, class: u8) -> io::Result<()> {
        let core = &self.inner.core;
        let (socket, option) = (core.socket(), SocketOption::TrafficClass);
        let set = Submission::SetOption { socket, option, value: class.into() };
        self.inner.client.session.ask(core.instance(), set)?;
        core.options.traffic_class.store(class.into(), Ordering::Relaxed);
        Ok(())
    }

    /// The traffic class that was set, 0 if none was.
    ///
    /// # Errors
    /// None at present.
    pub fn traffic_class(&self) -> io::Result<u8> {
        Ok(self.inner.core.options.traffic_class.load(Ordering::Relaxed) as u8)
    }

    fn set_option(&self, option: SocketOption, value: u32) -> io::Result<()> {
        let Inner { client, core, .. } = &*self.inner;
        let set = Submission::SetOption { socket: core.socket(), option, value };
        client.session.ask(core.instance(), set)
    }

    /// An option's value that the stack refused, or what the network said of a datagram, told once;
    /// `ECONNRESET` if the daemon ended.
    ///
    /// # Errors
    /// None at present.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        let session = &self.inner.client.session;
        if session.is_dead() {
            return Ok(Some(os(Errno::ECONNRESET)));
        }
        session.drain();
        Ok(self.inner.core.take_error())
    }

    pub(crate) fn client(&self) -> &Client {
        &self.inner.client
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }
}

impl Client {
    /// Binds a UDP socket on the stack of that name, or the first.
    ///
    /// # Errors
    /// As [`UdpSocket::bind_via`].
    pub fn bind_udp(&self, stack: Option<&str>, on: impl ToSocketAddrs) -> io::Result<UdpSocket> {
        let mut last = os(Errno::EINVAL);
        for address in on.to_socket_addrs()? {
            match self.bind_udp_on(stack, address, false) {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// As [`Client::bind_udp`], sharing the address and port with other sockets of this user that were bound
    /// like this (`SO_REUSEPORT` in socket(7)): each flow's datagrams go to one of them.
    ///
    /// # Errors
    /// As [`Client::bind_udp`]; `EADDRINUSE` if one of the others does not share, or is another user's;
    /// `ENOBUFS` beyond 256 of them.
    pub fn bind_udp_shared(
        &self,
        stack: Option<&str>,
        on: impl ToSocketAddrs,
    ) -> io::Result<UdpSocket> {
        let mut last = os(Errno::EINVAL);
        for address in on.to_socket_addrs()? {
            match self.bind_udp_on(stack, address, true) {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn bind_udp_on(
        &self,
        stack: Option<&str>,
        address: SocketAddr,
        shares: bool,
    ) -> io::Result<UdpSocket> {
        let stack = self.stack(stack)?.clone();
        let instance = self.next_instance(&stack);
        let role = Role::Datagram { local: address, shares };
        let core = self.session.open_slot(instance, role)?;
        let bind = Submission::Bind { socket: core.socket(), local: address.into(), shares };
        let bound = self.session.ask(instance, bind).and_then(|()| self.answered(&core));
        match bound {
            Ok(local) => {
                let local = local.unwrap_or(address);
                let client = self.clone();
                Ok(UdpSocket {
                    inner: Arc::new(Inner { client, core, local, stack, peer: Mutex::default() }),
                })
            }
            Err(error) => {
                // The instance does not hold the slot.
                self.session.close(&core, std::iter::empty());
                Err(error)
            }
        }
    }

    /// Waits for the answer to the operation under way, and gives the address that comes with it.
    pub(crate) fn answered(&self, core: &Core) -> io::Result<Option<SocketAddr>> {
        let outcome = self.session.wait(&core.waiters, Patience::Endless, || *lock(&core.answer));
        match outcome {
            Ok(answer) if answer.errno == 0 => Ok(answer.local),
            Ok(answer) => Err(from_daemon(answer.errno)),
            Err(ended) => Err(self.session.failure(ended, Errno::EAGAIN)),
        }
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket").field("local", &self.inner.local).finish()
    }
}
