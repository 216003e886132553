//! Times at which sockets are to be served: a hierarchical timing wheel (Varghese and Lauck, 1987).
//!
//! Owns: at most one time for each slot of the table. Called whenever a socket was served, and in each poll.
//! Must never: look at all times to find one, or move more of them in a call than it is told.
//!
//! ```text
//!   level 0: 64 lists of a tick (65 us) each      ▕▔▏▏▏▏▏...   within 4 ms
//!   level 1: 64 lists of 64 ticks each            ▕▔▔▔▔▏...    within 268 ms
//!   level 2: ...                                  a list whose time has come is spread over the level below
//! ```
#![forbid(unsafe_code)]

use dmm_port::Instant;

/// A tick has 2^16 ns.
const TICK_BITS: u32 = 16;
/// Each level has 2^6 lists.
const LEVEL_BITS: u32 = 6;
const LISTS: usize = 1 << LEVEL_BITS;
/// All 48 bits of ticks that 64 bits of nanoseconds have.
const LEVELS: usize = ((u64::BITS - TICK_BITS) / LEVEL_BITS) as usize;
/// The end of a list, and the list of what is in none.
const NONE: u32 = u32::MAX;

/// A slot's time.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Instant,
    /// Its neighbours in a list.
    before: u32,
    behind: u32,
    /// Which list, counted through all levels.
    list: u32,
}

const UNSET: Entry = Entry { at: Instant::ZERO, before: NONE, behind: NONE, list: NONE };

/// The wheel.
pub(super) struct Wheel {
    /// The tick up to which everything is done but what is left of its own.
    tick: u64,
    /// The first of each list.
    heads: [u32; LISTS * LEVELS],
    /// Of each level, which lists are not empty.
    filled: [u64; LEVELS],
    entries: Vec<Entry>,
    /// The earliest of all, if it is known.
    earliest: Option<Instant>,
}

const fn tick_of(at: Instant) -> u64 {
    at.as_nanos() >> TICK_BITS
}

impl Wheel {
    /// No times.
    pub(super) const fn new() -> Self {
        Self {
            tick: 0,
            heads: [NONE; LISTS * LEVELS],
            filled: [0; LEVELS],
            entries: Vec::new(),
            earliest: None,
        }
    }

    /// When `index` is to be served.
    pub(super) fn get(&self, index: u32) -> Option<Instant> {
        let entry = self.entries.get(index as usize)?;
        (entry.list != NONE).then_some(entry.at)
    }

    /// Sets when it is.
    pub(super) fn set(&mut self, index: u32, at: Instant) {
        self.unset(index);
        if index as usize >= self.entries.len() {
            self.entries.resize(index as usize + 1, UNSET);
        }
        self.entries[index as usize].at = at;
        // Of an empty wheel nothing is known.
        if self.earliest.is_some_and(|earliest| at < earliest) || self.is_empty() {
            self.earliest = Some(at);
        }
        self.link(index);
    }

    /// It is not.
    pub(super) fn unset(&mut self, index: u32) {
        let Some(at) = self.get(index) else { return };
        self.unlink(index);
        if self.earliest == Some(at) || self.is_empty() {
            self.earliest = None;
        }
    }

    fn is_empty(&self) -> bool {
        self.filled.iter().all(|filled| *filled == 0)
    }

    /// The earliest time, or one a little before it: there is no sense in sorting what is far away.
    pub(super) fn earliest(&mut self) -> Option<Instant> {
        if self.earliest.is_none() {
            self.earliest = self.find_earliest();
        }
        self.earliest
    }

    fn find_earliest(&self) -> Option<Instant> {
        let (level, slot, tick) = self.first_list()?;
        if level > 0 {
            return Some(Instant::from_nanos(tick << TICK_BITS));
        }
        let mut earliest = None;
        let mut index = self.heads[slot];
        while let Some(entry) = self.entries.get(index as usize) {
            earliest = Instant::earliest(earliest, Some(entry.at));
            index = entry.behind;
        }
        earliest
    }

    /// The first list that is not empty: its level, its place there, and the tick at which it begins.
    fn first_list(&self) -> Option<(usize, usize, u64)> {
        let here = |level: usize| (self.tick >> (level as u32 * LEVEL_BITS)) as usize % LISTS;
        // What is left of one that is being spread comes before all that it was spread over.
        let half_done =
            (1..LEVELS).rev().find(|level| self.filled[*level] & 1 << here(*level) != 0);
        if let Some(level) = half_done {
            return Some((level, here(level), self.tick));
        }
        let level = self.filled.iter().position(|filled| *filled != 0)?;
        let ahead = self.filled[level].rotate_right(here(level) as u32).trailing_zeros();
        let shift = level as u32 * LEVEL_BITS;
        let tick = ((self.tick >> shift) + u64::from(ahead)) << shift;
        Some((level, (here(level) + ahead as usize) % LISTS, tick.max(self.tick)))
    }

    /// Tells `due` of up to `most` slots whose time has come, which have none then.
    pub(super) fn expire(&mut self, now: Instant, most: usize, mut due: impl FnMut(u32)) {
        if self.earliest.is_some_and(|earliest| earliest > now) {
            return;
        }
        let end = tick_of(now);
        for _ in 0..most {
            let Some((level, slot, tick)) = self.first_list() else { break };
            if tick > end {
                self.tick = end;
                break;
            }
            self.tick = tick;
            let index = self.heads[level * LISTS + slot];
            if level > 0 {
                self.unlink(index);
                self.link(index);
                continue;
            }
            match self.first_due(slot, now) {
                Some(index) => {
                    self.unlink(index);
                    due(index);
                }
                None => break,
            }
        }
        self.earliest = None;
    }

