//! Packets in pieces: whole again whatever else arrives, in both families.

use std::net::SocketAddr;

use dmm_stack::pair::{Client, End, Pair, Quota};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice, icmpv4};

use crate::{IP_KINDS, clean, secs};

/// A UDP datagram from a station to port 53 of station 2, from port 9.
fn datagram(v4: bool, source: u8, payload: &[u8]) -> Vec<u8> {
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let mut frame = Vec::new();
    if v4 {
        let packet = link.ipv4([10, 0, 0, source], [10, 0, 0, 2], 64).udp(9, 53);
        packet.write(&mut frame, payload).unwrap();
    } else {
        let address = |station| {
            let mut address = [0; 16];
            (address[0], address[15]) = (0xfd, station);
            address
        };
        let packet = link.ipv6(address(source), address(2), 64).udp(9, 53);
        packet.write(&mut frame, payload).unwrap();
    }
    frame
}

/// The fragment of a frame's packet that holds `len` bytes of its payload from `offset` on.
fn fragment(frame: &[u8], id: u16, offset: usize, len: usize) -> Vec<u8> {
    let v4 = frame[12] == 8;
    let payload = &frame[if v4 { 34 } else { 54 }..];
    let end = payload.len().min(offset + len);
    let (data, more) = (&payload[offset..end], end < payload.len());
    let mut piece = frame[..frame.len() - payload.len()].to_vec();
    if v4 {
        piece[16..18].copy_from_slice(&(20 + data.len() as u16).to_be_bytes());
        piece[18..20].copy_from_slice(&id.to_be_bytes());
        let word = u16::from(more) << 13 | (offset / 8) as u16;
        piece[20..22].copy_from_slice(&word.to_be_bytes());
        piece[24..26].fill(0);
        let sum: u32 =
            piece[14..34].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        piece[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        piece[18..20].copy_from_slice(&(8 + data.len() as u16).to_be_bytes());
        let protocol = std::mem::replace(&mut piece[20], 44);
        piece.extend([protocol, 0]);
        piece.extend((offset as u16 | u16::from(more)).to_be_bytes());
        piece.extend([0, 0]);
        piece.extend(id.to_be_bytes());
    }
    piece.extend(data);
    piece
}

/// All fragments of a frame's packet, of `len` bytes each.
fn cut(frame: &[u8], id: u16, len: usize) -> Vec<Vec<u8>> {
    let payload_bytes = frame.len() - if frame[12] == 8 { 34 } else { 54 };
    (0..payload_bytes).step_by(len).map(|offset| fragment(frame, id, offset, len)).collect()
}

/// A UDP socket on station 2's port 53, of both families.
fn server(kind: &str) -> (Pair, Quota, Client, Client) {
    let mut pair = Pair::new(kind, &clean());
    let quota = Quota::new(256);
    let v4 = pair.bind(End::Right, &quota, 1, "0.0.0.0:53".parse().unwrap());
    let v6 = pair.bind(End::Right, &quota, 2, "[::]:53".parse().unwrap());
    (pair, quota, v4, v6)
}

fn received(pair: &mut Pair, client: &mut Client) -> Option<Vec<u8>> {
    pair.run(secs(1));
    let mut buffer = vec![0; 65_535];
    let header = client.reader.read_datagram(&mut buffer, false)?;
    let peer: SocketAddr = header.peer.unwrap().0;
    assert_eq!(peer.port(), 9);
    buffer.truncate(header.len);
    Some(buffer)
}

#[test]
fn a_datagram_arrives_though_thousands_stay_unfinished() {
    for kind in IP_KINDS {
        let (mut pair, quota, mut v4, mut v6) = server(kind);
        for (is_v4, client) in [(true, &mut v4), (false, &mut v6)] {
            let payload: Vec<u8> = (0..8000_u32).map(|n| n as u8).collect();
            let good = cut(&datagram(is_v4, 1, &payload), 7, 1448);
            let mut bad = (0..2000_u16).map(|id| {
                // First and last pieces of packets that nobody completes, from everybody.
                let frame = datagram(is_v4, 3 + (id % 200) as u8, &[0; 64]);
                fragment(&frame, id, if id % 2 == 0 { 0 } else { 40 }, 32)
            });
            for frame in bad.by_ref().take(1990) {
                pair.inject(End::Right, &frame);
            }
            for (good, bad) in good.iter().zip(bad) {
                pair.inject(End::Right, good);
                pair.inject(End::Right, &bad);
            }
            assert_eq!(received(&mut pair, client), Some(payload));
        }
        let lost = pair.counter(End::Right, "drop.fragment_evicted");
        assert!((3800..4000).contains(&lost), "{lost}");
        pair.run(secs(40));
        let expired = pair.counter(End::Right, "drop.fragment_timeout");
        // The last 6 of each flood are not sent, and 64 packets at a time wait.
        assert_eq!(lost + expired, 2 * (1990 + 6));
        pair.clean_up(&[&v4, &v6], &[], &[&quota]);
    }
}

#[test]
fn the_longest_datagrams_arrive_in_any_order() {
    for kind in IP_KINDS {
        let (mut pair, quota, mut v4, mut v6) = server(kind);
        for (is_v4, client, len) in [(true, &mut v4, 65_507), (false, &mut v6, 65_507)] {
            let payload: Vec<u8> = (0..len).map(|n: u32| (n / 3) as u8).collect();
            for piece in cut(&datagram(is_v4, 1, &payload), 7, 1448).iter().rev() {
                pair.inject(End::Right, piece);
            }
            assert_eq!(received(&mut pair, client), Some(payload));
        }
        assert_eq!(pair.counter(End::Right, "rx.udp_datagrams"), 2);
        pair.clean_up(&[&v4, &v6], &[], &[&quota]);
    }
}

#[test]
fn losses_are_counted_by_reason() {
    for kind in IP_KINDS {
        let (mut pair, quota, mut v4, mut v6) = server(kind);
        for (is_v4, client) in [(true, &mut v4), (false, &mut v6)] {
            let frame = datagram(is_v4, 1, &[5; 100]);
            let pieces = cut(&frame, 1, 40);
            // One overlaps, with what follows.
            for piece in [&pieces[0], &fragment(&frame, 1, 32, 40), &pieces[1], &pieces[2]] {
                pair.inject(End::Right, piece);
            }
            // One is of a length that none but a last piece has.
            let mut ragged = fragment(&frame, 2, 0, 40);
            if is_v4 {
                ragged = fragment(&frame, 2, 0, 41);
            } else {
                ragged[19] -= 1;
            }
            pair.inject(End::Right, &ragged);
            // One is never finished.
            pair.inject(End::Right, &fragment(&frame, 3, 0, 40));
            assert_eq!(received(&mut pair, client), None);
        }
        assert_eq!(pair.counter(End::Right, "drop.fragment_overlap"), 8);
        assert_eq!(pair.counter(End::Right, "drop.fragment_malformed"), 2);
        assert_eq!(pair.counter(End::Right, "drop.fragment_timeout"), 0);
        pair.run(secs(31));
        assert_eq!(pair.counter(End::Right, "drop.fragment_timeout"), 2);
        pair.clean_up(&[&v4, &v6], &[], &[&quota]);
    }
}

#[test]
fn a_damaged_datagram_of_several_pieces_is_dropped_and_counted() {
    for kind in IP_KINDS {
        let (mut pair, quota, mut v4, mut v6) = server(kind);
        for (is_v4, client) in [(true, &mut v4), (false, &mut v6)] {
            let mut frame = datagram(is_v4, 1, &[5; 100]);
            *frame.last_mut().unwrap() ^= 1;
            for piece in cut(&frame, 1, 40) {
                pair.inject(End::Right, &piece);
            }
            assert_eq!(received(&mut pair, client), None);
        }
        assert_eq!(pair.counter(End::Right, "drop.rx_checksum"), 2);
        pair.clean_up(&[&v4, &v6], &[], &[&quota]);
    }
}

#[test]
fn a_segment_of_two_pieces_opens_a_connection() {
    for kind in IP_KINDS {
        let (mut pair, quota, v4, v6) = server(kind);
        pair.listen(End::Right, 0, "0.0.0.0:80".parse().unwrap(), 4);
        let mut syn = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(9, 80, 1, 1000)
            .syn()
            .write(&mut syn, b"")
            .unwrap();
        pair.port(End::Left).set_link_up(false);
        for piece in cut(&syn, 1, 16).iter().rev() {
            pair.inject(End::Right, piece);
        }
        pair.run(secs(1));
        let half_open = |report: &dmm_stack::SocketReport| report.state == "SYN-RECV";
        assert_eq!(pair.sockets(End::Right).iter().filter(|report| half_open(report)).count(), 1);
        pair.port(End::Left).set_link_up(true);
        pair.clean_up(&[&v4, &v6], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn echo_requests_of_several_pieces_are_answered() {
    for kind in IP_KINDS {
        let (mut pair, quota, v4, v6) = server(kind);
        // The neighbours get to know each other.
        pair.listen(End::Right, 0, "0.0.0.0:80".parse().unwrap(), 4);
        let ends = ("10.0.0.1:5".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let first = pair.connect(End::Left, &quota, 9, ends);
        pair.expect(secs(5), "a connection", |pair| pair.of(&first).connected.is_some());
        let payload: Vec<u8> = (0..5000_u32).map(|n| n as u8).collect();
        let mut request = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .icmpv4_echo_request(3, 4)
            .write(&mut request, &payload)
            .unwrap();
        pair.keep_frames(End::Right);
        for piece in cut(&request, 1, 1480) {
            pair.inject(End::Right, &piece);
        }
        pair.run(secs(1));
        let mut answer = Vec::new();
        for frame in pair.take_frames(End::Right) {
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(NetSlice::Ipv4(ip)) = packet.net else { continue };
            if let Some(TransportSlice::Icmpv4(icmp)) = &packet.transport {
                assert_eq!(icmp.type_u8(), icmpv4::TYPE_ECHO_REPLY);
            }
            assert_eq!(usize::from(ip.header().fragments_offset().byte_offset()), answer.len());
            answer.extend_from_slice(ip.payload().payload);
        }
        assert_eq!(answer[8..], payload);
        pair.clean_up(&[&first, &v4, &v6], &[(End::Right, 0)], &[&quota]);
    }
}
