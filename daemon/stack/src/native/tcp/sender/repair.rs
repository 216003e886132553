//! What to do about loss: to find it, to repair it, and to take back what was needless.
//!
//! Owns: the phases of repair. Called for each acknowledgement and when a timer is due. Must never:
//! reduce the window twice for one loss.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::time::Duration;

use dmm_port::Instant;

use super::{Acknowledgement, Sender, Timer, millis};
use crate::native::congestion::{Cause, Loss, Window, slow_start};
use crate::native::tcp::scoreboard::Delivered;

/// Duplicate acknowledgements that show a loss to a peer without SACK (RFC 5681 section 3.2).
const DUPLICATES: u32 = 3;

/// Whether loss is being repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// It is not.
    Open,
    /// By retransmissions in proportion to what arrives (RFC 6937), or as a model of the path has it.
    Recovery(Option<Reduction>),
    /// From the beginning, after a timeout.
    Timeout(Forward),
}

/// Proportional rate reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reduction {
    /// The window when it began.
    pub(super) flight: u64,
    pub(super) delivered: u64,
    pub(super) out: u64,
}

/// F-RTO (RFC 5682): whether the timeout was needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Forward {
    /// It was, or it cannot be told.
    Off,
    /// The first segment was sent again.
    First,
    /// An acknowledgement came, and new segments were sent.
    New,
}

/// A tail probe under way.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Probe {
    /// What was sent when it was.
    pub(super) end: u64,
    /// It was a retransmission.
    pub(super) again: bool,
    pub(super) sent_at: Instant,
}

/// What to take back if a loss was none.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Undo {
    pub(super) window: Window,
    /// Retransmissions that may still prove needless.
    pub(super) pending: u32,
}

impl Sender {
    /// A segment arrived twice (RFC 2883): perhaps all retransmissions were needless.
    pub(super) fn received_twice(&mut self, now: Instant) {
        self.board.widen(self.una, self.next);
        let Some(undo) = &mut self.undo else { return };
        undo.pending = undo.pending.saturating_sub(1);
        if undo.pending == 0 {
            self.take_back(now);
        }
    }

    /// Whether the first of what was taken for lost arrived by its first sending.
    pub(super) fn detect_needless(
        &mut self,
        now: Instant,
        ack: &Acknowledgement<'_>,
        (progress, delivered): (bool, &Delivered),
    ) {
        let Some(undo) = self.undo else { return };
        if undo.pending == 0 {
            return;
        }
        // RFC 3522: what is acknowledged was sent before the retransmission. What is received out of order
        // has the echo of what came in order before.
        let early = progress && self.is_before_repair(ack);
        let forward = match self.phase {
            // RFC 5682 section 3.1: data that was sent before the timeout alone.
            Phase::Timeout(Forward::First | Forward::New) if self.sack => delivered.once > 0,
            // Section 2.1: the second acknowledgement that gets on.
            Phase::Timeout(Forward::New) => true,
            _ => false,
        };
        if early || forward {
            self.take_back(now);
        }
    }

    /// Whether an acknowledgement answers what was sent before all that is being sent again.
    fn is_before_repair(&self, ack: &Acknowledgement<'_>) -> bool {
        let (Some(echo), Some(since)) = (ack.echo, self.again_since) else { return false };
        millis(echo) < millis(since)
    }

    /// Takes a reduction back.
    pub(super) fn take_back(&mut self, now: Instant) {
        let Some(undo) = self.undo.take() else { return };
        self.repairs.undone += 1;
        self.window.size = self.window.size.max(undo.window.size);
        self.window.threshold = undo.window.threshold;
        self.control.control().undone(&mut self.window);
        self.board.lose_nothing();
        self.board.overtaken();
        self.rtt.progress();
        self.phase = Phase::Open;
        self.set_timer(now, true);
    }

    /// RFC 8985 section 7.4.
    pub(super) fn end_probe(&mut self, now: Instant, ack: &Acknowledgement<'_>, twice: bool) {
        let Some(probe) = self.probing else { return };
        // The original arrived if the probe arrived as well, or if an older segment is answered.
        let needless = !probe.again
            || twice
            || ack.echo.is_some_and(|echo| millis(echo) < millis(probe.sent_at));
        if ack.position > probe.end && !needless {
            // Both are acknowledged by now: one of them was lost.
            self.probing = None;
            if self.phase == Phase::Open
                && let Some(threshold) =
                    self.control.control().congested(now, &self.window, Cause::Loss)
            {
                (self.window.size, self.window.threshold) = (threshold, threshold);
            }
        } else if ack.position >= probe.end && (needless || ack.bare && self.duplicates > 0) {
            self.probing = None;
        }
    }

    /// Looks for what is lost. Returns whether there was something.
    pub(super) fn detect_loss(
        &mut self,
        now: Instant,
        progress: bool,
        times: (Option<Duration>, Option<Duration>),
    ) -> bool {
        let lost = self.find_lost(now, progress, times) && !self.lost_probe_alone(now);
        if lost {
            let Self { board, sampler, control, window, sack, .. } = self;
            board.tell_lost(|bytes, snapshot| {
                sampler.lose(bytes);
                let rate = sampler.at_loss(snapshot);
                control.control().lost(window, &Loss { now, bytes, rate, sack: *sack });
            });
        }
        lost
    }