    /// The first in a list of level 0 whose time has come; in the tick that runs, some may have to wait.
    fn first_due(&self, slot: usize, now: Instant) -> Option<u32> {
        let mut index = self.heads[slot];
        while let Some(entry) = self.entries.get(index as usize) {
            if entry.at <= now {
                return Some(index);
            }
            index = entry.behind;
        }
        None
    }

    /// Puts an entry into the list of its time.
    fn link(&mut self, index: u32) {
        let tick = tick_of(self.entries[index as usize].at).max(self.tick);
        // The highest bits in which they differ say how far away it is.
        let apart = (tick ^ self.tick) | (LISTS as u64 - 1);
        let level = (apart.ilog2() / LEVEL_BITS) as usize;
        let slot = (tick >> (level as u32 * LEVEL_BITS)) as usize % LISTS;
        let list = level * LISTS + slot;
        let head = std::mem::replace(&mut self.heads[list], index);
        let entry = &mut self.entries[index as usize];
        (entry.before, entry.behind, entry.list) = (NONE, head, list as u32);
        if let Some(second) = self.entries.get_mut(head as usize) {
            second.before = index;
        }
        self.filled[level] |= 1 << slot;
    }

    fn unlink(&mut self, index: u32) {
        let Entry { before, behind, list, .. } = self.entries[index as usize];
        self.entries[index as usize].list = NONE;
        if let Some(entry) = self.entries.get_mut(behind as usize) {
            entry.before = before;
        }
        match self.entries.get_mut(before as usize) {
            Some(entry) => entry.behind = behind,
            None => self.heads[list as usize] = behind,
        }
        if self.heads[list as usize] == NONE {
            self.filled[list as usize / LISTS] &= !(1 << (list as usize % LISTS));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    /// All that are due, by time.
    fn expire_all(wheel: &mut Wheel, now: Instant) -> Vec<u32> {
        let mut due = Vec::new();
        loop {
            let before = due.len();
            wheel.expire(now, 7, |index| due.push(index));
            let waits = wheel.earliest().is_none_or(|earliest| earliest > now);
            if due.len() == before && waits {
                return due;
            }
        }
    }

    #[test]
    fn what_is_far_away_comes_in_its_time() {
        let mut wheel = Wheel::new();
        let times: Vec<u64> = (0..60).map(|bit| (1_u64 << bit) + 12_345).collect();
        for (index, nanos) in (0_u32..).zip(&times) {
            wheel.set(index, at(*nanos));
        }
        for (index, nanos) in (0_u32..).zip(&times) {
            assert_eq!(expire_all(&mut wheel, at(nanos - 1)), [] as [u32; 0], "{index}");
            assert_eq!(expire_all(&mut wheel, at(*nanos)), [index]);
        }
        assert_eq!(wheel.earliest(), None);
    }

    #[test]
    fn what_is_near_is_told_exactly() {
        let mut wheel = Wheel::new();
        wheel.set(0, at(3_000_000));
        assert_eq!(wheel.earliest(), Some(at(3_000_000)));
        wheel.set(1, at(2_999_999));
        assert_eq!(wheel.earliest(), Some(at(2_999_999)));
        wheel.unset(1);
        assert_eq!(wheel.earliest(), Some(at(3_000_000)));
    }

    #[test]
    fn a_time_that_has_passed_comes_at_once() {
        let mut wheel = Wheel::new();
        wheel.set(0, at(1 << 40));
        assert_eq!(expire_all(&mut wheel, at(1 << 40)), [0]);
        wheel.set(1, at(5));
        assert_eq!(expire_all(&mut wheel, at(1 << 40)), [1]);
    }

    /// A million times in one list are spread over many calls.
    #[test]
    fn a_call_moves_no_more_than_it_is_told() {
        let mut wheel = Wheel::new();
        let far = Instant::ZERO + Duration::from_secs(3600);
        (0..1000).for_each(|index| wheel.set(index, far));
        let mut due = 0;
        let mut calls = 0;
        while due < 1000 {
            let before = due;
            wheel.expire(far, 10, |_| due += 1);
            assert!(due - before <= 10);
            calls += 1;
        }
        assert!(calls >= 100);
    }

    proptest! {
        /// Against a sorted list.
        #[test]
        fn it_does_what_a_sorted_list_does(
            steps in prop::collection::vec((0_u32..20, 0_u32..40, any::<bool>(), 0_u32..36), 1..200),
        ) {
            let mut wheel = Wheel::new();
            let mut oracle: BTreeMap<u32, Instant> = BTreeMap::new();
            let mut now = Instant::ZERO;
            for (index, bits, set, wait) in steps {
                if set {
                    let when = now + Duration::from_nanos((1 << bits) - 1);
                    wheel.set(index, when);
                    oracle.insert(index, when);
                } else {
                    wheel.unset(index);
                    oracle.remove(&index);
                }
                prop_assert_eq!(wheel.get(index), oracle.get(&index).copied());
                now = now + Duration::from_nanos((1 << wait) / 3);
                let mut due = expire_all(&mut wheel, now);
                due.sort_unstable();
                let expected: Vec<u32> =
                    oracle.iter().filter(|(_, at)| **at <= now).map(|(index, _)| *index).collect();
                prop_assert_eq!(&due, &expected);
                oracle.retain(|_, at| *at > now);
                let earliest = wheel.earliest();
                let least = oracle.values().min().copied();
                prop_assert_eq!(earliest.is_some(), least.is_some());
                prop_assert!(earliest <= least && earliest.is_none_or(|at| at > now));
            }
        }
    }
}
