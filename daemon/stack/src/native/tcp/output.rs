//! Segments out: which is next, and how it is written.
//!
//! Owns: the choice between a reset, payload and a bare acknowledgement. Called until there is nothing,
//! or no slot. Must never: send what cannot be acknowledged.
#![forbid(unsafe_code)]

use dmm_port::Instant;
use dmm_port::flow::Flow;
use dmm_proto::Breach;

use super::sender::Piece;
use super::{Connection, State};
use crate::ip::discovery::Mac;
use crate::ip::packet::{
    Extent, HOP_LIMIT, Headers, checksum, headers_bytes, protocol, pseudo_sum,
};
use crate::native::segment::{Options, SACKS_MAX, Segment, flag};

/// A segment to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Next {
    /// The end of the connection.
    Reset,
    /// A SYN, payload, a FIN.
    Piece(Piece),
    /// What was received.
    Acknowledgement,
    /// What was received up to a position, and whether that was marked (RFC 8257 section 3.2).
    Turn(u64, bool),
    /// A question for a sign of life: an old number, which makes the peer answer.
    KeepAlive,
    /// The same, for its window.
    WindowProbe,
}

/// What went out before in the same turn.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Burst {
    /// New segments with payload, since the last that was none or ended a train.
    segments: usize,
    /// The position behind the last of them.
    end: Option<u64>,
}

impl Burst {
    /// Adds a segment.
    pub(in super::super) const fn add(&mut self, next: &Next) {
        if let Next::Piece(piece) = next
            && piece.len > 0
        {
            let over = piece.again || piece.ends_train;
            self.segments = if over { 0 } else { self.segments + 1 };
            self.end = Some(piece.start + piece.len as u64);
        }
    }
}

impl Next {
    /// Whether it is payload that was not sent before.
    const fn is_new(&self) -> bool {
        matches!(self, Self::Piece(piece) if !piece.again && piece.len > 0)
    }

    /// Bytes of payload.
    pub(in super::super) const fn len(&self) -> usize {
        match self {
            Self::Piece(piece) => piece.len,
            _ => 0,
        }
    }
}

impl Connection {
    /// What to send next, if anything. Nothing has changed until [`Connection::sent`].
    pub(in super::super) fn next(&self, burst: &Burst) -> Option<Next> {
        if self.reset_due {
            return Some(Next::Reset);
        }
        if self.state == State::Closed || self.waits_for_owner() {
            return None;
        }
        if let Some((position, marked)) = self.ecn.next_turn() {
            return Some(Next::Turn(position, marked));
        }
        if let Some(mut piece) = self.sender.next_piece(!self.is_opening()) {
            // A peer that coalesces is not to wait for more than Linux would hand its device at once.
            if !piece.again && piece.len > 0 {
                let train = self.sender.train();
                let mark = self.sender.train_end(&piece);
                let first = burst.segments == 0;
                let cut = mark.is_some() || !self.sender.is_followed(&piece);
                let last = burst.segments + 1 >= train || (!first && cut);
                piece.ends_train = train > 1 && last;
                piece.push |= mark == Some(true);
            }
            piece.push |= piece.ends_train && (!piece.again || burst.end == Some(piece.start));
            return Some(Next::Piece(piece));
        }
        if self.sender.asks_for_window() {
            return Some(Next::WindowProbe);
        }
        if self.acks.is_due() {
            return Some(Next::Acknowledgement);
        }
        self.keep_alive_due.then_some(Next::KeepAlive)
    }

    /// The header of a segment.
    pub(in super::super) fn compose(
        &mut self,
        now: Instant,
        next: &Next,
    ) -> Result<Segment, Breach> {
        let mut segment = Segment {
            source: self.flow.local.port(),
            destination: self.flow.remote.port(),
            sequence: self.sender.number(self.sender.next),
            ..Segment::default()
        };
        if self.state != State::SynSent {
            segment.flags = flag::ACK;
            segment.acknowledgement = self.receiver.acknowledgement();
        }
        match next {
            Next::Reset => {
                segment.flags |= flag::RST;
                if self.stamps.on {
                    segment.options.timestamps = Some(self.stamps.write(now));
                }
                return Ok(segment);
            }
            Next::KeepAlive | Next::WindowProbe => {
                segment.sequence = self.sender.number(self.sender.una.saturating_sub(1));
            }
            Next::Acknowledgement | Next::Turn(..) => {}
            Next::Piece(piece) => {
                segment.sequence = self.sender.number(piece.start);
                segment.flags |= if piece.syn { flag::SYN } else { 0 };
                segment.flags |= if piece.fin { flag::FIN } else { 0 };
                segment.flags |= if piece.push { flag::PSH } else { 0 };
                if piece.syn {
                    segment.flags |= self.ecn.syn_flags(self.state != State::SynSent);
                }
            }
        }
        let syn = segment.has(flag::SYN);
        segment.window = self.receiver.advertise(self.acks.mss(), syn)?;
        if let Next::Turn(position, marked) = *next {
            (segment.acknowledgement, segment.window) =
                self.receiver.acknowledgement_at(position, segment.window);
            segment.flags |= if marked { flag::ECE } else { 0 };
        } else if !syn {
            segment.flags |= self.ecn.flags(next.is_new());
        }
        if let Next::Piece(piece) = next
            && piece.syn
        {
            segment.options.fast_open = self.cookie(piece.again);
        }
        self.write_options(now, &mut segment.options, syn, next.len());
        Ok(segment)
    }

