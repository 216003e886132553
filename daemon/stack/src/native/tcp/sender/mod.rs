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

mod info;
mod mtu;
mod output;
mod pace;
mod repair;

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

use dmm_port::Instant;
use dmm_proto::Breach;
use dmm_proto::fifo::TxFifo;

use super::position::{number, position};
use super::rtt::Rtt;
use super::scoreboard::{Delivered, Scoreboard};
use crate::config::Features;
use crate::native::congestion::{Ack, Algorithm, Sample, Sampler, Window};
use info::Waits;
use mtu::Search;
pub(super) use output::{Piece, TRAIN_MAX};
use pace::Pace;
use repair::{Phase, Probe, Undo};

/// How long a peer may hold an acknowledgement back (RFC 8985 section 7.2, WCDelAckT).
const ACK_DELAY_MAX: Duration = Duration::from_millis(200);
/// Least time before a tail is probed.
const PROBE_MIN: Duration = Duration::from_millis(2);
/// How long a short segment waits for the window to open (RFC 9293 section 3.8.6.2.1).
const OVERRIDE: Duration = Duration::from_millis(200);

/// Records that are kept apart at most: what a FIFO holds in messages of a kilobyte. More are joined.
const RECORDS_MAX: usize = 256;

/// Whether short segments wait for more to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) enum Cork {
    /// They do not.
    Off,
    /// They do (`TCP_CORK`).
    On,
    /// They do, and the writer said that more follows (`MSG_MORE`).
    More,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// It says that what it answers met congestion.
    pub(super) marked: bool,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::native) struct Repairs {
    /// Segments sent again.
    pub(in crate::native) again: u64,
    /// Retransmission timeouts.
    pub(in crate::native) timeouts: u64,
    /// Recoveries by acknowledgements.
    pub(in crate::native) recoveries: u64,
    /// Probes of the tail.
    pub(in crate::native) probes: u64,
    /// Losses that proved to be none.
    pub(in crate::native) undone: u64,
}

