//! Delivery rates (draft-ietf-ccwg-bbr section 4.1): how fast the path carried what was acknowledged.
//!
//! Owns: what was delivered and lost so far, a copy of which goes with each segment sent. Called for each
//! segment sent and each acknowledgement. Must never: take a pause of the writer's for a slow path.
//!
//! ```text
//!   sent:      first_sent ─────── send interval ───────▶ this segment
//!   delivered:      delivered_at ─── ack interval ────▶ its acknowledgement
//!   rate = what was delivered in between / the longer of the two
//! ```
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::time::Duration;

use dmm_port::Instant;

/// What was known when a segment was sent.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(in super::super) struct Snapshot {
    delivered: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    /// Bytes taken for lost by then.
    lost: u64,
    /// Bytes in flight, its own among them.
    in_flight: u32,
    /// The writer was what held the sender back.
    app_limited: bool,
}

/// What an acknowledgement shows of the path, by the segment that was sent last of those that it reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) struct Rate {
    /// Bytes per second; 0 if the interval is too short to be true.
    pub(super) rate: f64,
    /// Bytes delivered from the time that it was sent until now, and before that.
    pub(super) delivered: u64,
    pub(super) delivered_before: u64,
    /// Bytes taken for lost in that time.
    pub(super) lost: u64,
    /// Bytes in flight when it was sent.
    pub(super) in_flight: u64,
    /// The writer was what held the sender back.
    pub(super) app_limited: bool,
}

/// What became of what was sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in super::super) struct Sampler {
    /// Bytes delivered, and when the last were.
    delivered: u64,
    delivered_at: Instant,
    /// When the segment was sent that was delivered last.
    first_sent_at: Instant,
    lost: u64,
    /// Until so much is delivered the writer was what held the sender back.
    app_limited_until: u64,
}

impl Sampler {
    /// Nothing was sent.
    pub(in super::super) const fn new(now: Instant) -> Self {
        Self { delivered: 0, delivered_at: now, first_sent_at: now, lost: 0, app_limited_until: 0 }
    }

    /// Bytes delivered so far.
    pub(in super::super) const fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Whether the writer is what holds the sender back.
    pub(in super::super) const fn is_app_limited(&self) -> bool {
        self.app_limited_until > 0
    }

    /// A segment of `bytes` bytes is sent beside `in_flight` others.
    pub(in super::super) fn send(&mut self, now: Instant, bytes: u64, in_flight: u64) -> Snapshot {
        if in_flight == 0 {
            (self.first_sent_at, self.delivered_at) = (now, now);
        }
        Snapshot {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            lost: self.lost,
            in_flight: u32::try_from(in_flight + bytes).unwrap_or(u32::MAX),
            app_limited: self.is_app_limited(),
        }
    }

    /// There is nothing to send, though more might be in flight than these bytes.
    pub(in super::super) fn limit(&mut self, in_flight: u64) {
        self.app_limited_until = (self.delivered + in_flight).max(1);
    }

    /// Bytes are taken for lost.
    pub(in super::super) const fn lose(&mut self, bytes: u64) {
        self.lost += bytes;
    }

    /// An acknowledgement reports `bytes` bytes, of which those of `latest`, sent at a time, were sent last.
    pub(in super::super) fn deliver(
        &mut self,
        now: Instant,
        bytes: u64,
        latest: Option<(Instant, Snapshot)>,
        least_round: Option<Duration>,
    ) -> Option<Rate> {
        self.delivered += bytes;
        if bytes > 0 {
            self.delivered_at = now;
        }
        if self.delivered > self.app_limited_until {
            self.app_limited_until = 0;
        }
        let (sent_at, then) = latest?;
        self.first_sent_at = sent_at;
        let sending = sent_at.since(then.first_sent_at);
        let interval = sending.max(now.since(then.delivered_at));
        let delivered = self.delivered - then.delivered;
        let plausible = !interval.is_zero() && least_round.is_none_or(|least| interval >= least);
        Some(Rate {
            rate: if plausible { delivered as f64 / interval.as_secs_f64() } else { 0.0 },
            delivered,
            delivered_before: then.delivered,
            lost: self.lost - then.lost,
            in_flight: then.in_flight.into(),
            app_limited: then.app_limited,
        })
    }

    /// What the loss of a segment shows that was sent with `then`.
    pub(in super::super) fn at_loss(&self, then: &Snapshot) -> Rate {
        Rate {
            rate: 0.0,
            delivered: self.delivered - then.delivered,
            delivered_before: then.delivered,
            lost: self.lost - then.lost,
            in_flight: then.in_flight.into(),
            app_limited: then.app_limited,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Duration = Duration::from_millis(10);

    fn at(micros: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(micros)
    }

    /// Segments of 1000 bytes leave each 100 us, and arrive each 200 us.
    fn bottleneck(sampler: &mut Sampler) -> Vec<Rate> {
        let sent: Vec<_> = (0..50)
            .map(|count: u64| (at(count * 100), sampler.send(at(count * 100), 1000, count * 1000)))
            .collect();
        let arrivals = sent.iter().zip(0_u64..);
        arrivals
            .filter_map(|(latest, count)| {
                sampler.deliver(at(10_000 + count * 200), 1000, Some(*latest), None)
            })
            .collect()
    }

    #[test]
    fn the_slower_of_sending_and_arriving_is_the_rate() {
        let mut sampler = Sampler::new(at(0));
        let rates = bottleneck(&mut sampler);
        // 1000 bytes in 200 us are 5 MB/s; the wait for the first answer counts against the first ones.
        assert!(rates.iter().all(|rate| rate.rate <= 5e6 + 1.0), "{rates:?}");
        assert_eq!((rates[49].delivered, rates[49].in_flight), (50_000, 50_000));
    }

    #[test]
    fn a_pause_of_the_writer_is_marked_until_it_is_delivered() {
        let mut sampler = Sampler::new(at(0));
        sampler.limit(0);
        let first = sampler.send(at(0), 1000, 0);
        let rate = sampler.deliver(at(10_000), 1000, Some((at(0), first)), Some(ROUND)).unwrap();
        assert!(rate.app_limited && !sampler.is_app_limited());
        let second = sampler.send(at(10_000), 1000, 0);
        let latest = Some((at(10_000), second));
        assert!(!sampler.deliver(at(20_000), 1000, latest, Some(ROUND)).unwrap().app_limited);
    }

    #[test]
    fn less_than_a_round_trip_makes_no_rate() {
        let mut sampler = Sampler::new(at(0));
        let first = sampler.send(at(0), 1000, 0);
        let rate = sampler.deliver(at(500), 1000, Some((at(0), first)), Some(ROUND)).unwrap();
        assert_eq!((rate.rate, rate.delivered), (0.0, 1000));
    }

    #[test]
    fn a_loss_tells_what_was_lost_since_it_was_sent() {
        let mut sampler = Sampler::new(at(0));
        sampler.lose(500);
        let then = sampler.send(at(0), 1000, 4000);
        sampler.lose(1000);
        let loss = sampler.at_loss(&then);
        assert_eq!((loss.lost, loss.in_flight), (1000, 5000));
    }
}