    fn write_options(&mut self, now: Instant, options: &mut Options, syn: bool, payload: usize) {
        if syn {
            options.mss = Some(self.mss);
            options.shift = self.offer.scale.then_some(self.receiver.shift);
            options.sack_permitted = self.offer.sack;
        }
        if self.stamps.on || (syn && self.offer.stamps) {
            options.timestamps = Some(self.stamps.write(now));
        }
        if self.sender.sack && !syn {
            // They go where payload leaves room.
            let left = usize::from(self.mss).saturating_sub(options.len() + payload);
            let most = (left.saturating_sub(4) / 8).min(options.room_for_sacks()).min(SACKS_MAX);
            options.sacks = self.receiver.take_sacks(most);
        }
    }

    /// The ECN field of a segment's packet.
    pub(in super::super) const fn ecn_field(&self, next: &Next) -> u8 {
        self.ecn.field(next.is_new())
    }

    /// Copies a segment's payload.
    pub(in super::super) fn copy(&self, next: &Next, payload: &mut [u8]) {
        if let Next::Piece(piece) = next {
            self.sender.copy(piece, payload);
        }
    }

    /// Notes that a segment was sent.
    pub(in super::super) fn sent(&mut self, now: Instant, next: &Next) {
        self.neighbour_since = None;
        match next {
            Next::Reset => {
                self.reset_due = false;
                return;
            }
            Next::Turn(..) => {
                self.ecn.told_turn();
                return;
            }
            Next::KeepAlive => self.keep_alive_due = false,
            Next::WindowProbe => self.sender.asked_for_window(now),
            Next::Acknowledgement => {}
            Next::Piece(piece) => {
                if self.is_held() {
                    self.opened_at = now;
                }
                self.sender.sent(now, piece);
                self.ecn.reduced &= !next.is_new();
                if piece.fin {
                    match self.state {
                        State::Established => self.state = State::FinWait1,
                        State::CloseWait => self.state = State::LastAck,
                        _ => {}
                    }
                }
            }
        }
        self.receiver.acknowledged = self.receiver.next;
        self.acks.sent(now, next.len() > 0, *next == Next::Acknowledgement);
    }
}

/// Writes a segment's frame; its payload is written by `copy`.
pub(in super::super) fn write_segment(
    segment: &Segment,
    flow: Flow,
    (hop_limit, class): (Option<u8>, u8),
    (from_mac, to_mac): (Mac, Mac),
    frame: &mut [u8],
    copy: impl FnOnce(&mut [u8]),
) {
    let (from, to) = (flow.local.ip(), flow.remote.ip());
    let headers = Headers {
        from_mac,
        to_mac,
        from,
        to,
        protocol: protocol::TCP,
        hop_limit: hop_limit.unwrap_or(HOP_LIMIT),
        class,
        extent: Extent::Whole,
    };
    headers.write(frame);
    let message = &mut frame[headers_bytes(to)..];
    segment.write(message);
    copy(&mut message[segment.len()..]);
    let sum = checksum(pseudo_sum(from, to, protocol::TCP, message.len()), message);
    message[16..18].copy_from_slice(&sum);
}

/// The reset that answers a segment without a connection, if it is to be answered (RFC 9293 section
/// 3.10.7.1).
pub(in super::super) fn answer_to_stray(segment: &Segment, payload: usize) -> Option<Segment> {
    if segment.has(flag::RST) {
        return None;
    }
    let ends =
        Segment { source: segment.destination, destination: segment.source, ..Segment::default() };
    if segment.has(flag::ACK) {
        let sequence = segment.acknowledgement;
        return Some(Segment { sequence, flags: flag::RST, ..ends });
    }
    let numbers =
        payload + usize::from(segment.has(flag::SYN)) + usize::from(segment.has(flag::FIN));
    let acknowledgement = segment.sequence.wrapping_add(numbers as u32);
    Some(Segment { acknowledgement, flags: flag::RST | flag::ACK, ..ends })
}
