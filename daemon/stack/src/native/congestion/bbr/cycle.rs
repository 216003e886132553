//! The cycle of probes for bandwidth (ProbeBW, section 5.3.3).
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::time::Duration;

use dmm_port::Instant;

use super::bounds::{is_too_high, reduced};
use super::{Bbr, Rate, Sample, State, UNBOUNDED, Window};

/// A probe comes after 2 to 3 seconds, or as soon as Reno would have filled the path, but no later than
/// after 63 round trips (section 5.3.3.6).
const WAIT_LEAST: Duration = Duration::from_secs(2);
const WAIT_VARIATION_US: u64 = 1_000_000;
const ROUNDS_MOST: u64 = 63;
/// Doublings of the growth of a probe (section 5.3.3.5).
const GROWTH_MOST: u32 = 30;

/// What acknowledgements tell of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Feedback {
    None,
    Refilling,
    Starting,
    Probing,
    Stopping,
}

/// The state of the cycle.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Cycle {
    feedback: Feedback,
    began: Instant,
    wait: Duration,
    /// Round trips since the last probe.
    pub(super) rounds: u64,
    /// What is acknowledged was sent by a probe.
    samples: bool,
    /// The last probe lost too much.
    too_high: bool,
    /// It ended early, where the one before had lost too much.
    cautious: bool,
    /// Bytes acknowledged since the bound grew, those for which it grows by a segment, and doublings.
    grown: u64,
    per_segment: u64,
    growth: u32,
    /// For chances.
    chance: u64,
}

impl Cycle {
    pub(super) fn new(seed: u32) -> Self {
        Self {
            feedback: Feedback::None,
            began: Instant::ZERO,
            wait: Duration::ZERO,
            rounds: 0,
            samples: false,
            too_high: false,
            cautious: false,
            grown: 0,
            per_segment: u64::MAX,
            growth: 0,
            // Zero would stay.
            chance: u64::from(seed) | 1 << 40,
        }
    }

    /// Whether what is acknowledged, or lost, was sent by a probe.
    pub(super) const fn takes_samples(&self) -> bool {
        self.samples
    }

    /// No probe is under way any more, but what it sent may be.
    pub(super) const fn stop_probing(&mut self) {
        self.feedback = Feedback::Stopping;
    }

    /// A number below `bound` (xorshift).
    const fn below(&mut self, bound: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        (self.chance >> 11) % bound
    }

    /// When to probe next, by chance, so that flows do not at the same time.
    fn pick_wait(&mut self) {
        self.rounds = self.below(2);
        self.wait = WAIT_LEAST + Duration::from_micros(self.below(WAIT_VARIATION_US));
    }

    /// The bound grows twice as fast from now on.
    fn raise_slope(&mut self, window: &Window) {
        self.per_segment = (window.size >> self.growth).max(window.mss);
        self.growth = (self.growth + 1).min(GROWTH_MOST);
    }
}

impl Bbr {
    /// Begins a cycle, which drains what the last probe left in a queue.
    pub(super) fn begin_cycle(&mut self, now: Instant, delivered: u64) {
        self.bounds.reset_latest();
        self.cycle.per_segment = u64::MAX;
        self.cycle.pick_wait();
        self.cycle.began = now;
        self.cycle.stop_probing();
        self.model.start_round(delivered);
        self.state = State::Down;
    }

    /// Fills the path before a probe, so that losses are the probe's own.
    pub(super) fn start_refill(&mut self, delivered: u64) {
        self.bounds.forget_short_term();
        (self.cycle.growth, self.cycle.grown, self.cycle.cautious) = (0, 0, false);
        self.cycle.feedback = Feedback::Refilling;
        self.model.start_round(delivered);
        self.state = State::Refill;
    }

    fn start_up(&mut self, window: &Window, sample: &Sample) {
        self.cycle.feedback = Feedback::Starting;
        self.model.start_round(sample.delivered);
        self.model.look_for_full_from(sample.rate.map_or(0.0, |rate| rate.rate));
        self.state = State::Up;
        self.cycle.raise_slope(window);
    }

