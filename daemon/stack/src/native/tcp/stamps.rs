//! Timestamps (RFC 7323 sections 3 to 5).
//!
//! Owns: our clock as the peer sees it, and the peer's as it was last seen. Called for each segment. Must
//! never: let an old segment turn the peer's clock back.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::time::Duration;

use dmm_port::Instant;

/// After so long without a segment the peer's clock may have wrapped (RFC 7323 section 5.5).
const STALE: Duration = Duration::from_secs(24 * 24 * 3600);

/// Both clocks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Stamps {
    /// Both ends use them.
    pub(super) on: bool,
    /// Old segments are dropped.
    guards: bool,
    /// What sets our clock apart from that of other connections.
    offset: u32,
    /// The peer's, and when it was seen.
    recent: u32,
    recent_at: Instant,
}

impl Stamps {
    /// Clocks that nobody has asked for yet.
    pub(super) const fn new(offset: u32, guards: bool) -> Self {
        Self { on: false, guards, offset, recent: 0, recent_at: Instant::ZERO }
    }

    /// Our clock and what to echo.
    pub(super) const fn write(&self, now: Instant) -> (u32, u32) {
        (millis(now).wrapping_add(self.offset), self.recent)
    }

    /// Whether a segment is older than one that was taken before (RFC 7323 section 5.3).
    pub(super) fn is_old(&self, now: Instant, value: u32) -> bool {
        let back = value.wrapping_sub(self.recent).cast_signed() < 0;
        self.on && self.guards && back && now.since(self.recent_at) < STALE
    }

    /// Whether it is newer than all that were taken.
    pub(super) const fn is_newer(&self, value: u32) -> bool {
        self.on && value.wrapping_sub(self.recent).cast_signed() > 0
    }

    /// Takes the peer's clock from a segment that is in order.
    pub(super) const fn take(&mut self, now: Instant, value: u32) {
        (self.recent, self.recent_at) = (value, now);
    }

    /// When what the peer echoes was sent; nothing if it never was.
    pub(super) fn sent_at(&self, now: Instant, echo: u32) -> Option<Instant> {
        let ago = millis(now).wrapping_add(self.offset).wrapping_sub(echo);
        let sent = (now.as_micros() / 1000).checked_sub(u64::from(ago))?;
        (self.on && ago < u32::MAX / 2).then(|| Instant::from_micros(sent * 1000))
    }
}

/// Our clock: milliseconds, as RFC 7323 section 5.4 recommends.
const fn millis(at: Instant) -> u32 {
    (at.as_micros() / 1000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_the_time_of_its_sending() {
        let mut stamps = Stamps::new(u32::MAX - 3, true);
        stamps.on = true;
        let sent = Instant::from_micros(5_000_000);
        let (value, _) = stamps.write(sent);
        let now = sent + Duration::from_millis(70);
        assert_eq!(stamps.sent_at(now, value), Some(sent));
        assert_eq!(stamps.sent_at(now, value.wrapping_add(1000)), None, "from the future");
        assert_eq!(stamps.sent_at(now, value.wrapping_sub(10_000)), None, "from before the start");
    }

    #[test]
    fn the_peers_clock_goes_forward_across_its_end() {
        let mut stamps = Stamps::new(0, true);
        stamps.on = true;
        let now = Instant::from_micros(1);
        stamps.take(now, u32::MAX - 5);
        assert!(!stamps.is_old(now, 3) && stamps.is_newer(3));
        stamps.take(now, 3);
        assert!(stamps.is_old(now, u32::MAX - 5) && !stamps.is_newer(3));
        assert!(!stamps.is_old(now + STALE, u32::MAX - 5));
    }
}
