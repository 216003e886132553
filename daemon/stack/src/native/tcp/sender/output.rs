//! What to send next.
//!
//! Owns: the choice among what is lost, what is new and what a timer asks for. Called until there is
//! nothing, or no slot. Must never: send beyond the peer's window but for its probe.
#![forbid(unsafe_code)]

use dmm_port::Instant;

use super::repair::{Forward, Phase, Probe};
use super::{Cork, OVERRIDE, Sender, Timer};
use crate::native::congestion::Window;

/// Segments of a train at most: 64 KiB of the usual size.
pub(in crate::native::tcp) const TRAIN_MAX: usize = 44;

/// A segment to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::native) struct Piece {
    /// Its first position.
    pub(in crate::native) start: u64,
    /// Bytes of payload.
    pub(in crate::native) len: usize,
    /// It opens the connection.
    pub(in crate::native) syn: bool,
    /// It ends the stream.
    pub(in crate::native) fin: bool,
    /// It ends what was written.
    pub(in crate::native) push: bool,
    /// It is the last of a train.
    pub(in crate::native) ends_train: bool,
    pub(in crate::native) again: bool,
}

impl Piece {
    pub(super) fn end(&self) -> u64 {
        self.start + self.len as u64 + u64::from(self.syn) + u64::from(self.fin)
    }
}

