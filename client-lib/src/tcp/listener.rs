//! A TCP listener: one socket on every instance of its stack.
//!
//! Connections come by credit: each instance holds a few free slots of ours and fills them as
//! connections arrive; each one taken brings a new credit. What is not taken stays with the daemon.
//!
//! ```text
//!   accept ◀── backlog.accepted ◀── Accepted ── instance 0 ◀── Accept (credit) ──┐
//!      │                        ◀── Accepted ── instance 1                       │
//!      └──────────────────────── one more credit ────────────────────────────────┘
//! ```

use std::fmt;
use std::io;
use std::iter::FusedIterator;
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use dmm_proto::congestion::CongestionControl;
use dmm_proto::op::{Opening, Submission};
use nix::errno::Errno;

use super::TcpStream;
use super::options::{ECN_BITS, check_hops, check_segment};
use crate::client::Client;
use crate::error::os;
use crate::socket::{Accepted, Backlog, Core, Role};
use crate::waiter::lock;

/// Slots that each instance holds to put connections into: as many as may arrive while a new credit
/// reaches a worker that sleeps (50 us at 300,000 connections a second).
const CREDITS: u32 = 16;

/// Connections that may wait in each instance without a credit: Linux's SOMAXCONN, which
/// [`std::net::TcpListener`] asks for as well.
const BACKLOG: u32 = 4096;

/// What a listener's connections are to have from the first on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenOptions {
    /// As [`TcpListener::set_fast_open`].
    pub fast_open: u32,
    /// As [`TcpListener::set_max_segment`].
    pub max_segment: Option<u16>,
    /// As [`TcpListener::set_traffic_class`].
    pub traffic_class: u8,
    /// As [`TcpListener::set_ttl`]. `None`: 64.
    pub hop_limit: Option<u8>,
    /// As [`TcpListener::set_congestion_control`]. `None`: the stack's.
    pub congestion: Option<CongestionControl>,
}

/// A TCP listener, shaped like [`std::net::TcpListener`]. Closed when its last clone is dropped.
pub struct TcpListener {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    core: Arc<Core>,
    local: SocketAddr,
    /// The stack's instances.
    instances: Range<u32>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.client.session.close_listener(&self.core, self.instances.clone());
    }
}

impl TcpListener {
    /// Listens on the daemon's first stack. Tries the addresses in turn; port 0 lets the stack
    /// choose.
    ///
    /// # Errors
    /// As bind(2) and listen(2): `EADDRINUSE`, `EADDRNOTAVAIL`, ...; and as [`Client::global`].
    pub fn bind(on: impl ToSocketAddrs) -> io::Result<Self> {
        Client::global()?.listen(None, on)
    }

    /// Listens on the stack of that name.
    ///
    /// # Errors
    /// As [`TcpListener::bind`]; [`crate::Error::UnknownStack`] (`ENODEV`).
    pub fn bind_via(stack: &str, on: impl ToSocketAddrs) -> io::Result<Self> {
        Client::global()?.listen(Some(stack), on)
    }

    /// Takes the next connection, waiting for one unless non-blocking.
    ///
    /// # Errors
    /// `EAGAIN` if non-blocking and there is none, `EMFILE` if the session has no slot for one,
    /// `ECONNRESET` if the daemon ended.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let Inner { client, core, .. } = &*self.inner;
        let Role::Listener(backlog) = &core.role else { return Err(os(Errno::EINVAL)) };
        let patience = core.options.read_patience();
        let outcome = client.session.wait(&core.waiters, patience, || {
            let mut backlog = lock(backlog);
            if let Some(accepted) = backlog.accepted.pop_front() {
                backlog.owed += 1;
                return Some(Ok(accepted));
            }
            let starved = backlog.owed == 0 && backlog.credits.iter().all(|&credits| credits == 0);
            (starved && !client.session.is_dead()).then(|| Err(os(Errno::EMFILE)))
        });
        let failure = |ended| Err(client.session.failure(ended, Errno::EAGAIN));
        let Accepted { core: accepted, local, peer } = outcome.unwrap_or_else(failure)?;
        let instance = accepted.instance();
        let stream = TcpStream::new(client.clone(), accepted, Some(local), peer);
        // The connection is ours: a daemon that died meanwhile shows at the next call.
        let _ = client.session.credit(core, instance);
        lock(backlog).owed -= 1;
        Ok((stream, peer))
    }

    /// The connections as they come; never ends.
    #[must_use]
    pub const fn incoming(&self) -> Incoming<'_> {
        Incoming { listener: self }
    }

    /// Where it listens, with the port that the stack chose.
    ///
    /// # Errors
    /// None at present.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.inner.local)
    }

    /// Another handle to the same listener.
    ///
    /// # Errors
    /// None at present.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { inner: Arc::clone(&self.inner) })
    }

    /// With `true`, an accept that would wait fails with `EAGAIN`.
    ///
    /// # Errors
    /// None at present.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.inner.core.options.nonblocking.store(nonblocking, Ordering::Relaxed);
        Ok(())
    }

    /// `ECONNRESET` if the daemon ended, else nothing: a listener has no errors of its own.
    ///
    /// # Errors
    /// None at present.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.inner.client.session.is_dead().then(|| os(Errno::ECONNRESET)))
    }

    pub(crate) fn client(&self) -> &Client {
        &self.inner.client
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }

    /// The stack's instances.
    pub(super) fn instances(&self) -> Range<u32> {
        self.inner.instances.clone()
    }
}

