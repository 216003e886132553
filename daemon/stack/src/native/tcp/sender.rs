//! The sending half of a connection: what is under way, what may follow, and what to do about loss.
//!
//! Owns: the tx FIFO, the scoreboard, the windows of the peer and of congestion control, and the
//! timers of retransmission. Called for each acknowledgement, for each segment to be sent, and when a
//! timer is due. Must never: let go of a byte that is not acknowledged.
//!
//! ```text
//!   FIFO head = base      una          nxt            written
//!      ────┴──────────────┴── under way ┴── not sent ────┴──▶ positions
//! ```
#![forbid(unsafe_code)]

use std::time::Duration;

use dmm_port::Instant;
use dmm_proto::Breach;
use dmm_proto::fifo::TxFifo;

use super::position::{number, position};
use super::rtt::Rtt;
use super::scoreboard::{Delivered, Scoreboard};
use crate::native::congestion::{Ack, Algorithm, Control, Window, slow_start};

/// Duplicate acknowledgements that show a loss to a peer without SACK (RFC 5681 section 3.2).
const DUPLICATES: u32 = 3;
/// How long a peer may hold an acknowledgement back (RFC 8985 section 7.2, WCDelAckT).
const ACK_DELAY_MAX: Duration = Duration::from_millis(200);
/// Least time before a tail is probed.
const PROBE_MIN: Duration = Duration::from_millis(2);
/// How long a short segment waits for the window to open (RFC 9293 section 3.8.6.2.1).
const OVERRIDE: Duration = Duration::from_millis(200);

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    /// Nothing was acknowledged for too long (RFC 6298).
    Retransmit,
    /// The tail may be lost (RFC 8985 section 7).
    Probe,
    /// A segment may be late rather than lost (RFC 8985 section 6.3).
    Reorder,
    /// The peer's window is closed (RFC 9293 section 3.8.6.1), or too small for a full segment.
    Persist,
}

/// Whether loss is being repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It is not.
    Open,
    /// By retransmissions in proportion to what arrives (RFC 6937).
    Recovery(Reduction),
    /// From the beginning, after a timeout.
    Timeout(Forward),
}

/// Proportional rate reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reduction {
    /// In flight when it began.
    flight: u64,
    delivered: u64,
    out: u64,
}

/// F-RTO (RFC 5682): whether the timeout was needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forward {
    /// It was, or it cannot be told.
    Off,
    /// The first segment was sent again.
    First,
    /// An acknowledgement came, and new segments were sent.
    New,
}

/// A tail probe under way.
#[derive(Clone, Copy, Debug)]
struct Probe {
    /// What was sent when it was.
    end: u64,
    /// It was a retransmission.
    again: bool,
    sent_at: Instant,
}

/// What to take back if a loss was none.
#[derive(Clone, Copy, Debug)]
struct Undo {
    window: Window,
    /// When the first retransmission was sent.
    since: Instant,
    /// Retransmissions that may still prove needless.
    pending: u32,
}

/// A segment to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its first position.
    pub(super) start: u64,
    /// Bytes of payload.
    pub(super) len: usize,
    /// It opens the connection.
    pub(super) syn: bool,
    /// It ends the stream.
    pub(super) fin: bool,
    /// It ends what was written.
    pub(super) push: bool,
    again: bool,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.len as u64 + u64::from(self.syn) + u64::from(self.fin)
    }
}

/// What an acknowledging segment says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledgement<'a> {
    /// The position acknowledged.
    pub(super) position: u64,
    /// Where the segment stands in the peer's stream.
    pub(super) sequence: u64,
    /// The peer's window, as it stands in the header.
    pub(super) window: u16,
    /// Ranges received out of order, or twice.
    pub(super) sacks: &'a [(u32, u32)],
    /// When what it answers was sent, by its timestamp.
    pub(super) echo: Option<Instant>,
    /// It holds nothing else: no payload, no SYN, no FIN.
    pub(super) bare: bool,
}

