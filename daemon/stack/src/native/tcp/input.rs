//! A segment arrives (RFC 9293 section 3.10.7, with the checks of RFC 5961 and RFC 7323).
//!
//! Owns: the order of the checks. Called for each segment of a connection. Must never: let a segment do
//! anything before its numbers are found to be the peer's.
#![forbid(unsafe_code)]

use std::time::Duration;

use dmm_port::Instant;
use dmm_proto::Breach;
use nix::errno::Errno;

use super::sender::Acknowledgement;
use super::{Connection, STAMPS_BYTES, State, TIME_WAIT, mss_default};
use crate::ip::packet::ip_bytes;
use crate::native::segment::{HEADER_BYTES, Segment, flag};
use crate::sockets::Owner;

/// Answers to segments without payload whose numbers do not fit may follow each other by no less, as
/// Linux has it (`tcp_invalid_ratelimit`): two ends that find each other implausible go on for ever.
const CHALLENGE_EVERY: Duration = Duration::from_millis(500);

/// Paths carry so much at least, whatever somebody says: what Linux believes (`ip_rt_min_pmtu`), and RFC 8200
/// section 5.
const MTU_LEAST_V4: usize = 552;
const MTU_LEAST_V6: usize = 1280;

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Trouble {
    /// The segment was longer than the path carries: so many bytes in a packet.
    TooBig(u16),
    /// It did not get there.
    Unreachable(Errno),
}

/// What a segment led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Arrival {
    /// It was taken, perhaps in part.
    Taken,
    /// The handshake is complete.
    Established,
    /// The peer refuses the connection.
    Refused,
    /// The peer takes its SYN back.
    Forgotten,
    /// The peer ends the connection.
    Reset,
    /// A SYN that may take the connection's place (RFC 9293 section 3.10.7.4, RFC 6191).
    Reopen,
    /// Everything in it came before.
    Duplicate,
    /// It is older than what came after it (RFC 7323 section 5).
    Old,
    /// The peer would not use such numbers.
    Implausible,
    /// The peer is to be asked whether it meant that (RFC 5961).
    Challenged,
    /// A reset that is nobody's (RFC 5961 section 3.2).
    Unmatched,
    /// It acknowledges what was never sent: answered with a reset.
    Stray,
    /// The connection is over: answered with a reset.
    Over,
}

impl Connection {
    /// Takes a segment, which came in a packet of a traffic class.
    pub(in super::super) fn arrive(
        &mut self,
        now: Instant,
        (segment, class): (&Segment, u8),
        payload: &[u8],
    ) -> Result<Arrival, Breach> {
        self.arrived = self.arrived.wrapping_add(1);
        match self.state {
            State::Closed => Ok(Arrival::Over),
            State::SynSent => self.arrive_at_syn_sent(now, segment, payload),
            _ => self.arrive_at_synchronized(now, (segment, class), payload),
        }
    }

    /// RFC 9293 section 3.10.7.3.
    fn arrive_at_syn_sent(
        &mut self,
        now: Instant,
        segment: &Segment,
        payload: &[u8],
    ) -> Result<Arrival, Breach> {
        let acknowledges = segment.has(flag::ACK);
        let position = self.sender.position(segment.acknowledgement).unwrap_or(0);
        let fits = acknowledges && (1..=self.sender.next).contains(&position);
        if acknowledges && !fits {
            let quiet = segment.has(flag::RST);
            return Ok(if quiet { Arrival::Implausible } else { Arrival::Stray });
        }
        if segment.has(flag::RST) {
            if !fits {
                return Ok(Arrival::Implausible);
            }
            self.state = State::Closed;
            return Ok(Arrival::Refused);
        }
        if !segment.has(flag::SYN) {
            return Ok(Arrival::Implausible);
        }
        self.take_syn(now, segment);
        self.heard(now);
        if !acknowledges {
            // RFC 9293 section 3.5: both ends open at once.
            self.state = State::SynReceived;
            self.sender.repeat_first();
            return Ok(Arrival::Taken);
        }
        self.take_acknowledgement(now, segment, (position, 0), false);
        self.conclude_fast(position);
        self.establish();
        self.acks.at_once();
        self.take_payload(now, segment, (1, payload))?;
        Ok(Arrival::Established)
    }

    /// Takes the peer's SYN: its number, and what it offers.
    pub(super) fn take_syn(&mut self, now: Instant, segment: &Segment) {
        let options = &segment.options;
        self.synchronized_at = now;
        self.receiver.synchronize(segment.sequence);
        self.ecn.take_syn(segment);
        self.offer.stamps &= options.timestamps.is_some();
        self.offer.sack &= options.sack_permitted;
        self.offer.scale &= options.shift.is_some();
        self.stamps.on = self.offer.stamps;
        if let Some((value, _)) = options.timestamps {
            self.stamps.take(now, value);
        }
        match options.shift {
            Some(shift) if self.offer.scale => self.offer.shift = shift,
            _ => self.receiver.shift = 0,
        }
        // RFC 9293 section 3.7.1; below what Linux takes for least there is no getting on.
        let theirs = options.mss.unwrap_or(mss_default(self.flow.remote.ip())).max(48);
        let overhead = if self.stamps.on { STAMPS_BYTES } else { 0 };
        self.sender.sack = self.offer.sack;
        self.sender.first_window(0, segment.window);
        self.sender.synchronized(u64::from(theirs.min(self.mss)) - overhead);
        self.acks.synchronized(u64::from(self.mss) - overhead);
    }

