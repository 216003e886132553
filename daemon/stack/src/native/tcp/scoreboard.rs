//! What is under way: a record for each segment that was sent and is not acknowledged, and what the
//! acknowledgements say of it.
//!
//! Owns: the records, their marks, and loss detection by time (RACK, RFC 8985). Called for each
//! segment sent and each acknowledgement. Must never: count a byte as delivered twice.
//!
//! ```text
//!   una                                                      nxt
//!    ├── lost ──┬── in flight ──┬── sacked ──┬── in flight ──┤
//! ```
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

use dmm_port::Instant;

use crate::native::congestion::Snapshot;

/// Segments received out of order that show a loss on a path that does not reorder (RFC 5681's
/// threshold), and at most on one that does, as Linux has it (`tcp_max_reordering`).
const REORDERING: u32 = 3;
const REORDERING_MAX: u32 = 300;
/// Recoveries for which a wider reordering window stays (RFC 8985 section 6.2).
const WIDE_FOR: u8 = 16;

/// A segment under way.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Sent {
    /// Its first position.
    pub(super) start: u64,
    /// The one behind its last.
    pub(super) end: u64,
    /// When it was last sent.
    at: Instant,
    mark: Mark,
    /// It was sent more than once.
    again: bool,
    /// It ends what was written at once, or a record.
    pub(super) push: bool,
    /// It is the last of a train.
    pub(super) ends_train: bool,
    /// It was found to be lost, and nobody was told yet.
    fresh: bool,
    /// What was known when it was last sent.
    snapshot: Snapshot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Mark {
    /// Nothing is known of it.
    Flying,
    /// It was received out of order.
    Sacked,
    /// It is taken for lost and was not sent again since.
    Lost,
}

/// What an acknowledgement brought.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delivered {
    /// Bytes that it is the first to report.
    pub(super) bytes: u64,
    /// The time since the sending of the newest of them that was sent once only.
    pub(super) rtt: Option<Duration>,
    /// Some of them had not been sent twice, and lie before the newest that was reported before: a
    /// segment was overtaken.
    pub(super) reordered: bool,
    /// Bytes that had been sent once only.
    pub(super) once: u64,
    /// Segments that it is the first to report.
    pub(super) segments: u64,
    /// When the segment was sent that was sent last of these, where it ends, and what was known then.
    pub(super) latest: Option<(Instant, u64, Snapshot)>,
}

/// Segments under way, by what is known of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) sacked: usize,
    /// Taken for lost, whether or not they were sent again.
    pub(super) lost: usize,
    /// Sent again.
    pub(super) again: usize,
}

/// The newest segment, by time of sending, that was delivered.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Newest {
    at: Instant,
    end: u64,
    rtt: Duration,
}

/// The records.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Scoreboard {
    records: VecDeque<Sent>,
    sacked_bytes: u64,
    lost_bytes: u64,
    sacked_count: usize,
    /// Records that were sent again and not delivered since.
    again_count: usize,
    newest: Option<Newest>,
    /// The end of the highest segment delivered.
    highest: u64,
    /// The same before the acknowledgement that is being taken.
    highest_before: u64,
    /// Reordering was seen on this connection.
    reordering: bool,
    /// By how many segments one may be overtaken.
    degree: u32,
    /// Payload bytes of a full segment.
    mss: u64,
    /// Quarters of the least round trip that a segment may be late.
    quarters: u8,
    wide_for: u8,
    /// Where the round of the last widening ends.
    widened_until: u64,
}

impl Scoreboard {
    /// Nothing is under way.
    pub(super) const fn new(mss: u64) -> Self {
        Self {
            records: VecDeque::new(),
            sacked_bytes: 0,
            lost_bytes: 0,
            sacked_count: 0,
            again_count: 0,
            newest: None,
            highest: 0,
            highest_before: 0,
            reordering: false,
            degree: REORDERING,
            mss,
            quarters: 0,
            wide_for: 0,
            widened_until: 0,
        }
    }

    /// A full segment holds so many bytes of payload.
    pub(super) const fn set_mss(&mut self, mss: u64) {
        self.mss = mss;
    }

