//! The descriptor kept for the case that there is none left.
//!
//! Owns: that descriptor, when the listening socket may be looked at again, and how often the log
//! hears of it. Called when a connection cannot be taken. Must never: let a connection that cannot
//! be taken wake the control thread again and again.
#![forbid(unsafe_code)]

use std::fs::File;
use std::time::{Duration, Instant as Clock};

/// How long the listening socket rests when not even the reserve can be had.
const REST: Duration = Duration::from_millis(100);
/// Time between two words about it in the log at least.
const WORDS_EVERY: Duration = Duration::from_secs(1);

/// A descriptor in reserve.
pub struct Reserve {
    spare: Option<File>,
    rests_until: Option<Clock>,
    last_words: Option<Clock>,
}

impl Reserve {
    /// Takes the reserve, while there are descriptors.
    pub fn new() -> Self {
        let mut reserve = Self { spare: None, rests_until: None, last_words: None };
        reserve.refill();
        reserve
    }

    /// Gives the descriptor back to be used. Returns whether there was one.
    pub fn spend(&mut self) -> bool {
        self.spare.take().is_some()
    }

    /// Takes a descriptor in reserve again. Returns whether there is one.
    pub fn refill(&mut self) -> bool {
        if self.spare.is_none() {
            self.spare = File::open("/dev/null").ok();
        }
        self.spare.is_some()
    }

    /// Lets the listening socket rest from now on.
    pub fn rest(&mut self, now: Clock) {
        self.rests_until = Some(now + REST);
    }

    /// Whether the listening socket has rested enough just now.
    pub fn wakes(&mut self, now: Clock) -> bool {
        self.rests_until.take_if(|until| *until <= now).is_some()
    }

    /// How long the control thread may wait, if it may not wait for ever.
    pub fn patience(&self, now: Clock) -> Option<Duration> {
        self.rests_until.map(|until| until.saturating_duration_since(now))
    }

    /// Whether the log may hear of it again.
    pub fn may_tell(&mut self, now: Clock) -> bool {
        let tell = self.last_words.is_none_or(|last| now.duration_since(last) >= WORDS_EVERY);
        if tell {
            self.last_words = Some(now);
        }
        tell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_can_be_refilled() {
        let mut reserve = Reserve::new();
        assert!(reserve.spend() && !reserve.spend());
        assert!(reserve.refill() && reserve.spend());
    }

    #[test]
    fn it_rests_and_speaks_in_measure() {
        let (mut reserve, start) = (Reserve::new(), Clock::now());
        assert_eq!((reserve.patience(start), reserve.wakes(start)), (None, false));
        reserve.rest(start);
        assert_eq!(reserve.patience(start), Some(REST));
        assert!(!reserve.wakes(start));
        assert!(reserve.wakes(start + REST) && !reserve.wakes(start + REST));
        assert!(reserve.may_tell(start) && !reserve.may_tell(start + WORDS_EVERY / 2));
        assert!(reserve.may_tell(start + WORDS_EVERY));
    }
}
