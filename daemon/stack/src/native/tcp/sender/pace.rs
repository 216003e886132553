//! Pacing: segments that are spread over time instead of sent at once.
//!
//! Owns: when the next may go. Called for each segment with payload, and when that time has come. Must never:
//! hold up an acknowledgement, or the probe of a timer.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::time::Duration;

use dmm_port::Instant;

use crate::native::congestion::quantum;

/// The longest pause for a segment: what would take longer is a rate that nobody meant.
const LONGEST: Duration = Duration::from_secs(1);

/// The pace of a connection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Pace {
    /// When what was sent is through, at the rate of its sending.
    next_at: Instant,
    /// Nothing may be sent until then.
    held: bool,
    /// Bytes per second that the socket's owner allows (`SO_MAX_PACING_RATE`).
    pub(super) most: Option<u32>,
}

impl Pace {
    /// Payload of `bytes` bytes was sent, at `rate` bytes per second at most.
    pub(super) fn sent(&mut self, now: Instant, bytes: usize, rate: Option<f64>, mss: u64) {
        let most = self.most.map(f64::from);
        let rate = match (rate, most) {
            (Some(rate), Some(most)) => rate.min(most),
            (Some(rate), None) | (None, Some(rate)) => rate,
            (None, None) => return,
        };
        let span = |bytes: f64| Duration::try_from_secs_f64(bytes / rate).unwrap_or(LONGEST);
        self.next_at = self.next_at.max(now) + span(bytes as f64).min(LONGEST);
        // What goes out at once saves timers, and is short enough not to fill a queue.
        let burst = span(quantum(rate, mss) as f64);
        self.held = self.next_at.since(now) >= burst;
    }

    /// Looks at the time.
    pub(super) fn expire(&mut self, now: Instant) {
        self.held &= self.next_at > now;
    }

    /// Until when nothing may be sent.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.held.then_some(self.next_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1000-byte segments for a second.
    fn bytes_in_a_second(pace: &mut Pace, rate: Option<f64>) -> usize {
        let (mut now, mut bytes) = (Instant::ZERO, 0);
        let end = now + Duration::from_secs(1);
        while now < end && bytes < 100_000_000 {
            pace.expire(now);
            match pace.held_until() {
                Some(at) => now = at,
                None => {
                    pace.sent(now, 1000, rate, 1000);
                    bytes += 1000;
                }
            }
        }
        bytes
    }

    #[test]
    fn what_is_sent_follows_the_rate() {
        for rate in [1e5, 1e6, 1e7] {
            let sent = bytes_in_a_second(&mut Pace::default(), Some(rate)) as f64;
            assert!((0.99..1.03).contains(&(sent / rate)), "{sent} at {rate}");
        }
    }

    #[test]
    fn the_owner_may_ask_for_less() {
        for rate in [Some(1e7), None] {
            let mut pace = Pace { most: Some(1_000_000), ..Pace::default() };
            assert!((990_000..1_030_000).contains(&bytes_in_a_second(&mut pace, rate)));
        }
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        assert_eq!(bytes_in_a_second(&mut Pace::default(), None), 100_000_000);
    }
}
