//! What a connection measured, and what all of them did together.

use std::time::Instant;

use super::super::histogram::Histogram;

pub(super) struct Tally {
    pub(super) histogram: Histogram,
    /// Messages that count and came back.
    pub(super) messages: u64,
    /// Their bytes; of a stream, the bytes that count.
    pub(super) bytes: u64,
    /// Messages that came back, warm-up included; of a stream, 1 once the server confirmed it.
    pub(super) received: u64,
    /// Messages that were not what was sent, and connections that failed.
    pub(super) errors: u64,
    /// Datagrams that did not come back.
    pub(super) lost: u64,
    /// When the last of it came back.
    last: Option<Instant>,
}

impl Tally {
    pub(super) fn new() -> Self {
        let histogram = Histogram::new();
        Self { histogram, messages: 0, bytes: 0, received: 0, errors: 0, lost: 0, last: None }
    }

    /// A message of `bytes` that counts came back at `now`.
    pub(super) fn record(&mut self, sent: Instant, now: Instant, bytes: usize) {
        let latency = now.saturating_duration_since(sent);
        self.histogram.record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        self.messages += 1;
        self.bytes += bytes as u64;
        self.last = Some(now);
    }

    /// A stream of `bytes` that count was confirmed at `now`.
    pub(super) fn confirm(&mut self, bytes: u64, now: Instant) {
        self.bytes += bytes;
        self.received += 1;
        self.last = Some(now);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.histogram.merge(&other.histogram);
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.received += other.received;
        self.errors += other.errors;
        self.lost += other.lost;
        self.last = self.last.max(other.last);
    }

    /// Seconds from `start` until the last of it came back.
    pub(super) fn seconds(&self, start: Instant) -> f64 {
        self.last.map_or(0.0, |last| last.saturating_duration_since(start).as_secs_f64())
    }
}
