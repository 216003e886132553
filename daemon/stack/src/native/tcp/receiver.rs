//! The receiving half of a connection: what came in order, what came beyond, and the room for more.
//!
//! Owns: the rx FIFO, the ranges kept in it out of order, and the window. Called for each segment with
//! payload and for each segment sent. Must never: take back room that the peer was told of, or write
//! where no chunk lies.
//!
//! ```text
//!   FIFO tail = next         advertised
//!   ────┴──── hole ──┤range├──┴──────▶ positions
//! ```
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::ops::Range;

use dmm_proto::Breach;
use dmm_proto::fifo::RxFifo;

use super::position::{number, position};
use crate::native::segment::Sacks;

/// Ranges kept out of order; a segment that would make one more is dropped, and comes again.
const RANGES_MAX: usize = 64;
/// Bytes that a connection keeps until somebody accepts it: the initial window of a peer.
pub(super) const EARLY_MAX: usize = 16 * 1024;
/// The largest window that a header can hold.
const WINDOW_MAX: u64 = 65_535;

/// The receiving half.
#[derive(Serialize, Deserialize)]
pub(in crate::native) struct Receiver {
    /// The number of the peer's SYN.
    pub(super) initial: u32,
    /// The next position expected.
    pub(super) next: u64,
    /// What was acknowledged last.
    pub(super) acknowledged: u64,
    /// The position behind the last that the peer may send.
    advertised: u64,
    /// By how many bits our windows are shifted.
    pub(super) shift: u8,
    /// Where bytes go, once there is an owner and while there is a reader.
    #[serde(skip)]
    pub(super) fifo: Option<RxFifo>,
    /// What came before there was a FIFO.
    early: Vec<u8>,
    /// Bytes are counted and thrown away.
    pub(super) deaf: bool,
    /// What is kept beyond `next`, in order and apart, each with the time of its last change.
    ranges: Vec<(Range<u64>, u32)>,
    changes: u32,
    /// What came twice and was not told yet (RFC 2883).
    duplicate: Option<Range<u64>>,
    /// The position of the peer's FIN, once known.
    fin: Option<u64>,
    /// The reader was asked to say when there is room.
    pub(super) stalled: bool,
    /// A FIFO found no chunk: room is what is reserved.
    pub(super) starved: bool,
}

/// What a segment brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Bytes that are in order now and were not before.
    pub(super) bytes: u64,
    /// The peer is to hear of it at once (RFC 5681 section 4.2): it came out of order, twice, or filled
    /// a hole.
    pub(super) at_once: bool,
    /// The peer's FIN is in order now.
    pub(super) ended: bool,
    /// Something was dropped: it was beyond the window, or there was no chunk for it.
    pub(super) dropped: bool,
}

impl Receiver {
    /// A receiver that knows nothing of its peer.
    pub(super) const fn new(fifo: Option<RxFifo>, shift: u8) -> Self {
        Self {
            initial: 0,
            next: 0,
            acknowledged: 0,
            advertised: 0,
            shift,
            fifo,
            early: Vec::new(),
            deaf: false,
            ranges: Vec::new(),
            changes: 0,
            duplicate: None,
            fin: None,
            stalled: false,
            starved: false,
        }
    }

    /// Takes the peer's SYN.
    pub(super) const fn synchronize(&mut self, initial: u32) {
        (self.initial, self.next, self.acknowledged) = (initial, 1, 1);
        if self.advertised == 0 {
            self.advertised = 1;
        }
    }

    /// Room for what a SYN carries, before any was told of.
    pub(super) const fn announce(&mut self) {
        self.advertised = 1 + EARLY_MAX as u64;
    }

    /// The position of a number of the peer's.
    pub(super) fn position(&self, sequence: u32) -> Option<u64> {
        position(self.initial, self.next, sequence)
    }

    /// What to acknowledge.
    pub(super) const fn acknowledgement(&self) -> u32 {
        number(self.initial, self.next)
    }

    /// What to acknowledge, and the window, if the acknowledgement is to be of what came before `position`.
    pub(super) fn acknowledgement_at(&self, position: u64, window: u16) -> (u32, u16) {
        let less = (self.next - position.min(self.next)) >> self.shift;
        let window = (u64::from(window) + less).min(WINDOW_MAX);
        (number(self.initial, position), u16::try_from(window).unwrap_or(u16::MAX))
    }

    /// Bytes that the peer may send from `next` on.
    pub(super) const fn window(&self) -> u64 {
        self.advertised.saturating_sub(self.next)
    }

    /// How far back a segment may lie that was under way when what follows it was taken.
    pub(super) const fn reach(&self) -> u64 {
        WINDOW_MAX << self.shift
    }

    /// Whether something is kept out of order.
    #[cfg(test)]
    pub(super) fn has_ranges(&self) -> bool {
        !self.ranges.is_empty()
    }

    /// Whether the peer's FIN was taken.
    pub(super) fn has_ended(&self) -> bool {
        self.fin.is_some_and(|fin| self.next > fin)
    }