    fn find_lost(
        &mut self,
        now: Instant,
        progress: bool,
        times: (Option<Duration>, Option<Duration>),
    ) -> bool {
        if !self.sack {
            // RFC 6582 section 3.2.
            let shown = match self.phase {
                Phase::Open => self.duplicates == DUPLICATES && self.una >= self.recover,
                Phase::Recovery(_) => progress && self.una < self.recover,
                Phase::Timeout(_) => false,
            };
            return shown && self.board.lose_first();
        }
        if !self.features.rack {
            return self.board.detect_by_count();
        }
        let (lost, look_at) = self.board.detect(now, self.phase != Phase::Open, times);
        if let Some(at) = look_at {
            self.timer = Some((at, Timer::Reorder));
        } else if self.timer.is_some_and(|(_, timer)| timer == Timer::Reorder) {
            self.timer = None;
        }
        lost > 0
    }

    /// The peer's acknowledgements say that its packets met congestion: the window becomes smaller, once a
    /// round trip (RFC 3168 section 6.1.2). Returns whether it did.
    pub(in crate::native::tcp) fn congested(&mut self, now: Instant) -> bool {
        if self.phase != Phase::Open || self.una < self.reduced_until {
            return false;
        }
        self.reduced_until = self.next;
        if let Some(threshold) = self.control.control().congested(now, &self.window, Cause::Mark) {
            self.window.threshold = threshold;
            self.window.size = self.window.size.min(threshold);
        }
        true
    }

    /// Moves between the phases of repair, and shares out what may be sent in recovery.
    pub(super) fn advance_phase(
        &mut self,
        now: Instant,
        ack: &Acknowledgement<'_>,
        before: u64,
        delivered: Delivered,
        lost: bool,
    ) {
        if self.phase != Phase::Open && self.una >= self.recover {
            self.recovered();
        }
        match self.phase {
            Phase::Open if lost => self.begin_recovery(now, delivered.bytes),
            Phase::Open => {
                // Nothing that was undone is still out.
                if self.undo.is_some() && self.board.is_empty() {
                    self.undo = None;
                }
            }
            Phase::Recovery(None) => {}
            Phase::Recovery(Some(mut reduction)) => {
                self.reduce(&mut reduction, delivered.bytes, ack.position > before && !lost);
                self.phase = Phase::Recovery(Some(reduction));
            }
            Phase::Timeout(forward) => {
                let advanced = self.una > before;
                let next = match forward {
                    Forward::First if advanced => Forward::New,
                    Forward::First | Forward::New if !advanced && ack.bare => Forward::Off,
                    Forward::New if advanced => Forward::Off,
                    other => other,
                };
                self.phase = Phase::Timeout(next);
                if advanced && !self.control.is_model() {
                    slow_start(&mut self.window, delivered.bytes);
                }
            }
        }
    }

    /// Begins to repair a loss; what showed it reported `delivered` bytes.
    pub(super) fn begin_recovery(&mut self, now: Instant, delivered: u64) {
        self.repairs.recoveries += 1;
        self.undo = Some(Undo { window: self.window, pending: 0 });
        self.recover = self.next;
        let threshold = self.control.control().congested(now, &self.window, Cause::Loss);
        let Some(threshold) = threshold else {
            self.phase = Phase::Recovery(None);
            return;
        };
        self.window.threshold = threshold;
        let flight = self.window.size;
        let mut reduction = Reduction { flight, delivered: 0, out: 0 };
        self.reduce(&mut reduction, delivered, false);
        self.phase = Phase::Recovery(Some(reduction));
    }

    /// RFC 6937 section 3, with the bound of its successor: slow start where acknowledgements get on.
    pub(super) fn reduce(&mut self, reduction: &mut Reduction, delivered: u64, safe: bool) {
        if !self.features.prr {
            self.window.size = self.window.threshold;
            return;
        }
        reduction.delivered += delivered;
        let (pipe, threshold) = (self.flying(), self.window.threshold.min(u64::MAX / 2));
        let share = if pipe > threshold {
            let wide = u128::from(reduction.delivered) * u128::from(threshold);
            let due = wide.div_ceil(u128::from(reduction.flight.max(1)));
            u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(reduction.out)
        } else {
            let mut limit = reduction.delivered.saturating_sub(reduction.out).max(delivered);
            if safe {
                limit += self.mss;
            }
            limit.min(threshold - pipe)
        };
        // The first retransmission goes out in any case.
        let share = if reduction.out == 0 { share.max(self.mss) } else { share };
        self.window.size = pipe + share;
    }

    pub(super) fn recovered(&mut self) {
        match self.phase {
            Phase::Recovery(Some(_)) => self.window.size = self.window.threshold,
            _ => self.control.control().recovered(&mut self.window),
        }
        self.board.recovered();
        self.phase = Phase::Open;
        self.duplicates = 0;
    }

    /// RFC 6298 section 5, RFC 5682 section 2.
    pub(super) fn time_out(&mut self) {
        if self.board.is_empty() {
            return;
        }
        self.repairs.timeouts += 1;
        self.syn_timeouts = self.syn_timeouts.saturating_add(u8::from(self.una == 0));
        let (open, first) = (self.phase == Phase::Open, !matches!(self.phase, Phase::Timeout(_)));
        if first {
            self.undo = Some(Undo { window: self.window, pending: 0 });
            if let Some(threshold) = self.control.control().timed_out(&self.window) {
                self.window.threshold = threshold;
            }
        }
        let doubled = self.rtt.doubled();
        self.rtt.double();
        self.suspect_length(doubled);
        self.window.size = self.mss;
        let lost_before = self.board.lost_bytes();
        self.board.lose_all(doubled > 0);
        self.sampler.lose(self.board.lost_bytes() - lost_before);
        self.recover = self.next;
        self.duplicates = 0;
        self.probing = None;
        let tell = self.features.frto && open && doubled == 0 && self.una > 0;
        self.phase = Phase::Timeout(if tell { Forward::First } else { Forward::Off });
    }
}
