//! BBR, version 3 (draft-ietf-ccwg-bbr-05): the window and the rate follow a model of the path, its bandwidth and
//! its least round trip, and losses bound the model rather than the window.
//!
//! Owns: the states and the order in which an acknowledgement moves them. Called for each acknowledgement and
//! for each segment taken for lost. Must never: leave less in flight than keeps acknowledgements coming.
//!
//! ```text
//!   Startup ─ full ─▶ Drain ─▶ Down ─▶ Cruise ─▶ Refill ─▶ Up ─▶ Down ...      (ProbeBW)
//!      each of them ─ no least round trip for 5 s ─▶ ProbeRtt ─▶ Cruise, or Startup
//! ```
#![forbid(unsafe_code)]

mod bounds;
mod cycle;
mod model;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use std::time::Duration;

use dmm_port::Instant;

use super::{Ack, Cause, Control, Loss, Rate, Sample, Window};
use bounds::{Bounds, Undo};
use cycle::Cycle;
use model::Model;

/// Section 3.4: 1% below what the path carries, so that a queue can drain.
const PACING_MARGIN: f64 = 0.99;
/// Section 2.4: the least rate of startup that doubles what is sent each round.
const STARTUP_GAIN: f64 = 2.77;
/// The round trip that is taken for granted before one was measured (section 5.6.2).
const NOMINAL_ROUND: Duration = Duration::from_millis(1);
/// Segments that keep a peer's acknowledgements coming (section 5.6.4.3).
const SEGMENTS_LEAST: u64 = 4;
/// What a timer lets go at once (section 5.6.3).
pub(super) const QUANTUM_MAX: u64 = 64 << 10;
/// Rounds that a drain may take (section 5.3.2).
const DRAIN_ROUNDS: u64 = 3;
/// How long little is in flight to see the least round trip (section 2.13.2).
const PROBE_RTT_SPAN: Duration = Duration::from_millis(200);
/// What is not bounded.
const UNBOUNDED: u64 = u64::MAX;

/// Where in the machine of states it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    Startup,
    Drain { since_round: u64 },
    Down,
    Cruise,
    Refill,
    Up,
    ProbeRtt { until: Option<Instant>, round_over: bool },
}

impl State {
    /// By how much it sends faster than the path carries (section 5.6.1).
    const fn pacing_gain(self) -> f64 {
        match self {
            Self::Startup => STARTUP_GAIN,
            Self::Drain { .. } => 0.5,
            Self::Down => 0.90,
            Self::Cruise | Self::Refill | Self::ProbeRtt { .. } => 1.0,
            Self::Up => 1.25,
        }
    }

    /// How much more than the path holds may be in flight.
    const fn window_gain(self) -> f64 {
        match self {
            Self::Up => 2.25,
            Self::ProbeRtt { .. } => 0.5,
            _ => 2.0,
        }
    }

    /// Whether it is part of the cycle of probes for bandwidth.
    const fn is_cycle(self) -> bool {
        matches!(self, Self::Down | Self::Cruise | Self::Refill | Self::Up)
    }

    /// Whether it tries to send more than it did.
    const fn probes(self) -> bool {
        matches!(self, Self::Startup | Self::Refill | Self::Up)
    }
}

/// The state of BBR.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in super::super) struct Bbr {
    state: State,
    model: Model,
    bounds: Bounds,
    cycle: Cycle,
    /// Bytes per second to be sent.
    pacing: Option<f64>,
    /// The window before a repair or a search for the least round trip made it smaller.
    window_before: u64,
    /// Nothing was in flight until a moment ago.
    resumed: bool,
}

impl Bbr {
    /// Nothing is known of the path.
    pub(super) fn new(seed: u32) -> Self {
        Self {
            state: State::Startup,
            model: Model::default(),
            bounds: Bounds::default(),
            cycle: Cycle::new(seed),
            pacing: None,
            window_before: 0,
            resumed: false,
        }
    }

    /// Bytes per second to be sent at most.
    pub(super) fn pace(&self) -> f64 {
        self.pacing.unwrap_or(f64::INFINITY)
    }

    /// Section 5.3.1.
    fn check_startup(&mut self, window: &Window, sample: &Sample) {
        if self.state != State::Startup {
            return;
        }
        if self.bounds.lost_too_much_in_startup(sample) {
            self.bounds.undo.get_or_insert_default().state = Some(State::Startup);
            self.model.full = true;
            self.bounds.long_term =
                self.model.bdp(window, 1.0).max(self.bounds.latest_in_flight).max(window.mss);
        }
        if self.model.full {
            self.state = State::Drain { since_round: self.model.round };
        }
    }