impl Sender {
    /// What to send next, if anything. Nothing has changed until [`Sender::sent`].
    pub(in crate::native) fn next_piece(&self, open: bool) -> Option<Piece> {
        if !open || self.next == 0 {
            return self.opening();
        }
        if let Some(forced) = self.forced {
            return self.forced_piece(forced);
        }
        if self.pace.held_until().is_some() {
            return None;
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
        (fits && !wait).then(|| {
            let mut piece = self.piece(lost.start, lost.end - lost.start, true);
            let whole = piece.end() == lost.end;
            piece.push |= lost.push && piece.len > 0 && whole;
            piece.ends_train = lost.ends_train && whole;
            piece
        })
    }

    pub(super) fn opening(&self) -> Option<Piece> {
        let again = self.next > 0;
        // What the SYN carried waits for its answer.
        let lost = self.board.first_lost().is_some_and(|lost| lost.start == 0);
        let due = !again || lost || self.forced.is_some();
        let payload = if again { 0 } else { self.queued().min(self.syn_room) };
        let syn = Piece {
            start: 0,
            len: usize::try_from(payload).unwrap_or(0),
            syn: true,
            fin: false,
            push: false,
            ends_train: false,
            again,
        };
        due.then_some(syn)
    }

    pub(super) fn new_piece(&self) -> Option<Piece> {
        self.new_piece_at(self.next, self.flying())
    }

    /// Whether a new piece will be followed by another at once.
    pub(in crate::native) fn is_followed(&self, piece: &Piece) -> bool {
        let flying = self.flying() + piece.len as u64;
        self.new_piece_at(piece.end(), flying).is_some_and(|next| next.len > 0)
    }

    /// What to send next if everything before `next` is sent, and so many bytes are in flight.
    fn new_piece_at(&self, next: u64, flying: u64) -> Option<Piece> {
        let written = self.written();
        let unsent = written.saturating_sub(next);
        let fin_due = self.finishing && next <= written;
        if unsent == 0 && !fin_due {
            return None;
        }
        let room = self.window.size.saturating_sub(flying);
        let window = self.right.saturating_sub(next);
        if unsent == 0 {
            // A FIN alone needs no window of the peer's, and no more of ours than there is.
            return (room > 0 || flying == 0).then(|| self.piece(next, 0, false));
        }
        let record = self.record_end(next).map_or(u64::MAX, |end| end - next);
        let most = self.probe_length(unsent.min(window).min(record)).unwrap_or(self.mss);
        let len = unsent.min(most).min(window).min(record);
        if len == 0 || (room < len && flying > 0) {
            return None;
        }
        let whole = len == unsent;
        let pushed = next < self.pushed || (len == record && !whole);
        let held = if len >= self.mss || pushed || (whole && fin_due) {
            false
        } else if !whole {
            // RFC 9293 section 3.8.6.2.1: the window cuts it short.
            len < self.window_max / 2
        } else {
            // Nagle (RFC 9293 section 3.7.4), as far as what is under way is short (Minshall).
            let corked = match self.cork {
                Cork::Off => false,
                Cork::On => true,
                Cork::More => next >= self.released,
            };
            corked || (!self.no_delay && self.short_end > self.una)
        };
        (!held).then(|| self.piece_of(next, len, (false, most)))
    }

    /// The end of the record that holds `position`, if records are kept apart.
    fn record_end(&self, position: u64) -> Option<u64> {
        self.records.iter().find(|end| **end > position).copied()
    }

    /// Segments that go out as a train, the end of which is marked if they are several: what the window
    /// lets out in a millisecond, a pair at least, but no more than half a window (Linux's
    /// `tcp_tso_autosize` and `tcp_cwnd_test`, with `tcp_min_tso_segs` for a pair).
    pub(in crate::native) fn train(&self) -> usize {
        let half = usize::try_from(self.window.size / self.mss / 2).unwrap_or(usize::MAX).max(1);
        // Before the peer's first acknowledgement nothing is paced.
        if self.una == 0 {
            return half;
        }
        let Some(round) = self.rtt.smoothed().filter(|round| !round.is_zero()) else {
            return half.min(self.train_min);
        };
        // In nanoseconds, of which a round trip has less than 2^63.
        let round = u64::try_from(round.as_nanos()).unwrap_or(u64::MAX);
        let per_milli = self.window.size.saturating_mul(2_000_000) / round / self.mss;
        let segments = usize::try_from(per_milli).unwrap_or(usize::MAX);
        segments.clamp(self.train_min, TRAIN_MAX).min(half)
    }

    pub(super) fn forced_piece(&self, forced: Timer) -> Option<Piece> {
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
                Some(self.piece(last.start, last.end - last.start, true))
            }
            _ if self.una < self.next => {
                let first = self.board.first()?;
                Some(self.piece(first.start, (first.end - first.start).min(self.mss), true))
            }
            // A closed window is asked about without a byte.
            _ if self.right <= self.next => None,
            _ if unsent > 0 => {
                let window = self.right - self.next;
                let mut piece = self.piece(self.next, unsent.min(self.mss).min(window), false);
                piece.push |= piece.end() >= written;
                Some(piece)
            }
            _ => (self.finishing && self.next == written).then(|| self.piece(self.next, 0, false)),
        }
    }

    /// `numbers` positions from `start` on, as a segment.
    pub(super) fn piece(&self, start: u64, numbers: u64, again: bool) -> Piece {
        self.piece_of(start, numbers, (again, self.mss))
    }

    /// The same with `most` bytes of payload.
    fn piece_of(&self, start: u64, numbers: u64, (again, most): (bool, u64)) -> Piece {
        let written = self.written();
        let syn = start == 0;
        let end = (start + numbers).min(start + most + u64::from(syn));
        let record = self.record_end(start).unwrap_or(u64::MAX);
        let end = end.min(record);
        let first_byte = start + u64::from(syn);
        let len = end.min(written).saturating_sub(first_byte);
        let behind = first_byte + len;
        let fin = self.finishing && behind == written && (!again || self.next > written);
        let mut piece = Piece {
            start,
            len: usize::try_from(len).unwrap_or(0),
            syn,
            fin,
            push: false,
            ends_train: false,
            again,
        };
        piece.push = self.ends_record(&piece);
        piece
    }

    /// Whether a piece ends what was written, or a record.
    fn ends_record(&self, piece: &Piece) -> bool {
        let behind = piece.start + u64::from(piece.syn) + piece.len as u64;
        let whole = behind == self.written() && self.cork != Cork::More;
        piece.len > 0 && (whole || self.record_end(piece.start) == Some(behind))
    }

    /// Copies a piece's bytes out of the FIFO.
    pub(in crate::native) fn copy(&self, piece: &Piece, bytes: &mut [u8]) {
        if let Some(fifo) = &self.fifo {
            let first = piece.start + u64::from(piece.syn);
            fifo.copy_out(usize::try_from(first - self.base).unwrap_or(0), bytes);
        }
    }

    /// Notes that a piece was sent.
    pub(in crate::native) fn sent(&mut self, now: Instant, piece: &Piece) {
        let forced = self.forced.take();
        let end = piece.end();
        self.sent += 1;
        if self.board.is_empty() && self.sampler.is_app_limited() {
            self.control.control().resumed(now, &mut self.window);
        }
        let snapshot = self.sampler.send(now, end - piece.start, self.flying());
        self.pace.sent(now, piece.len, self.control.pace(), self.mss);
        if piece.again {
            self.sent_again += 1;
            self.repairs.again += 1;
            self.board.sent_again(now, (piece.start, end), snapshot);
            self.again_since.get_or_insert(now);
            if let Some(undo) = &mut self.undo {
                undo.pending += 1;
            }
        } else {
            if self.board.is_empty() && now.since(self.sent_at) > self.rtt.timeout() {
                self.restart();
            }
            let ends_record = self.ends_record(piece);
            self.board.sent(now, (self.next, end), (ends_record, piece.ends_train), snapshot);
            self.next = end;
            if piece.len as u64 > self.mss {
                self.sent_probe(piece.start, end);
            }
            while self.train_ends.front().is_some_and(|(at, _)| *at <= end) {
                self.train_ends.pop_front();
            }
            if (piece.len as u64) < self.mss && piece.len > 0 && !piece.syn {
                self.short_end = end;
            }
        }
        if forced == Some(Timer::Probe) {
            self.probing = Some(Probe { end: self.next, again: piece.again, sent_at: now });
        }
        if let Phase::Recovery(Some(reduction)) = &mut self.phase {
            reduction.out += end - piece.start;
        }
        self.sent_at = now;
        let (limited, flight) = (self.flying() + self.mss > self.window.size, self.next - self.una);
        let grows = !self.limited && flight > self.flight_most;
        if self.una >= self.flight_until || limited || grows {
            (self.limited, self.flight_most, self.flight_until) = (limited, flight, self.next);
        }
        if forced == Some(Timer::Persist) {
            self.timer = Some((now + self.rtt.timeout(), Timer::Persist));
        } else {
            // RFC 8985 section 7.2: each new segment puts the probe of the tail off.
            let probes =
                !piece.again && self.timer.is_some_and(|(_, timer)| timer != Timer::Reorder);
            let probes = probes && self.probe_after().is_some();
            self.set_timer(now, piece.again || forced.is_some() || probes);
        }
    }

    /// Whether the peer is to be asked about its window, which is closed, by a segment that it has to
    /// answer (RFC 9293 section 3.8.6.1; as on Linux without a byte, which it would throw away).
    pub(in crate::native) fn asks_for_window(&self) -> bool {
        let closed = self.right <= self.next && self.una == self.next;
        closed && self.forced == Some(Timer::Persist)
    }

    /// That was sent.
    pub(in crate::native) fn asked_for_window(&mut self, now: Instant) {
        self.forced = None;
        self.timer = Some((now + self.rtt.timeout(), Timer::Persist));
    }

    /// After an idle time the window is the initial one again, as what it learned is old (RFC 5681
    /// section 4.1).
    pub(super) fn restart(&mut self) {
        self.control.control().idle();
        if self.control.is_model() {
            return;
        }
        self.window.size = self.window.size.min(Window::initial(self.mss).size);
    }

    /// Sees to it that a closed or narrow window is asked about. To be called when there was nothing
    /// to send.
    pub(in crate::native) fn watch(&mut self, now: Instant) {
        self.account(now);
        if self.pace.held_until().is_some() {
            return;
        }
        let (flying, lost) = (self.flying(), self.board.lost_bytes());
        if self.next >= self.written() && lost == 0 && flying < self.window.size {
            self.sampler.limit(flying);
        }
        let waits = self.queued() > 0 && self.next < self.written() && self.board.is_empty();
        if !waits || self.timer.is_some() || self.forced.is_some() {
            return;
        }
        let closed = self.right <= self.next;
        let after = if closed { self.rtt.timeout() } else { OVERRIDE };
        self.timer = Some((now + after, Timer::Persist));
    }
}
