//! TCP Fast Open (RFC 7413): payload on the SYN of a peer that showed before that it is where it says.
//!
//! Owns: the key of our cookies, and the cookies of peers. Called for SYNs and their answers. Must never:
//! take a cookie for anybody but whom it was made for, or keep more of others' than its bound.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::hash::Hasher;
use std::net::IpAddr;

use dmm_port::flow::Flow;
use siphasher::sip::SipHasher24;

use super::segment::Cookie;
use crate::config::StackConfig;

/// Peers whose cookies are kept; the one that was learned first makes way.
const PEERS_MAX: usize = 1024;

/// What a peer's last answer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// Its cookie.
    pub(super) cookie: Cookie,
    /// Payload that it takes in a segment.
    pub(super) mss: u16,
}

/// Ours and others' cookies.
pub(super) struct FastOpen {
    key: [u64; 2],
    peers: BTreeMap<IpAddr, Known>,
    /// In the order in which they were learned.
    order: VecDeque<IpAddr>,
}

impl FastOpen {
    /// Nobody's cookie is known.
    pub(super) fn new(config: &StackConfig) -> Self {
        let key = config.tcp.fast_open_key.map_or([config.seed, !config.seed], |key| {
            let (halves, _) = key.as_chunks::<8>();
            [u64::from_le_bytes(halves[0]), u64::from_le_bytes(halves[1])]
        });
        Self { key, peers: BTreeMap::new(), order: VecDeque::new() }
    }

    /// The cookie of the peer of a flow: a keyed hash of both addresses (RFC 7413 section 4.1.2), the same as
    /// Linux makes of the same key.
    pub(super) fn make(&self, flow: Flow) -> Cookie {
        let mut hasher = SipHasher24::new_with_keys(self.key[0], self.key[1]);
        for ip in [flow.remote.ip(), flow.local.ip()] {
            match ip {
                IpAddr::V4(ip) => hasher.write(&ip.octets()),
                IpAddr::V6(ip) => hasher.write(&ip.octets()),
            }
        }
        Cookie::of(hasher.finish().to_le_bytes())
    }

    /// Whether a cookie is that of the peer of a flow.
    pub(super) fn is_ours(&self, flow: Flow, cookie: &Cookie) -> bool {
        self.make(flow).bytes() == cookie.bytes()
    }

    /// What is known of a peer.
    pub(super) fn peer(&self, remote: IpAddr) -> Option<Known> {
        self.peers.get(&remote).copied()
    }

    /// Takes what the answer to a SYN of ours said. Without a cookie the old one stays.
    pub(super) fn learn(&mut self, remote: IpAddr, cookie: Option<Cookie>, mss: u16) {
        let cookie = cookie.filter(|cookie| !cookie.is_request());
        if let Some(known) = self.peers.get_mut(&remote) {
            known.mss = mss;
            known.cookie = cookie.unwrap_or(known.cookie);
            return;
        }
        let Some(cookie) = cookie else { return };
        if self.order.len() == PEERS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.peers.remove(&oldest);
        }
        self.order.push_back(remote);
        self.peers.insert(remote, Known { cookie, mss });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pair::config;

    fn flow(remote: &str) -> Flow {
        Flow { local: "192.168.0.1:80".parse().unwrap(), remote: remote.parse().unwrap() }
    }

    #[test]
    fn a_key_makes_the_cookies_that_linux_makes_of_it() {
        let mut config = config(1);
        // net.ipv4.tcp_fastopen_key=a1a1a1a1-b2b2b2b2-c3c3c3c3-d4d4d4d4, and what Linux answers with.
        config.tcp.fast_open_key = Some(std::array::from_fn(|at| [0xa1, 0xb2, 0xc3, 0xd4][at / 4]));
        let cookies = FastOpen::new(&config);
        let cookie = cookies.make(flow("192.0.2.1:5"));
        assert_eq!(cookie.bytes(), 0x3021_b9d8_8901_7eeb_u64.to_be_bytes());
        assert!(cookies.is_ours(flow("192.0.2.1:6"), &cookie), "ports do not matter");
        assert!(!cookies.is_ours(flow("192.0.2.2:5"), &cookie));
        assert!(!cookies.is_ours(flow("192.0.2.1:5"), &Cookie::REQUEST));
    }

    #[test]
    fn peers_are_remembered_within_bounds() {
        let mut cookies = FastOpen::new(&config(1));
        let ip = |number: u32| IpAddr::V4((0x0a00_0000 + number).into());
        cookies.learn(ip(0), None, 1400);
        assert_eq!(cookies.peer(ip(0)), None, "nothing to remember");
        for number in 0..=PEERS_MAX as u32 {
            cookies.learn(ip(number), Some(Cookie::of([number as u8; 8])), 1460);
        }
        assert_eq!(cookies.peer(ip(0)), None, "the first made way");
        assert_eq!(cookies.peers.len(), PEERS_MAX);
        let before = cookies.peer(ip(1)).unwrap();
        cookies.learn(ip(1), Some(Cookie::REQUEST), 1200);
        assert_eq!(cookies.peer(ip(1)), Some(Known { mss: 1200, ..before }));
    }
}