/// The sending half.
#[derive(Serialize, Deserialize)]
pub(in crate::native) struct Sender {
    /// The number of our SYN.
    pub(super) initial: u32,
    /// The first position not acknowledged.
    pub(super) una: u64,
    /// The next to be sent for the first time.
    pub(super) next: u64,
    /// Where bytes come from, once there is an owner.
    #[serde(skip)]
    pub(super) fifo: Option<TxFifo>,
    /// The position of the FIFO's head.
    base: u64,
    /// Bytes that the SYN may carry.
    syn_room: u64,
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
    search: Search,
    /// The peer tells what it received out of order.
    pub(super) sack: bool,
    /// What it may do about loss.
    pub(super) features: Features,
    /// Segments of a train at least, as far as half a window has them.
    pub(super) train_min: usize,
    /// Short segments do not wait.
    pub(super) no_delay: bool,
    /// Short segments wait for more to be written.
    cork: Cork,
    /// What was written before this position waits for nothing.
    pushed: u64,
    /// What was written before this position waits no longer for the more that was announced.
    released: u64,
    /// Where records end that are not to be joined with what follows.
    records: VecDeque<u64>,
    /// Where trains end in any case, and whether they are pushed.
    train_ends: VecDeque<(u64, bool)>,
    /// The end of the last short segment.
    short_end: u64,
    board: Scoreboard,
    pub(super) rtt: Rtt,
    window: Window,
    control: Algorithm,
    sampler: Sampler,
    pace: Pace,
    phase: Phase,
    /// What was sent when marks of congestion last made the window smaller.
    reduced_until: u64,
    /// What was sent before the loss that is being repaired.
    recover: u64,
    undo: Option<Undo>,
    /// When the first retransmission was sent of those whose fate is open.
    again_since: Option<Instant>,
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
    /// How often the SYN was given up as lost.
    syn_timeouts: u8,
    repairs: Repairs,
    /// Segments sent, sent again and delivered, ever.
    sent: u64,
    sent_again: u64,
    delivered: u64,
    /// What it waits for, and since when.
    waits: Option<(Waits, Instant)>,
    busy: Duration,
    peer_limited: Duration,
    /// The most bytes under way in this round trip, which ends at a position.
    flight_most: u64,
    flight_until: u64,
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
            syn_room: 0,
            finishing: false,
            right: 1,
            window_of: (0, 0),
            window_max: 0,
            shift: 0,
            mss,
            search: Search::new(mss),
            sack: false,
            features: Features::ALL,
            train_min: 2,
            no_delay: false,
            cork: Cork::Off,
            pushed: 0,
            released: 0,
            records: VecDeque::new(),
            train_ends: VecDeque::new(),
            short_end: 0,
            board: Scoreboard::new(mss),
            rtt: Rtt::new(),
            window: Window::initial(mss),
            control,
            sampler: Sampler::new(now),
            pace: Pace::default(),
            phase: Phase::Open,
            reduced_until: 0,
            recover: 0,
            undo: None,
            again_since: None,
            duplicates: 0,
            timer: None,
            probing: None,
            forced: None,
            sent_at: now,
            limited: false,
            syn_timeouts: 0,
            repairs: Repairs::default(),
            sent: 0,
            sent_again: 0,
            delivered: 0,
            waits: None,
            busy: Duration::ZERO,
            peer_limited: Duration::ZERO,
            flight_most: 0,
            flight_until: 0,
        }
    }

    /// The peer's SYN was taken: payload bytes of a full segment are known.
    pub(super) fn synchronized(&mut self, mss: u64) {
        self.mss = mss;
        self.search = Search::new(mss);
        self.board.set_mss(mss);
        let size = if self.syn_timeouts > 1 {
            // RFC 6928 section 2: a lost SYN makes for a window of one. As Linux has it, a single loss
            // may have been chance.
            mss
        } else {
            Window::initial(mss).size
        };
        self.window = Window { size, threshold: u64::MAX, mss };
    }

    /// Our SYN had this number, and was acknowledged.
    pub(super) const fn opened_by(&mut self, initial: u32) {
        (self.initial, self.una, self.next) = (initial, 1, 1);
    }

    /// The SYN may carry `room` bytes.
    pub(super) fn open_with(&mut self, room: u64) {
        self.syn_room = room;
        if let Some(fifo) = &mut self.fifo {
            fifo.grant();
        }
    }

    /// The peer did not take what the SYN carried: that is to be sent again, which is no sign of congestion.
    pub(super) fn repeat_all(&mut self) {
        self.board.lose_all(false);
    }

    /// The path carries segments of `mss` bytes at most. What is longer is sent again in parts, which is
    /// no sign of congestion (RFC 1191 section 6.4).
    pub(super) fn shrink(&mut self, mss: u64) {
        self.search.full = self.search.full.min(mss);
        if mss < self.mss {
            self.set_mss(mss);
            self.board.lose_longer(mss);
        }
    }

    /// The peer shows that it did not get our answer: what was sent first is to be sent again.
    pub(super) fn repeat_first(&mut self) {
        self.board.lose_first();
    }

    /// Sets whether short segments wait; if they did, nothing that was written does any more.
    pub(super) fn set_cork(&mut self, cork: Cork) {
        let before = std::mem::replace(&mut self.cork, cork);
        // What an announced write was to follow waits for no longer than any other.
        if (before, cork) == (Cork::On, Cork::Off) {
            self.push();
        }
    }

    /// Lets nothing wait that was written.
    pub(super) fn push(&mut self) {
        // A breach is found again, and told, when the connection is served.
        let _ = self.refresh();
        self.pushed = self.written();
    }

    /// A record ends at a position of the FIFO, of which these are the lower bits. What is acknowledged
    /// already, or does not come behind the last record, is no end.
    pub(super) fn end_record(&mut self, position: u32) {
        let Some(fifo) = &self.fifo else { return };
        let ahead = position.wrapping_sub(fifo.head() as u32);
        let end = self.base + u64::from(ahead);
        let last = self.records.back().copied().unwrap_or(self.base);
        if ahead > i32::MAX as u32 || end <= last {
            return;
        }
        if self.records.len() == RECORDS_MAX {
            self.records.pop_front();
        }
        self.records.push_back(end);
    }

    /// What was written up to now shares no train with what follows, and may be pushed.
    pub(super) fn end_train(&mut self, push: bool) {
        let _ = self.refresh();
        if self.train_ends.len() == RECORDS_MAX {
            self.train_ends.pop_front();
        }
        self.train_ends.push_back((self.written(), push));
    }

    /// Whether a train ends with a piece, and whether that is pushed.
    pub(super) fn train_end(&self, piece: &Piece) -> Option<bool> {
        let (at, push) = self.train_ends.iter().find(|(at, _)| *at > piece.start)?;
        (*at <= piece.start + piece.len as u64).then_some(*push)
    }

    /// The number of the next segment.
    pub(super) const fn number(&self, at: u64) -> u32 {
        number(self.initial, at)
    }

    /// The position of a number of ours.
    pub(super) fn position_sent(&self, sequence: u32) -> Option<u64> {
        position(self.initial, self.una, sequence)
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
    #[cfg(test)]
    pub(super) const fn peer_window(&self) -> u64 {
        self.right.saturating_sub(self.una)
    }

    /// The largest window that the peer ever had.
    pub(super) const fn window_max(&self) -> u64 {
        self.window_max
    }

    /// What was counted since the last call.
    pub(in crate::native) fn take_repairs(&mut self) -> Repairs {
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
        self.released = self.written();
        let before = self.una;
        let window_moved = self.take_window(ack);
        self.board.begin();
        let (least, smoothed) = (self.rtt.least(), self.rtt.smoothed());
        let mut delivered = Delivered::default();
        let left_before = if self.sack { 0 } else { u64::from(self.duplicates) * self.mss };
        let mut twice = false;
        for (first, last) in ack.sacks {
            let (Some(start), Some(end)) = (self.position(*first), self.position(*last)) else {
                continue;
            };
            // RFC 2883: what is below the acknowledgement was received twice.
            if start < end && end <= ack.position {
                twice = true;
            } else if self.una.max(ack.position) <= start && start < end && end <= self.next {
                self.board.sack(now, (start, end), least, &mut delivered);
            }
        }
        if ack.position > self.una {
            self.board.acknowledge(now, ack.position, least, &mut delivered);
            self.una = ack.position;
            outcome.progress = true;
            outcome.freed = self.let_go();
            self.duplicates = 0;
        } else if ack.position == self.una
            && ack.bare
            && !window_moved
            && self.una < self.next
            && !self.is_probing_window()
        {
            self.duplicates += 1;
        }
        self.delivered += delivered.segments;
        self.right = self.right.max(self.una);
        self.measure(now, ack, &delivered);
        if twice {
            self.received_twice(now);
        }
        if outcome.progress {
            self.rtt.progress();
            self.search_length(now);
        }
        if outcome.progress || delivered.once > 0 {
            self.detect_needless(now, ack, (outcome.progress, &delivered));
        }
        self.end_probe(now, ack, twice);
        let lost = self.detect_loss(now, outcome.progress, (least, smoothed));
        self.advance_phase(now, ack, before, delivered, lost);
        if self.phase == Phase::Open && !self.board.has_again() {
            self.again_since = None;
        }
        // The window does not grow in the round trip in which marks made it smaller.
        let grows = self.phase == Phase::Open && self.una >= self.reduced_until;
        if outcome.progress && grows && self.is_limited() {
            let ack = Ack {
                now,
                // What duplicates reported is not reported again.
                bytes: delivered.bytes.saturating_sub(left_before),
                rtt: delivered.rtt,
                smoothed: self.rtt.smoothed(),
                una: self.una,
                next: self.next,
            };
            self.control.control().acknowledged(&mut self.window, &ack);
        }
        self.sample(now, ack, &delivered, lost);
        self.set_timer(now, outcome.progress || delivered.bytes > 0);
        self.account(now);
        outcome
    }

    /// Tells the algorithm what an acknowledgement shows of the path.
    fn sample(
        &mut self,
        now: Instant,
        ack: &Acknowledgement<'_>,
        delivered: &Delivered,
        lost: bool,
    ) {
        let latest = delivered.latest.map(|(at, _, snapshot)| (at, snapshot));
        let rate = self.sampler.deliver(now, delivered.bytes, latest, self.rtt.least());
        if delivered.bytes == 0 && !lost {
            return;
        }
        let sample = Sample {
            now,
            acked: delivered.bytes,
            rtt: delivered.rtt,
            smoothed: self.rtt.smoothed(),
            rate,
            delivered: self.sampler.delivered(),
            in_flight: self.flying(),
            una: self.una,
            next: self.next,
            lost,
            limited: self.limited,
            marked: ack.marked,
            recovering: self.phase != Phase::Open,
            sack: self.sack,
        };
        self.control.control().sampled(&mut self.window, &sample);
    }

    /// Sets how many bytes a second it sends at most.
    pub(super) fn set_pacing_rate(&mut self, most: Option<u32>) {
        self.pace.most = most;
    }

    /// The number of its congestion control.
    pub(super) const fn control_number(&self) -> u8 {
        self.control.number()
    }

    /// Takes another algorithm for congestion control from now on.
    pub(super) fn set_control(&mut self, control: Algorithm) {
        self.control = control;
        if let Phase::Recovery(_) = self.phase {
            // It knows nothing of what is being repaired.
            self.phase = Phase::Open;
        }
        self.window.size = self.window.size.min(u64::from(u32::MAX));
    }

    /// Whether the window is what holds the sender back (RFC 7661); in slow start half of it is enough,
    /// as it doubles each round trip.
    const fn is_limited(&self) -> bool {
        self.limited || (self.window.is_slow_start() && self.window.size < 2 * self.flight_most)
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
            while self.records.front().is_some_and(|end| *end <= self.base) {
                self.records.pop_front();
            }
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

    /// Does what a timer that is due asks for.
    pub(super) fn expire(&mut self, now: Instant) {
        self.pace.expire(now);
        let Some((at, timer)) = self.timer else { return };
        if at > now {
            return;
        }
        self.timer = None;
        match timer {
            Timer::Retransmit => self.time_out(),
            Timer::Probe => {
                self.repairs.probes += 1;
                self.forced = Some(Timer::Probe);
            }
            Timer::Reorder => {
                let times = (self.rtt.least(), self.rtt.smoothed());
                if self.detect_loss(now, false, times) && self.phase == Phase::Open {
                    self.begin_recovery(now, 0);
                }
                self.set_timer(now, false);
            }
            Timer::Persist => {
                self.rtt.double();
                self.forced = Some(Timer::Persist);
            }
        }
    }

    /// When a timer is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let paced = self.pace.held_until().filter(|_| self.has_unsent());
        Instant::earliest(self.timer.map(|(at, _)| at), paced)
    }

    /// Whether something waits to be sent, or to be sent again.
    fn has_unsent(&self) -> bool {
        self.next < self.written() + u64::from(self.finishing) || self.board.lost_bytes() > 0
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
        // RFC 8985 section 7.2: where the timeout would come sooner, the probe goes out in its place.
        let tail = self.probe_after().map(|after| timeout.min(now + after));
        self.timer = Some(match tail {
            Some(at) => (at, Timer::Probe),
            None => (timeout, Timer::Retransmit),
        });
    }

    /// RFC 8985 section 7.2.
    pub(super) fn probe_after(&self) -> Option<Duration> {
        let plain = self.sack
            && self.features.rack
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