/// What it brought about.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Acknowledged {
    /// Something new was acknowledged.
    pub(super) progress: bool,
    /// Bytes of the FIFO were let go of.
    pub(super) freed: bool,
}

/// Counts that a stack sums up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Repairs {
    /// Segments sent again.
    pub(in super::super) again: u64,
    /// Retransmission timeouts.
    pub(in super::super) timeouts: u64,
    /// Recoveries by acknowledgements.
    pub(in super::super) recoveries: u64,
    /// Probes of the tail.
    pub(in super::super) probes: u64,
    /// Losses that proved to be none.
    pub(in super::super) undone: u64,
}

/// The sending half.
pub(in super::super) struct Sender {
    /// The number of our SYN.
    pub(super) initial: u32,
    /// The first position not acknowledged.
    pub(super) una: u64,
    /// The next to be sent for the first time.
    pub(super) next: u64,
    /// Where bytes come from, once there is an owner.
    pub(super) fifo: Option<TxFifo>,
    /// The position of the FIFO's head.
    base: u64,
    /// End the stream behind the last byte.
    pub(super) finishing: bool,
    /// The position behind the last that the peer has room for.
    right: u64,
    /// What the peer's window was last taken from: its position, and what it acknowledged.
    window_of: (u64, u64),
    window_max: u64,
    /// By how many bits the peer's windows are shifted.
    pub(super) shift: u8,
    /// Payload bytes of a full segment.
    mss: u64,
    /// The peer tells what it received out of order.
    pub(super) sack: bool,
    /// Short segments do not wait.
    pub(super) no_delay: bool,
    board: Scoreboard,
    pub(super) rtt: Rtt,
    window: Window,
    control: Algorithm,
    phase: Phase,
    /// What was sent before the loss that is being repaired.
    recover: u64,
    undo: Option<Undo>,
    duplicates: u32,
    timer: Option<(Instant, Timer)>,
    /// A tail probe is out.
    probing: Option<Probe>,
    /// Send one segment whatever the windows say.
    forced: Option<Timer>,
    /// When something was sent last.
    sent_at: Instant,
    /// The window was what held the sender back.
    limited: bool,
    repairs: Repairs,
}

impl Sender {
    /// A sender that has sent nothing.
    pub(super) fn new(
        now: Instant,
        initial: u32,
        fifo: Option<TxFifo>,
        mss: u64,
        control: Algorithm,
    ) -> Self {
        Self {
            initial,
            una: 0,
            next: 0,
            fifo,
            base: 1,
            finishing: false,
            right: 1,
            window_of: (0, 0),
            window_max: 0,
            shift: 0,
            mss,
            sack: false,
            no_delay: false,
            board: Scoreboard::default(),
            rtt: Rtt::new(),
            window: Window::initial(mss),
            control,
            phase: Phase::Open,
            recover: 0,
            undo: None,
            duplicates: 0,
            timer: None,
            probing: None,
            forced: None,
            sent_at: now,
            limited: false,
            repairs: Repairs::default(),
        }
    }

    /// The peer's SYN was taken: payload bytes of a full segment are known.
    pub(super) fn synchronized(&mut self, mss: u64) {
        self.mss = mss;
        let size = if self.repairs.timeouts > 0 {
            // RFC 6928 section 2: a lost SYN makes for a window of one.
            mss
        } else {
            Window::initial(mss).size
        };
        self.window = Window { size, threshold: u64::MAX, mss };
    }

    /// Payload bytes of a full segment.
    pub(super) const fn mss(&self) -> u64 {
        self.mss
    }

    /// The number of the next segment.
    pub(super) const fn number(&self, at: u64) -> u32 {
        number(self.initial, at)
    }

    /// The position that an acknowledgement stands for.
    pub(super) fn position(&self, acknowledgement: u32) -> Option<u64> {
        position(self.initial, self.una, acknowledgement)
    }

    /// The position behind the last byte written.
    fn written(&self) -> u64 {
        self.base + self.queued()
    }

