//! When to look for chunks again.
//!
//! Owns: the times at which a socket whose client's quota is used up tries anew. Called when a FIFO
//! found no chunk, and when it found one. Must never: let a client that sleeps on an empty quota
//! keep a worker awake.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::time::Duration;

use dmm_port::Instant;

/// The first wait: long for a worker, short for a person.
const WAIT_MIN: Duration = Duration::from_millis(10);
/// The longest. With 16,384 sockets starving, that is one look every 39 us.
const WAIT_MAX: Duration = Duration::from_millis(640);

/// A socket's waits, each twice as long as the one before.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Backoff {
    wait: Duration,
    at: Option<Instant>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { wait: WAIT_MIN, at: None }
    }
}

impl Backoff {
    /// There was no chunk. A time that is set and has not come stays: a socket that is served for
    /// other reasons meanwhile has not waited in vain.
    pub(crate) fn starved(&mut self, now: Instant) {
        if self.at.is_none_or(|at| at <= now) {
            self.at = Some(now + self.wait);
            self.wait = (2 * self.wait).min(WAIT_MAX);
        }
    }

    /// Nothing is wanted, or there was a chunk.
    pub(crate) fn fed(&mut self) {
        *self = Self::default();
    }

    /// When to try again, if anything is wanted.
    pub(crate) const fn at(&self) -> Option<Instant> {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew_once_fed() {
        let (mut backoff, mut now) = (Backoff::default(), Instant::ZERO);
        let mut waits = Vec::new();
        for _ in 0..8 {
            backoff.starved(now);
            let at = backoff.at().unwrap();
            waits.push(at.since(now).as_millis());
            // Other service in between changes nothing.
            backoff.starved(now + WAIT_MIN / 2);
            assert_eq!(backoff.at(), Some(at));
            now = at;
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 640]);
        backoff.fed();
        assert_eq!(backoff.at(), None);
        backoff.starved(now);
        assert_eq!(backoff.at(), Some(now + WAIT_MIN));
    }
}
