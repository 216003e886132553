//! The receiving half of a connection: straight into the rx FIFO, in whatever order bytes come.
//!
//! Owns: the list of ranges that came out of order. Called with each segment that holds data.
//! Must never: write beyond what the FIFO has reserved, or let the list grow without bound.
//!
//! ```text
//!        tail = in order     hole      range            tail + reserved
//!   read ──┼──────────────────────────┼███████┼─────────┤ window
//!          write_at(ahead = position - tail); the tail advances when the hole is filled
//! ```
#![forbid(unsafe_code)]

use std::ops::Range;

use dmm_proto::Breach;
use dmm_proto::fifo::RxFifo;

/// Ranges out of order at most; what does not fit comes again.
const RANGES_MAX: usize = 64;
/// Bytes of window at most: as many as a sender has in flight.
const WINDOW_MAX: usize = 128 * 1024;

/// The receiving half.
pub(super) struct Receiver {
    /// Where bytes go, while there is somebody to read them.
    pub(super) fifo: Option<RxFifo>,
    /// Bytes received in order.
    position: u64,
    /// Ranges received beyond, in order of position, apart from each other.
    pub(super) ranges: Vec<Range<u64>>,
    /// Where the stream ends, once known.
    end: Option<u64>,
    /// The position up to which the peer was last told of room.
    told: u64,
    /// The reader was asked to say when there is room.
    pub(super) stalled: bool,
}

impl Receiver {
    /// A receiver of nothing yet.
    pub(super) const fn new(fifo: Option<RxFifo>) -> Self {
        let ranges = Vec::new();
        Self { fifo, position: 0, ranges, end: None, told: 0, stalled: false }
    }

    /// What to acknowledge: the bytes in order, and the end if that is reached.
    pub(super) fn acknowledged(&self) -> u64 {
        self.position + u64::from(self.has_ended())
    }

    /// Whether everything up to the end has come.
    pub(super) fn has_ended(&self) -> bool {
        self.end == Some(self.position)
    }

    /// The room to advertise; the peer will be told of it.
    pub(super) fn window(&mut self) -> Result<u32, Breach> {
        let room = self.room()?;
        self.told = self.position + room as u64;
        Ok(u32::try_from(room).unwrap_or(u32::MAX))
    }

    /// Whether the reader made so much room that the peer should hear of it: a quarter of what
    /// there can be, or anything after nothing.
    pub(super) fn has_news(&mut self) -> Result<bool, Breach> {
        let fresh = (self.position + self.room()? as u64).saturating_sub(self.told);
        Ok(fresh >= WINDOW_MAX as u64 / 4 || (self.told == self.position && fresh > 0))
    }

    fn room(&mut self) -> Result<usize, Breach> {
        let Some(fifo) = &mut self.fifo else { return Ok(0) };
        fifo.refresh()?;
        let room = fifo.reserve(WINDOW_MAX);
        if fifo.room() == 0 && !self.stalled {
            self.stalled = true;
            fifo.stall();
            fifo.refresh()?;
            return Ok(fifo.reserve(WINDOW_MAX));
        }
        Ok(room)
    }

    /// Takes bytes that begin at `position`, and perhaps the end behind them.
    pub(super) fn take(&mut self, position: u64, bytes: &[u8], end: bool) -> Result<(), Breach> {
        if end {
            self.end.get_or_insert(position + bytes.len() as u64);
        }
        let limit = (self.position + self.room()? as u64).min(self.end.unwrap_or(u64::MAX));
        let from = position.max(self.position);
        let to = (position + bytes.len() as u64).min(limit);
        if from >= to || (from > self.position && self.ranges.len() == RANGES_MAX) {
            return Ok(());
        }
        let part = |at: u64| usize::try_from(at - position).expect("within the segment");
        let ahead = usize::try_from(from - self.position).expect("within the window");
        let Some(fifo) = &mut self.fifo else { return Ok(()) };
        fifo.write_at(ahead, &bytes[part(from)..part(to)]);
        insert(&mut self.ranges, from..to);
        if self.ranges[0].start == self.position {
            let filled = self.ranges.remove(0);
            let len = filled.end - filled.start;
            fifo.advance(usize::try_from(len).expect("within the window"));
            self.position = filled.end;
        }
        Ok(())
    }
}

/// Adds a range to a list that is in order, joining what touches.
fn insert(ranges: &mut Vec<Range<u64>>, mut new: Range<u64>) {
    ranges.retain(|old| {
        let apart = old.end < new.start || old.start > new.end;
        if !apart {
            new = new.start.min(old.start)..new.end.max(old.end);
        }
        apart
    });
    let at = ranges.partition_point(|old| old.end < new.start);
    ranges.insert(at, new);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_are_a_set(parts in prop::collection::vec((0..200_u64, 1..20_u64), 1..60)) {
            let (mut ranges, mut model) = (Vec::new(), [false; 256]);
            for (start, len) in parts {
                insert(&mut ranges, start..start + len);
                (start..start + len).for_each(|at| model[at as usize] = true);
            }
            for (at, there) in model.iter().enumerate() {
                let count = ranges.iter().filter(|range| range.contains(&(at as u64))).count();
                prop_assert_eq!(count, usize::from(*there));
            }
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