    /// Section 5.3.2.
    fn check_drain(&mut self, window: &Window, sample: &Sample) {
        let State::Drain { since_round } = self.state else { return };
        let drained = sample.in_flight <= self.in_flight_for(window, 1.0);
        if drained || self.model.round > since_round + DRAIN_ROUNDS {
            self.begin_cycle(sample.now, sample.delivered);
        }
    }

    /// Section 5.3.4.3.
    fn check_probe_rtt(&mut self, window: &mut Window, sample: &Sample) {
        let probing = matches!(self.state, State::ProbeRtt { .. });
        if !probing && self.model.round_trip_expired && !self.resumed {
            self.save_window(window, sample.recovering);
            self.state = State::ProbeRtt { until: None, round_over: false };
            self.cycle.stop_probing();
            self.model.start_round(sample.delivered);
        }
        if let State::ProbeRtt { until, round_over } = &mut self.state {
            match until {
                None if sample.in_flight <= self.model.probe_rtt_window(window) => {
                    *until = Some(sample.now + PROBE_RTT_SPAN);
                    *round_over = false;
                    self.model.start_round(sample.delivered);
                }
                None => {}
                Some(_) => {
                    *round_over |= self.model.round_start;
                    if *round_over {
                        self.end_probe_rtt(sample.now, sample.delivered, window);
                    }
                }
            }
        }
        if sample.acked > 0 {
            self.resumed = false;
        }
    }

    fn end_probe_rtt(&mut self, now: Instant, delivered: u64, window: &mut Window) {
        let State::ProbeRtt { until: Some(until), .. } = self.state else { return };
        if now <= until {
            return;
        }
        self.model.round_trip_seen(now);
        window.size = window.size.max(self.window_before);
        self.bounds.forget_short_term();
        if self.model.full {
            self.begin_cycle(now, delivered);
            self.state = State::Cruise;
        } else {
            self.state = State::Startup;
        }
    }

    /// Section 5.6.2.
    fn set_pace(&mut self, window: &Window, sample: &Sample) {
        let pacing = *self.pacing.get_or_insert_with(|| {
            let round = sample.smoothed.filter(|round| !round.is_zero()).unwrap_or(NOMINAL_ROUND);
            STARTUP_GAIN * window.size as f64 / round.as_secs_f64()
        });
        let rate = self.state.pacing_gain() * self.model.bandwidth * PACING_MARGIN;
        if (self.model.full && rate > 0.0) || rate > pacing {
            self.pacing = Some(rate);
        }
    }

    /// Section 5.6.4.6.
    fn set_window(&mut self, window: &mut Window, sample: &Sample) {
        let most = self.max_in_flight(window);
        let first = sample.delivered < Window::initial(window.mss).size;
        if self.model.full {
            window.size = (window.size + sample.acked).min(most);
        } else if window.size < most || first {
            window.size += sample.acked;
        }
        let least = SEGMENTS_LEAST * window.mss;
        window.size = window.size.max(least);
        if matches!(self.state, State::ProbeRtt { .. }) {
            window.size = window.size.min(self.model.probe_rtt_window(window));
        }
        window.size = window.size.min(self.bound(window).max(least));
    }

    /// The most that may be in flight by what was lost (section 5.6.4.7).
    fn bound(&self, window: &Window) -> u64 {
        let long_term = match self.state {
            State::Startup | State::Drain { .. } => UNBOUNDED,
            State::Down | State::Refill | State::Up => self.bounds.long_term,
            State::Cruise | State::ProbeRtt { .. } => self.bounds.with_headroom(window),
        };
        long_term.min(self.bounds.short_term.1)
    }

    /// Section 5.6.4.2.
    fn max_in_flight(&self, window: &Window) -> u64 {
        let path = self.model.bdp(window, self.state.window_gain());
        self.quantized(window, path.saturating_add(self.model.extra_acked()))
    }

    /// What is in flight at `gain` times what the path holds.
    fn in_flight_for(&self, window: &Window, gain: f64) -> u64 {
        self.quantized(window, self.model.bdp(window, gain))
    }

    fn quantized(&self, window: &Window, bytes: u64) -> u64 {
        let budget = 3 * quantum(self.pacing.unwrap_or(0.0), window.mss);
        let probe = if self.state == State::Up { 2 * window.mss } else { 0 };
        bytes.max(budget).max(SEGMENTS_LEAST * window.mss) + probe
    }

