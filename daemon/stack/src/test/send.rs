//! The sending half of a connection: from the tx FIFO, without a copy of its own.
//!
//! Owns: which of the FIFO's bytes are in flight. Called with each acknowledgement and on each
//! poll. Must never: consume a byte before it is acknowledged, or send beyond the peer's window.
//!
//! ```text
//!        head = una          next            una + queued
//!          ├── in flight ─────┼── to be sent ─────┤ (end)
//!  copy_out(ahead = next - una) reads the bytes for a segment, as often as it must be sent
//! ```
#![forbid(unsafe_code)]

use std::time::Duration;

use dmm_port::Instant;
use dmm_proto::Breach;
use dmm_proto::fifo::TxFifo;

/// The first retransmission timeout, doubled each time: ten round trips of a local network.
const TIMEOUT: Duration = Duration::from_millis(20);
/// The longest retransmission timeout.
const TIMEOUT_MAX: Duration = Duration::from_secs(2);
/// Bytes in flight at most: what a gigabit path of 1 ms holds. There is no congestion control.
const FLIGHT_MAX: u64 = 128 * 1024;
/// RFC 5681 section 3.2: so many repeated acknowledgements stand for a loss.
const REPEATS: u32 = 3;

/// The sending half.
pub(super) struct Sender {
    /// Where bytes come from, while there is somebody who wrote them.
    pub(super) fifo: Option<TxFifo>,
    /// End the stream behind the last byte.
    pub(super) finishing: bool,
    /// The first position that is not acknowledged; the FIFO's head.
    una: u64,
    /// The next position to be sent for the first time.
    next: u64,
    /// The position up to which the peer has room.
    limit: u64,
    end_sent: bool,
    end_acknowledged: bool,
    /// Positions before this were in flight at the last loss.
    recover: u64,
    repeats: u32,
    timeout: Duration,
    /// When to send something again.
    pub(super) timer: Option<Instant>,
    /// Send what stands at `una` again, at once.
    resend: bool,
    /// Ask whether the window is still closed.
    probe: bool,
    /// Segments sent again.
    pub(super) resent: u64,
}

/// What to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where its bytes begin.
    pub(super) position: u64,
    /// How many there are.
    pub(super) len: usize,
    /// The stream ends behind them.
    pub(super) end: bool,
    /// It asks for an answer.
    pub(super) probe: bool,
}

impl Sender {
    /// A sender that knows of no room yet.
    pub(super) const fn new(fifo: Option<TxFifo>) -> Self {
        Self {
            fifo,
            finishing: false,
            una: 0,
            next: 0,
            limit: 0,
            end_sent: false,
            end_acknowledged: false,
            recover: 0,
            repeats: 0,
            timeout: TIMEOUT,
            timer: None,
            resend: false,
            probe: false,
            resent: 0,
        }
    }

    /// The position behind the last byte written.
    fn written(&self) -> u64 {
        self.una + self.queued()
    }

    /// Bytes written and not acknowledged.
    pub(super) fn queued(&self) -> u64 {
        self.fifo.as_ref().map_or(0, TxFifo::queued)
    }

    /// Whether everything, the end included, is acknowledged.
    pub(super) const fn is_done(&self) -> bool {
        self.end_acknowledged
    }

    /// Whether something waits to be sent or acknowledged.
    pub(super) fn is_busy(&self) -> bool {
        self.queued() > 0 || (self.finishing && !self.end_acknowledged)
    }

    /// Looks at how far the writer is.
    pub(super) fn refresh(&mut self) -> Result<(), Breach> {
        self.fifo.as_mut().map_or(Ok(()), TxFifo::refresh)
    }

    /// Takes an acknowledgement up to `position`, with `window` bytes of room from there. Returns
    /// whether anything new was acknowledged.
    pub(super) fn acknowledged(&mut self, now: Instant, position: u64, window: u32) -> bool {
        let written = self.written();
        let ends = self.end_sent && position == written + 1;
        if position > written && !ends {
            return false;
        }
        self.limit = self.limit.max(position + u64::from(window));
        let bytes = position.min(written).saturating_sub(self.una);
        if bytes > 0
            && let Some(fifo) = &mut self.fifo
        {
            fifo.consume(usize::try_from(bytes).expect("a FIFO's capacity is 32-bit"));
        }
        let news = bytes > 0 || (ends && !self.end_acknowledged);
        self.una += bytes;
        self.next = self.next.max(self.una);
        self.end_acknowledged |= ends;
        if news {
            self.repeats = 0;
            self.timeout = TIMEOUT;
            self.timer = self.is_busy().then(|| now + TIMEOUT);
            // RFC 6582 section 3.2: an advance that stops short of what was in flight at the loss
            // shows the next hole.
            self.resend = self.una < self.recover;
        } else if position == self.una && self.next > self.una {
            self.repeats += 1;
            if self.repeats == REPEATS && self.una >= self.recover {
                self.recover = self.next;
                self.resend = true;
            }
        }
        news
    }

    /// Notes that a timer went off, if it did.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.timer.is_some_and(|at| at <= now) {
            self.timeout = (self.timeout * 2).min(TIMEOUT_MAX);
            self.timer = None;
            self.recover = self.next;
            self.repeats = 0;
            let flying = self.next > self.una || (self.end_sent && !self.end_acknowledged);
            self.resend = flying;
            self.probe = !flying && self.is_busy();
        }
    }

    /// What to send next, in pieces of at most `most` bytes.
    pub(super) fn next_piece(&self, most: usize) -> Option<Piece> {
        let written = self.written();
        let cut = |from: u64, to: u64| -> usize {
            usize::try_from(to.saturating_sub(from)).unwrap_or(most).min(most)
        };
        if self.resend {
            let len = cut(self.una, self.next);
            let end = self.end_sent && self.una + len as u64 == written;
            return Some(Piece { position: self.una, len, end, probe: false });
        }
        let right = written.min(self.limit).min(self.una + FLIGHT_MAX);
        let len = cut(self.next, right);
        let end = self.finishing && !self.end_sent && self.next + len as u64 == written;
        if len > 0 || end {
            return Some(Piece { position: self.next, len, end, probe: false });
        }
        let probe = Piece { position: self.next, len: 0, end: false, probe: true };
        self.probe.then_some(probe)
    }

    /// Copies the bytes of a piece out of the FIFO.
    pub(super) fn copy(&self, piece: &Piece, bytes: &mut [u8]) {
        if let Some(fifo) = &self.fifo {
            let ahead = usize::try_from(piece.position - self.una).expect("within the FIFO");
            fifo.copy_out(ahead, bytes);
        }
    }

    /// Notes that a piece was sent.
    pub(super) fn sent(&mut self, now: Instant, piece: &Piece) {
        self.resent += u64::from(self.resend);
        (self.resend, self.probe) = (false, false);
        self.next = self.next.max(piece.position + piece.len as u64);
        self.end_sent |= piece.end;
        self.timer.get_or_insert(now + self.timeout);
    }

    /// Sees to it that a closed window is asked about.
    pub(super) fn watch(&mut self, now: Instant) {
        if self.is_busy() {
            self.timer.get_or_insert(now + self.timeout);
        }
    }
}
