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
    pub(super) fn is_done(&self) -> bool {
        self.finishing && self.una > 0 && self.una == self.recover_end()
    }

    /// Where the stream ends, the end counted.
    const fn recover_end(&self) -> u64 {
        match self.ended_at {
            Some(end) => end + 1,
            None => u64::MAX,
        }
    }
}
