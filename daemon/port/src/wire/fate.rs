//! What happens to a frame on its way, decided when it is sent.
//!
//! Owns: the impairments of one direction and their random numbers. Called by the direction for
//! every frame, under its lock. Must never: depend on anything but the configuration, the seed, the
//! frames' lengths and the `now` of each, or a run could not be replayed.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::Duration;

use super::random::{Chance, Random};
use super::{WireConfig, WireError};
use crate::Instant;

/// What happens to one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It finds the transmit queue full.
    Overflow,
    /// It leaves, and never arrives.
    Loss,
    /// It arrives.
    Arrival {
        /// When.
        due: Instant,
        /// Whether it was held back so that others may overtake it.
        reordered: bool,
        /// Whether it arrives twice.
        duplicated: bool,
        /// Whether it found a long queue.
        marked: bool,
        /// Which of its bits flips, counted from the first.
        corrupt_bit: Option<u64>,
    },
}

/// The impairments of one direction.
pub(super) struct Impairments {
    random: Random,
    delay: Duration,
    jitter_nanos: u64,
    reorder_nanos: u64,
    loss: Chance,
    duplicate: Chance,
    reorder: Chance,
    corrupt: Chance,
    serialiser: Option<Serialiser>,
    /// When the last frame that was not held back arrives: jitter alone reorders nothing.
    last_due: Instant,
}

impl Impairments {
    /// The impairments of `config`, with a seed of the direction's own.
    pub(super) fn new(config: &WireConfig, seed: u64) -> Result<Self, WireError> {
        let chance = |kind, value| Chance::new(value).ok_or(WireError::Probability { kind, value });
        let serialiser = match config.rate_mbps {
            Some(0) => return Err(WireError::Rate),
            Some(mbps) => Some(Serialiser::new(mbps, config.queue_limit, config.mark_limit)),
            None => None,
        };
        Ok(Self {
            random: Random::new(seed),
            delay: config.delay,
            jitter_nanos: nanos(config.jitter),
            reorder_nanos: nanos(config.reorder_delay),
            loss: chance("loss", config.loss)?,
            duplicate: chance("duplicate", config.duplicate)?,
            reorder: chance("reorder", config.reorder)?,
            corrupt: chance("corrupt", config.corrupt)?,
            serialiser,
            last_due: Instant::ZERO,
        })
    }

    /// Decides about a frame of `len` bytes that is sent at `now`.
    ///
    /// Each frame uses the same count of random numbers whatever its fate, so that runs which
    /// differ in one impairment stay comparable in the others.
    pub(super) fn decide(&mut self, len: usize, now: Instant) -> Fate {
        let lost = self.random.hits(self.loss);
        let duplicated = self.random.hits(self.duplicate);
        let reordered = self.random.hits(self.reorder);
        let corrupted = self.random.hits(self.corrupt);
        let jitter = self.random.below(self.jitter_nanos);
        let held_back = self.reorder_nanos / 2 + self.random.below(self.reorder_nanos / 2 + 1);
        let bit = self.random.below(len as u64 * 8);

        let (departure, marked) = match &mut self.serialiser {
            Some(serialiser) => match serialiser.enqueue(len, now) {
                Some(departure) => (departure, serialiser.is_long()),
                None => return Fate::Overflow,
            },
            None => (now, false),
        };
        if lost {
            return Fate::Loss;
        }
        let arrival = departure + self.delay + Duration::from_nanos(jitter);
        let mut due = arrival.max(self.last_due);
        if reordered {
            due = due + Duration::from_nanos(held_back);
        } else {
            self.last_due = due;
        }
        let corrupt_bit = (corrupted && len > 0).then_some(bit);
        Fate::Arrival { due, reordered, duplicated, marked, corrupt_bit }
    }
}

/// A link that sends one bit after the other, and the queue before it.
struct Serialiser {
    bits_per_us: u64,
    limit: usize,
    mark_limit: Option<usize>,
    next_free: Instant,
    /// When each frame that is queued or being sent will have left.
    departures: VecDeque<Instant>,
}

impl Serialiser {
    fn new(mbps: u32, limit: usize, mark_limit: Option<usize>) -> Self {
        Self {
            bits_per_us: u64::from(mbps),
            limit,
            mark_limit,
            next_free: Instant::ZERO,
            departures: VecDeque::new(),
        }
    }

    /// Whether the queue is so long that packets are marked.
    fn is_long(&self) -> bool {
        self.mark_limit.is_some_and(|limit| self.departures.len() > limit)
    }

    /// When the last bit of the frame leaves; `None` if the queue is full.
    fn enqueue(&mut self, len: usize, now: Instant) -> Option<Instant> {
        while self.departures.front().is_some_and(|departure| *departure <= now) {
            self.departures.pop_front();
        }
        if self.departures.len() >= self.limit {
            return None;
        }
        let airtime = Duration::from_nanos(len as u64 * 8 * 1000 / self.bits_per_us);
        self.next_free = self.next_free.max(now) + airtime;
        self.departures.push_back(self.next_free);
        Some(self.next_free)
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
