//! How long segments may be where nobody says: paths that lose long packets without a word.
//!
//! Owns: the search of RFC 4821, below the length that both ends agreed on. Called when a timeout follows
//! another, and for each acknowledgement. Must never: take the loss of a probe for congestion.
//!
//! ```text
//!   full ── timeouts ──▶ half ── timeouts ──▶ ... least
//!    ▲                    │ every 10 s at first, one segment of twice the length
//!    └──── acknowledged ──┘
//! ```
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::time::Duration;

use dmm_port::Instant;

use super::Sender;

/// Timeouts of the same segment before the one that makes a path suspect (Linux's `tcp_retries1`, less one).
const TIMEOUTS: u32 = 2;
/// What every path carries, without headers and options: Linux's `tcp_base_mss` is the double, and halves it.
const LEAST: u64 = 512;
/// How long after its segments became shorter a connection tries a longer one (RFC 4821 section 7.7 has
/// minutes), which doubles each time that it is lost.
const TRY_AFTER: Duration = Duration::from_secs(10);
const TRY_AFTER_MAX: Duration = Duration::from_secs(640);

/// The state of the search.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Search {
    /// Payload of a segment that the ends, and routers, agreed on.
    pub(super) full: u64,
    /// A longer segment is under way: its positions.
    probe: Option<(u64, u64)>,
    /// When the next is due.
    try_at: Option<Instant>,
    after: Duration,
    /// It is.
    due: bool,
}

impl Search {
    pub(super) const fn new(full: u64) -> Self {
        Self { full, probe: None, try_at: None, after: TRY_AFTER, due: false }
    }
}

impl Sender {
    /// The first segment timed out, and had `doubled` times before: perhaps the path loses what is as long.
    pub(super) fn suspect_length(&mut self, doubled: u32) {
        let long = self.board.first().is_some_and(|first| first.end - first.start > LEAST);
        let suspect = self.features.black_holes && doubled >= TIMEOUTS && long && self.una > 0;
        if !suspect || self.mss <= LEAST {
            return;
        }
        self.set_mss((self.mss / 2).max(LEAST));
        self.search.probe = None;
        self.search.try_at = None;
    }

    /// Something was acknowledged: perhaps the probe, and perhaps it is time for one.
    pub(super) fn search_length(&mut self, now: Instant) {
        if self.mss >= self.search.full {
            return;
        }
        if let Some((_, end)) = self.search.probe
            && self.una >= end
        {
            self.search.probe = None;
            self.set_mss((2 * self.mss).min(self.search.full));
            (self.search.after, self.search.try_at) = (TRY_AFTER, Some(now));
        }
        let after = self.search.after;
        let due = *self.search.try_at.get_or_insert(now + after) <= now;
        self.search.due = due && self.search.probe.is_none();
    }

    /// Payload of a probe, if one is due and there are `unsent` bytes.
    pub(super) fn probe_length(&self, unsent: u64) -> Option<u64> {
        let length = (2 * self.mss).min(self.search.full);
        (self.search.due && length > self.mss && unsent >= length).then_some(length)
    }

    /// A segment that was longer than others was sent.
    pub(super) fn sent_probe(&mut self, start: u64, end: u64) {
        self.search.due = false;
        self.search.probe = Some((start, end));
    }

    /// Whether nothing was lost but the probe (RFC 4821 section 7.5), which is sent again in parts.
    pub(super) fn lost_probe_alone(&mut self, now: Instant) -> bool {
        let Some((start, end)) = self.search.probe else { return false };
        let first = self.board.first_lost();
        if first.is_none_or(|lost| (lost.start, lost.end) != (start, end)) {
            return false;
        }
        self.search.probe = None;
        self.search.after = (2 * self.search.after).min(TRY_AFTER_MAX);
        self.search.try_at = Some(now + self.search.after);
        self.board.lost_bytes() == end - start
    }

    /// Segments are so long from now on; what is longer and lost is sent again in parts.
    pub(super) fn set_mss(&mut self, mss: u64) {
        (self.mss, self.window.mss) = (mss, mss);
        self.board.set_mss(mss);
    }
}
