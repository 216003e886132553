//! The ring: a single-producer, single-consumer queue of 64-byte entries over shared memory.
//!
//! Used in pairs by a channel: submissions go from client to daemon, completions back. The
//! producer owns the entries and `tail`, the consumer owns `head`; each lies in the memory that
//! only its owner's side may write (the daemon's half of a ring lies in the daemon region).
//!
//! ```text
//!            head (consumer)          tail (producer)
//!              ▼                        ▼
//!   ┌───┬───┬───┬───┬───┬───┬───┬───┬───┬───┐
//!   │   │   │ e │ e │ e │ e │ s │ s │   │   │   e: published, s: staged
//!   └───┴───┴───┴───┴───┴───┴───┴───┴───┴───┘
//! ```
//!
//! Both cursors count entries and wrap at 2^32. A batch is staged entry by entry and published by
//! one release store. The other side's cursor is foreign: it is loaded once, checked against the
//! ring's length, and only the checked copy is used.
#![forbid(unsafe_code)]

use crate::breach::Breach;
use crate::shared::Shared;
use crate::sync::{AtomicU32, AtomicU64, Handover, Ordering, at};

/// Words of an entry.
pub const ENTRY_WORDS: usize = 8;

/// An entry by value: what was copied out once and is checked as a copy.
pub type Entry = [u64; ENTRY_WORDS];

/// A cursor with a cache line pair to itself.
#[repr(C, align(128))]
#[derive(Default)]
pub struct Cursor {
    /// Entries produced or consumed since the ring was made, wrapping.
    pub count: AtomicU32,
}

/// An entry in shared memory.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Slot {
    words: [AtomicU64; ENTRY_WORDS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Cursor>() == 128 && size_of::<Slot>() == 64);

impl Slot {
    fn store(&self, entry: &Entry) {
        for (word, value) in self.words.iter().zip(entry) {
            word.store(*value, Ordering::Relaxed);
        }
    }

    /// Writes one word: how a mock of a hostile producer scribbles.
    #[cfg(not(loom))]
    pub(crate) fn store_word(&self, word: usize, value: u64) {
        self.words[word].store(value, Ordering::Relaxed);
    }

    fn load(&self) -> Entry {
        std::array::from_fn(|i| self.words[i].load(Ordering::Relaxed))
    }
}

/// Where the three parts of a ring lie.
#[derive(Clone)]
pub struct Parts {
    /// The producer's cursor.
    pub tail: Shared<Cursor>,
    /// The consumer's cursor.
    pub head: Shared<Cursor>,
    /// The entries; their number is a power of two.
    pub slots: Shared<[Slot]>,
}

impl Parts {
    /// A ring of `entries` (a power of two) on the heap: for tests and models.
    #[must_use]
    pub fn heap(entries: usize) -> Self {
        assert!(entries.is_power_of_two());
        Self {
            tail: Shared::heap(Cursor::default()),
            head: Shared::heap(Cursor::default()),
            slots: Shared::heap_slice((0..entries).map(|_| Slot::default()).collect()),
        }
    }

    fn capacity(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("rings are short")
    }
}

/// The producing end.
pub struct Producer {
    parts: Parts,
    capacity: u32,
    /// Entries staged, including those published.
    staged: u32,
    published: u32,
    /// The consumer's cursor as last seen and checked.
    head: u32,
}

impl Producer {
    /// The producing end of an empty ring.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let capacity = parts.capacity();
        Self { parts, capacity, staged: 0, published: 0, head: 0 }
    }

    /// Writes `entry` behind what was staged before; the consumer sees it after
    /// [`Producer::publish`]. `Ok(false)` means that the ring is full.
    pub fn stage(&mut self, entry: &Entry) -> Result<bool, Breach> {
        if self.free()? == 0 {
            return Ok(false);
        }
        self.parts.slots[(self.staged & (self.capacity - 1)) as usize].store(entry);
        self.staged = self.staged.wrapping_add(1);
        Ok(true)
    }

    /// Makes everything staged visible with one release store. Returns whether there was anything.
    pub fn publish(&mut self) -> bool {
        if self.staged == self.published {
            return false;
        }
        self.parts.tail.count.store(self.staged, at(Handover::RingTail, Ordering::Release));
        self.published = self.staged;
        true
    }

    /// Entries that can be staged now. Looks at the consumer's cursor only when the cached one
    /// says that the ring is full.
    pub fn free(&mut self) -> Result<u32, Breach> {
        let used = self.staged.wrapping_sub(self.head);
        if used < self.capacity {
            return Ok(self.capacity - used);
        }
        let head = self.parts.head.count.load(Ordering::Acquire);
        // The head may advance up to what was published, and never back.
        if head.wrapping_sub(self.head) > self.published.wrapping_sub(self.head) {
            return Err(Breach::RingHead);
        }
        self.head = head;
        Ok(self.capacity - self.staged.wrapping_sub(head))
    }
}

/// The consuming end.
pub struct Consumer {
    parts: Parts,
    capacity: u32,
    head: u32,
    released: u32,
    /// The producer's cursor as last seen and checked.
    tail: u32,
}

