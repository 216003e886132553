//! A TCP connection: reading, writing, shutting down.
//!
//! The two directions have a lock each, so that a thread that reads and one that writes do not
//! meet. Must never hold a lock while it submits or waits.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dmm_proto::fifo::{RxReader, State};
use dmm_proto::op::{How, SocketOption, Submission};
use nix::errno::Errno;

use crate::client::Client;
use crate::context::Ended;
use crate::error::os;
use crate::socket::{Core, Patience, Phase};
use crate::waiter::lock;

/// A TCP connection, shaped like [`std::net::TcpStream`]. Closed when its last clone is dropped;
/// what was written is still sent.
pub struct TcpStream {
    pub(super) inner: Arc<Inner>,
}

/// What the clones of a stream share.
pub(super) struct Inner {
    pub(super) client: Client,
    pub(super) core: Arc<Core>,
    /// Known from the start for an accepted connection.
    pub(super) local: Option<SocketAddr>,
    pub(super) peer: SocketAddr,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let core = &self.core;
        self.client.session.close(core, std::iter::once_with(|| core.instance()));
    }
}

impl TcpStream {
    pub(super) fn new(
        client: Client,
        core: Arc<Core>,
        local: Option<SocketAddr>,
        peer: SocketAddr,
    ) -> Self {
        Self { inner: Arc::new(Inner { client, core, local, peer }) }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.inner.client
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }

    /// Another handle to the same connection: options, timeouts and position are shared.
    ///
    /// # Errors
    /// None at present; the signature is [`std::net::TcpStream::try_clone`]'s.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { inner: Arc::clone(&self.inner) })
    }

    /// This end's address.
    ///
    /// # Errors
    /// `ENOTCONN` while a connect that was only started is under way.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let answered = || lock(&self.core().answer).and_then(|answer| answer.local);
        self.inner.local.or_else(answered).ok_or_else(|| os(Errno::ENOTCONN))
    }

    /// The other end's address.
    ///
    /// # Errors
    /// `ENOTCONN` if the connection was not established, or is over: it broke, or both ends closed
    /// it and the stack is done with what was written.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        if self.core().is_connected() { Ok(self.inner.peer) } else { Err(os(Errno::ENOTCONN)) }
    }

    /// Copies out what arrived without consuming it (`MSG_PEEK`), waiting like a read.
    ///
    /// # Errors
    /// As reading.
    pub fn peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let patience = self.core().options.read_patience();
        self.receive(patience, bytes.is_empty(), |rx| rx.peek(bytes))
    }

    /// Reads what is there, as one call on a socket that is non-blocking (`MSG_DONTWAIT`).
    ///
    /// # Errors
    /// As a read; `EAGAIN` instead of waiting.
    pub fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        self.consume(Patience::None, bytes.is_empty(), |rx| rx.read(bytes))
    }

    /// As [`TcpStream::peek`], and [`TcpStream::try_read`].
    ///
    /// # Errors
    /// As those.
    pub fn try_peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
        self.receive(Patience::None, bytes.is_empty(), |rx| rx.peek(bytes))
    }

    /// Writes what there is room for, as one call on a socket that is non-blocking (`MSG_DONTWAIT`).
    ///
    /// # Errors
    /// As a write; `EAGAIN` instead of waiting.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.send(Patience::None, &[bytes]).map(|(len, _)| len)
    }

    /// Writes as a write does, or as [`TcpStream::try_write`] unless it may `wait`. If all of it was written, its
    /// last byte ends a record (`MSG_EOR`), and shares no segment with what follows.
    ///
    /// # Errors
    /// As a write, or as [`TcpStream::try_write`].
    pub fn write_record(&self, bytes: &[u8], wait: bool) -> io::Result<usize> {
        let patience = if wait { self.core().options.write_patience() } else { Patience::None };
        let (len, end) = self.send(patience, &[bytes])?;
        if len == bytes.len() && len > 0 {
            // Positions are told by their lower bits.
            self.set(SocketOption::RecordEnd, end as u32)?;
        }
        Ok(len)
    }

    /// Shuts down one or both directions. After `Write` or `Both`, writes fail with `EPIPE`, also
    /// those that wait in other threads. After `Read` or `Both`, reads give what is there, else 0 at
    /// once: after `Read` alone also what arrives later, as Linux does; after both directions that is
    /// dropped.
    ///
    /// # Errors
    /// `ENOTCONN` if the connection is not established or is over, as in [`TcpStream::peer_addr`];
    /// `ECONNRESET` if the daemon ended.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let core = self.core();
        self.client().session.check()?;
        // inet_shutdown()
        if !core.is_connected() {
            return Err(os(Errno::ENOTCONN));
        }
        let (rx, tx) = match how {
            Shutdown::Read => (true, false),
            Shutdown::Write => (false, true),
            Shutdown::Both => (true, true),
        };
        if tx {
            // Under the lock: who writes now is seen by the daemon before the shutdown.
            let _writing = lock(&core.tx);
            core.tx_shut.store(true, Ordering::Release);
        }
        if rx {
            core.rx_shut.store(true, Ordering::Release);
        }
        let rx_shut = core.rx_shut.load(Ordering::Acquire);
        let submitted = if core.tx_shut.load(Ordering::Acquire) {
            let how = if rx_shut { How::Both } else { How::Write };
            let socket = core.socket();
            self.client().session.ask(core.instance(), Submission::Shutdown { socket, how })
        } else {
            // The daemon, told of `Read`, would drop what arrives from now on. Linux delivers it
            // (tcp_data_queue() does not look at RCV_SHUTDOWN) until this end sends its FIN.
            Ok(())
        };
        core.notify();
        submitted
    }

    /// Reads by `take`, which consumes or only copies, when there is something to take. A read of
    /// nothing (`empty`) waits and tells errors like any other, as Linux's does.
    pub(super) fn receive(
        &self,
        patience: Patience,
        empty: bool,
        mut take: impl FnMut(&mut RxReader) -> usize,
    ) -> io::Result<usize> {
        let (session, core) = (&self.client().session, &**self.core());
        let outcome = session.wait(&core.waiters, patience, || {
            // The state before the cursors: who sees the end sees everything before it.
            let (phase, state) = (core.phase(), core.state());
            match phase {
                Phase::Opening => return None,
                Phase::Failed => return Some(core.tell_error().map_or(Ok(0), Err)),
                // As Linux has it: nothing was begun yet.
                Phase::Deferred => return Some(Err(os(Errno::ENOTCONN))),
                Phase::Open => {}
            }
            let (len, there) = {
                let mut rx = lock(&core.rx);
                if rx.is_lent() {
                    return Some(Err(os(Errno::EBUSY)));
                }
                (take(&mut rx), empty && rx.available() > 0)
            };
            if len > 0 || there {
                return Some(Ok(len));
            }
            // tcp_recvmsg(): after a FIN the error stays untold.
            if state.has(State::RX_ENDED) {
                return Some(Ok(0));
            }
            if state.has(State::BROKEN) {
                return Some(core.tell_error().map_or(Ok(0), Err));
            }
            core.rx_shut.load(Ordering::Acquire).then_some(Ok(0))
        });
        outcome.unwrap_or_else(|ended| match (ended, patience) {
            // tcp_recvmsg(): having slept, it does not come back for nothing.
            (Ended::TimedOut, Patience::Until(_)) if empty => Ok(0),
            _ => Err(session.failure(ended, Errno::EAGAIN)),
        })
    }

    /// Reads by `take`, which consumes, and tells the daemon of the room if it waits for it.
    fn consume(
        &self,
        patience: Patience,
        empty: bool,
        mut take: impl FnMut(&mut RxReader) -> usize,
    ) -> io::Result<usize> {
        let mut owes = false;
        let len = self.receive(patience, empty, |rx| {
            let len = take(rx);
            owes = len > 0 && rx.owes_receive();
            len
        })?;
        if owes {
            let core = self.core();
            let receive = Submission::Receive { socket: core.socket() };
            // The bytes are consumed: a daemon that died meanwhile shows at the next call.
            let _ = self.client().session.ask(core.instance(), receive);
        }
        Ok(len)
    }

    /// Writes the parts one after the other: with patience all of them, else what fits. Returns how many bytes
    /// were written, and the position behind them in the FIFO.
    fn send(&self, patience: Patience, parts: &[&[u8]]) -> io::Result<(usize, u64)> {
        let wanted: usize = parts.iter().map(|part| part.len()).sum();
        let (session, core) = (&self.client().session, &**self.core());
        let (mut done, mut end) = (0, 0);
        loop {
            let outcome = session.wait(&core.waiters, patience, || self.send_some(parts, done));
            match outcome.unwrap_or_else(|ended| Err(session.failure(ended, Errno::EAGAIN))) {
                Ok((len, behind)) => (done, end) = (done + len, behind),
                Err(_) if done > 0 => return Ok((done, end)),
                Err(error) => return Err(error),
            }
            if done == wanted || matches!(patience, Patience::None) {
                return Ok((done, end));
            }
        }
    }

    /// Whether anything can be sent; `None` while the socket is opening.
    pub(super) fn may_send(&self) -> Option<io::Result<()>> {
        let core = self.core();
        if core.phase() == Phase::Opening {
            return None;
        }
        if self.client().session.is_dead() {
            return Some(Err(os(Errno::ECONNRESET)));
        }
        if core.is_broken() || core.tx_shut.load(Ordering::Acquire) {
            // sk_stream_error(): the error that broke it first, then the broken pipe.
            return Some(Err(core.tell_error().unwrap_or_else(|| os(Errno::EPIPE))));
        }
        Some(Ok(()))
    }

    /// Writes what the SYN is to carry, and lets it go; `None` if nothing fits, or it is gone.
    fn send_first(&self, parts: &[&[u8]]) -> Option<io::Result<(usize, u64)>> {
        let (session, core) = (&self.client().session, self.core());
        if session.is_dead() {
            return Some(Err(os(Errno::ECONNRESET)));
        }
        let (len, end) = {
            let mut tx = lock(&core.tx);
            if tx.is_reserved() {
                return Some(Err(os(Errno::EBUSY)));
            }
            if !core.go_on() {
                return None;
            }
            let len = tx.write(parts, false);
            // It is told in any case.
            let _ = tx.must_tell();
            (len, tx.tail())
        };
        if let Err(error) = session.ask(core.instance(), Submission::Send { socket: core.socket() })
        {
            return Some(Err(error));
        }
        let empty = parts.iter().all(|part| part.is_empty());
        (len > 0 || empty).then_some(Ok((len, end)))
    }

    /// Writes what fits of the parts from `skip` bytes on; `None` if nothing does. Returns how many bytes that
    /// were, and the position behind them.
    fn send_some(&self, parts: &[&[u8]], skip: usize) -> Option<io::Result<(usize, u64)>> {
        if self.core().phase() == Phase::Deferred {
            return self.send_first(parts);
        }
        if let Err(error) = self.may_send()? {
            return Some(Err(error));
        }
        let (session, core) = (&self.client().session, self.core());
        let shut = || core.tx_shut.load(Ordering::Acquire);
        if parts.iter().all(|part| part.is_empty()) {
            return Some(Ok((0, 0)));
        }
        let rest;
        let parts = if skip == 0 {
            parts
        } else {
            rest = without_front(parts, skip);
            &rest
        };
        let (len, end, tell) = {
            let mut tx = lock(&core.tx);
            if shut() {
                return Some(Err(os(Errno::EPIPE)));
            }
            if tx.is_reserved() {
                return Some(Err(os(Errno::EBUSY)));
            }
            let mut len = tx.write(parts, false);
            if len == 0 {
                tx.want_room();
                len = tx.write(parts, false);
            }
            (len, tx.tail(), tx.must_tell())
        };
        if tell {
            let send = Submission::Send { socket: core.socket() };
            if let Err(error) = session.ask(core.instance(), send) {
                return Some(Err(error));
            }
        }
        (len > 0).then_some(Ok((len, end)))
    }
}

