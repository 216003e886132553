//! Slow start and congestion avoidance of RFC 5681, counting bytes (RFC 3465).
#![forbid(unsafe_code)]

use dmm_port::Instant;
use serde::{Deserialize, Serialize};

use super::{Ack, Cause, Control, Window};

/// `NewReno`: half the window at each loss, a segment more each round trip.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in super::super) struct Reno;

impl Control for Reno {
    fn acknowledged(&mut self, window: &mut Window, ack: &Ack) {
        let mut bytes = ack.bytes;
        if window.is_slow_start() {
            bytes = slow_start(window, bytes);
        }
        // RFC 5681 section 3.1, equation 3, in parts of a segment.
        if bytes > 0 {
            window.size += (window.mss * bytes / window.size.max(1)).max(1);
        }
    }

    fn congested(&mut self, _now: Instant, window: &Window, _cause: Cause) -> Option<u64> {
        Some((window.size / 2).max(window.least()))
    }

    fn timed_out(&mut self, window: &Window) -> Option<u64> {
        Some((window.size / 2).max(window.least()))
    }
}

/// Grows the window up to the threshold. Returns bytes that are left over.
pub(in super::super) fn slow_start(window: &mut Window, bytes: u64) -> u64 {
    let grown = (window.size + bytes).min(window.threshold);
    let left = window.size + bytes - grown;
    window.size = grown;
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(bytes: u64) -> Ack {
        Ack { now: Instant::ZERO, bytes, rtt: None, smoothed: None, una: 0, next: 0 }
    }

    #[test]
    fn the_window_doubles_and_then_grows_by_a_segment() {
        let mut window = Window { size: 10_000, threshold: 40_000, mss: 1000 };
        for _ in 0..2 {
            let acks = window.size / 1000;
            (0..acks).for_each(|_| Reno.acknowledged(&mut window, &ack(1000)));
        }
        assert_eq!(window.size, 40_000);
        (0..40).for_each(|_| Reno.acknowledged(&mut window, &ack(1000)));
        assert!((40_900..=41_000).contains(&window.size), "{}", window.size);
        assert_eq!(Reno.congested(Instant::ZERO, &window, Cause::Loss), Some(window.size / 2));
    }
}
