//! Below TCP and UDP: neighbours, echo, routes, and what an independent parser says of our frames.

use std::net::SocketAddr;

use dmm_port::{RxChecksum, RxFrame, TxSlots};
use dmm_stack::config::{Neighbour, Prefix, Route};
use dmm_stack::pair::{End, Pair, Quota, address_v4, address_v6, config};
use dmm_stack::{BuildError, SocketId};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice, icmpv4};

use crate::{IP_KINDS, V4, V6, clean, left, lossy, right, secs};

/// Checks every checksum and length of a frame.
fn check(frame: &[u8]) -> &'static str {
    let packet = SlicedPacket::from_ethernet(frame).expect("a frame that can be parsed");
    let (source, destination) = match &packet.net {
        Some(NetSlice::Arp(_)) => return "arp",
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            (header.source.to_vec(), header.destination.to_vec())
        }
        Some(NetSlice::Ipv6(ip)) => {
            (ip.header().source().to_vec(), ip.header().destination().to_vec())
        }
        None => panic!("neither ARP nor IP"),
    };
    // Each takes the family's own form of the pseudo-header.
    let v4 = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok();
    let v6 = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).expect("IPv6");
    match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let sum = match (v4(&source), v4(&destination)) {
                (Some(from), Some(to)) => tcp.calc_checksum_ipv4(from, to),
                _ => tcp.calc_checksum_ipv6(v6(&source), v6(&destination)),
            };
            assert_eq!(Ok(tcp.checksum()), sum);
            "tcp"
        }
        Some(TransportSlice::Udp(udp)) => {
            let header = udp.to_header();
            let sum = match (v4(&source), v4(&destination)) {
                (Some(from), Some(to)) => header.calc_checksum_ipv4_raw(from, to, udp.payload()),
                _ => header.calc_checksum_ipv6_raw(v6(&source), v6(&destination), udp.payload()),
            };
            assert_eq!(Ok(header.checksum), sum);
            "udp"
        }
        Some(TransportSlice::Icmpv4(_)) => "icmpv4",
        Some(TransportSlice::Icmpv6(icmp)) => {
            assert!(icmp.is_checksum_valid(v6(&source), v6(&destination)));
            "icmpv6"
        }
        Some(TransportSlice::Igmp(_)) => "igmp",
        None => "fragment",
    }
}

#[test]
fn an_independent_parser_understands_what_is_sent() {
    for kind in IP_KINDS {
        for (seed, ends) in [(1, V4), (2, V6)] {
            let mut pair = Pair::new(kind, &lossy(seed));
            let quota = Quota::new(256);
            pair.keep_frames(End::Left);
            let (mut one, mut other) = pair.joined([&quota, &quota], ends);
            pair.exchange(secs(60), &mut one, &mut other, (100_000, 100_000));
            let mut udp = pair.bind(End::Left, &quota, 5, SocketAddr::new(ends.0, 9));
            let peer = Some(SocketAddr::new(ends.1, 9).into());
            let header = dmm_proto::fifo::datagram::Header { len: 1000, peer, local: None };
            assert!(udp.writer.write_datagram(&header, &[7; 1000]));
            pair.submit(End::Left, dmm_stack::Request::Send { socket: udp.socket });
            pair.clean_up(&[&one, &other, &udp], &[(End::Right, 0)], &[&quota]);
            let kinds: Vec<_> =
                pair.take_frames(End::Left).iter().map(|frame| check(frame)).collect();
            for kind in ["tcp", "udp", if seed == 1 { "arp" } else { "icmpv6" }] {
                assert!(kinds.contains(&kind), "no {kind}");
            }
        }
    }
}

#[test]
fn long_datagrams_are_cut_into_fragments_that_fit() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let mut one = pair.bind(End::Left, &quota, 1, left(9));
        pair.keep_frames(End::Left);
        let header = dmm_proto::fifo::datagram::Header {
            len: 8000,
            peer: Some(right(9).into()),
            local: None,
        };
        assert!(one.writer.write_datagram(&header, &[7; 8000]));
        pair.submit(End::Left, dmm_stack::Request::Send { socket: one.socket });
        pair.run(secs(2));
        let frames = pair.take_frames(End::Left);
        let pieces: Vec<_> = frames.iter().filter(|frame| check(frame) == "fragment").collect();
        // 8008 bytes in pieces of 1480.
        assert_eq!(pieces.len(), 6);
        assert!(pieces.iter().all(|frame| frame.len() <= 1514));
        pair.clean_up(&[&one], &[], &[&quota]);
    }
}