    /// Section 5.6.4.4.
    fn save_window(&mut self, window: &Window, recovering: bool) {
        let held_down = recovering || matches!(self.state, State::ProbeRtt { .. });
        let before = if held_down { self.window_before } else { 0 };
        self.window_before = before.max(window.size);
    }

    /// The first loss of a round trip (section 5.5.10.3).
    fn note_loss(&mut self, window: &Window) {
        if !self.bounds.lost_in_round {
            self.bounds.round_ends_at = self.model.delivered;
            self.save_state(window);
        }
        self.bounds.lost_in_round = true;
    }

    fn save_state(&mut self, window: &Window) {
        self.save_window(window, self.bounds.undo.is_some());
        self.bounds.undo = Some(Undo {
            state: None,
            short_term: self.bounds.short_term,
            long_term: self.bounds.long_term,
        });
    }
}

impl Control for Bbr {
    fn acknowledged(&mut self, _window: &mut Window, _ack: &Ack) {}

    /// Section 5.2.3.
    fn sampled(&mut self, window: &mut Window, sample: &Sample) {
        self.bounds.update_latest(sample);
        self.model.update_bandwidth(sample, &mut self.cycle.rounds);
        if self.bounds.round_start {
            if !self.state.probes() && self.bounds.lost_in_round {
                self.bounds.adapt_short_term(self.model.max_bandwidth(), window);
            }
            self.bounds.lost_in_round = false;
        }
        self.model.update_aggregation(sample, window);
        self.model.check_full(sample);
        self.check_startup(window, sample);
        self.check_drain(window, sample);
        self.update_cycle(window, sample);
        self.model.update_round_trip(sample);
        self.check_probe_rtt(window, sample);
        self.bounds.advance_latest(sample);
        self.model.bandwidth = self.model.max_bandwidth().min(self.bounds.short_term.0);
        self.set_pace(window, sample);
        self.set_window(window, sample);
    }

    fn congested(&mut self, _now: Instant, window: &Window, cause: Cause) -> Option<u64> {
        match cause {
            Cause::Loss => self.save_state(window),
            // The draft leaves marks open; here they bound the model as losses do.
            Cause::Mark => self.note_loss(window),
        }
        None
    }

    fn timed_out(&mut self, window: &Window) -> Option<u64> {
        self.save_state(window);
        None
    }

    /// Section 5.5.10.3.
    fn lost(&mut self, window: &Window, loss: &Loss) {
        self.note_loss(window);
        if self.cycle.takes_samples() && bounds::is_too_high(&loss.rate, loss.sack) {
            let crossing = bounds::at_crossing(&loss.rate, loss.bytes);
            self.in_flight_was_too_high(loss.now, window, &crossing);
        }
    }

    fn recovered(&mut self, window: &mut Window) {
        window.size = window.size.max(self.window_before);
    }

    /// Section 5.5.11.
    fn undone(&mut self, window: &mut Window) {
        window.size = window.size.max(self.window_before);
        self.bounds.lost_in_round = false;
        self.model.look_for_full_again();
        let Some(undo) = self.bounds.undo.take() else { return };
        let Bounds { short_term, long_term, .. } = &mut self.bounds;
        *short_term = (short_term.0.max(undo.short_term.0), short_term.1.max(undo.short_term.1));
        *long_term = (*long_term).max(undo.long_term);
        let pausing = matches!(self.state, State::ProbeRtt { .. });
        match undo.state {
            Some(State::Startup) if self.state != State::Startup => {
                self.model.full = false;
                if !pausing {
                    self.state = State::Startup;
                }
            }
            Some(State::Up) if self.state != State::Up && !pausing => {
                self.start_refill(self.model.delivered);
            }
            _ => {}
        }
    }

    /// Section 5.4.1.
    fn resumed(&mut self, now: Instant, window: &mut Window) {
        self.resumed = true;
        self.model.restart_aggregation(now);
        if self.state.is_cycle() {
            if self.model.bandwidth > 0.0 {
                self.pacing = Some(self.model.bandwidth * PACING_MARGIN);
            }
        } else {
            self.end_probe_rtt(now, self.model.delivered, window);
        }
    }
}

/// Bytes that go out at once at a rate: those of a millisecond, within bounds (section 5.6.3).
pub(in super::super) fn quantum(rate: f64, mss: u64) -> u64 {
    ((rate / 1000.0) as u64).min(QUANTUM_MAX).max(2 * mss)
}
