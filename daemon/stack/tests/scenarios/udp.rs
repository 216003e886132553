//! Datagrams.

use std::net::SocketAddr;

use dmm_proto::fifo::datagram::Header;
use dmm_stack::pair::{Client, End, Pair, Quota, byte_at};
use dmm_stack::{Request, SocketId};
use etherparse::{Ipv6ExtensionSlice, NetSlice, SlicedPacket};

use crate::{IP_KINDS, V6, clean, left, right, secs};

pub(crate) fn send(pair: &mut Pair, client: &mut Client, peer: Option<SocketAddr>, len: usize) {
    let payload: Vec<u8> = (0..len as u64).map(byte_at).collect();
    let header = Header { len, peer: peer.map(Into::into), local: None };
    // A datagram that does not fit is wished room for, as a library does.
    let socket = client.socket;
    if client.writer.write_datagram(&header, &payload) {
        pair.submit(client.end, Request::Send { socket });
        return;
    }
    client.writer.want_room();
    pair.submit(client.end, Request::Send { socket });
    pair.expect(secs(5), "room", |pair| {
        let _ = pair;
        client.writer.write_datagram(&header, &payload)
    });
    pair.submit(client.end, Request::Send { socket });
}

pub(crate) fn receive(pair: &mut Pair, client: &mut Client) -> Option<Header> {
    let mut buffer = vec![0; 65_535];
    let mut header = None;
    pair.run_until(secs(5), |_| {
        header = client.reader.read_datagram(&mut buffer, false);
        header.is_some()
    });
    let len = header.as_ref()?.len;
    assert!(buffer[..len].iter().zip(0..).all(|(byte, at)| *byte == byte_at(at)));
    header
}

#[test]
fn datagrams_of_every_size_arrive_with_both_addresses() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(256);
        let mut one = pair.bind(End::Left, &quota, 1, left(1000));
        let mut other = pair.bind(End::Right, &quota, 1, "0.0.0.0:53".parse().unwrap());
        for len in [0, 1, 7, 8, 9, 100, 1471, 1472, 1473, 8000, 65_507] {
            send(&mut pair, &mut one, Some(right(53)), len);
            let header =
                receive(&mut pair, &mut other).unwrap_or_else(|| panic!("{len} bytes lost"));
            assert_eq!(header.len, len);
            assert_eq!(header.peer, Some(left(1000).into()));
            assert_eq!(header.local, Some(right(53).into()));
        }
        pair.clean_up(&[&one, &other], &[], &[&quota]);
    }
}

#[test]
fn datagrams_over_ipv6_arrive_whole_whatever_their_size() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(256);
        let (a, b) = (SocketAddr::new(V6.0, 1000), SocketAddr::new(V6.1, 53));
        let mut one = pair.bind(End::Left, &quota, 1, a);
        let mut other = pair.bind(End::Right, &quota, 1, "[::]:53".parse().unwrap());
        for len in [0, 1000, 1452, 1453, 1472, 8000, 65_507] {
            pair.keep_frames(End::Left);
            send(&mut pair, &mut one, Some(b), len);
            let header =
                receive(&mut pair, &mut other).unwrap_or_else(|| panic!("{len} bytes lost"));
            assert_eq!((header.len, header.peer), (len, Some(a.into())));
            let frames = pair.take_frames(End::Left);
            let sent = frames.iter().filter_map(|frame| fragment(frame)).collect::<Vec<_>>();
            // RFC 8200 section 4.5: 1500 - 40 - 8 bytes, in multiples of eight, hold a part of the UDP
            // header and payload each.
            let expected = if len > 1452 { (8 + len).div_ceil(1448) } else { 0 };
            assert_eq!(sent.len(), expected, "{len}");
            assert!(sent.iter().all(|(id, ..)| *id == sent[0].0), "fragments of one packet");
            let last = sent.iter().filter(|(_, more, _)| !more).count();
            assert_eq!(last, usize::from(expected > 0));
            assert!(frames.iter().all(|frame| frame.len() <= 1514));
        }
        assert_eq!(pair.counter(End::Left, "drop.udp_tx_too_big"), 0);
        pair.clean_up(&[&one, &other], &[], &[&quota]);
    }
}

/// A fragment's identification, whether more follow, and its offset, as an independent parser reads
/// them; `None` of a frame that holds a whole packet.
fn fragment(frame: &[u8]) -> Option<(u32, bool, u16)> {
    let packet = SlicedPacket::from_ethernet(frame).expect("a sound frame");
    let Some(NetSlice::Ipv6(ip)) = packet.net else { return None };
    ip.extensions().clone().into_iter().find_map(|extension| match extension {
        Ipv6ExtensionSlice::Fragment(fragment) => Some((
            fragment.identification(),
            fragment.more_fragments(),
            fragment.fragment_offset().value(),
        )),
        _ => None,
    })
}

#[test]
fn a_connected_socket_hears_its_peer_alone() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let mut one = pair.bind(End::Left, &quota, 1, left(1000));
        let mut stranger = pair.bind(End::Left, &quota, 2, left(1001));
        let mut other = pair.bind(End::Right, &quota, 1, right(53));
        let set = |peer| Request::SetPeer { socket: SocketId(1), peer };
        pair.submit(End::Right, set(Some(left(1000))));
        send(&mut pair, &mut stranger, Some(right(53)), 10);
        assert_eq!(receive(&mut pair, &mut other), None);
        assert_eq!(pair.counter(End::Right, "drop.udp_not_peer"), 1);
        send(&mut pair, &mut one, Some(right(53)), 10);
        assert!(receive(&mut pair, &mut other).is_some());
        send(&mut pair, &mut other, None, 20);
        assert_eq!(receive(&mut pair, &mut one).map(|header| header.len), Some(20));
        pair.submit(End::Right, set(None));
        send(&mut pair, &mut stranger, Some(right(53)), 10);
        assert!(receive(&mut pair, &mut other).is_some());
        send(&mut pair, &mut other, None, 20);
        pair.run(secs(1));
        assert_eq!(pair.counter(End::Right, "drop.udp_tx_no_destination"), 1);
        pair.clean_up(&[&one, &stranger, &other], &[], &[&quota]);
    }
}

