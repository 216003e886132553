//! Whether a received packet's checksums are right, unless the port has verified them.
//!
//! Called for each packet: the library is told to leave received checksums of IP, TCP and UDP alone,
//! since it cannot be told of one packet that its port vouches for it. Must never: panic, or read past
//! what the frame holds.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use dmm_port::checksum::{fold, sum};
use dmm_port::flow::Message;

/// What is wrong with the checksum of a TCP, UDP or ICMP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is the sum of the pseudo-header alone: the sender's kernel left the rest to a device that
    /// this packet never passed, as between two ends of a veth pair.
    Partial,
    /// It does not match.
    Wrong,
}

const ETHERNET_BYTES: usize = 14;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// The fault of a TCP, UDP or ICMP message's checksum, if it has one.
pub(crate) fn fault(message: &Message<'_>) -> Option<Fault> {
    let mut bytes = message.bytes;
    if message.protocol == UDP {
        // What follows a datagram in its packet is no part of it.
        bytes = bytes.get(..usize::from(be16(bytes, 4)?))?;
    }
    let field = match message.protocol {
        TCP => be16(bytes, 16)?,
        UDP => be16(bytes, 6)?,
        ICMP | ICMPV6 => be16(bytes, 2)?,
        _ => return None,
    };
    let addresses = match (message.source, message.destination) {
        // RFC 792: the message alone.
        _ if message.protocol == ICMP => {
            return (fold(sum(bytes)) != 0xffff).then_some(Fault::Wrong);
        }
        // RFC 768: zero says that there is none. RFC 8200 section 8.1: IPv6 needs one.
        (source, _) if message.protocol == UDP && field == 0 => {
            return source.is_ipv6().then_some(Fault::Wrong);
        }
        (IpAddr::V4(from), IpAddr::V4(to)) => sum(&from.octets()) + sum(&to.octets()),
        (IpAddr::V6(from), IpAddr::V6(to)) => sum(&from.octets()) + sum(&to.octets()),
        _ => return None,
    };
    let pseudo = addresses + u64::from(message.protocol) + bytes.len() as u64;
    if fold(pseudo + sum(bytes)) == 0xffff {
        return None;
    }
    Some(if fold(pseudo) == field { Fault::Partial } else { Fault::Wrong })
}

/// Whether the checksum of an IPv4 header is right (RFC 791 section 3.1); also of one that is not
/// all there, which is found elsewhere.
pub(crate) fn of_ipv4_header(frame: &[u8]) -> bool {
    let packet = frame.get(ETHERNET_BYTES..).unwrap_or_default();
    let header_len = packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
    packet.get(..header_len).is_none_or(|header| fold(sum(header)) == 0xffff)
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    fn of(bytes: &[u8]) -> Option<Fault> {
        fault(&dmm_port::flow::message(bytes)?)
    }

    /// One frame of each kind, and where its checksum and addresses are.
    fn frames() -> Vec<(Vec<u8>, usize)> {
        let link = || PacketBuilder::ethernet2([2; 6], [4; 6]);
        let (v4, v6) = (([10, 0, 0, 1], [10, 0, 0, 2]), ([0xfd; 16], [0xfe; 16]));
        let mut frames =
            vec![(Vec::new(), 50), (Vec::new(), 40), (Vec::new(), 70), (Vec::new(), 60)];
        link().ipv4(v4.0, v4.1, 64).tcp(1, 2, 3, 4).write(&mut frames[0].0, b"odd").unwrap();
        link().ipv4(v4.0, v4.1, 64).udp(1, 2).write(&mut frames[1].0, b"odd").unwrap();
        link().ipv6(v6.0, v6.1, 64).tcp(1, 2, 3, 4).write(&mut frames[2].0, b"odd").unwrap();
        link().ipv6(v6.0, v6.1, 64).udp(1, 2).write(&mut frames[3].0, b"odd").unwrap();
        frames
    }

    #[test]
    fn right_wrong_and_partial_are_told_apart() {
        for (mut frame, at) in frames() {
            assert_eq!(of(&frame), None);
            let right = [frame[at], frame[at + 1]];
            // Without the checksum in the segment, the sum of all is the right one's complement;
            // the pseudo-header's is that less the segment's.
            frame[at..at + 2].copy_from_slice(&[0, 0]);
            let segment_at = if frame[12] == 8 { 34 } else { 54 };
            let whole = u64::from(!u16::from_be_bytes(right));
            let segment = u64::from(!fold(sum(&frame[segment_at..])));
            frame[at..at + 2].copy_from_slice(&fold(whole + segment).to_be_bytes());
            assert_eq!(of(&frame), Some(Fault::Partial));
            frame[at] ^= 0x55;
            assert_eq!(of(&frame), Some(Fault::Wrong));
            // A fragment's checksum is of more than the frame holds.
            if frame[12] == 8 {
                frame[20] = 0x20;
                assert_eq!(of(&frame), None);
            }
        }
    }

    #[test]
    fn what_follows_a_datagram_in_its_packet_does_not_count() {
        let [_, (mut frame, _), ..] = <[_; 4]>::try_from(frames()).unwrap();
        frame.extend_from_slice(b"more");
        let total_len = u16::try_from(frame.len() - ETHERNET_BYTES).unwrap();
        frame[16..18].copy_from_slice(&total_len.to_be_bytes());
        assert_eq!(of(&frame), None);
    }

    #[test]
    fn extension_headers_are_walked_past() {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv6([0xfd; 16], [0xfe; 16], 64)
            .udp(1, 2)
            .write(&mut frame, b"odd")
            .unwrap();
        // RFC 8200 section 4.6: destination options, of padding alone.
        frame.splice(54..54, [17, 0, 1, 4, 0, 0, 0, 0]);
        (frame[19], frame[20]) = (frame[19] + 8, 60);
        assert_eq!(of(&frame), None);
        frame[70] ^= 1;
        assert_eq!(of(&frame), Some(Fault::Wrong));
    }

    #[test]
    fn udp_without_a_checksum_is_right_over_ipv4_only() {
        let [_, (mut v4, at4), _, (mut v6, at6)] = <[_; 4]>::try_from(frames()).unwrap();
        v4[at4..at4 + 2].fill(0);
        v6[at6..at6 + 2].fill(0);
        assert_eq!((of(&v4), of(&v6)), (None, Some(Fault::Wrong)));
    }

    proptest! {
        #[test]
        fn noise_does_no_harm(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
            version in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()],
        ) {
            if let Some(first) = bytes.get_mut(ETHERNET_BYTES) {
                *first = version;
            }
            of(&bytes);
        }
    }
}