    pub(super) fn establish(&mut self) {
        self.state = State::Established;
        self.sender.shift = self.offer.shift;
        if let Some(fifo) = &mut self.sender.fifo {
            fifo.grant();
        }
    }

    /// RFC 9293 section 3.10.7.4.
    fn arrive_at_synchronized(
        &mut self,
        now: Instant,
        (segment, class): (&Segment, u8),
        payload: &[u8],
    ) -> Result<Arrival, Breach> {
        let start = self.receiver.position(segment.sequence);
        let value = segment.options.timestamps.map(|(value, _)| value);
        let (syn, fin) = (segment.has(flag::SYN), segment.has(flag::FIN));
        if self.state == State::TimeWait && syn && !segment.has(flag::ACK | flag::RST) {
            let newer = value.is_some_and(|value| self.stamps.is_newer(value));
            let beyond = start.is_some_and(|start| start > self.receiver.next);
            return Ok(if newer || beyond { Arrival::Reopen } else { Arrival::Challenged });
        }
        let Some(start) = start else {
            let reset = segment.has(flag::RST);
            return Ok(if reset { Arrival::Unmatched } else { Arrival::Implausible });
        };
        if segment.has(flag::RST) {
            return Ok(self.take_reset(start));
        }
        if let Some(value) = value
            && self.stamps.is_old(now, value)
            && !syn
        {
            self.object(now, !payload.is_empty() || fin);
            return Ok(Arrival::Old);
        }
        if syn {
            if self.sender.una == 0 && start == 0 && !segment.has(flag::ACK) {
                self.sender.repeat_first();
                return Ok(Arrival::Taken);
            }
            let answers = self.state == State::SynReceived && start == 0;
            if !answers {
                return Ok(Arrival::Challenged);
            }
        }
        // The answer to our SYN of a simultaneous opening: its own SYN was taken before.
        let start = start + u64::from(syn);
        let numbers = payload.len() as u64 + u64::from(fin);
        // RFC 9293 section 3.10.7.4: with a window of zero, acknowledgements are still taken.
        let probes = self.receiver.window() == 0 && start == self.receiver.next;
        if !self.receiver.accepts(start, numbers) && !probes {
            return Ok(self.refuse(now, (start, payload.len() as u64, fin)));
        }
        if !segment.has(flag::ACK) {
            return Ok(Arrival::Implausible);
        }
        let mut arrival = Arrival::Taken;
        let Some(position) = self.sender.position(segment.acknowledgement) else {
            self.object(now, false);
            return Ok(Arrival::Implausible);
        };
        if self.sender.una == 0 && (position == 0 || position > self.sender.next) {
            return Ok(Arrival::Stray);
        }
        if self.state == State::SynReceived {
            self.establish();
            arrival = Arrival::Established;
        }
        // RFC 5961 section 5.2.
        let oldest = self.sender.una.saturating_sub(self.sender.window_max());
        if position > self.sender.next || position < oldest {
            self.object(now, false);
            return Ok(Arrival::Implausible);
        }
        if let Some(value) = value
            && self.stamps.on
            && start <= self.receiver.acknowledged
            && !self.stamps.is_old(now, value)
        {
            self.stamps.take(now, value);
        }
        self.heard(now);
        let (taken, told) = (self.receiver.next, self.receiver.acknowledged);
        if self.ecn.receive(segment, class, (taken > told).then_some(taken)) {
            self.acks.at_once();
        }
        if self.ecn.on && segment.has(flag::ECE) && !syn {
            self.ecn.reduced |= self.sender.congested(now);
        }
        let bare = payload.is_empty() && !fin && !syn;
        self.take_acknowledgement(now, segment, (position, start), bare);
        self.take_payload(now, segment, (start, payload))?;
        Ok(arrival)
    }

    fn take_acknowledgement(
        &mut self,
        now: Instant,
        segment: &Segment,
        (position, sequence): (u64, u64),
        bare: bool,
    ) {
        let echo = segment.options.timestamps.and_then(|(_, echo)| self.stamps.sent_at(now, echo));
        let sacks = if self.sender.sack { segment.options.sacks.as_slice() } else { &[] };
        let window = segment.window;
        let marked = self.ecn.on && segment.has(flag::ECE);
        let acknowledgement =
            Acknowledgement { position, sequence, window, sacks, echo, bare, marked };
        let outcome = self.sender.acknowledge(now, &acknowledgement);
        self.freed |= outcome.freed;
        if !self.sender.is_done() {
            return;
        }
        match self.state {
            State::FinWait1 => self.state = State::FinWait2,
            State::Closing => self.wait(now),
            State::LastAck => self.state = State::Closed,
            _ => {}
        }
    }