/// The parts without their first `skip` bytes.
fn without_front<'a>(parts: &[&'a [u8]], mut skip: usize) -> Vec<&'a [u8]> {
    let cut = |part: &&'a [u8]| {
        let gone = skip.min(part.len());
        skip -= gone;
        &part[gone..]
    };
    parts.iter().map(cut).collect()
}

impl Read for &TcpStream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.consume(self.core().options.read_patience(), bytes.is_empty(), |rx| rx.read(bytes))
    }

    fn read_vectored(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let empty = slices.iter().all(|slice| slice.is_empty());
        let patience = self.core().options.read_patience();
        self.consume(patience, empty, |rx| slices.iter_mut().map(|slice| rx.read(slice)).sum())
    }
}

impl Write for &TcpStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(self.core().options.write_patience(), &[bytes]).map(|(len, _)| len)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let parts: Vec<&[u8]> = slices.iter().map(|slice| &**slice).collect();
        self.send(self.core().options.write_patience(), &parts).map(|(len, _)| len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for TcpStream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        (&*self).read(bytes)
    }

    fn read_vectored(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self).read_vectored(slices)
    }
}

impl Write for TcpStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpStream")
            .field("local", &self.local_addr().ok())
            .field("peer", &self.inner.peer)
            .finish()
    }
}