impl Client {
    /// Listens on the stack of that name, or the first.
    ///
    /// # Errors
    /// As [`TcpListener::bind_via`].
    pub fn listen(&self, stack: Option<&str>, on: impl ToSocketAddrs) -> io::Result<TcpListener> {
        let mut last = os(Errno::EINVAL);
        for address in on.to_socket_addrs()? {
            match self.listen_on(stack, address, BACKLOG, &ListenOptions::default()) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Listens on one address, where `backlog` connections may wait in each of the stack's
    /// instances.
    ///
    /// # Errors
    /// As [`TcpListener::bind_via`]; `EINVAL` for an option out of its range.
    pub fn listen_on(
        &self,
        stack: Option<&str>,
        address: SocketAddr,
        backlog: u32,
        options: &ListenOptions,
    ) -> io::Result<TcpListener> {
        let ListenOptions { fast_open, max_segment, traffic_class, hop_limit, congestion } =
            *options;
        max_segment.map_or(Ok(()), check_segment)?;
        hop_limit.map_or(Ok(()), |hops| check_hops(hops.into()))?;
        let opening = Opening {
            max_segment: max_segment.unwrap_or(0),
            traffic_class,
            hop_limit: hop_limit.unwrap_or(0),
            fast_open,
            congestion: congestion.map_or(0, |control| control as u8),
        };
        let stack = self.stack(stack)?;
        let instances = stack.first_instance..stack.first_instance + stack.instances;
        let credits = vec![0; stack.instances as usize];
        let role = Role::Listener(Mutex::new(Backlog { credits, ..Backlog::default() }));
        let core = self.session.open_slot(stack.first_instance, role)?;
        core.options.hop_limit.store(opening.hop_limit.into(), Ordering::Relaxed);
        core.options.traffic_class.store((traffic_class & !ECN_BITS).into(), Ordering::Relaxed);
        let mut local = address;
        for instance in instances.clone() {
            let bound = self.listen_at(&core, instance, local, (backlog.max(1), opening));
            match bound {
                // Port 0: the first instance's choice holds for all.
                Ok(bound) => local = bound,
                Err(error) => {
                    self.session.close(&core, instances.start..instance);
                    return Err(error);
                }
            }
        }
        let client = self.clone();
        let listener = Inner { client, core: Arc::clone(&core), local, instances };
        for instance in listener.instances.clone() {
            for _ in 0..CREDITS {
                self.session.credit(&core, instance)?;
            }
        }
        Ok(TcpListener { inner: Arc::new(listener) })
    }

    /// Listens at one instance.
    fn listen_at(
        &self,
        core: &Arc<Core>,
        instance: u32,
        local: SocketAddr,
        (backlog, opening): (u32, Opening),
    ) -> io::Result<SocketAddr> {
        let socket = core.socket();
        *lock(&core.answer) = None;
        let listen = Submission::Listen { socket, local: local.into(), backlog, opening };
        self.session.ask(instance, listen)?;
        Ok(self.answered(core)?.unwrap_or(local))
    }
}

/// The connections of a listener as they come.
#[derive(Debug)]
pub struct Incoming<'a> {
    listener: &'a TcpListener,
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<TcpStream>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.listener.accept().map(|(stream, _)| stream))
    }
}

impl FusedIterator for Incoming<'_> {}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpListener").field("local", &self.inner.local).finish()
    }
}