    /// Whether a segment of `len` numbers from `start` on is acceptable (RFC 9293 section 3.10.7.4).
    pub(super) fn accepts(&self, start: u64, len: u64) -> bool {
        let window = self.window();
        let inside = |at: u64| (self.next..self.next + window).contains(&at);
        match (len, window) {
            (0, 0) => start == self.next,
            (0, _) => inside(start),
            (_, 0) => false,
            _ => inside(start) || inside(start + len - 1),
        }
    }

    /// Takes payload from position `start` on, and perhaps a FIN behind it.
    pub(super) fn take(&mut self, start: u64, payload: &[u8], fin: bool) -> Result<Taken, Breach> {
        let mut taken = Taken::default();
        let end = start + payload.len() as u64;
        if fin && self.fin.is_none() {
            self.fin = Some(end);
        }
        if start < self.next && end > start {
            self.duplicate = Some(start..end.min(self.next));
            taken.at_once = true;
        }
        // Behind the FIN there is nothing.
        let limit = self.fin.map_or(end, |fin| end.min(fin)).min(self.advertised.max(self.next));
        let from = start.max(self.next);
        taken.dropped = limit < end && !payload.is_empty();
        if from < limit {
            let bytes = &payload[usize_of(from - start)..usize_of(limit - start)];
            self.keep(from, bytes, &mut taken)?;
        }
        if self.fin == Some(self.next) {
            self.next += 1;
            self.advertised = self.advertised.max(self.next);
            taken.ended = true;
        }
        // A FIN, however it comes, is answered.
        taken.at_once |= fin || taken.dropped;
        Ok(taken)
    }

    fn keep(&mut self, from: u64, bytes: &[u8], taken: &mut Taken) -> Result<(), Breach> {
        let ahead = usize_of(from - self.next);
        let room = self.store(ahead, bytes)?;
        taken.dropped |= room < bytes.len();
        let bytes = &bytes[..room];
        let end = from + bytes.len() as u64;
        if bytes.is_empty() {
            return Ok(());
        }
        if ahead > 0 {
            taken.at_once = true;
            taken.dropped |= !self.insert(from..end);
            return Ok(());
        }
        let before = self.next;
        self.next = end;
        // RFC 5681 section 4.2: a segment that fills a hole is acknowledged at once.
        taken.at_once |= !self.ranges.is_empty();
        while let Some((range, _)) = self.ranges.first()
            && range.start <= self.next
        {
            self.next = self.next.max(range.end);
            self.ranges.remove(0);
        }
        taken.bytes = self.next - before;
        self.advertised = self.advertised.max(self.next);
        if !self.deaf
            && self.early.is_empty()
            && let Some(fifo) = &mut self.fifo
        {
            fifo.advance(usize_of(taken.bytes));
        }
        Ok(())
    }

    /// Writes bytes where they belong. Returns how many found room.
    fn store(&mut self, ahead: usize, bytes: &[u8]) -> Result<usize, Breach> {
        if self.deaf {
            return Ok(bytes.len());
        }
        if self.fifo.is_none() || !self.early.is_empty() {
            // Order is all that this is for.
            let room = if ahead > 0 { 0 } else { EARLY_MAX.saturating_sub(self.early.len()) };
            let len = room.min(bytes.len());
            self.early.extend_from_slice(&bytes[..len]);
            return Ok(len);
        }
        let Some(fifo) = &mut self.fifo else { return Ok(0) };
        let mut room = fifo.reserve(ahead + bytes.len());
        if room < ahead + bytes.len() {
            fifo.refresh()?;
            room = fifo.reserve(ahead + bytes.len());
            self.starved = (room as u64) < fifo.room() && room < ahead + bytes.len();
        }
        let len = room.saturating_sub(ahead).min(bytes.len());
        fifo.write_at(ahead, &bytes[..len]);
        Ok(len)
    }

    /// Notes a range that was kept. Returns whether there is a place for it.
    fn insert(&mut self, mut range: Range<u64>) -> bool {
        self.changes = self.changes.wrapping_add(1);
        let first = self.ranges.partition_point(|(other, _)| other.end < range.start);
        let last = self.ranges.partition_point(|(other, _)| other.start <= range.end);
        if first == last {
            if self.ranges.len() == RANGES_MAX {
                return false;
            }
            self.ranges.insert(first, (range, self.changes));
            return true;
        }
        let (low, high) = (self.ranges[first].0.start, self.ranges[last - 1].0.end);
        if let Some((other, _)) = self.ranges[first..last]
            .iter()
            .find(|(other, _)| other.contains(&range.start) && range.end > other.start)
        {
            self.duplicate = Some(range.start..range.end.min(other.end));
        }
        range = range.start.min(low)..range.end.max(high);
        self.ranges.drain(first..last);
        self.ranges.insert(first, (range, self.changes));
        true
    }

