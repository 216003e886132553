//! Ethernet and IP headers of packets to be sent, and the sums that guard what is in them.
//!
//! Owns: their writing. Called for each packet. Must never: leave a byte of a frame as it found it.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use dmm_port::checksum::{fold, sum};

use super::discovery::Mac;

/// Bytes of an Ethernet header without tags.
pub(crate) const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
/// Bytes of IPv6's fragment header (RFC 8200 section 4.5).
const FRAGMENT_BYTES: usize = 8;
/// Its number as the next header.
const FRAGMENT: u8 = 44;
/// Bytes of a UDP header (RFC 768).
pub(crate) const UDP_BYTES: usize = 8;
/// Hops that packets may make, as Linux has it (`ip_default_ttl`).
pub(crate) const HOP_LIMIT: u8 = 64;

/// Protocol numbers of what is in an IP packet.
pub(crate) mod protocol {
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ICMPV6: u8 = 58;
}

/// The headers of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headers {
    /// Our station.
    pub(crate) from_mac: Mac,
    /// The next one.
    pub(crate) to_mac: Mac,
    /// Our address.
    pub(crate) from: IpAddr,
    /// The other's, of the same family.
    pub(crate) to: IpAddr,
    /// What follows.
    pub(crate) protocol: u8,
    /// Hops that it may make.
    pub(crate) hop_limit: u8,
    /// Its traffic class: DSCP and ECN (RFC 2474, RFC 3168).
    pub(crate) class: u8,
    /// Whether it is a packet or a part of one.
    pub(crate) extent: Extent,
}

/// Whether a packet is sent as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// It is, and routers may not cut it (RFC 1191); IPv6 has no other packets.
    Whole,
    /// A fragment (RFC 791 section 3.2, RFC 8200 section 4.5).
    Part {
        /// What it has in common with the packet's others; IPv4 has room for the lower half.
        identification: u32,
        /// Its first byte's place in the packet, a multiple of eight.
        offset: u16,
        /// Others follow.
        more: bool,
    },
}

/// The ECN field of a traffic class (RFC 3168 section 5).
pub(crate) mod ecn {
    /// Its bits.
    pub(crate) const MASK: u8 = 0x03;
    /// The transport knows what a mark means.
    pub(crate) const CAPABLE: u8 = 0x02;
    /// A router was congested.
    pub(crate) const CONGESTED: u8 = 0x03;
}

/// The traffic class of a frame's IP packet; 0 of any other.
pub(crate) fn class_of(frame: &[u8]) -> u8 {
    match frame.get(12..16) {
        Some([0x08, 0x00, _, class]) => *class,
        Some([0x86, 0xdd, high, low]) => high << 4 | low >> 4,
        _ => 0,
    }
}

/// Bytes of the Ethernet and IP headers of a packet to `to`.
pub(crate) const fn headers_bytes(to: IpAddr) -> usize {
    ETHERNET_BYTES + ip_bytes(to)
}

/// Bytes of the IP header of a packet to `to`.
pub(crate) const fn ip_bytes(to: IpAddr) -> usize {
    if to.is_ipv4() { IPV4_BYTES } else { IPV6_BYTES }
}

impl Headers {
    /// Bytes of them.
    pub(crate) const fn len(&self) -> usize {
        let part = matches!(self.extent, Extent::Part { .. }) && self.to.is_ipv6();
        headers_bytes(self.to) + if part { FRAGMENT_BYTES } else { 0 }
    }