    /// Bytes written and not acknowledged.
    pub(super) fn queued(&self) -> u64 {
        self.fifo.as_ref().map_or(0, TxFifo::queued)
    }

    /// Whether our FIN was sent.
    fn fin_sent(&self) -> bool {
        self.finishing && self.next > self.written()
    }

    /// Whether everything, the FIN included, is acknowledged.
    pub(super) fn is_done(&self) -> bool {
        self.fin_sent() && self.una == self.next
    }

    /// Whether something waits to be sent or acknowledged.
    pub(super) fn is_busy(&self) -> bool {
        self.una < self.next || self.queued() > 0 || (self.finishing && !self.is_done())
    }

    /// Bytes that the peer has room for from `una` on.
    pub(super) const fn peer_window(&self) -> u64 {
        self.right.saturating_sub(self.una)
    }

    /// The largest window that the peer ever had.
    pub(super) const fn window_max(&self) -> u64 {
        self.window_max
    }

    /// What was counted since the last call.
    pub(super) fn take_repairs(&mut self) -> Repairs {
        std::mem::take(&mut self.repairs)
    }

    /// Looks at how far the writer is.
    pub(super) fn refresh(&mut self) -> Result<(), Breach> {
        self.fifo.as_mut().map_or(Ok(()), TxFifo::refresh)
    }

    /// Takes the peer's window from its SYN, which is not shifted.
    pub(super) fn first_window(&mut self, sequence: u64, window: u16) {
        self.right = self.una.max(1) + u64::from(window);
        self.window_max = u64::from(window);
        self.window_of = (sequence, self.una);
    }

    /// Takes an acknowledgement, which is not beyond what was sent.
    pub(super) fn acknowledge(&mut self, now: Instant, ack: &Acknowledgement<'_>) -> Acknowledged {
        let mut outcome = Acknowledged::default();
        let before = self.una;
        let window_moved = self.take_window(ack);
        let (least, smoothed) = (self.rtt.least(), self.rtt.smoothed());
        let mut delivered = Delivered::default();
        let flight = self.flying();
        let mut twice = false;
        for (first, last) in ack.sacks {
            let (Some(start), Some(end)) = (self.position(*first), self.position(*last)) else {
                continue;
            };
            // RFC 2883: what is below the acknowledgement was received twice.
            if start < end && end <= ack.position {
                twice = true;
            } else if ack.position <= start && start < end && end <= self.next {
                self.board.sack(now, (start, end), least, &mut delivered);
            }
        }
        if ack.position > self.una {
            self.board.acknowledge(now, ack.position, least, &mut delivered);
            self.una = ack.position;
            outcome.progress = true;
            outcome.freed = self.let_go();
            self.duplicates = 0;
        } else if ack.bare && !window_moved && self.una < self.next && !self.is_probing_window() {
            self.duplicates += 1;
        }
        self.right = self.right.max(self.una);
        self.measure(now, ack, &delivered);
        if twice {
            self.received_twice(now);
        }
        if outcome.progress {
            self.rtt.progress();
        }
        if outcome.progress || delivered.once > 0 {
            self.detect_needless(now, ack, &delivered);
        }
        self.end_probe(now, ack, twice);
        let lost = self.detect_loss(now, outcome.progress, (least, smoothed));
        self.advance_phase(now, ack, before, delivered, lost);
        if outcome.progress
            && self.phase == Phase::Open
            && (self.limited || flight >= self.window.size)
        {
            let ack = Ack {
                now,
                bytes: delivered.bytes,
                rtt: delivered.rtt,
                smoothed: self.rtt.smoothed(),
                una: self.una,
                next: self.next,
            };
            self.control.acknowledged(&mut self.window, &ack);
        }
        self.set_timer(now, outcome.progress || delivered.bytes > 0);
        outcome
    }

