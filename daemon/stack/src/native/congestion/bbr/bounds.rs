//! What losses say about how much may be in flight: for the rest of a cycle (short term), and until
//! probes find more (long term).
#![forbid(unsafe_code)]

use super::{Rate, SEGMENTS_LEAST, Sample, State, UNBOUNDED, Window};
use serde::{Deserialize, Serialize};

/// Section 2.6: losses of a round trip beyond which too much was in flight, what is left after a round with
/// losses, and what is left to others.
const LOSS_MOST: f64 = 0.02;
const BETA: f64 = 0.7;
const HEADROOM: f64 = 0.15;
/// Losses in a round that end startup (section 5.3.1.3).
const STARTUP_LOSSES: u8 = 6;

/// The bounds, in bytes per second and in bytes in flight.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Bounds {
    /// What a cycle's losses showed: bandwidth, and bytes in flight.
    pub(super) short_term: (f64, u64),
    /// Bytes in flight that a probe found to be safe.
    pub(super) long_term: u64,
    /// Something was lost in this round trip, and in how many acknowledgements of it.
    pub(super) lost_in_round: bool,
    losses: u8,
    /// A round trip of losses begins.
    pub(super) round_start: bool,
    pub(super) round_ends_at: u64,
    /// The most of this round trip.
    latest_bandwidth: f64,
    pub(super) latest_in_flight: u64,
    /// What to restore if a loss was none.
    pub(super) undo: Option<Undo>,
}

/// What to restore if a loss was none (section 5.5.11).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Undo {
    /// The state that the loss ended.
    pub(super) state: Option<State>,
    pub(super) short_term: (f64, u64),
    pub(super) long_term: u64,
}

impl Default for Undo {
    fn default() -> Self {
        Self { state: None, short_term: (f64::INFINITY, UNBOUNDED), long_term: UNBOUNDED }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            short_term: (f64::INFINITY, UNBOUNDED),
            long_term: UNBOUNDED,
            lost_in_round: false,
            losses: 0,
            round_start: false,
            round_ends_at: 0,
            latest_bandwidth: 0.0,
            latest_in_flight: 0,
            undo: None,
        }
    }
}

impl Bounds {
    /// At the beginning of an acknowledgement (section 5.5.10.3).
    pub(super) fn update_latest(&mut self, sample: &Sample) {
        self.round_start = false;
        self.losses = self.losses.saturating_add(u8::from(sample.lost));
        let Some(rate) = sample.rate else { return };
        self.latest_bandwidth = self.latest_bandwidth.max(rate.rate);
        self.latest_in_flight = self.latest_in_flight.max(rate.delivered);
        if rate.delivered_before >= self.round_ends_at {
            self.round_ends_at = sample.delivered;
            self.round_start = true;
        }
    }

    /// At its end.
    pub(super) fn advance_latest(&mut self, sample: &Sample) {
        if let (true, Some(rate)) = (self.round_start, sample.rate) {
            (self.latest_bandwidth, self.latest_in_flight) = (rate.rate, rate.delivered);
            self.losses = 0;
        }
        if !sample.recovering && !self.lost_in_round {
            self.undo = None;
        }
    }

    /// Nothing of what was seen so far counts.
    pub(super) const fn reset_latest(&mut self) {
        self.lost_in_round = false;
        (self.latest_bandwidth, self.latest_in_flight) = (0.0, 0);
    }

    /// A round trip had losses.
    pub(super) fn adapt_short_term(&mut self, max_bandwidth: f64, window: &Window) {
        let (bandwidth, in_flight) = &mut self.short_term;
        if bandwidth.is_infinite() {
            *bandwidth = max_bandwidth;
        }
        if *in_flight == UNBOUNDED {
            *in_flight = window.size;
        }
        *bandwidth = (*bandwidth * BETA).max(self.latest_bandwidth);
        *in_flight = ((*in_flight as f64 * BETA) as u64).max(self.latest_in_flight);
    }

    /// A cycle begins anew.
    pub(super) const fn forget_short_term(&mut self) {
        self.short_term = (f64::INFINITY, UNBOUNDED);
    }

    /// Section 5.3.1.3.
    pub(super) fn lost_too_much_in_startup(&self, sample: &Sample) -> bool {
        let Some(rate) = sample.rate else { return false };
        if !sample.sack {
            return sample.recovering && sample.lost;
        }
        let lossy = self.losses >= STARTUP_LOSSES && is_too_high(&rate, true);
        self.round_start && sample.recovering && lossy
    }

    /// Section 5.3.3: room for others.
    pub(super) fn with_headroom(&self, window: &Window) -> u64 {
        if self.long_term == UNBOUNDED {
            return UNBOUNDED;
        }
        let headroom = ((self.long_term as f64 * HEADROOM) as u64).max(window.mss);
        self.long_term.saturating_sub(headroom).max(SEGMENTS_LEAST * window.mss)
    }
}

/// Whether losses say that too much was in flight; without SACK one is known of a round trip, and says so.
pub(super) fn is_too_high(rate: &Rate, sack: bool) -> bool {
    rate.lost as f64 > rate.in_flight as f64 * LOSS_MOST || (rate.lost > 0 && !sack)
}

/// How much was in flight when losses went beyond what is tolerated, within a segment of `bytes` bytes.
pub(super) fn at_crossing(rate: &Rate, bytes: u64) -> Rate {
    let in_flight_before = rate.in_flight.saturating_sub(bytes) as f64;
    let lost_before = rate.lost.saturating_sub(bytes) as f64;
    let part = (LOSS_MOST * in_flight_before - lost_before) / (1.0 - LOSS_MOST);
    Rate { in_flight: (in_flight_before + part).max(0.0) as u64, ..*rate }
}

/// What is left of `bytes` after a round trip with losses.
pub(super) fn reduced(bytes: u64) -> u64 {
    (bytes as f64 * BETA) as u64
}