    /// Section 5.3.3.7.
    pub(super) fn update_cycle(&mut self, window: &Window, sample: &Sample) {
        if !self.model.full || self.adapt_long_term(window, sample) {
            return;
        }
        let state = self.state;
        match state {
            State::Down | State::Cruise if self.is_time_to_probe(window, sample) => {
                self.start_refill(sample.delivered);
            }
            State::Down if self.is_time_to_cruise(window, sample) => self.state = State::Cruise,
            // One round of it.
            State::Refill if self.model.round_start => {
                self.cycle.samples = true;
                self.start_up(window, sample);
            }
            State::Up if self.is_time_to_go_down(window, sample) => {
                self.cycle.too_high = false;
                self.begin_cycle(sample.now, sample.delivered);
            }
            _ => {}
        }
    }

    fn is_time_to_probe(&self, window: &Window, sample: &Sample) -> bool {
        if sample.now.since(self.cycle.began) > self.cycle.wait {
            return true;
        }
        // Section 5.3.3.6.2: a Reno flow beside it has filled the path by then.
        let target = self.target_in_flight(window) / window.mss;
        self.cycle.rounds >= target.min(ROUNDS_MOST)
    }

    fn is_time_to_cruise(&self, window: &Window, sample: &Sample) -> bool {
        sample.in_flight <= self.bounds.with_headroom(window)
            && sample.in_flight <= self.in_flight_for(window, 1.0)
    }

    fn is_time_to_go_down(&mut self, window: &Window, sample: &Sample) -> bool {
        let long_term = self.bounds.long_term;
        if self.cycle.too_high && sample.in_flight >= long_term {
            self.cycle.cautious = true;
            return true;
        }
        if sample.limited && window.size >= long_term {
            self.model.look_for_full_from(sample.rate.map_or(0.0, |rate| rate.rate));
            return false;
        }
        self.model.is_full_now()
    }

    /// What it wants in flight.
    pub(super) fn target_in_flight(&self, window: &Window) -> u64 {
        self.model.bdp(window, 1.0).min(window.size)
    }

    /// Follows what acknowledgements tell of a probe. Returns whether that decided on the state.
    fn adapt_long_term(&mut self, window: &Window, sample: &Sample) -> bool {
        let app_limited = sample.rate.is_some_and(|rate| rate.app_limited);
        if self.model.round_start {
            match self.cycle.feedback {
                Feedback::Starting => self.cycle.feedback = Feedback::Probing,
                Feedback::Stopping => {
                    self.cycle.samples = false;
                    self.cycle.feedback = Feedback::None;
                    if self.state.is_cycle() && !app_limited {
                        self.model.advance();
                    }
                    if self.state.is_cycle() && self.cycle.cautious && !self.cycle.too_high {
                        self.start_refill(sample.delivered);
                        return true;
                    }
                }
                _ => {}
            }
        }
        let Some(rate) = sample.rate else { return false };
        if !is_too_high(&rate, sample.sack) && self.bounds.long_term != UNBOUNDED {
            self.bounds.long_term = self.bounds.long_term.max(rate.in_flight);
            if self.state == State::Up {
                self.raise_long_term(window, sample);
            }
        }
        false
    }

    fn raise_long_term(&mut self, window: &Window, sample: &Sample) {
        if !sample.limited || window.size < self.bounds.long_term {
            return;
        }
        let cycle = &mut self.cycle;
        cycle.grown += sample.acked;
        let segments = cycle.grown / cycle.per_segment;
        cycle.grown -= segments * cycle.per_segment;
        self.bounds.long_term += segments * window.mss;
        if self.model.round_start {
            cycle.raise_slope(window);
        }
    }

    /// Section 5.5.10.2.
    pub(super) fn in_flight_was_too_high(&mut self, now: Instant, window: &Window, rate: &Rate) {
        self.cycle.too_high = true;
        self.cycle.samples = false;
        if !rate.app_limited {
            self.bounds.long_term = rate.in_flight.max(reduced(self.target_in_flight(window)));
        }
        if self.state == State::Up {
            self.bounds.undo.get_or_insert_default().state = Some(State::Up);
            self.begin_cycle(now, self.model.delivered);
        }
    }
}
