//! Reading and writing without a copy: bytes where they lie, lent to the program and given back.
//!
//! A loan is of one span: what lies in one chunk (16 KiB) of the socket's FIFO. There is one loan a
//! direction at a time, and until it is back every other call in that direction fails with `EBUSY`.
//! The socket stays open while a loan is out. Must never: leave a loan behind that nobody can give
//! back.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;

use dmm_proto::fifo::{RxSpan, TxSpan};
use dmm_proto::op::Submission;
use nix::errno::Errno;

use super::TcpStream;
use crate::error::os;
use crate::socket::Patience;
use crate::waiter::lock;

/// Received bytes in place. Dropped, none of them counts as read.
pub struct Received {
    stream: TcpStream,
    /// `None` at the end of the stream.
    span: Option<RxSpan>,
}

/// Room to send in place. Dropped, nothing is sent.
pub struct Reserved {
    stream: TcpStream,
    /// Always there before the end of this value.
    span: Option<TxSpan>,
}

impl TcpStream {
    /// Lends received bytes in place, as many as lie in one piece; none at the end of the stream.
    /// Waits as a read does.
    ///
    /// # Errors
    /// As a read; `EBUSY` while another loan of this direction is out.
    pub fn read_in_place(&self) -> io::Result<Received> {
        self.lend(self.core().options.read_patience())
    }

    /// As [`TcpStream::read_in_place`] on a socket that is non-blocking.
    ///
    /// # Errors
    /// As [`TcpStream::read_in_place`]; `EAGAIN` instead of waiting.
    pub fn try_read_in_place(&self) -> io::Result<Received> {
        self.lend(Patience::None)
    }

    fn lend(&self, patience: Patience) -> io::Result<Received> {
        let mut span = None;
        self.receive(patience, false, |rx| {
            span = rx.lend();
            span.as_ref().map_or(0, |span| span.bytes().len())
        })?;
        Ok(Received { stream: self.try_clone()?, span })
    }

    /// Reserves room to send in place: up to `wanted` bytes, as many as there are in one piece. Waits
    /// as a write does.
    ///
    /// # Errors
    /// As a write; `EBUSY` while another loan of this direction is out, `EINVAL` if nothing is wanted.
    pub fn write_in_place(&self, wanted: usize) -> io::Result<Reserved> {
        self.reserve(self.core().options.write_patience(), wanted)
    }

    /// As [`TcpStream::write_in_place`] on a socket that is non-blocking.
    ///
    /// # Errors
    /// As [`TcpStream::write_in_place`]; `EAGAIN` instead of waiting.
    pub fn try_write_in_place(&self, wanted: usize) -> io::Result<Reserved> {
        self.reserve(Patience::None, wanted)
    }

    fn reserve(&self, patience: Patience, wanted: usize) -> io::Result<Reserved> {
        if wanted == 0 {
            return Err(os(Errno::EINVAL));
        }
        let (session, core) = (&self.client().session, self.core());
        let outcome = session.wait(&core.waiters, patience, || match self.may_send()? {
            Ok(()) => self.reserve_some(wanted),
            Err(error) => Some(Err(error)),
        });
        let span = outcome.unwrap_or_else(|ended| Err(session.failure(ended, Errno::EAGAIN)))?;
        Ok(Reserved { stream: self.try_clone()?, span: Some(span) })
    }

    fn reserve_some(&self, wanted: usize) -> Option<io::Result<TxSpan>> {
        let core = self.core();
        let (span, tell) = {
            let mut tx = lock(&core.tx);
            if tx.is_reserved() {
                return Some(Err(os(Errno::EBUSY)));
            }
            let mut span = tx.reserve(wanted);
            let mut tell = false;
            if span.is_none() {
                tx.want_room();
                tell = tx.must_tell();
                span = tx.reserve(wanted);
            }
            (span, tell)
        };
        if tell {
            let send = Submission::Send { socket: core.socket() };
            if let Err(error) = self.client().session.ask(core.instance(), send) {
                if let Some(span) = span {
                    lock(&core.tx).commit(span, 0);
                }
                return Some(Err(error));
            }
        }
        span.map(Ok)
    }
}

impl Received {
    /// Gives the bytes back, the first `consumed` of them read.
    ///
    /// # Errors
    /// `EINVAL` if these are more than were lent: none counts as read then.
    pub fn give_back(mut self, consumed: usize) -> io::Result<()> {
        if consumed > self.len() {
            return Err(os(Errno::EINVAL));
        }
        self.put_back(consumed);
        Ok(())
    }

    fn put_back(&mut self, consumed: usize) {
        let Some(span) = self.span.take() else { return };
        let core = self.stream.core();
        let owes = {
            let mut rx = lock(&core.rx);
            rx.give_back(span, consumed);
            consumed > 0 && rx.owes_receive()
        };
        if owes {
            let receive = Submission::Receive { socket: core.socket() };
            // The bytes are consumed: a daemon that died meanwhile shows at the next call.
            let _ = self.stream.client().session.ask(core.instance(), receive);
        }
    }
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.span.as_ref().map_or(&[], RxSpan::bytes)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.put_back(0);
    }
}

impl Reserved {
    /// Sends the first `filled` bytes.
    ///
    /// # Errors
    /// `EINVAL` if these are more than were reserved, `EPIPE` if the direction was shut down meanwhile,
    /// `ECONNRESET` if the daemon ended: nothing is sent then.
    pub fn commit(mut self, filled: usize) -> io::Result<()> {
        if filled > self.len() {
            return Err(os(Errno::EINVAL));
        }
        self.put_back(filled)
    }

    fn put_back(&mut self, filled: usize) -> io::Result<()> {
        let Some(span) = self.span.take() else { return Ok(()) };
        let (session, core) = (&self.stream.client().session, self.stream.core());
        let tell = {
            let mut tx = lock(&core.tx);
            let shut = core.tx_shut.load(Ordering::Acquire);
            tx.commit(span, if shut { 0 } else { filled });
            if shut && filled > 0 {
                return Err(os(Errno::EPIPE));
            }
            filled > 0 && tx.must_tell()
        };
        if tell {
            session.ask(core.instance(), Submission::Send { socket: core.socket() })?;
        }
        Ok(())
    }
}

impl Deref for Reserved {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.span.as_ref().map_or(&[], TxSpan::bytes)
    }
}

impl DerefMut for Reserved {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.span.as_mut().map_or(&mut [], TxSpan::bytes_mut)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // Nothing is sent, so nothing can go wrong.
        let _ = self.put_back(0);
    }
}
