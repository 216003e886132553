//! Round trip times, and the retransmission timeout that follows from them (RFC 6298).
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::time::Duration;

use dmm_port::Instant;

/// Before the first sample (RFC 6298 section 2.1).
const RTO_INITIAL: Duration = Duration::from_secs(1);
/// Beyond the smoothed time, as Linux has it (`TCP_RTO_MIN`), so that an acknowledgement may be held back;
/// RFC 6298 section 2.4 would have no timeout below a second.
const SLACK_MIN: Duration = Duration::from_millis(200);
/// RFC 6298 section 2.5 allows no less than a minute; Linux has two.
const RTO_MAX: Duration = Duration::from_secs(120);
/// How long a minimum is believed, in which a path may change.
const MIN_LIFE: Duration = Duration::from_secs(300);

/// The estimate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Rtt {
    /// The smoothed time and its variation, once there was a sample.
    smoothed: Option<(Duration, Duration)>,
    least: Option<(Duration, Instant)>,
    /// The timeout before it is doubled.
    base: Duration,
    /// How often the timeout was doubled.
    doubled: u32,
}

impl Rtt {
    /// No sample yet.
    pub(super) const fn new() -> Self {
        Self { smoothed: None, least: None, base: RTO_INITIAL, doubled: 0 }
    }

    /// Takes a sample.
    pub(super) fn sample(&mut self, now: Instant, sample: Duration) {
        let (mean, variation) = match self.smoothed {
            None => (sample, sample / 2),
            Some((mean, variation)) => {
                let off = mean.abs_diff(sample);
                ((mean * 7 + sample) / 8, (variation * 3 + off) / 4)
            }
        };
        self.smoothed = Some((mean, variation));
        self.base = (mean + (variation * 4).max(SLACK_MIN)).min(RTO_MAX);
        if self.least.is_none_or(|(least, at)| sample <= least || now.since(at) > MIN_LIFE) {
            self.least = Some((sample, now));
        }
    }

    /// Something new was acknowledged: the timeout is as it was before it was doubled.
    pub(super) const fn progress(&mut self) {
        self.doubled = 0;
    }

    /// The timeout passed (RFC 6298 section 5.5).
    pub(super) const fn double(&mut self) {
        self.doubled = self.doubled.saturating_add(1);
    }

    /// How often it passed without progress.
    pub(super) const fn doubled(&self) -> u32 {
        self.doubled
    }

    /// The retransmission timeout.
    pub(super) fn timeout(&self) -> Duration {
        match self.doubled {
            0 => self.base,
            doubled => self.base.saturating_mul(1 << doubled.min(16)).min(RTO_MAX),
        }
    }

    /// The smoothed round trip time.
    pub(super) fn smoothed(&self) -> Option<Duration> {
        self.smoothed.map(|(mean, _)| mean)
    }

    /// The smoothed time and its variation.
    pub(super) fn estimate(&self) -> (Duration, Duration) {
        self.smoothed.unwrap_or_default()
    }

    /// The least of the last minutes.
    pub(super) fn least(&self) -> Option<Duration> {
        self.least.map(|(least, _)| least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_timeout_follows_rfc_6298() {
        let mut rtt = Rtt::new();
        assert_eq!(rtt.timeout(), ms(1000));
        rtt.sample(Instant::ZERO, ms(400));
        // Section 2.2: R + 4 * R / 2.
        assert_eq!(rtt.timeout(), ms(1200));
        rtt.sample(Instant::ZERO, ms(400));
        // Section 2.3: the variation shrinks by a quarter.
        assert_eq!(rtt.timeout(), ms(400 + 4 * 150));
        rtt.double();
        rtt.double();
        assert_eq!(rtt.timeout(), ms(4000));
        rtt.progress();
        assert_eq!(rtt.timeout(), ms(1000));
        (0..100).for_each(|_| rtt.double());
        assert_eq!(rtt.timeout(), RTO_MAX);
    }

    #[test]
    fn short_round_trips_do_not_make_it_hasty() {
        let mut rtt = Rtt::new();
        (0..50).for_each(|_| rtt.sample(Instant::ZERO, Duration::from_micros(30)));
        assert_eq!(rtt.timeout(), SLACK_MIN + Duration::from_micros(30));
    }

    #[test]
    fn the_least_is_forgotten_when_the_path_may_have_changed() {
        let mut rtt = Rtt::new();
        rtt.sample(Instant::ZERO, ms(10));
        rtt.sample(Instant::ZERO + ms(1000), ms(30));
        assert_eq!(rtt.least(), Some(ms(10)));
        rtt.sample(Instant::ZERO + MIN_LIFE + ms(1), ms(30));
        assert_eq!(rtt.least(), Some(ms(30)));
    }
}
