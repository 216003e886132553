//! SYN cookies (RFC 4987 section 3.6): an initial number from which a handshake can be taken up again that
//! nothing was kept of.
//!
//! Owns: their making and their check. Called while a listener's backlog is full of handshakes that nobody
//! completes. Must never: accept a number that this stack did not make for the very flow within two minutes.
#![forbid(unsafe_code)]

use std::hash::{Hash, Hasher};
use std::time::Duration;

use dmm_port::Instant;
use dmm_port::flow::Flow;
use siphasher::sip::SipHasher13;

/// How long a cookie is good, at least; twice that at most.
const PERIOD: Duration = Duration::from_secs(64);
/// What a peer may take in a segment, as far as three bits can tell. Windows are not shifted, and there is
/// no SACK: the SYN's options are forgotten.
const SEGMENTS: [u16; 8] = [216, 536, 1220, 1300, 1400, 1440, 1460, 8960];
const INDEX_MASK: u32 = 0x07;

/// The making of cookies.
#[derive(Clone, Debug)]
pub(in super::super) struct Cookies {
    key: u64,
    /// When one was last made.
    made_at: Option<Instant>,
}

impl Cookies {
    /// Cookies that nobody else can make.
    pub(in super::super) const fn new(key: u64) -> Self {
        Self { key, made_at: None }
    }

    /// A cookie for the SYN with the number `theirs`, of a peer that takes `mss` bytes.
    pub(in super::super) fn make(
        &mut self,
        now: Instant,
        flow: Flow,
        theirs: u32,
        mss: u16,
    ) -> u32 {
        self.made_at = Some(now);
        let index = SEGMENTS.partition_point(|segment| *segment <= mss).saturating_sub(1);
        self.of(flow, theirs, period(now), index as u32)
    }

    /// What the peer takes in a segment, if its acknowledgement is of a cookie.
    pub(in super::super) fn check(
        &self,
        now: Instant,
        flow: Flow,
        theirs: u32,
        cookie: u32,
    ) -> Option<u16> {
        // Nobody guesses while none is made.
        self.made_at.filter(|at| now.since(*at) < 2 * PERIOD)?;
        let index = cookie & INDEX_MASK;
        let this = period(now);
        let mut good = [this, this.wrapping_sub(1)].into_iter();
        good.any(|period| self.of(flow, theirs, period, index) == cookie)
            .then(|| SEGMENTS[index as usize])
    }

    fn of(&self, flow: Flow, theirs: u32, period: u64, index: u32) -> u32 {
        let mut hasher = SipHasher13::new_with_keys(self.key, period);
        flow.hash(&mut hasher);
        hasher.write_u64(u64::from(theirs) << 32 | u64::from(index));
        hasher.finish() as u32 & !INDEX_MASK | index
    }
}

fn period(now: Instant) -> u64 {
    now.as_micros() / u64::try_from(PERIOD.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_good_for_its_flow_and_its_time() {
        let flow = |port| Flow {
            local: "10.0.0.1:80".parse().unwrap(),
            remote: std::net::SocketAddr::new("10.0.0.2".parse().unwrap(), port),
        };
        let now = Instant::from_micros(1_000_000_000);
        let mut cookies = Cookies::new(7);
        assert_eq!(cookies.check(now, flow(1), 5, cookies.of(flow(1), 5, period(now), 3)), None);
        for (mss, kept) in [(100, 216), (536, 536), (1460, 1460), (1461, 1460), (65_535, 8960)] {
            let cookie = cookies.make(now, flow(1), 5, mss);
            assert_eq!(cookies.check(now, flow(1), 5, cookie), Some(kept));
            assert_eq!(cookies.check(now + PERIOD, flow(1), 5, cookie), Some(kept));
            assert_eq!(cookies.check(now, flow(2), 5, cookie), None);
            assert_eq!(cookies.check(now, flow(1), 6, cookie), None);
            assert_eq!(cookies.check(now, flow(1), 5, cookie ^ 8), None);
            cookies.make(now + 2 * PERIOD, flow(3), 1, 1);
            assert_eq!(cookies.check(now + 2 * PERIOD, flow(1), 5, cookie), None, "too old");
        }
    }
}