#[test]
fn datagrams_to_impossible_places_are_dropped_and_counted() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let mut one = pair.bind(End::Left, &quota, 1, "0.0.0.0:1000".parse().unwrap());
        let impossible = ["0.0.0.0:5", "10.0.0.2:0", "192.0.2.1:5", "[fd00::2]:5", "[::]:5"];
        for place in impossible {
            send(&mut pair, &mut one, Some(place.parse().unwrap()), 10);
        }
        pair.run(secs(5));
        let count = impossible.len() as u64 - 1;
        let sent_v6 = 1; // A wildcard of one family reaches the other by an address of that family.
        assert_eq!(pair.counter(End::Left, "drop.udp_tx_no_destination"), count);
        assert_eq!(pair.counter(End::Left, "tx.udp_datagrams"), sent_v6);
        // An address that is not ours cannot be lent.
        let header = Header {
            len: 0,
            peer: Some(right(5).into()),
            local: Some("10.0.0.77:1000".parse::<SocketAddr>().unwrap().into()),
        };
        assert!(one.writer.write_datagram(&header, &[]));
        pair.submit(End::Left, Request::Send { socket: one.socket });
        pair.run(secs(1));
        assert_eq!(pair.counter(End::Left, "drop.udp_tx_no_destination"), count + 1);
        pair.clean_up(&[&one], &[], &[&quota]);
    }
}

#[test]
fn a_silent_neighbour_delays_others_only_for_a_while() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let mut one = pair.bind(End::Left, &quota, 1, left(1000));
        let mut other = pair.bind(End::Right, &quota, 1, right(53));
        send(&mut pair, &mut one, Some("10.0.0.99:5".parse().unwrap()), 10);
        send(&mut pair, &mut one, Some(right(53)), 20);
        assert_eq!(receive(&mut pair, &mut other).map(|header| header.len), Some(20));
        assert_eq!(pair.counter(End::Left, "drop.udp_tx_no_neighbour"), 1);
        pair.clean_up(&[&one, &other], &[], &[&quota]);
    }
}

/// Of one that is asked for in vain, the datagrams that were written meanwhile go at once; later ones
/// wait anew, for it may be there by then.
#[test]
fn a_silent_neighbour_is_waited_for_once_for_all_that_was_written() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let mut one = pair.bind(End::Left, &quota, 1, left(1000));
        let mut other = pair.bind(End::Right, &quota, 1, right(53));
        let silent = "10.0.0.99:5".parse().unwrap();
        for _ in 0..100 {
            send(&mut pair, &mut one, Some(silent), 10);
        }
        send(&mut pair, &mut one, Some(right(53)), 20);
        let began = pair.now;
        assert_eq!(receive(&mut pair, &mut other).map(|header| header.len), Some(20));
        assert!(pair.now.since(began) < secs(3), "{:?}", pair.now.since(began));
        assert_eq!(pair.counter(End::Left, "drop.udp_tx_no_neighbour"), 100);
        send(&mut pair, &mut one, Some(silent), 10);
        pair.run(secs(2));
        assert_eq!(pair.counter(End::Left, "drop.udp_tx_no_neighbour"), 100);
        pair.run(secs(1));
        assert_eq!(pair.counter(End::Left, "drop.udp_tx_no_neighbour"), 101);
        pair.clean_up(&[&one, &other], &[], &[&quota]);
    }
}

#[test]
fn a_full_fifo_drops_and_counts() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(256);
        let mut one = pair.bind(End::Left, &quota, 1, left(1000));
        let mut other = pair.bind(End::Right, &quota, 1, right(53));
        for _ in 0..300 {
            send(&mut pair, &mut one, Some(right(53)), 1472);
            pair.run(crate::millis(1));
        }
        // 256 KiB hold 171 frames of 56 + 1472 bytes.
        assert_eq!(pair.counter(End::Right, "rx.udp_datagrams"), 171);
        assert_eq!(pair.counter(End::Right, "drop.udp_rx_full"), 300 - 171);
        let dropped = other.parts.daemon.rx_dropped.load(dmm_proto::sync::Ordering::Relaxed);
        assert_eq!(dropped, 300 - 171);
        for _ in 0..171 {
            assert!(receive(&mut pair, &mut other).is_some());
        }
        send(&mut pair, &mut one, Some(right(53)), 1472);
        assert!(receive(&mut pair, &mut other).is_some());
        pair.clean_up(&[&one, &other], &[], &[&quota]);
    }
}

#[test]
fn closing_sends_what_was_written() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let mut one = pair.bind(End::Left, &quota, 1, left(1000));
        let mut other = pair.bind(End::Right, &quota, 1, right(53));
        for _ in 0..3 {
            let header = Header { len: 4, peer: Some(right(53).into()), local: None };
            assert!(
                one.writer
                    .write_datagram(&header, &[byte_at(0), byte_at(1), byte_at(2), byte_at(3)])
            );
        }
        pair.close(&one);
        for _ in 0..3 {
            assert!(receive(&mut pair, &mut other).is_some());
        }
        pair.clean_up(&[&one, &other], &[], &[&quota]);
    }
}