    /// Bytes in flight. Without SACK each duplicate acknowledgement is a segment that left the network.
    fn flying(&self) -> u64 {
        let flying = self.board.flying();
        let left = if self.sack { 0 } else { u64::from(self.duplicates) * self.mss };
        flying.saturating_sub(left)
    }

    fn is_probing_window(&self) -> bool {
        self.timer.is_some_and(|(_, timer)| timer == Timer::Persist)
    }

    /// RFC 9293 section 3.10.7.4: the newest segment's window counts.
    fn take_window(&mut self, ack: &Acknowledgement<'_>) -> bool {
        if (ack.sequence, ack.position) < self.window_of || ack.position < self.una {
            return false;
        }
        let window = u64::from(ack.window) << self.shift;
        let right = ack.position + window;
        let moved = right != self.right;
        self.right = right;
        self.window_of = (ack.sequence, ack.position);
        self.window_max = self.window_max.max(window);
        if window > 0 && self.timer.is_some_and(|(_, timer)| timer == Timer::Persist) {
            (self.timer, self.forced) = (None, None);
            self.rtt.progress();
        }
        moved
    }

    /// Lets go of what is acknowledged. Returns whether that were bytes of the FIFO.
    fn let_go(&mut self) -> bool {
        let written = self.written();
        let Some(fifo) = &mut self.fifo else { return false };
        let bytes = self.una.min(written).saturating_sub(self.base);
        if bytes > 0 {
            fifo.consume(usize::try_from(bytes).expect("a FIFO's capacity has 32 bits"));
            self.base += bytes;
        }
        bytes > 0
    }

    fn measure(&mut self, now: Instant, ack: &Acknowledgement<'_>, delivered: &Delivered) {
        // Karn's rule (RFC 6298 section 3): of what was sent once only, or by timestamps.
        let sample = match (delivered.rtt, ack.echo) {
            (Some(rtt), _) => Some(rtt),
            (None, Some(echo)) if delivered.bytes > 0 => Some(now.since(echo)),
            _ => None,
        };
        if let Some(sample) = sample {
            self.rtt.sample(now, sample.max(Duration::from_micros(1)));
        }
    }

    /// A segment arrived twice (RFC 2883): perhaps all retransmissions were needless.
    fn received_twice(&mut self, now: Instant) {
        self.board.widen(self.una, self.next);
        let Some(undo) = &mut self.undo else { return };
        undo.pending = undo.pending.saturating_sub(1);
        if undo.pending == 0 {
            self.take_back(now);
        }
    }

    /// Whether the first of what was taken for lost arrived by its first sending.
    fn detect_needless(&mut self, now: Instant, ack: &Acknowledgement<'_>, delivered: &Delivered) {
        let Some(undo) = self.undo else { return };
        if undo.pending == 0 {
            return;
        }
        // RFC 3522: what is acknowledged was sent before the retransmission.
        let early = ack.echo.is_some_and(|echo| millis(echo) < millis(undo.since));
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

    /// Takes a reduction back.
    fn take_back(&mut self, now: Instant) {
        let Some(undo) = self.undo.take() else { return };
        self.repairs.undone += 1;
        self.window.size = self.window.size.max(undo.window.size);
        self.window.threshold = undo.window.threshold;
        self.control.undone();
        self.board.lose_nothing();
        self.rtt.progress();
        self.phase = Phase::Open;
        self.set_timer(now, true);
    }

    /// RFC 8985 section 7.4.
    fn end_probe(&mut self, now: Instant, ack: &Acknowledgement<'_>, twice: bool) {
        let Some(probe) = self.probing else { return };
        // The original arrived if the probe arrived as well, or if an older segment is answered.
        let needless = !probe.again
            || twice
            || ack.echo.is_some_and(|echo| millis(echo) < millis(probe.sent_at));
        if ack.position > probe.end && !needless {
            // Both are acknowledged by now: one of them was lost.
            self.probing = None;
            if self.phase == Phase::Open {
                self.window.threshold = self.control.congested(now, &self.window);
                self.window.size = self.window.threshold;
            }
        } else if ack.position >= probe.end && (needless || ack.bare && self.duplicates > 0) {
            self.probing = None;
        }
    }

    fn detect_loss(
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
        let (lost, look_at) = self.board.detect(now, self.phase != Phase::Open, times);
        if let Some(at) = look_at {
            self.timer = Some((at, Timer::Reorder));
        } else if self.timer.is_some_and(|(_, timer)| timer == Timer::Reorder) {
            self.timer = None;
        }
        lost > 0
    }

    /// Moves between the phases of repair, and shares out what may be sent in recovery.
    fn advance_phase(
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
            Phase::Open if lost => self.begin_recovery(now),
            Phase::Open => {
                // Nothing that was undone is still out.
                if self.undo.is_some() && self.board.is_empty() {
                    self.undo = None;
                }
            }
            Phase::Recovery(mut reduction) => {
                self.reduce(&mut reduction, delivered.bytes, ack.position > before && !lost);
                self.phase = Phase::Recovery(reduction);
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
                if advanced {
                    slow_start(&mut self.window, delivered.bytes);
                }
            }
        }
    }

