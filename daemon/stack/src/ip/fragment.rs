//! Datagrams over IPv6 that are longer than the link's MTU: cut into fragments by their source
//! (RFC 8200 section 4.5), which the library does for IPv4 alone.
//!
//! Called by the carrier, through the link, which knows the neighbour. Must never: send some
//! fragments of a packet without the others.
//!
//! ```text
//!  ┌ Ethernet ┬ IPv6, next header 44 ┬ fragment: 17, offset, more, id ┬ a part of UDP and payload ┐
//! ```
#![forbid(unsafe_code)]

use std::hash::Hasher;
use std::net::SocketAddrV6;
use std::ops::Range;

use dmm_port::TX_SLOTS;
use dmm_port::checksum::{fold, sum};
use siphasher::sip::SipHasher13;

use crate::ip::discovery::Mac;

const ETHERNET_BYTES: usize = 14;
const IPV6_BYTES: usize = 40;
const FRAGMENT_BYTES: usize = 8;
/// Bytes of a UDP header (RFC 768).
pub(crate) const UDP_BYTES: usize = 8;
/// Next headers (RFC 8200 section 4.5, RFC 768).
const FRAGMENT: u8 = 44;
const UDP: u8 = 17;
/// As Linux sends (`ip_default_ttl`).
const HOP_LIMIT: u8 = 64;

/// A UDP datagram from us.
#[derive(Clone, Copy)]
pub(crate) struct Packet<'a> {
    /// Where it comes from.
    pub(crate) from: SocketAddrV6,
    /// Where it goes.
    pub(crate) to: SocketAddrV6,
    /// Hops that it may make, if not the default.
    pub(crate) hop_limit: Option<u8>,
    /// Its UDP header, complete, and its payload.
    pub(crate) datagram: &'a [u8],
}

/// Writes the UDP header of a datagram into the first [`UDP_BYTES`] bytes of `datagram`, whose rest
/// is its payload.
pub(crate) fn head(from: &SocketAddrV6, to: &SocketAddrV6, datagram: &mut [u8]) {
    // RFC 768 counts to 65,535; the contract ends at 65,507 bytes of payload.
    let len = datagram.len() as u16;
    datagram[..2].copy_from_slice(&from.port().to_be_bytes());
    datagram[2..4].copy_from_slice(&to.port().to_be_bytes());
    datagram[4..6].copy_from_slice(&len.to_be_bytes());
    datagram[6..8].fill(0);
    let ends = sum(&from.ip().octets()) + sum(&to.ip().octets());
    // RFC 8200 section 8.1: over IPv6 a checksum of zero is sent as all ones.
    let checksum = match !fold(ends + u64::from(UDP) + u64::from(len) + sum(datagram)) {
        0 => 0xffff,
        checksum => checksum,
    };
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
}

/// The parts of a datagram of `len` bytes that go into fragments on a link of `mtu` bytes: each but
/// the last a multiple of eight. `None` if they are more than a row of transmit slots holds.
pub(crate) fn parts(len: usize, mtu: usize) -> Option<impl ExactSizeIterator<Item = Range<usize>>> {
    let part = mtu.saturating_sub(IPV6_BYTES + FRAGMENT_BYTES) & !7;
    let count = len.div_ceil(part.max(1));
    let range = move |index: usize| index * part..len.min((index + 1) * part);
    (part > 0 && count <= TX_SLOTS).then(|| (0..count).map(range))
}

/// Bytes of the frame that carries `part`.
pub(crate) const fn frame_bytes(part: &Range<usize>) -> usize {
    ETHERNET_BYTES + IPV6_BYTES + FRAGMENT_BYTES + (part.end - part.start)
}

impl Packet<'_> {
    /// Writes the fragment that carries `part` into `frame`, which has its [`frame_bytes`].
    pub(crate) fn write(&self, part: Range<usize>, id: u32, macs: (Mac, Mac), frame: &mut [u8]) {
        let more = part.end < self.datagram.len();
        let (ethernet, packet) = frame.split_at_mut(ETHERNET_BYTES);
        ethernet[..6].copy_from_slice(&macs.1);
        ethernet[6..12].copy_from_slice(&macs.0);
        ethernet[12..].copy_from_slice(&[0x86, 0xdd]);
        let (header, rest) = packet.split_at_mut(IPV6_BYTES);
        header[..4].copy_from_slice(&[0x60, 0, 0, 0]);
        header[4..6].copy_from_slice(&(rest.len() as u16).to_be_bytes());
        (header[6], header[7]) = (FRAGMENT, self.hop_limit.unwrap_or(HOP_LIMIT));
        header[8..24].copy_from_slice(&self.from.ip().octets());
        header[24..].copy_from_slice(&self.to.ip().octets());
        let (fragment, payload) = rest.split_at_mut(FRAGMENT_BYTES);
        (fragment[0], fragment[1]) = (UDP, 0);
        let offset = part.start as u16 | u16::from(more);
        fragment[2..4].copy_from_slice(&offset.to_be_bytes());
        fragment[4..].copy_from_slice(&id.to_be_bytes());
        payload.copy_from_slice(&self.datagram[part]);
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

    #[test]
    fn parts_are_multiples_of_eight_and_leave_nothing_out() {
        for (len, mtu) in [(1461, 1500), (65_515, 1500), (65_515, 1280), (3000, 1501)] {
            let parts: Vec<_> = parts(len, mtu).unwrap().collect();
            assert!(parts.len() > 1);
            assert_eq!((parts[0].start, parts[parts.len() - 1].end), (0, len));
            for pair in parts.windows(2) {
                assert_eq!(pair[0].end, pair[1].start);
                assert_eq!(pair[0].len() % 8, 0);
            }
            let longest = parts.iter().map(frame_bytes).max().unwrap();
            assert!((mtu + ETHERNET_BYTES - 7..=mtu + ETHERNET_BYTES).contains(&longest));
        }
    }

    #[test]
    fn what_takes_more_than_a_row_of_slots_is_refused() {
        // RFC 8200 section 5 asks for an MTU of 1280 at least; less can be configured for IPv4.
        assert!(parts(65_515, 576).is_none());
        assert!(parts(1000, 48).is_none());
    }
}
