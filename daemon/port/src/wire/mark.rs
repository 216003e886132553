//! The mark of a queue that grows (RFC 3168): CE, in packets whose senders take it.
#![forbid(unsafe_code)]

/// The bits of the field, of which a sender that takes marks sets one.
const FIELD: u8 = 0x03;

/// Marks the packet in an Ethernet frame. Returns whether it could be.
pub(super) fn mark(frame: &mut [u8]) -> bool {
    match frame {
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x00, packet @ ..] if packet.len() >= 20 => {
            let before = u16::from_be_bytes([packet[0], packet[1]]);
            if packet[1] & FIELD == 0 {
                return false;
            }
            packet[1] |= FIELD;
            let after = u16::from_be_bytes([packet[0], packet[1]]);
            // RFC 1624 section 3, equation 3.
            let sum = u32::from(!u16::from_be_bytes([packet[10], packet[11]]))
                + u32::from(!before)
                + u32::from(after);
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = (sum & 0xffff) + (sum >> 16);
            packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
            true
        }
        // The class lies across the first two octets.
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, packet @ ..] if packet.len() >= 40 => {
            let takes = packet[1] & FIELD << 4 != 0;
            packet[1] |= if takes { FIELD << 4 } else { 0 };
            takes
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{
        IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header, PacketBuilder,
    };

    use super::*;

    fn v4(ecn: u8) -> Vec<u8> {
        let mut ip = Ipv4Header::new(8, 64, IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
        ip.ecn = etherparse::IpEcn::try_new(ecn).unwrap();
        let headers = IpHeaders::Ipv4(ip, Ipv4Extensions::default());
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ip(headers);
        builder.udp(1, 2).write(&mut frame, &[]).unwrap();
        frame
    }

    #[test]
    fn packets_whose_senders_take_marks_get_one() {
        for ecn in [1, 2, 3] {
            let mut frame = v4(ecn);
            assert!(mark(&mut frame));
            let (ip, _) = Ipv4Header::from_slice(&frame[14..]).unwrap();
            assert_eq!((ip.ecn.value(), ip.header_checksum), (3, ip.calc_header_checksum()));
        }
        let mut frame = v4(0);
        assert!(!mark(&mut frame));
        assert_eq!(frame, v4(0));
    }

    #[test]
    fn so_do_those_of_ipv6() {
        for (class, marked) in [(0x02, true), (0x01, true), (0x00, false)] {
            let ip = Ipv6Header { traffic_class: class, ..Ipv6Header::default() };
            let headers = IpHeaders::Ipv6(ip, Ipv6Extensions::default());
            let mut frame = Vec::new();
            let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ip(headers);
            builder.udp(1, 2).write(&mut frame, &[]).unwrap();
            assert_eq!(mark(&mut frame), marked);
            let (ip, _) = Ipv6Header::from_slice(&frame[14..]).unwrap();
            assert_eq!(ip.traffic_class & 3, if marked { 3 } else { 0 });
        }
    }

    #[test]
    fn other_frames_are_left_alone() {
        for len in 0..60 {
            let mut frame = vec![0xff; len];
            assert!(!mark(&mut frame));
            assert_eq!(frame, vec![0xff; len]);
        }
        assert!(!mark(&mut v4(2)[..30]));
    }
}