    fn begin_recovery(&mut self, now: Instant) {
        self.repairs.recoveries += 1;
        self.undo = Some(Undo { window: self.window, since: now, pending: 0 });
        self.window.threshold = self.control.congested(now, &self.window);
        self.recover = self.next;
        let flight = self.next - self.una;
        let mut reduction = Reduction { flight, delivered: 0, out: 0 };
        self.reduce(&mut reduction, self.mss, true);
        self.phase = Phase::Recovery(reduction);
    }

    /// RFC 6937 section 3, with the bound of its successor: slow start where acknowledgements get on.
    fn reduce(&mut self, reduction: &mut Reduction, delivered: u64, safe: bool) {
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

    fn recovered(&mut self) {
        if matches!(self.phase, Phase::Recovery(_)) {
            self.window.size = self.window.threshold;
        }
        self.board.recovered();
        self.phase = Phase::Open;
        self.duplicates = 0;
    }

    /// Does what a timer that is due asks for.
    pub(super) fn expire(&mut self, now: Instant) {
        let Some((at, timer)) = self.timer else { return };
        if at > now {
            return;
        }
        self.timer = None;
        match timer {
            Timer::Retransmit => self.time_out(now),
            Timer::Probe => {
                self.repairs.probes += 1;
                self.forced = Some(Timer::Probe);
            }
            Timer::Reorder => {
                let times = (self.rtt.least(), self.rtt.smoothed());
                if self.detect_loss(now, false, times) && self.phase == Phase::Open {
                    self.begin_recovery(now);
                }
                self.set_timer(now, false);
            }
            Timer::Persist => {
                self.rtt.double();
                self.forced = Some(Timer::Persist);
            }
        }
    }

    /// RFC 6298 section 5, RFC 5682 section 2.
    fn time_out(&mut self, now: Instant) {
        if self.board.is_empty() {
            return;
        }
        self.repairs.timeouts += 1;
        let (open, first) = (self.phase == Phase::Open, !matches!(self.phase, Phase::Timeout(_)));
        if first {
            self.undo = Some(Undo { window: self.window, since: now, pending: 0 });
            self.window.threshold = self.control.timed_out(&self.window);
        }
        let doubled = self.rtt.doubled();
        self.rtt.double();
        self.window.size = self.mss;
        self.board.lose_all(doubled > 0);
        self.recover = self.next;
        self.duplicates = 0;
        self.probing = None;
        let tell = open && doubled == 0 && self.una > 0;
        self.phase = Phase::Timeout(if tell { Forward::First } else { Forward::Off });
    }

    /// When a timer is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timer.map(|(at, _)| at)
    }