/// An echo request from station 2 to station 1.
fn echo_request(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1])
        .ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64)
        .icmpv4_echo_request(3, 4)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

#[test]
fn echo_requests_are_answered() {
    for kind in IP_KINDS {
        let mut left = config(1);
        left.neighbours = vec![Neighbour { address: address_v4(2), mac: [2, 0, 0, 0, 0, 2] }];
        let mut pair = Pair::with(kind, &clean(), &left, &config(2));
        pair.keep_frames(End::Left);
        pair.run(secs(1));
        pair.inject(End::Left, &echo_request(b"hello"));
        pair.run(secs(1));
        let frames = pair.take_frames(End::Left);
        assert_eq!(frames.len(), 1);
        let packet = SlicedPacket::from_ethernet(&frames[0]).unwrap();
        let Some(TransportSlice::Icmpv4(icmp)) = packet.transport else { panic!("no ICMP") };
        assert_eq!(icmp.type_u8(), icmpv4::TYPE_ECHO_REPLY);
        assert_eq!(icmp.payload(), b"hello");
    }
}

#[test]
fn wrong_checksums_are_dropped_and_counted() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let frame = echo_request(b"hello");
        let now = pair.now;
        let received = RxFrame { bytes: &frame, checksum: RxChecksum::Bad, hash: None };
        pair.stack(End::Left).receive(now, &[received], &mut TxSlots::with_capacity(0).burst());
        assert_eq!(pair.counter(End::Left, "drop.rx_checksum"), 1);
    }
}

/// A SYN and a datagram from the right end to what listens at the left one.
fn syn_and_datagram() -> [Vec<u8>; 2] {
    let link = || {
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]).ipv4(
            [10, 0, 0, 2],
            [10, 0, 0, 1],
            64,
        )
    };
    let mut frames = [Vec::new(), Vec::new()];
    link().tcp(7, 1000, 1, 1000).syn().write(&mut frames[0], b"").unwrap();
    link().udp(7, 1000).write(&mut frames[1], b"datagram").unwrap();
    frames
}

#[test]
fn a_checksum_that_the_port_did_not_verify_is_counted_as_what_is_wrong_with_it() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(256);
        pair.listen(End::Left, 5, left(1000), 4);
        let _datagram = pair.bind(End::Left, &quota, 1, left(1000));
        for (mut frame, at) in syn_and_datagram().into_iter().zip([50, 40]) {
            frame[at] ^= 0x40;
            pair.inject(End::Left, &frame);
        }
        pair.run(secs(1));
        assert_eq!(pair.counter(End::Left, "drop.rx_checksum"), 2);
        assert_eq!(pair.counter(End::Left, "drop.tcp_bad_syn"), 0);
        assert_eq!(pair.counter(End::Left, "drop.udp_malformed"), 0);
        // Right, they arrive.
        for frame in syn_and_datagram() {
            pair.inject(End::Left, &frame);
        }
        pair.run(secs(1));
        assert_eq!(pair.counter(End::Left, "drop.rx_checksum"), 2);
        assert_eq!(pair.counter(End::Left, "rx.udp_datagrams"), 1);
    }
}

/// `net_vhost` verifies packets that hold no more than the sum of the pseudo-header.
#[test]
fn a_checksum_that_the_port_vouches_for_need_not_be_in_the_packet() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(256);
        pair.listen(End::Left, 5, left(1000), 4);
        let _datagram = pair.bind(End::Left, &quota, 1, left(1000));
        for (mut frame, at) in syn_and_datagram().into_iter().zip([50, 40]) {
            frame[at] ^= 0x40;
            let received = RxFrame { bytes: &frame, checksum: RxChecksum::Good, hash: None };
            let now = pair.now;
            pair.stack(End::Left).receive(now, &[received], &mut TxSlots::with_capacity(2).burst());
        }
        pair.run(secs(1));
        for drop in ["drop.rx_checksum", "drop.tcp_bad_syn", "drop.udp_malformed"] {
            assert_eq!(pair.counter(End::Left, drop), 0, "{drop}");
        }
        assert_eq!(pair.counter(End::Left, "rx.udp_datagrams"), 1);
    }
}

