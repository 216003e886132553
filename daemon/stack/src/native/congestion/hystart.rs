//! HyStart++ (RFC 9406): slow start that ends when round trips grow, before something is lost.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::{Ack, Window};

/// RFC 9406 section 4.3.
const RTT_THRESHOLD_MIN: Duration = Duration::from_millis(4);
const RTT_THRESHOLD_MAX: Duration = Duration::from_millis(16);
const SAMPLES: u32 = 8;
const GROWTH_DIVISOR: u64 = 4;
const ROUNDS: u32 = 5;

/// Where slow start is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct HyStart {
    /// The round ends when this is acknowledged.
    round_end: u64,
    samples: u32,
    least: Option<Duration>,
    least_before: Option<Duration>,
    /// Conservative slow start: rounds of it so far, and the least round trip when it began.
    conservative: Option<(u32, Duration)>,
}

impl HyStart {
    /// Grows the window in slow start. Returns whether that is over.
    pub(super) fn acknowledged(&mut self, window: &mut Window, ack: &Ack) -> bool {
        let divisor = if self.conservative.is_some() { GROWTH_DIVISOR } else { 1 };
        super::reno::slow_start(window, ack.bytes / divisor);
        if let Some(rtt) = ack.rtt {
            self.samples += 1;
            self.least = Some(self.least.map_or(rtt, |least| least.min(rtt)));
        }
        let over = self.look();
        if ack.una >= self.round_end {
            self.round_end = ack.next;
            self.least_before = self.least.take();
            self.samples = 0;
            if let Some((rounds, _)) = &mut self.conservative {
                *rounds += 1;
                return *rounds >= ROUNDS;
            }
        }
        over
    }

    /// RFC 9406 section 4.2.
    fn look(&mut self) -> bool {
        let (Some(least), true) = (self.least, self.samples >= SAMPLES) else { return false };
        match self.conservative {
            None => {
                let Some(before) = self.least_before else { return false };
                let threshold = (before / 8).clamp(RTT_THRESHOLD_MIN, RTT_THRESHOLD_MAX);
                if least >= before + threshold {
                    self.conservative = Some((0, least));
                }
            }
            // It was a passing jitter: back to slow start.
            Some((_, baseline)) if least < baseline => self.conservative = None,
            Some(_) => {}
        }
        false
    }
}