    /// By how many segments one may be overtaken and not be taken for lost.
    pub(super) const fn reordering(&self) -> u32 {
        self.degree
    }

    /// Bytes in flight: neither delivered nor lost.
    pub(super) fn flying(&self) -> u64 {
        self.span() - self.sacked_bytes - self.lost_bytes
    }

    fn span(&self) -> u64 {
        match (self.records.front(), self.records.back()) {
            (Some(first), Some(last)) => last.end - first.start,
            _ => 0,
        }
    }

    /// An acknowledgement is to be taken: what it reports is new together, in whatever order it says so.
    pub(super) const fn begin(&mut self) {
        self.highest_before = self.highest;
    }

    /// How many there are of each sort.
    pub(super) fn counts(&self) -> Counts {
        let lost = self.records.iter().filter(|record| record.mark == Mark::Lost).count();
        Counts { sacked: self.sacked_count, lost: lost + self.again_count, again: self.again_count }
    }

    /// Whether nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether something was received out of order.
    pub(super) const fn has_sacked(&self) -> bool {
        self.sacked_count > 0
    }

    /// Bytes taken for lost and not sent again since.
    pub(super) const fn lost_bytes(&self) -> u64 {
        self.lost_bytes
    }

    /// Whether a segment that was sent again is under way.
    pub(super) const fn has_again(&self) -> bool {
        self.again_count > 0
    }

    /// Segments under way.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Notes a segment sent for the first time, behind all others.
    pub(super) fn sent(
        &mut self,
        now: Instant,
        (start, end): (u64, u64),
        (push, ends_train): (bool, bool),
        snapshot: Snapshot,
    ) {
        self.records.push_back(Sent {
            start,
            end,
            at: now,
            mark: Mark::Flying,
            again: false,
            push,
            ends_train,
            fresh: false,
            snapshot,
        });
    }

    /// The first segment that is lost.
    pub(super) fn first_lost(&self) -> Option<Sent> {
        if self.lost_bytes == 0 {
            return None;
        }
        self.records.iter().find(|record| record.mark == Mark::Lost).copied()
    }

    /// The first, the last segment under way.
    pub(super) fn first(&self) -> Option<Sent> {
        self.records.front().copied()
    }

    /// The last segment that was not received out of order.
    pub(super) fn last_unsacked(&self) -> Option<Sent> {
        self.records.iter().rev().find(|record| record.mark != Mark::Sacked).copied()
    }

    /// Notes that the bytes from `start` to `end`, within one record, were sent again.
    pub(super) fn sent_again(
        &mut self,
        now: Instant,
        (start, end): (u64, u64),
        snapshot: Snapshot,
    ) {
        self.cut(start);
        self.cut(end);
        let from = self.find(start);
        for record in self.records.range_mut(from..).take_while(|record| record.end <= end) {
            if record.mark == Mark::Lost {
                self.lost_bytes -= record.end - record.start;
                record.mark = Mark::Flying;
            }
            self.again_count += usize::from(!record.again);
            (record.at, record.again, record.snapshot) = (now, true, snapshot);
        }
    }

    /// Takes a cumulative acknowledgement up to `until`. `least` is the least round trip time.
    pub(super) fn acknowledge(
        &mut self,
        now: Instant,
        until: u64,
        least: Option<Duration>,
        delivered: &mut Delivered,
    ) {
        self.cut(until);
        while let Some(record) = self.records.front().copied() {
            if record.end > until {
                break;
            }
            self.records.pop_front();
            self.unmark(&record);
            if record.mark != Mark::Sacked {
                self.deliver(now, &record, least, delivered);
            }
        }
    }

    /// Takes a selective acknowledgement of the bytes from `start` to `end`.
    pub(super) fn sack(
        &mut self,
        now: Instant,
        (start, end): (u64, u64),
        least: Option<Duration>,
        delivered: &mut Delivered,
    ) {
        // A segment of which a part came is not taken for one that did: a peer keeps whole ones.
        let from = self.find(start);
        for at in from..self.records.len() {
            let record = self.records[at];
            if record.end > end {
                break;
            }
            if record.mark == Mark::Sacked {
                continue;
            }
            self.unmark(&record);
            self.sacked_bytes += record.end - record.start;
            self.sacked_count += 1;
            self.records[at].mark = Mark::Sacked;
            self.records[at].again = false;
            self.deliver(now, &record, least, delivered);
        }
    }

