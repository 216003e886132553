//! Opening a TCP connection.
//!
//! Instances of a stack are asked in turn; one that does not own the connection's 4-tuple names the
//! one that does, and the slot table asks that one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dmm_proto::congestion::CongestionControl;
use dmm_proto::op::{Opening, Submission};
use nix::errno::Errno;

use super::TcpStream;
use super::options::{ECN_BITS, check_hops, check_segment};
use crate::client::Client;
use crate::error::os;
use crate::socket::{Patience, Phase, Role};

/// How a connection is opened: what its SYN depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Where to come from; port 0 is any. `None` leaves the choice to the stack.
    pub local: Option<SocketAddr>,
    /// TCP Fast Open (RFC 7413, `TCP_FASTOPEN_CONNECT` in tcp(7)). Where the peer's cookie is known, the
    /// connect is over at once, and the SYN waits for the first write, which it carries; where not, it asks
    /// for the cookie. Each of a stack's instances learns cookies by itself.
    pub fast_open: bool,
    /// Payload of a segment at most, either way (`TCP_MAXSEG`): 88 to 32,767 bytes. `None`: the link's.
    pub max_segment: Option<u16>,
    /// The traffic class of its packets (`IP_TOS`, `IPV6_TCLASS`), whose lower two bits are the stack's.
    pub traffic_class: u8,
    /// The hop limit of its packets. `None`: 64.
    pub hop_limit: Option<u8>,
    /// Its congestion control (`TCP_CONGESTION`). `None`: the stack's.
    pub congestion: Option<CongestionControl>,
}

impl TcpStream {
    /// Connects over the daemon's first stack. Tries the addresses in turn; names are resolved by
    /// the system.
    ///
    /// # Errors
    /// As connect(2): `ECONNREFUSED`, `ETIMEDOUT`, `ENETUNREACH`, ...; and as [`Client::global`].
    pub fn connect(to: impl ToSocketAddrs) -> io::Result<Self> {
        Client::global()?.connect(None, to)
    }

    /// Connects over the stack of that name.
    ///
    /// # Errors
    /// As [`TcpStream::connect`]; [`crate::Error::UnknownStack`] (`ENODEV`).
    pub fn connect_via(stack: &str, to: impl ToSocketAddrs) -> io::Result<Self> {
        Client::global()?.connect(Some(stack), to)
    }

    /// Connects over the daemon's first stack, giving up after `timeout`.
    ///
    /// # Errors
    /// As [`TcpStream::connect`]; `ETIMEDOUT`; `EINVAL` for a timeout of zero.
    pub fn connect_timeout(to: &SocketAddr, timeout: Duration) -> io::Result<Self> {
        Client::global()?.connect_timeout(None, to, timeout)
    }
}