    /// Sets the timer for what is under way. With `anew`, time begins to count now.
    fn set_timer(&mut self, now: Instant, anew: bool) {
        if self.board.is_empty() {
            if self.timer.is_some_and(|(_, timer)| timer != Timer::Persist) {
                self.timer = None;
            }
            return;
        }
        if self.timer.is_some_and(|(_, timer)| timer == Timer::Reorder) {
            return;
        }
        if self.timer.is_some() && !anew {
            return;
        }
        let timeout = now + self.rtt.timeout();
        let tail = self.probe_after().map(|after| now + after).filter(|at| *at < timeout);
        self.timer = Some(match tail {
            Some(at) => (at, Timer::Probe),
            None => (timeout, Timer::Retransmit),
        });
    }

    /// RFC 8985 section 7.2.
    fn probe_after(&self) -> Option<Duration> {
        let plain = self.sack
            && self.phase == Phase::Open
            && self.probing.is_none()
            && !self.board.has_sacked()
            && self.una > 0;
        if !plain {
            return None;
        }
        let smoothed = self.rtt.smoothed()?;
        let delay = if self.board.len() == 1 { ACK_DELAY_MAX } else { Duration::ZERO };
        Some((smoothed * 2 + delay).max(PROBE_MIN))
    }

    /// What to send next, if anything. Nothing has changed until [`Sender::sent`].
    pub(super) fn next_piece(&self, open: bool) -> Option<Piece> {
        if !open {
            return self.opening();
        }
        if let Some(forced) = self.forced {
            return self.forced_piece(forced);
        }
        let Some(lost) = self.board.first_lost() else { return self.new_piece() };
        let len = (lost.end - lost.start).min(self.mss);
        let fits = self.flying() == 0 || self.flying() + len <= self.window.size;
        let wait = match self.phase {
            Phase::Timeout(Forward::First) => lost.start > self.una,
            // RFC 5682 section 2.1: new data, if there is any that the peer has room for.
            Phase::Timeout(Forward::New) if self.next < self.written().min(self.right) => {
                return self.new_piece();
            }
            _ => false,
        };
        (fits && !wait).then(|| self.piece(lost.start, lost.end - lost.start, true))
    }

    fn opening(&self) -> Option<Piece> {
        let again = self.next > 0;
        let due = !again || self.board.first_lost().is_some() || self.forced.is_some();
        let syn = Piece { start: 0, len: 0, syn: true, fin: false, push: false, again };
        due.then_some(syn)
    }

    fn new_piece(&self) -> Option<Piece> {
        let written = self.written();
        let unsent = written.saturating_sub(self.next);
        let fin_due = self.finishing && self.next <= written;
        if unsent == 0 && !fin_due {
            return None;
        }
        let flying = self.flying();
        let room = self.window.size.saturating_sub(flying);
        let window = self.right.saturating_sub(self.next);
        if unsent == 0 {
            // A FIN alone needs no window of the peer's, and no more of ours than there is.
            return (room > 0 || flying == 0).then(|| self.piece(self.next, 0, false));
        }
        let len = unsent.min(self.mss).min(window);
        if len == 0 || (room < len && flying > 0) {
            return None;
        }
        let whole = len == unsent;
        let held = if len == self.mss || (whole && fin_due) {
            false
        } else if !whole {
            // RFC 9293 section 3.8.6.2.1: the window cuts it short.
            len < self.window_max / 2
        } else {
            // Nagle (RFC 9293 section 3.7.4), as far as what is under way is short (Minshall).
            !self.no_delay && self.next > self.una
        };
        (!held).then(|| self.piece(self.next, len, false))
    }

