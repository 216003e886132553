//! What is known of the path: the most that it carried, the least that it took, and how lumpy
//! acknowledgements are.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::time::Duration;

use dmm_port::Instant;

use super::{SEGMENTS_LEAST, Sample, Window};

/// How long a least round trip is believed (section 2.13.1), and after how long it is looked for (2.13.2).
const ROUND_TRIP_LIFE: Duration = Duration::from_secs(10);
const PROBE_RTT_EVERY: Duration = Duration::from_secs(5);
/// Growth of the bandwidth in a round that shows that the pipe is not full, and rounds without it that show
/// that it is (section 5.3.1.2).
const FULL_GROWTH: f64 = 1.25;
const FULL_ROUNDS: u8 = 3;
/// Rounds for which lumps are remembered, in two halves (section 2.10).
const LUMP_ROUNDS: u64 = 5;

/// The model.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Model {
    /// The most, in bytes per second, of the cycle before and of this one (section 5.5.6).
    most: [f64; 2],
    /// What may be sent, in bytes per second, with losses in mind.
    pub(super) bandwidth: f64,
    /// Bytes delivered, by the last acknowledgement.
    pub(super) delivered: u64,
    /// Round trips counted by what is delivered (section 5.5.1).
    pub(super) round: u64,
    pub(super) round_start: bool,
    round_ends_at: u64,
    /// The least round trip, and when it was seen.
    least: Option<(Duration, Instant)>,
    /// The same, of the time since it was last looked for.
    recent: Option<(Duration, Instant)>,
    pub(super) round_trip_expired: bool,
    /// The pipe was full at some time, and is since it was last looked at.
    pub(super) full: bool,
    full_now: bool,
    full_bandwidth: f64,
    full_rounds: u8,
    /// Bytes acknowledged since a time, beyond which they were more than expected.
    lump: (u64, Instant),
    lumps: [u64; 2],
    lumps_since: u64,
}

impl Model {
    /// The most that the path carried, in bytes per second.
    pub(super) const fn max_bandwidth(&self) -> f64 {
        self.most[0].max(self.most[1])
    }

    /// A cycle is over: what was seen before it is forgotten (section 5.5.6).
    pub(super) fn advance(&mut self) {
        if self.most[1] > 0.0 {
            self.most = [self.most[1], 0.0];
        }
    }

    /// Counts a round trip from now on.
    pub(super) const fn start_round(&mut self, delivered: u64) {
        self.round_ends_at = delivered;
    }

    /// Sections 5.5.1 and 5.5.5; `rounds` count as well.
    pub(super) fn update_bandwidth(&mut self, sample: &Sample, rounds: &mut u64) {
        self.delivered = sample.delivered;
        self.round_start = false;
        let Some(rate) = sample.rate else { return };
        if rate.delivered_before >= self.round_ends_at {
            self.start_round(sample.delivered);
            self.round += 1;
            *rounds += 1;
            self.round_start = true;
        }
        if rate.rate > 0.0 && (rate.rate >= self.max_bandwidth() || !rate.app_limited) {
            self.most[1] = self.most[1].max(rate.rate);
        }
    }

    /// Section 5.3.1.2.
    pub(super) fn check_full(&mut self, sample: &Sample) {
        let Some(rate) = sample.rate.filter(|rate| !rate.app_limited) else { return };
        if self.full_now || !self.round_start {
            return;
        }
        if rate.rate >= self.full_bandwidth * FULL_GROWTH {
            self.look_for_full_from(rate.rate);
            return;
        }
        self.full_rounds += 1;
        self.full_now = self.full_rounds >= FULL_ROUNDS;
        self.full |= self.full_now;
    }

    /// Whether the pipe is full since it was last looked at.
    pub(super) const fn is_full_now(&self) -> bool {
        self.full_now
    }

    /// Looks anew whether the pipe is full.
    pub(super) const fn look_for_full_again(&mut self) {
        self.look_for_full_from(0.0);
    }

    /// The same, with a bandwidth that is known.
    pub(super) const fn look_for_full_from(&mut self, bandwidth: f64) {
        (self.full_bandwidth, self.full_rounds, self.full_now) = (bandwidth, 0, false);
    }

    /// Section 5.5.9: how much more is acknowledged at once than the bandwidth tells.
    pub(super) fn update_aggregation(&mut self, sample: &Sample, window: &Window) {
        let (bytes, since) = self.lump;
        let mut expected = (self.bandwidth * sample.now.since(since).as_secs_f64()) as u64;
        if bytes <= expected {
            self.lump = (0, sample.now);
            expected = 0;
        }
        self.lump.0 += sample.acked;
        let extra = self.lump.0.saturating_sub(expected).min(window.size);
        let rounds = if self.full { LUMP_ROUNDS } else { 1 };
        if self.round >= self.lumps_since + rounds {
            self.lumps = [self.lumps[1], 0];
            self.lumps_since = self.round;
        }
        self.lumps[1] = self.lumps[1].max(extra);
    }

    /// Lumps are counted from now on.
    pub(super) const fn restart_aggregation(&mut self, now: Instant) {
        self.lump.1 = now;
    }

    /// What to add for lumps.
    pub(super) fn extra_acked(&self) -> u64 {
        self.lumps[0].max(self.lumps[1])
    }

    /// Section 5.5.7.
    pub(super) fn update_round_trip(&mut self, sample: &Sample) {
        let (now, expired) = (sample.now, |at: Instant, life| sample.now.since(at) > life);
        self.round_trip_expired = self.recent.is_some_and(|(_, at)| expired(at, PROBE_RTT_EVERY));
        if let Some(rtt) = sample.rtt
            && (self.recent.is_none_or(|(least, _)| rtt < least) || self.round_trip_expired)
        {
            self.recent = Some((rtt, now));
        }
        let Some(recent) = self.recent else { return };
        if self.least.is_none_or(|(least, at)| recent.0 < least || expired(at, ROUND_TRIP_LIFE)) {
            self.least = Some(recent);
        }
    }

    /// The least round trip was looked for.
    pub(super) fn round_trip_seen(&mut self, now: Instant) {
        if let Some((_, at)) = &mut self.recent {
            *at = now;
        }
    }

    /// `gain` times what the path holds (section 5.6.4.2).
    pub(super) fn bdp(&self, window: &Window, gain: f64) -> u64 {
        match self.least {
            Some((least, _)) => (gain * self.bandwidth * least.as_secs_f64()) as u64,
            None => Window::initial(window.mss).size,
        }
    }

    /// What is left in flight to see the least round trip (section 5.6.4.5).
    pub(super) fn probe_rtt_window(&self, window: &Window) -> u64 {
        self.bdp(window, 0.5).max(SEGMENTS_LEAST * window.mss)
    }
}
