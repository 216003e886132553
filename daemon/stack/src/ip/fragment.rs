//! Packets longer than the link's MTU, cut into fragments by their source (RFC 791 section 3.2, RFC
//! 8200 section 4.5).
//!
//! Called with what is to be sent, by who knows the neighbour. Must never: make fragments of which a row of
//! transmit slots holds but some.
#![forbid(unsafe_code)]

use std::hash::Hasher;
use std::net::IpAddr;
use std::ops::Range;

use dmm_port::TX_SLOTS;
use siphasher::sip::SipHasher13;

use super::discovery::Mac;
use super::packet::{ETHERNET_BYTES, Extent, HOP_LIMIT, Headers};

/// A packet from us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    /// Where it comes from.
    pub(crate) from: IpAddr,
    /// Where it goes.
    pub(crate) to: IpAddr,
    /// What it carries.
    pub(crate) protocol: u8,
    /// Hops that it may make, if not the default.
    pub(crate) hop_limit: Option<u8>,
    /// Its traffic class.
    pub(crate) class: u8,
    /// What follows the IP header.
    pub(crate) payload: &'a [u8],
}

impl Packet<'_> {
    fn headers(&self, extent: Extent, (from_mac, to_mac): (Mac, Mac)) -> Headers {
        Headers {
            from_mac,
            to_mac,
            from: self.from,
            to: self.to,
            protocol: self.protocol,
            hop_limit: self.hop_limit.unwrap_or(HOP_LIMIT),
            class: self.class,
            extent,
        }
    }

    /// The parts of its payload that go into fragments on a link of `mtu` bytes: each but the last a
    /// multiple of eight; or all of it, if it fits. `None` if they are more than a row of transmit slots
    /// holds.
    pub(crate) fn parts(
        &self,
        mtu: usize,
    ) -> Option<impl ExactSizeIterator<Item = Range<usize>> + use<>> {
        let len = self.payload.len();
        let room = |extent| {
            let headers = self.headers(extent, ([0; 6], [0; 6]));
            mtu.saturating_sub(headers.len() - ETHERNET_BYTES)
        };
        let part = if len <= room(Extent::Whole) {
            len.max(1)
        } else {
            room(Extent::Part { identification: 0, offset: 0, more: true }) & !7
        };
        let count = len.div_ceil(part.max(1)).max(1);
        let range = move |index: usize| index * part..len.min((index + 1) * part);
        (part > 0 && count <= TX_SLOTS).then(|| (0..count).map(range))
    }

    /// Bytes of the frame that carries `part`.
    pub(crate) fn frame_bytes(&self, part: &Range<usize>) -> usize {
        self.headers(self.extent(part, 0), ([0; 6], [0; 6])).len() + part.len()
    }

    fn extent(&self, part: &Range<usize>, identification: u32) -> Extent {
        if part.len() == self.payload.len() {
            return Extent::Whole;
        }
        // A packet has 65,535 bytes at most.
        let (offset, more) = (part.start as u16, part.end < self.payload.len());
        Extent::Part { identification, offset, more }
    }

    /// Writes the frame that carries `part` into `frame`, which has its [`Packet::frame_bytes`].
    pub(crate) fn write(
        &self,
        part: &Range<usize>,
        identification: u32,
        macs: (Mac, Mac),
        frame: &mut [u8],
    ) {
        let headers = self.headers(self.extent(part, identification), macs);
        headers.write(frame);
        frame[headers.len()..].copy_from_slice(&self.payload[part.clone()]);
    }
}

/// Identifications that nobody else can predict (RFC 7739 section 5.3).
pub(crate) struct Identifications {
    key: u64,
    count: u64,
}

impl Identifications {
    /// A sequence of its own for each key.
    pub(crate) const fn new(key: u64) -> Self {
        Self { key, count: 0 }
    }

    /// The next one.
    pub(crate) fn next(&mut self) -> u32 {
        self.count += 1;
        let mut hasher = SipHasher13::new_with_keys(self.key, 0);
        hasher.write_u64(self.count);
        hasher.finish() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(payload: &[u8], v6: bool) -> Packet<'_> {
        let (from, to) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        Packet { from, to, protocol: 17, hop_limit: None, class: 0, payload }
    }

    #[test]
    fn parts_are_multiples_of_eight_and_leave_nothing_out() {
        let bytes = vec![7; 65_515];
        for v6 in [false, true] {
            for (len, mtu) in [(1481, 1500), (65_515, 1500), (65_515, 1280), (3000, 1501)] {
                let packet = packet(&bytes[..len], v6);
                let parts: Vec<_> = packet.parts(mtu).unwrap().collect();
                assert!(parts.len() > 1);
                assert_eq!((parts[0].start, parts[parts.len() - 1].end), (0, len));
                for pair in parts.windows(2) {
                    assert_eq!(pair[0].end, pair[1].start);
                    assert_eq!(pair[0].len() % 8, 0);
                }
                let longest = parts.iter().map(|part| packet.frame_bytes(part)).max().unwrap();
                assert!((mtu + ETHERNET_BYTES - 7..=mtu + ETHERNET_BYTES).contains(&longest));
            }
        }
    }

    #[test]
    fn what_fits_is_whole() {
        for (v6, most) in [(false, 1480), (true, 1460)] {
            for len in [0, 1, most] {
                let bytes = vec![7; len];
                let parts: Vec<_> = packet(&bytes, v6).parts(1500).unwrap().collect();
                assert_eq!((parts.len(), parts[0].clone()), (1, 0..len));
            }
        }
    }

    #[test]
    fn what_takes_more_than_a_row_of_slots_is_refused() {
        // RFC 8200 section 5 asks for an MTU of 1280 at least; less can be configured for IPv4.
        let bytes = vec![7; 65_515];
        assert!(packet(&bytes, true).parts(576).is_none());
        assert!(packet(&bytes[..1000], true).parts(48).is_none());
    }
}