#[test]
fn static_neighbours_are_never_asked_for_and_never_replaced() {
    for kind in IP_KINDS {
        for (ends, theirs) in [(V4, address_v4(2)), (V6, address_v6(2))] {
            let mut left = config(1);
            left.neighbours = vec![Neighbour { address: theirs, mac: [2, 0, 0, 0, 0, 2] }];
            let mut pair = Pair::with(kind, &clean(), &left, &config(2));
            pair.keep_frames(End::Left);
            let quota = Quota::new(256);
            pair.run(secs(1));
            let (mut one, mut other) = pair.joined([&quota, &quota], ends);
            if theirs.is_ipv4() {
                // Somebody claims to be station 2.
                let mut lie = vec![0xff; 6];
                lie.extend([6, 6, 6, 6, 6, 6, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2, 6, 6, 6, 6, 6, 6]);
                lie.extend([10, 0, 0, 2, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1]);
                lie[0] = 2;
                lie[1..6].copy_from_slice(&[0, 0, 0, 0, 1]);
                pair.inject(End::Left, &lie);
                assert_eq!(pair.counter(End::Left, "drop.static_neighbour_contradicted"), 1);
            }
            // Longer than the library remembers, and long enough for the other end to forget us.
            pair.run(secs(1000));
            pair.exchange(secs(5), &mut one, &mut other, (1000, 1000));
            pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
            for frame in pair.take_frames(End::Left) {
                let asks_v4 = frame[12..14] == [8, 6] && frame[21] == 1;
                let asks_v6 = frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54] == 135;
                assert!(!asks_v4 && !asks_v6, "asked for a static neighbour");
                assert!(frame[..6] == [2, 0, 0, 0, 0, 2], "sent to somebody else");
            }
        }
    }
}

#[test]
fn gateways_lead_beyond_the_subnet() {
    for kind in IP_KINDS {
        let prefix = |address: &str, len| Prefix { address: address.parse().unwrap(), len };
        let route = |to: &str, via| Route { to: prefix(to, 0), via };
        let mut near = config(1);
        near.routes = vec![route("0.0.0.0", address_v4(2)), route("::", address_v6(2))];
        // The far station stands for its own gateway: it has an address in both networks.
        let mut far = config(2);
        far.addresses.extend([prefix("192.0.2.1", 24), prefix("2001:db8::1", 64)]);
        let mut pair = Pair::with(kind, &clean(), &near, &far);
        let quota = Quota::new(256);
        for (socket, own, to) in [(1, V4.0, "192.0.2.1"), (2, V6.0, "2001:db8::1")] {
            let to = to.parse().unwrap();
            assert_eq!(pair.stack(End::Left).source_for(to), Some(own));
            let server = SocketAddr::new(to, 80);
            pair.listen(End::Right, 10 + socket, server, 1);
            let other = pair.credit(End::Right, &quota, 10 + socket, socket);
            let one = pair.connect(End::Left, &quota, socket, (SocketAddr::new(own, 4000), server));
            pair.expect(secs(10), "a connection", |pair| pair.of(&other).accepted.is_some());
            assert_eq!(pair.of(&one).connected, Some(Ok(())));
            for client in [&one, &other] {
                pair.close(client);
            }
            pair.submit(End::Right, dmm_stack::Request::Close { socket: SocketId(10 + socket) });
        }
        pair.clean_up(&[], &[], &[&quota]);
    }
}

#[test]
fn unsound_configurations_are_refused() {
    for kind in IP_KINDS {
        let refusal = |kind: &str, change: &dyn Fn(&mut dmm_stack::config::StackConfig)| {
            let mut config = config(1);
            change(&mut config);
            dmm_stack::build(kind, &config).err()
        };
        assert_eq!(refusal("nothing", &|_| ()), Some(BuildError::Kind("nothing".to_owned())));
        assert!(matches!(refusal(kind, &|c| c.mac = [1; 6]), Some(BuildError::Mac(_))));
        assert!(matches!(refusal(kind, &|c| c.mtu = 1000), Some(BuildError::Mtu { .. })));
        assert!(matches!(refusal(kind, &|c| c.tcp.rx_buffer = 0), Some(BuildError::Buffer { .. })));
        assert_eq!(refusal(kind, &|c| c.tcp.user_timeout_s = 0), Some(BuildError::UserTimeout));
    }
}