    fn take_payload(
        &mut self,
        now: Instant,
        segment: &Segment,
        (start, payload): (u64, &[u8]),
    ) -> Result<(), Breach> {
        let fin = segment.has(flag::FIN);
        let open = matches!(self.state, State::Established | State::FinWait1 | State::FinWait2);
        if !open || (payload.is_empty() && !fin) {
            return Ok(());
        }
        let taken = self.receiver.take(start, payload, fin)?;
        // RFC 1122 section 4.2.2.13: data that nobody will read is answered with a reset.
        if taken.bytes > 0 && matches!(self.owner, Owner::Orphan(_) | Owner::Nobody) {
            self.break_off();
            return Ok(());
        }
        if taken.bytes > 0 {
            self.active = true;
            self.acks.received(now, taken.bytes);
        }
        if taken.at_once || taken.ended {
            self.acks.at_once();
        }
        if taken.ended {
            match self.state {
                State::Established => self.state = State::CloseWait,
                State::FinWait1 => self.state = State::Closing,
                State::FinWait2 => self.wait(now),
                _ => {}
            }
        }
        Ok(())
    }

    /// Begins TIME-WAIT.
    fn wait(&mut self, now: Instant) {
        self.state = State::TimeWait;
        self.over_at = Some(now + TIME_WAIT);
    }

    /// RFC 5961 section 3.2.
    fn take_reset(&mut self, start: u64) -> Arrival {
        if start == self.receiver.next {
            let (before, active) = (self.state, self.owner_is_socket());
            self.state = State::Closed;
            return match before {
                State::SynReceived if active => Arrival::Refused,
                State::SynReceived => Arrival::Forgotten,
                // RFC 9293 section 3.10.7.4: both streams came to their ends.
                State::TimeWait => Arrival::Taken,
                State::Closing | State::LastAck if !active => Arrival::Taken,
                _ => Arrival::Reset,
            };
        }
        if self.receiver.accepts(start, 0) { Arrival::Challenged } else { Arrival::Unmatched }
    }

    /// A segment without a number that is expected.
    fn refuse(&mut self, now: Instant, (start, len, fin): (u64, u64, bool)) -> Arrival {
        let end = start + len;
        let behind = end + u64::from(fin) <= self.receiver.next;
        self.object(now, len > 0 || fin);
        // What came before, and not too long ago.
        let near = self.receiver.next - start.min(self.receiver.next) <= self.receiver.reach();
        if !behind || !near {
            return Arrival::Implausible;
        }
        self.heard(now);
        if len > 0 {
            self.receiver.note_duplicate(start..end + u64::from(fin));
        }
        if fin && self.state == State::TimeWait {
            self.wait(now);
        }
        Arrival::Duplicate
    }

    /// Tells the peer what is expected, unless that might go on for ever.
    fn object(&mut self, now: Instant, payload: bool) {
        if payload || self.challenge(now) {
            self.acks.at_once();
        }
    }

    /// Asks the peer whether it meant that, if it was not just asked. Returns whether it is asked.
    pub(in super::super) fn challenge(&mut self, now: Instant) -> bool {
        if self.challenged_at.is_some_and(|at| now.since(at) < CHALLENGE_EVERY) {
            return false;
        }
        self.challenged_at = Some(now);
        self.acks.at_once();
        true
    }

    /// A router or the peer's host says that a segment of ours did not get there (RFC 5461). Whoever says
    /// so must know a number that is under way (RFC 5927 section 4.1). Returns what ends the attempt to
    /// connect.
    pub(in super::super) fn told(&mut self, sequence: u32, trouble: Trouble) -> Option<Errno> {
        let position = self.sender.position_sent(sequence)?;
        if !(self.sender.una..self.sender.next).contains(&position) {
            return None;
        }
        match trouble {
            Trouble::TooBig(mtu) => {
                let remote = self.flow.remote.ip();
                let mtu = usize::from(mtu).max(if remote.is_ipv4() {
                    MTU_LEAST_V4
                } else {
                    MTU_LEAST_V6
                });
                let overhead = if self.stamps.on { STAMPS_BYTES } else { 0 };
                let bytes = mtu - ip_bytes(remote) - HEADER_BYTES;
                if self.state == State::SynSent {
                    // What is sent back is no longer, as far as the peer listens.
                    self.mss = self.mss.min(u16::try_from(bytes).unwrap_or(u16::MAX));
                }
                self.sender.shrink(bytes as u64 - overhead);
                None
            }
            // RFC 1122 section 4.2.3.9: an established connection goes on trying.
            Trouble::Unreachable(errno) if self.state == State::SynSent => {
                self.state = State::Closed;
                Some(errno)
            }
            Trouble::Unreachable(_) => None,
        }
    }

    /// The peer said something.
    fn heard(&mut self, now: Instant) {
        self.heard_at = now;
        self.asked_at = now;
        self.keep_alive_due = false;
        self.neighbour_since = None;
    }
}
