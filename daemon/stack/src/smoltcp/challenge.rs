//! The challenge of RFC 5961: a segment that acknowledges what was received, and nothing else.
//!
//! Called when the peer, or somebody in its name, would end a connection. Must never: answer
//! anything but the very frame that gave rise to it.
#![forbid(unsafe_code)]

use ::smoltcp::wire::TcpSeqNumber;

use dmm_port::checksum::{fold, sum};

const ETHERNET_BYTES: usize = 14;
const IPV6_BYTES: usize = 40;
const TCP_BYTES: usize = 20;
const TCP: u8 = 6;
const ACK: u8 = 16;
/// As Linux sends (`ip_default_ttl`).
const HOP_LIMIT: u8 = 64;

/// Bytes of the longest challenge.
pub(super) const BYTES_MAX: usize = ETHERNET_BYTES + IPV6_BYTES + TCP_BYTES;

/// Writes an answer to `frame`, a whole TCP segment, with this number, acknowledgement and window.
/// Returns its length, or `None` if `frame` is no such thing.
pub(super) fn write(
    frame: &[u8],
    (number, acknowledged, window): (TcpSeqNumber, TcpSeqNumber, u16),
    answer: &mut [u8; BYTES_MAX],
) -> Option<usize> {
    let packet = frame.get(ETHERNET_BYTES..)?;
    let (header_len, asked_header_len) = match packet.first()? >> 4 {
        4 => (20, usize::from(packet[0] & 0x0f) * 4),
        6 => (IPV6_BYTES, IPV6_BYTES),
        _ => return None,
    };
    let ports: [u8; 4] = *packet.get(asked_header_len..)?.first_chunk()?;
    answer.fill(0);
    answer[..6].copy_from_slice(&frame[6..12]);
    answer[6..12].copy_from_slice(&frame[..6]);
    answer[12..14].copy_from_slice(&frame[12..14]);
    let len = ETHERNET_BYTES + header_len + TCP_BYTES;
    let (header, tcp) = answer[ETHERNET_BYTES..len].split_at_mut(header_len);
    let addresses = if header_len == IPV6_BYTES {
        header[0] = 0x60;
        header[4..6].copy_from_slice(&(TCP_BYTES as u16).to_be_bytes());
        (header[6], header[7]) = (TCP, HOP_LIMIT);
        header[8..24].copy_from_slice(packet.get(24..40)?);
        header[24..40].copy_from_slice(packet.get(8..24)?);
        8..40
    } else {
        header[0] = 0x45;
        header[2..4].copy_from_slice(&((20 + TCP_BYTES) as u16).to_be_bytes());
        // RFC 6864 section 4.1: with "don't fragment" any identification will do.
        header[6] = 0x40;
        (header[8], header[9]) = (HOP_LIMIT, TCP);
        header[12..16].copy_from_slice(packet.get(16..20)?);
        header[16..20].copy_from_slice(packet.get(12..16)?);
        let checksum = !fold(sum(header));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        12..20
    };
    tcp[..2].copy_from_slice(&ports[2..]);
    tcp[2..4].copy_from_slice(&ports[..2]);
    tcp[4..8].copy_from_slice(&number.0.to_be_bytes());
    tcp[8..12].copy_from_slice(&acknowledged.0.to_be_bytes());
    tcp[12] = (TCP_BYTES as u8 / 4) << 4;
    tcp[13] = ACK;
    tcp[14..16].copy_from_slice(&window.to_be_bytes());
    let pseudo = sum(&header[addresses]) + u64::from(TCP) + TCP_BYTES as u64;
    let checksum = !fold(pseudo + sum(tcp));
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    Some(len)
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

    use super::*;
    use crate::ip::checksum;

    #[test]
    fn a_challenge_goes_back_with_the_numbers_given() {
        let link = || PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut frames = [Vec::new(), Vec::new()];
        let (v4, v6) = (([10, 0, 0, 1], [10, 0, 0, 2]), ([0xfd; 16], [0xfe; 16]));
        link().ipv4(v4.0, v4.1, 9).tcp(7, 80, 5, 0).rst().write(&mut frames[0], b"").unwrap();
        link().ipv6(v6.0, v6.1, 9).tcp(7, 80, 5, 0).syn().write(&mut frames[1], b"").unwrap();
        for frame in frames {
            let mut answer = [0xaa; BYTES_MAX];
            let numbers = (TcpSeqNumber(-3), TcpSeqNumber(99), 512);
            let len = write(&frame, numbers, &mut answer).unwrap();
            let answer = &answer[..len];
            assert_eq!(checksum::fault(&dmm_port::flow::message(answer).unwrap()), None);
            let packet = SlicedPacket::from_ethernet(answer).unwrap();
            assert_eq!(answer[..12], [[2; 6], [4; 6]].concat());
            match packet.net.unwrap() {
                NetSlice::Ipv4(ip) => {
                    let header = ip.header().to_header();
                    assert_eq!((header.source, header.destination), (v4.1, v4.0));
                    assert_eq!(header.header_checksum, header.calc_header_checksum());
                }
                NetSlice::Ipv6(ip) => {
                    let header = ip.header().to_header();
                    assert_eq!((header.source, header.destination), (v6.1, v6.0));
                }
                other => panic!("{other:?}"),
            }
            let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
            assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 7));
            assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number()), (u32::MAX - 2, 99));
            assert!(tcp.ack() && !tcp.syn() && !tcp.rst() && tcp.payload().is_empty());
            assert_eq!(tcp.window_size(), 512);
        }
        assert_eq!(
            write(&[0; 30], (TcpSeqNumber(0), TcpSeqNumber(0), 0), &mut [0; BYTES_MAX]),
            None
        );
    }
}
