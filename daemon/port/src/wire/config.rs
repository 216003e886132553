//! What a wire does to frames, and how its configuration can be wrong.
//!
//! Owns: [`WireConfig`] and [`WireError`]. Called by whoever makes a wire. Must never: hold state.

#![forbid(unsafe_code)]

use std::io;
use std::time::Duration;

/// Queue pairs of a wire's port at most: one bit each in a word.
pub const QUEUES_MAX: u16 = 64;

/// What a wire does to frames. Both directions do the same, each with random numbers of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct WireConfig {
    /// The wire's name; its ports' names and Ethernet addresses follow from it.
    pub name: String,
    /// What the random numbers follow from.
    pub seed: u64,
    /// How long a frame travels once it has left.
    pub delay: Duration,
    /// By how much more than `delay` at most. Jitter by itself reorders nothing.
    pub jitter: Duration,
    /// The link's speed in megabits per second of frame bytes; `None` is infinitely fast.
    pub rate_mbps: Option<u32>,
    /// Frames that are queued or being sent at most, if `rate_mbps` is set; further ones are
    /// dropped.
    pub queue_limit: usize,
    /// Frames that are queued or being sent from which on packets are marked (RFC 3168), if `rate_mbps` is set and
    /// their senders take marks.
    pub mark_limit: Option<usize>,
    /// Frames per direction, sent and not yet received, at most; further ones are dropped. This
    /// bounds the wire's memory when a receiver stops.
    pub in_flight_limit: usize,
    /// The probability that a frame is lost.
    pub loss: f64,
    /// The probability that a frame arrives twice. The copies arrive together.
    pub duplicate: f64,
    /// The probability that a frame is held back.
    pub reorder: f64,
    /// For how long at most it is then held back; for half of that at least.
    pub reorder_delay: Duration,
    /// The probability that one bit of a frame flips.
    pub corrupt: f64,
    /// Largest layer-3 packet in bytes.
    pub mtu: u16,
    /// Queue pairs of each port.
    pub queues: u16,
    /// Whether frames are spread over the queues by [`crate::flow::toeplitz`] and
    /// [`crate::flow::shard_of`] (fragments by their addresses alone); what belongs to no flow
    /// arrives at queue 0. If not, everything does.
    pub rss: bool,
}

impl Default for WireConfig {
    /// A perfect wire: no delay, no limit but 16,384 frames (24 MiB at MTU 1500) in flight.
    fn default() -> Self {
        Self {
            name: "wire".to_owned(),
            seed: 0,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            rate_mbps: None,
            queue_limit: 1000,
            mark_limit: None,
            in_flight_limit: 16_384,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_delay: Duration::from_millis(1),
            corrupt: 0.0,
            mtu: 1500,
            queues: 1,
            rss: false,
        }
    }
}

/// Why a wire, or a queue of its ports, cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A probability is out of range.
    #[error("probability of {kind} is {value}; give a number from 0 to 1")]
    Probability {
        /// The impairment.
        kind: &'static str,
        /// What was given.
        value: f64,
    },
    /// A rate of 0 would never send anything.
    #[error("rate is 0 Mb/s; give 1 or more, or none for an unlimited wire")]
    Rate,
    /// No queues, or too many.
    #[error("{0} queues; give 1 to {QUEUES_MAX}")]
    Queues(u16),
    /// No such queue pair.
    #[error("queue pair {index} does not exist; the port has {queues}")]
    NoQueue {
        /// The queue pair asked for.
        index: u16,
        /// How many there are.
        queues: u16,
    },
    /// The queue pair was handed out before.
    #[error("queue pair {0} was handed out already; each has one worker")]
    Taken(u16),
    /// The kernel gave no eventfd.
    #[error("no eventfd for a doorbell ({0}); raise the limit of open files")]
    Doorbell(#[source] io::Error),
}

impl From<WireError> for io::Error {
    fn from(error: WireError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}