impl Consumer {
    /// The consuming end of an empty ring.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let capacity = parts.capacity();
        Self { parts, capacity, head: 0, released: 0, tail: 0 }
    }

    /// Copies the next entry out, or `Ok(None)` if there is none.
    pub fn pop(&mut self) -> Result<Option<Entry>, Breach> {
        if self.head == self.tail && !self.look()? {
            return Ok(None);
        }
        let entry = self.parts.slots[(self.head & (self.capacity - 1)) as usize].load();
        self.head = self.head.wrapping_add(1);
        Ok(Some(entry))
    }

    /// Gives the entries popped so far back to the producer, with one release store.
    pub fn release(&mut self) {
        if self.head != self.released {
            self.parts.head.count.store(self.head, Ordering::Release);
            self.released = self.head;
        }
    }

    /// Whether an entry can be popped.
    pub fn look(&mut self) -> Result<bool, Breach> {
        let tail = self.parts.tail.count.load(Ordering::Acquire);
        if tail.wrapping_sub(self.head) > self.capacity
            || tail.wrapping_sub(self.head) < self.tail.wrapping_sub(self.head)
        {
            return Err(Breach::RingTail);
        }
        self.tail = tail;
        Ok(self.head != tail)
    }
}

/// Both ends of a ring on the heap: for tests, models and benchmarks.
#[must_use]
pub fn pair(entries: usize) -> (Producer, Consumer) {
    let parts = Parts::heap(entries);
    (Producer::new(parts.clone()), Consumer::new(parts))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn entry(n: u64) -> Entry {
        std::array::from_fn(|i| n * 8 + i as u64)
    }

    #[test]
    fn staged_entries_are_invisible_until_published() {
        let (mut producer, mut consumer) = pair(4);
        assert_eq!(producer.stage(&entry(1)), Ok(true));
        assert_eq!(consumer.pop(), Ok(None));
        assert!(producer.publish());
        assert_eq!(consumer.pop(), Ok(Some(entry(1))));
        assert!(!producer.publish());
    }

    #[test]
    fn a_tail_out_of_range_is_a_breach() {
        for lie in [5, u32::MAX, 1 << 31] {
            let parts = Parts::heap(4);
            let mut consumer = Consumer::new(parts.clone());
            parts.tail.count.store(lie, Ordering::Relaxed);
            assert_eq!(consumer.pop(), Err(Breach::RingTail), "{lie}");
        }
    }

    #[test]
    fn a_tail_that_runs_backwards_is_a_breach() {
        let parts = Parts::heap(4);
        let mut consumer = Consumer::new(parts.clone());
        parts.tail.count.store(3, Ordering::Relaxed);
        assert!(consumer.pop().is_ok());
        parts.tail.count.store(2, Ordering::Relaxed);
        assert_eq!(consumer.look(), Err(Breach::RingTail));
    }

    #[test]
    fn a_head_out_of_range_is_a_breach() {
        for lie in [3, u32::MAX] {
            let parts = Parts::heap(2);
            let mut producer = Producer::new(parts.clone());
            for n in 0..2 {
                assert_eq!(producer.stage(&entry(n)), Ok(true));
            }
            producer.publish();
            parts.head.count.store(lie, Ordering::Relaxed);
            assert_eq!(producer.free(), Err(Breach::RingHead), "{lie}");
        }
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Stage(u64),
        Publish,
        Pop,
        Release,
    }

    fn operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            any::<u32>().prop_map(|n| Operation::Stage(u64::from(n))),
            Just(Operation::Publish),
            Just(Operation::Pop),
            Just(Operation::Release),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_a_bounded_deque(
            operations in prop::collection::vec(operation(), 0..400),
            start in prop_oneof![Just(0_u32), Just(u32::MAX - 3)],
        ) {
            const CAPACITY: usize = 4;
            let parts = Parts::heap(CAPACITY);
            parts.tail.count.store(start, Ordering::Relaxed);
            parts.head.count.store(start, Ordering::Relaxed);
            let mut producer = Producer { staged: start, published: start, head: start, ..Producer::new(parts.clone()) };
            let mut consumer = Consumer { head: start, released: start, tail: start, ..Consumer::new(parts) };
            let (mut staged, mut published, mut unreleased) = (VecDeque::new(), VecDeque::new(), 0);
            for operation in operations {
                match operation {
                    Operation::Stage(n) => {
                        let fits = staged.len() + published.len() + unreleased < CAPACITY;
                        prop_assert_eq!(producer.stage(&entry(n)), Ok(fits));
                        if fits { staged.push_back(n); }
                    }
                    Operation::Publish => {
                        prop_assert_eq!(producer.publish(), !staged.is_empty());
                        published.append(&mut staged);
                    }
                    Operation::Pop => {
                        let expected = published.pop_front();
                        prop_assert_eq!(consumer.pop(), Ok(expected.map(entry)));
                        unreleased += usize::from(expected.is_some());
                    }
                    Operation::Release => { consumer.release(); unreleased = 0; }
                }
            }
        }
    }
}