    /// Writes the headers to the beginning of `frame`, the rest of which is the packet's payload.
    pub(crate) fn write(&self, frame: &mut [u8]) {
        frame[0..6].copy_from_slice(&self.to_mac);
        frame[6..12].copy_from_slice(&self.from_mac);
        let packet = &mut frame[12..];
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                packet[0..2].copy_from_slice(&[0x08, 0x00]);
                let len = u16::try_from(packet.len() - 2).unwrap_or(u16::MAX);
                let header = &mut packet[2..2 + IPV4_BYTES];
                header[0..2].copy_from_slice(&[0x45, self.class]);
                header[2..4].copy_from_slice(&len.to_be_bytes());
                // RFC 6864 section 4.1: in whole packets the identification means nothing.
                let (identification, place) = match self.extent {
                    Extent::Whole => (0, 0x4000),
                    Extent::Part { identification, offset, more } => {
                        (identification as u16, offset >> 3 | u16::from(more) << 13)
                    }
                };
                header[4..6].copy_from_slice(&identification.to_be_bytes());
                header[6..8].copy_from_slice(&place.to_be_bytes());
                header[8..12].copy_from_slice(&[self.hop_limit, self.protocol, 0, 0]);
                header[12..16].copy_from_slice(&from.octets());
                header[16..20].copy_from_slice(&to.octets());
                let checksum = !fold(sum(header));
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                packet[0..2].copy_from_slice(&[0x86, 0xdd]);
                let len = u16::try_from(packet.len() - 2 - IPV6_BYTES).unwrap_or(u16::MAX);
                let header = &mut packet[2..2 + IPV6_BYTES];
                header[0..4].copy_from_slice(&[0x60 | self.class >> 4, self.class << 4, 0, 0]);
                header[4..6].copy_from_slice(&len.to_be_bytes());
                header[6..8].copy_from_slice(&[self.protocol, self.hop_limit]);
                header[8..24].copy_from_slice(&from.octets());
                header[24..40].copy_from_slice(&to.octets());
                if let Extent::Part { identification, offset, more } = self.extent {
                    header[6] = FRAGMENT;
                    let fragment = &mut packet[2 + IPV6_BYTES..][..FRAGMENT_BYTES];
                    fragment[0..2].copy_from_slice(&[self.protocol, 0]);
                    fragment[2..4].copy_from_slice(&(offset | u16::from(more)).to_be_bytes());
                    fragment[4..8].copy_from_slice(&identification.to_be_bytes());
                }
            }
            _ => unreachable!("a packet's addresses are of one family"),
        }
    }
}

/// The sum of the pseudo-header of `len` bytes of `protocol` (RFC 9293 section 3.1, RFC 8200 section
/// 8.1).
pub(crate) fn pseudo_sum(from: IpAddr, to: IpAddr, protocol: u8, len: usize) -> u64 {
    let addresses = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => sum(&from.octets()) + sum(&to.octets()),
        (IpAddr::V6(from), IpAddr::V6(to)) => sum(&from.octets()) + sum(&to.octets()),
        _ => 0,
    };
    addresses + u64::from(protocol) + len as u64
}

/// Writes the UDP header of a datagram into the first [`UDP_BYTES`] bytes of `datagram`, whose rest
/// is its payload.
pub(crate) fn write_udp(from: SocketAddr, to: SocketAddr, datagram: &mut [u8]) {
    // RFC 768 counts to 65,535; the contract ends at 65,507 bytes of payload.
    let len = datagram.len() as u16;
    datagram[..2].copy_from_slice(&from.port().to_be_bytes());
    datagram[2..4].copy_from_slice(&to.port().to_be_bytes());
    datagram[4..6].copy_from_slice(&len.to_be_bytes());
    datagram[6..8].fill(0);
    let pseudo = pseudo_sum(from.ip(), to.ip(), protocol::UDP, datagram.len());
    // A checksum of zero is sent as all ones, as zero says that there is none.
    let checksum = match checksum(pseudo, datagram) {
        [0, 0] => [0xff, 0xff],
        checksum => checksum,
    };
    datagram[6..8].copy_from_slice(&checksum);
}

/// The checksum of a message whose own checksum is zero.
pub(crate) fn checksum(pseudo: u64, message: &[u8]) -> [u8; 2] {
    (!fold(pseudo + sum(message))).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_independent_parser_finds_no_fault() {
        let v4 = ("10.0.0.1", "10.0.0.2");
        let v6 = ("fd00::1", "fd00::2");
        for (from, to) in [v4, v6] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let headers = Headers {
                from_mac: [2, 0, 0, 0, 0, 1],
                to_mac: [2, 0, 0, 0, 0, 2],
                from,
                to,
                protocol: protocol::UDP,
                hop_limit: 64,
                class: 0,
                extent: Extent::Whole,
            };
            let mut message = [0, 1, 0, 2, 0, 11, 0, 0, b'a', b'b', b'c'];
            let pseudo = pseudo_sum(from, to, protocol::UDP, message.len());
            let checksum = checksum(pseudo, &message);
            message[6..8].copy_from_slice(&checksum);
            let mut frame = vec![0xee; headers_bytes(to) + message.len()];
            headers.write(&mut frame);
            frame[headers_bytes(to)..].copy_from_slice(&message);
            let packet = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(etherparse::TransportSlice::Udp(udp)) = packet.transport else { panic!() };
            let header = udp.to_header();
            let sum = match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    let ip = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap();
                    assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
                    assert_eq!((ip.ttl(), ip.dont_fragment(), ip.total_len()), (64, true, 31));
                    header.calc_checksum_ipv4_raw(from.octets(), to.octets(), b"abc").unwrap()
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    header.calc_checksum_ipv6_raw(from.octets(), to.octets(), b"abc").unwrap()
                }
                _ => unreachable!(),
            };
            assert_eq!(sum, header.checksum);
        }
    }
}