    fn unmark(&mut self, record: &Sent) {
        let bytes = record.end - record.start;
        match record.mark {
            Mark::Flying => {}
            Mark::Sacked => {
                self.sacked_bytes -= bytes;
                self.sacked_count -= 1;
            }
            Mark::Lost => self.lost_bytes -= bytes,
        }
        self.again_count -= usize::from(record.again);
    }

    /// RFC 8985 section 6.2, steps 1 to 3.
    fn deliver(
        &mut self,
        now: Instant,
        record: &Sent,
        least: Option<Duration>,
        delivered: &mut Delivered,
    ) {
        let (bytes, rtt) = (record.end - record.start, now.since(record.at));
        delivered.bytes += bytes;
        delivered.segments += 1;
        if delivered.latest.is_none_or(|(at, end, _)| (at, end) < (record.at, record.end)) {
            delivered.latest = Some((record.at, record.end, record.snapshot));
        }
        if record.again {
            // Sooner than any round trip it is the first sending that arrived.
            if least.is_some_and(|least| rtt < least) {
                return;
            }
        } else {
            delivered.once += bytes;
            delivered.rtt = Some(delivered.rtt.map_or(rtt, |other| other.min(rtt)));
            if record.end < self.highest_before {
                let overtaken = (self.highest_before - record.start).div_ceil(self.mss.max(1));
                let overtaken = u32::try_from(overtaken).unwrap_or(REORDERING_MAX);
                self.degree = self.degree.max(overtaken.min(REORDERING_MAX));
                delivered.reordered = true;
                self.reordering = true;
            }
        }
        self.highest = self.highest.max(record.end);
        match &mut self.newest {
            Some(newest) if (newest.at, newest.end) >= (record.at, record.end) => newest.rtt = rtt,
            newest => *newest = Some(Newest { at: record.at, end: record.end, rtt }),
        }
    }

    /// Marks what lies before three segments that were received (RFC 6675 section 4), and was not sent
    /// again. Returns whether there was something.
    pub(super) fn detect_by_count(&mut self) -> bool {
        let (mut beyond, mut lost) = (0, 0);
        for record in self.records.iter_mut().rev() {
            match record.mark {
                Mark::Sacked => beyond += 1,
                Mark::Flying if beyond >= REORDERING && !record.again => {
                    (record.mark, record.fresh) = (Mark::Lost, true);
                    lost += record.end - record.start;
                }
                Mark::Flying | Mark::Lost => {}
            }
        }
        self.lost_bytes += lost;
        lost > 0
    }

    /// Marks what must have been lost, since what was sent later has arrived (RFC 8985 section 6.2,
    /// steps 4 and 5). Returns bytes newly lost, and when to look again.
    pub(super) fn detect(
        &mut self,
        now: Instant,
        recovering: bool,
        (least, smoothed): (Option<Duration>, Option<Duration>),
    ) -> (u64, Option<Instant>) {
        let Some(newest) = self.newest else { return (0, None) };
        let later = |record: &Sent| (record.at, record.end) >= (newest.at, newest.end);
        // Nothing was sent again: what follows was sent later still.
        if self.again_count == 0 && self.records.front().is_none_or(later) {
            return (0, None);
        }
        let patience = newest.rtt + self.reordering_window(recovering, least, smoothed);
        let (mut lost, mut look_at) = (0, None);
        for record in &mut self.records {
            if later(record) {
                if self.again_count == 0 {
                    break;
                }
                continue;
            }
            if record.mark != Mark::Flying {
                continue;
            }
            let due = record.at + patience;
            if due <= now {
                (record.mark, record.fresh) = (Mark::Lost, true);
                self.again_count -= usize::from(std::mem::take(&mut record.again));
                lost += record.end - record.start;
            } else {
                look_at = Some(look_at.map_or(due, |at: Instant| at.max(due)));
            }
        }
        self.lost_bytes += lost;
        (lost, look_at)
    }