    /// Notes that a segment came that lies wholly before `next`.
    pub(super) fn note_duplicate(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.duplicate = Some(range);
        }
    }

    /// What to say of ranges: what came twice first, then those that changed last (RFC 2018 section 4,
    /// RFC 2883 section 4).
    pub(super) fn take_sacks(&mut self, most: usize) -> Sacks {
        let mut sacks = Sacks::default();
        let numbers = |range: &Range<u64>| {
            (number(self.initial, range.start), number(self.initial, range.end))
        };
        if let Some(duplicate) = self.duplicate.take() {
            sacks.push(numbers(&duplicate));
        }
        let mut below = u32::MAX;
        for _ in 0..most.min(self.ranges.len()) {
            // The latest of those that are older than the last one told.
            let older = |stamp: u32| self.changes.wrapping_sub(stamp);
            let latest = self
                .ranges
                .iter()
                .filter(|(_, stamp)| below == u32::MAX || older(*stamp) > below)
                .min_by_key(|(_, stamp)| older(*stamp));
            let Some((range, stamp)) = latest else { break };
            below = older(*stamp);
            // A FIN that came has a number as well.
            let end = range.end + u64::from(self.fin == Some(range.end));
            sacks.push(numbers(&(range.start..end)));
        }
        sacks.truncate(most);
        sacks
    }

    /// Moves what came early into the FIFO, as far as there is room. Returns whether there is more.
    pub(super) fn settle(&mut self) -> Result<bool, Breach> {
        let Some(fifo) = &mut self.fifo else { return Ok(false) };
        if self.early.is_empty() {
            return Ok(false);
        }
        fifo.refresh()?;
        let len = fifo.write(&self.early);
        self.early.drain(..len);
        if self.early.is_empty() {
            self.early = Vec::new();
        }
        Ok(!self.early.is_empty())
    }

    /// Throws away what nobody will read. Returns whether there was something.
    pub(super) fn discard(&mut self) -> bool {
        let early = !std::mem::take(&mut self.early).is_empty();
        let unread = match self.fifo.take() {
            Some(mut fifo) => fifo.refresh().is_err() || fifo.unread() > 0,
            None => false,
        };
        (early || unread) && !self.deaf
    }

    /// Shows the reader what came. Returns whether there is news.
    pub(super) fn publish(&mut self) -> bool {
        self.fifo.as_mut().is_some_and(RxFifo::publish)
    }

    /// Bytes of room from `next` on.
    fn room(&mut self) -> u64 {
        if self.deaf {
            return WINDOW_MAX;
        }
        match &mut self.fifo {
            Some(fifo) if self.early.is_empty() => {
                let room = fifo.room();
                if !self.starved {
                    return room;
                }
                let reserved = fifo.reserve(usize_of(room)) as u64;
                self.starved = reserved < room;
                reserved
            }
            _ => (EARLY_MAX - self.early.len().min(EARLY_MAX)) as u64,
        }
    }

    /// The window for a header, and `next + window` becomes what the peer was told. `mss` is what the
    /// peer sends at most. In a SYN windows are not shifted (RFC 7323 section 2.2).
    pub(super) fn advertise(&mut self, mss: u64, syn: bool) -> Result<u16, Breach> {
        if let Some(fifo) = &mut self.fifo {
            fifo.refresh()?;
        }
        let mut room = self.room();
        let unread = self.fifo.as_ref().map_or(0, RxFifo::unread);
        if unread >= room
            && !self.stalled
            && !self.deaf
            && let Some(fifo) = &mut self.fifo
        {
            self.stalled = true;
            fifo.stall();
            fifo.refresh()?;
            room = self.room();
        }
        let edge = self.next + room;
        // RFC 9293 section 3.8.6.2.2: no small steps.
        let step = mss.min((room + unread) / 2).max(1);
        let edge = if edge >= self.advertised + step { edge } else { self.advertised };
        let shift = if syn { 0 } else { self.shift };
        let window = ((edge - self.next.min(edge)) >> shift).min(WINDOW_MAX);
        self.advertised = self.advertised.max(self.next + (window << shift));
        Ok(u16::try_from(window).unwrap_or(u16::MAX))
    }

    /// Whether the reader made so much room that the peer should hear of it (RFC 9293 section
    /// 3.8.6.2.2).
    pub(super) fn has_news(&mut self, mss: u64) -> Result<bool, Breach> {
        if let Some(fifo) = &mut self.fifo {
            fifo.refresh()?;
        }
        let unread = self.fifo.as_ref().map_or(0, RxFifo::unread);
        let room = self.room();
        let step = (2 * mss).min((room + unread) / 2).max(1);
        // A peer that still has room for a flight hears of more when that is acknowledged.
        let wants = self.window() < (EARLY_MAX as u64).max(2 * mss);
        Ok(wants && self.next + room >= self.advertised + step)
    }

    /// Gives chunks back while nothing is in them.
    pub(super) fn trim(&mut self) -> Result<(), Breach> {
        if let (true, Some(fifo)) = (self.ranges.is_empty(), &mut self.fifo) {
            fifo.let_go()?;
        }
        if self.ranges.is_empty() {
            self.ranges.shrink_to_fit();
        }
        Ok(())
    }

    /// Bytes that nobody has read.
    pub(super) fn unread(&self) -> u64 {
        self.early.len() as u64 + self.fifo.as_ref().map_or(0, RxFifo::unread)
    }
}

/// A distance within a window, which has 30 bits at most.
fn usize_of(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(usize::MAX)
}