    fn forced_piece(&self, forced: Timer) -> Option<Piece> {
        let written = self.written();
        let unsent = written.saturating_sub(self.next);
        match forced {
            Timer::Probe => {
                let window = self.right.saturating_sub(self.next);
                let len = unsent.min(self.mss).min(window);
                if len > 0 {
                    return Some(self.piece(self.next, len, false));
                }
                let last = self.board.last_unsacked()?;
                let start = last.start.max(last.end.saturating_sub(self.mss));
                Some(self.piece(start, last.end - start, true))
            }
            _ if self.una < self.next => {
                let first = self.board.first()?;
                Some(self.piece(first.start, (first.end - first.start).min(self.mss), true))
            }
            // A byte beyond the window, or as much as fits into it.
            _ if unsent > 0 => {
                let window = self.right.saturating_sub(self.next).max(1);
                Some(self.piece(self.next, unsent.min(self.mss).min(window), false))
            }
            _ => (self.finishing && self.next == written).then(|| self.piece(self.next, 0, false)),
        }
    }

    /// `numbers` positions from `start` on, as a segment.
    fn piece(&self, start: u64, numbers: u64, again: bool) -> Piece {
        let written = self.written();
        let syn = start == 0;
        let end = (start + numbers).min(start + self.mss + u64::from(syn));
        let first_byte = start + u64::from(syn);
        let len = end.min(written).saturating_sub(first_byte);
        let behind = first_byte + len;
        let fin = self.finishing && behind == written && (!again || self.next > written);
        Piece {
            start,
            len: usize::try_from(len).unwrap_or(0),
            syn,
            fin,
            push: behind == written && len > 0,
            again,
        }
    }

    /// Copies a piece's bytes out of the FIFO.
    pub(super) fn copy(&self, piece: &Piece, bytes: &mut [u8]) {
        if let Some(fifo) = &self.fifo {
            let first = piece.start + u64::from(piece.syn);
            fifo.copy_out(usize::try_from(first - self.base).unwrap_or(0), bytes);
        }
    }

    /// Notes that a piece was sent.
    pub(super) fn sent(&mut self, now: Instant, piece: &Piece) {
        let forced = self.forced.take();
        let end = piece.end();
        if piece.again {
            self.repairs.again += 1;
            self.board.sent_again(now, piece.start, end);
            if let Some(undo) = &mut self.undo {
                if undo.pending == 0 {
                    undo.since = now;
                }
                undo.pending += 1;
            }
        } else {
            if self.board.is_empty() && now.since(self.sent_at) > self.rtt.timeout() {
                self.restart();
            }
            self.board.sent(now, self.next, end);
            self.next = end;
        }
        if forced == Some(Timer::Probe) {
            self.probing = Some(Probe { end: self.next, again: piece.again, sent_at: now });
        }
        if let Phase::Recovery(reduction) = &mut self.phase {
            reduction.out += end - piece.start;
        }
        self.sent_at = now;
        self.limited = self.flying() + self.mss > self.window.size;
        if forced == Some(Timer::Persist) {
            self.timer = Some((now + self.rtt.timeout(), Timer::Persist));
        } else {
            self.set_timer(now, piece.again || forced.is_some());
        }
    }

    /// After an idle time the window is the initial one again, as what it learned is old (RFC 5681
    /// section 4.1).
    fn restart(&mut self) {
        self.control.idle();
        self.window.size = self.window.size.min(Window::initial(self.mss).size);
    }

    /// Sees to it that a closed or narrow window is asked about. To be called when there was nothing
    /// to send.
    pub(super) fn watch(&mut self, now: Instant) {
        let waits = self.queued() > 0 && self.next < self.written() && self.board.is_empty();
        if !waits || self.timer.is_some() || self.forced.is_some() {
            return;
        }
        let closed = self.right <= self.next;
        let after = if closed { self.rtt.timeout() } else { OVERRIDE };
        self.timer = Some((now + after, Timer::Persist));
    }

    /// Gives memory back that an idle connection does not need.
    pub(super) fn trim(&mut self, hungry: bool) -> Result<(), Breach> {
        self.board.shrink();
        // A writer that is owed room would not ask again.
        if let (false, Some(fifo)) = (hungry, &mut self.fifo) {
            fifo.let_go()?;
        }
        Ok(())
    }
}

/// Timestamps count milliseconds: in these a time can be compared with an echo.
const fn millis(at: Instant) -> u64 {
    at.as_micros() / 1000
}