    fn reordering_window(
        &self,
        recovering: bool,
        least: Option<Duration>,
        smoothed: Option<Duration>,
    ) -> Duration {
        if !self.reordering && (recovering || self.sacked_count >= self.degree as usize) {
            return Duration::ZERO;
        }
        let quarter = least.unwrap_or_default() / 4;
        (quarter * u32::from(self.quarters.max(1))).min(smoothed.unwrap_or_default())
    }

    /// A segment arrived twice: what was taken for lost was not. The window grows, once a round trip.
    pub(super) fn widen(&mut self, una: u64, next: u64) {
        if una >= self.widened_until {
            self.widened_until = next;
            self.quarters = self.quarters.max(1).saturating_add(1);
            self.wide_for = WIDE_FOR;
        }
    }

    /// What was taken for lost was overtaken.
    pub(super) const fn overtaken(&mut self) {
        self.reordering = true;
    }

    /// A recovery is over.
    pub(super) const fn recovered(&mut self) {
        self.wide_for = self.wide_for.saturating_sub(1);
        if self.wide_for == 0 {
            self.quarters = 1;
        }
    }

    /// Takes everything that was not received out of order for lost. With `renege`, what was, too:
    /// the receiver may have thrown it away (RFC 2018 section 8).
    pub(super) fn lose_all(&mut self, renege: bool) {
        for record in &mut self.records {
            if record.mark == Mark::Sacked && renege {
                self.sacked_bytes -= record.end - record.start;
                self.sacked_count -= 1;
                record.mark = Mark::Flying;
            }
            if record.mark == Mark::Flying {
                record.mark = Mark::Lost;
                self.lost_bytes += record.end - record.start;
            }
            if record.mark == Mark::Lost {
                self.again_count -= usize::from(std::mem::take(&mut record.again));
            }
        }
    }

    /// Takes for lost what is longer than `mss`: the path does not carry it.
    pub(super) fn lose_longer(&mut self, mss: u64) {
        for record in &mut self.records {
            let len = record.end - record.start;
            if record.mark == Mark::Flying && len > mss {
                record.mark = Mark::Lost;
                self.lost_bytes += len;
                self.again_count -= usize::from(std::mem::take(&mut record.again));
            }
        }
    }

    /// What was taken for lost is in flight after all.
    pub(super) fn lose_nothing(&mut self) {
        for record in &mut self.records {
            if record.mark == Mark::Lost {
                record.mark = Mark::Flying;
            }
        }
        self.lost_bytes = 0;
    }

    /// Without SACK: as many duplicates arrived that the first segment must be lost (RFC 6582).
    pub(super) fn lose_first(&mut self) -> bool {
        let Some(first) = self.records.front_mut() else { return false };
        if first.mark != Mark::Flying {
            return false;
        }
        (first.mark, first.fresh) = (Mark::Lost, true);
        self.lost_bytes += first.end - first.start;
        self.again_count -= usize::from(std::mem::take(&mut first.again));
        true
    }

    /// Tells of the segments that were found to be lost since the last call: their bytes, and what was known
    /// when they were sent.
    pub(super) fn tell_lost(&mut self, mut tell: impl FnMut(u64, &Snapshot)) {
        for record in self.records.iter_mut().filter(|record| record.fresh) {
            record.fresh = false;
            tell(record.end - record.start, &record.snapshot);
        }
    }

    /// Makes a record begin at `position`, if one holds it in its middle.
    fn cut(&mut self, position: u64) {
        let at = self.find(position);
        let Some(record) = at.checked_sub(1).map(|before| self.records[before]) else { return };
        if record.end <= position {
            return;
        }
        let (push, ends_train) = (false, false);
        self.records[at - 1] = Sent { end: position, push, ends_train, ..record };
        self.records.insert(at, Sent { start: position, ..record });
        self.again_count += usize::from(record.again);
        self.sacked_count += usize::from(record.mark == Mark::Sacked);
    }

    /// The index of the first record that begins at `position` or behind it.
    fn find(&self, position: u64) -> usize {
        self.records.partition_point(|record| record.start < position)
    }

    /// Gives memory back that an idle connection does not need.
    pub(super) fn shrink(&mut self) {
        if self.records.is_empty() {
            self.records.shrink_to_fit();
        }
    }
}