impl Client {
    /// Connects over the stack of that name, or the first.
    ///
    /// # Errors
    /// As [`TcpStream::connect_via`].
    pub fn connect(&self, stack: Option<&str>, to: impl ToSocketAddrs) -> io::Result<TcpStream> {
        let mut last = os(Errno::EINVAL);
        for remote in to.to_socket_addrs()? {
            let started = self.start_connect(stack, None, remote);
            let finish = |stream: TcpStream| {
                stream.finish_connect(Patience::Endless)?;
                Ok(stream)
            };
            match started.and_then(finish) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// As [`Client::connect`], to one address, giving up after `timeout`.
    ///
    /// # Errors
    /// As [`TcpStream::connect_timeout`].
    pub fn connect_timeout(
        &self,
        stack: Option<&str>,
        to: &SocketAddr,
        timeout: Duration,
    ) -> io::Result<TcpStream> {
        if timeout.is_zero() {
            return Err(os(Errno::EINVAL));
        }
        let patience = Patience::from_timeout(Some(timeout));
        let stream = self.start_connect(stack, None, *to)?;
        stream.finish_connect(patience)?;
        Ok(stream)
    }

    /// Starts to connect, from `local` if given (port 0: any), and does not wait: the stream becomes
    /// writable when it is connected or failed, which [`TcpStream::take_error`] tells apart. Reads
    /// and writes before that wait.
    ///
    /// # Errors
    /// `EINVAL` if the two addresses differ in family, `ENETUNREACH` if `remote` is a multicast or
    /// broadcast address, `EMFILE` if the session has no socket left, and as
    /// [`Client::stack`](Client::stacks) for an unknown name.
    pub fn start_connect(
        &self,
        stack: Option<&str>,
        local: Option<SocketAddr>,
        remote: SocketAddr,
    ) -> io::Result<TcpStream> {
        self.start_connect_with(stack, remote, &ConnectOptions { local, ..Default::default() })
    }

    /// As [`Client::start_connect`], with options that the SYN depends on.
    ///
    /// # Errors
    /// As [`Client::start_connect`]; `EINVAL` for an option out of its range.
    pub fn start_connect_with(
        &self,
        stack: Option<&str>,
        remote: SocketAddr,
        options: &ConnectOptions,
    ) -> io::Result<TcpStream> {
        let ConnectOptions { local, fast_open, max_segment, traffic_class, hop_limit, congestion } =
            *options;
        max_segment.map_or(Ok(()), check_segment)?;
        hop_limit.map_or(Ok(()), |hops| check_hops(hops.into()))?;
        let opening = Opening {
            max_segment: max_segment.unwrap_or(0),
            traffic_class,
            hop_limit: hop_limit.unwrap_or(0),
            fast_open: fast_open.into(),
            congestion: congestion.map_or(0, |control| control as u8),
        };
        let local = local.unwrap_or_else(|| any_like(&remote));
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(os(Errno::EINVAL));
        }
        // RFC 9293 section 3.9.2.3: TCP talks to one station. The errno is tcp_v4_connect()'s.
        if is_group(remote.ip()) {
            return Err(os(Errno::ENETUNREACH));
        }
        let instance = self.next_instance(self.stack(stack)?);
        let core = self.session.open_slot(instance, Role::Stream { local, remote, opening })?;
        core.options.hop_limit.store(opening.hop_limit.into(), Ordering::Relaxed);
        core.options.traffic_class.store((traffic_class & !ECN_BITS).into(), Ordering::Relaxed);
        let stream = TcpStream::new(self.clone(), Arc::clone(&core), None, remote);
        let connect = Submission::Connect {
            socket: core.socket(),
            local: local.into(),
            remote: remote.into(),
            opening,
        };
        self.session.ask(instance, connect)?;
        Ok(stream)
    }
}

impl TcpStream {
    /// Waits for the end of a connect that was started by [`Client::start_connect`], whether the socket
    /// is non-blocking or not. A `timeout` of `None` waits as long as it takes.
    ///
    /// # Errors
    /// Why it failed, as connect(2) says it, once; `ETIMEDOUT` if it goes on beyond `timeout`.
    pub fn wait_connected(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.finish_connect(Patience::from_timeout(timeout))
    }

    /// Whether a connect that was started has not ended yet.
    #[must_use]
    pub fn is_connecting(&self) -> bool {
        self.client().session.drain();
        self.core().phase() == Phase::Opening
    }

    /// Whether the SYN waits for the first write ([`ConnectOptions::fast_open`]).
    #[must_use]
    pub fn is_deferred(&self) -> bool {
        self.client().session.drain();
        self.core().phase() == Phase::Deferred
    }

    /// Waits for the end of a connect that was started.
    fn finish_connect(&self, patience: Patience) -> io::Result<()> {
        let (session, core) = (&self.client().session, self.core());
        let outcome = session.wait(&core.waiters, patience, || match core.phase() {
            Phase::Opening => None,
            Phase::Open | Phase::Deferred => Some(Ok(())),
            Phase::Failed => Some(Err(core.tell_error().unwrap_or_else(|| os(Errno::EPROTO)))),
        });
        outcome.unwrap_or_else(|ended| Err(session.failure(ended, Errno::ETIMEDOUT)))
    }
}

/// Whether the address stands for several stations.
fn is_group(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// The unspecified address and port of the family of `other`.
fn any_like(other: &SocketAddr) -> SocketAddr {
    match other {
        SocketAddr::V4(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        SocketAddr::V6(_) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
    }
}
