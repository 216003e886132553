//! Neighbours: who is asked for, how often, and whose word is taken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dmm_port::Instant;
use dmm_proto::fifo::datagram::Header;
use dmm_stack::Request;
use dmm_stack::config::{Prefix, Route, StackConfig};
use dmm_stack::pair::{Client, End, Pair, Quota, config};
use etherparse::PacketBuilder;
use nix::errno::Errno;

use crate::{IP_KINDS, V4, V6, clean, millis, secs};

type Mac = [u8; 6];

const LEFT: Mac = [2, 0, 0, 0, 0, 1];
const RIGHT: Mac = [2, 0, 0, 0, 0, 2];
const FORGER: Mac = [6; 6];
const EVERYBODY: Mac = [0xff; 6];

/// Stations 1 and 2 in subnets with room for thousands.
fn wide(station: u8) -> StackConfig {
    let mut config = config(station);
    config.addresses[0].len = 8;
    config
}

/// An address of those subnets that nobody has.
fn absent(family: IpAddr, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    match family {
        IpAddr::V4(_) => Ipv4Addr::new(10, 77, high, low).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 77, number).into(),
    }
}

const ASKS: u8 = 1;
const ANSWERS: u8 = 2;

fn arp(to: Mac, operation: u8, (mac, from): (Mac, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let mut frame = [to, mac].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(mac.iter().chain(&from.octets()));
    frame.extend([0; 6].iter().chain(&target.octets()));
    frame
}

/// A neighbour solicitation (135) or advertisement (136) with an option of the type given.
fn ndp(
    (to_mac, to): (Mac, Ipv6Addr),
    (mac, from): (Mac, Ipv6Addr),
    (kind, flags, target): (u8, u8, Ipv6Addr),
    option: Option<u8>,
) -> Vec<u8> {
    let mut body = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    body.extend(target.octets());
    if let Some(option) = option {
        body.extend([option, 1].iter().chain(&mac));
    }
    let len = body.len() as u8;
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 0, 0, len, 0, 0, 0, 58], &body].concat();
    let mut sum: u32 =
        pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    body[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let mut frame = [to_mac, mac].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, len, 58, 255]);
    frame.extend(from.octets().iter().chain(&to.octets()).chain(&body));
    frame
}

/// Somebody claims, unasked, to be `address`.
fn claim(address: IpAddr, mac: Mac) -> Vec<u8> {
    match (address, V4.0, V6.0) {
        (IpAddr::V4(address), IpAddr::V4(to), _) => arp(LEFT, ANSWERS, (mac, address), to),
        (IpAddr::V6(address), _, IpAddr::V6(to)) => {
            ndp((LEFT, to), (mac, address), (136, 0x60, address), Some(2))
        }
        _ => unreachable!("one address of each family"),
    }
}

/// Somebody who claims to be `address` asks for the left end.
fn question(address: IpAddr, mac: Mac) -> Vec<u8> {
    match (address, V4.0, V6.0) {
        (IpAddr::V4(address), IpAddr::V4(to), _) => arp(EVERYBODY, ASKS, (mac, address), to),
        (IpAddr::V6(address), _, IpAddr::V6(to)) => {
            ndp((LEFT, to), (mac, address), (135, 0, to), Some(1))
        }
        _ => unreachable!("one address of each family"),
    }
}

/// What a frame asks for, if it asks for a neighbour.
fn asked(frame: &[u8]) -> Option<IpAddr> {
    let v6 = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).map(|octets| octets.into());
    match frame {
        [_, _, _, _, _, _, _, _, _, _, _, _, 8, 6, ..] if frame[21] == ASKS => {
            Some(IpAddr::from([frame[38], frame[39], frame[40], frame[41]]))
        }
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, ..]
            if frame[20] == 58 && frame[54] == 135 =>
        {
            v6(&frame[62..78]).ok()
        }
        _ => None,
    }
}

fn connect(pair: &mut Pair, quota: &Quota, socket: u32, ends: (IpAddr, IpAddr)) -> Client {
    let local = SocketAddr::new(ends.0, 10_000 + socket as u16);
    pair.connect(End::Left, quota, socket, (local, SocketAddr::new(ends.1, 1000)))
}

#[test]
fn absent_neighbours_hold_nobody_up() {
    for kind in IP_KINDS {
        const ABSENT: u16 = 2000;
        for ends in [V4, V6] {
            let mut pair = Pair::with(kind, &clean(), &wide(1), &wide(2));
            let (quota, other) = (Quota::new(8192), Quota::new(64));
            pair.keep_frames(End::Left);
            pair.listen(End::Right, 5, SocketAddr::new(ends.1, 1000), 4);
            let strangers: Vec<_> = (0..ABSENT)
                .map(|n| connect(&mut pair, &quota, 10 + u32::from(n), (ends.0, absent(ends.0, n))))
                .collect();
            pair.run(millis(500));
            let live = connect(&mut pair, &other, 4000, ends);
            pair.expect(millis(100), "a connection to a live neighbour", |pair| {
                pair.of(&live).connected == Some(Ok(()))
            });
            pair.run(secs(5));
            for stranger in &strangers {
                assert_eq!(pair.of(stranger).connected, Some(Err(Errno::EHOSTUNREACH)));
            }
        }
    }
}

#[test]
fn one_absent_neighbour_is_asked_for_once_a_second_however_many_want_it() {
    for kind in IP_KINDS {
        for ends in [V4, V6] {
            let mut pair = Pair::new(kind, &clean());
            let quota = Quota::new(1024);
            pair.keep_frames(End::Left);
            for round in 0..50_u32 {
                for target in [1, 2] {
                    let socket = 10 + 2 * round + u32::from(target);
                    connect(&mut pair, &quota, socket, (ends.0, absent_nearby(ends.0, target)));
                }
                pair.run(millis(100));
            }
            let frames = pair.take_frames(End::Left);
            for target in [1, 2] {
                let target = absent_nearby(ends.0, target);
                let questions = frames.iter().filter(|frame| asked(frame) == Some(target)).count();
                assert!((4..=6).contains(&questions), "{questions} questions in 5 s");
            }
        }
    }
}

fn absent_nearby(family: IpAddr, number: u8) -> IpAddr {
    match family {
        IpAddr::V4(_) => Ipv4Addr::new(10, 0, 0, 100 + number).into(),
        IpAddr::V6(_) => absent(family, number.into()),
    }
}

#[test]
fn a_silent_neighbour_is_asked_three_times() {
    for kind in IP_KINDS {
        for ends in [V4, V6] {
            let mut pair = Pair::new(kind, &clean());
            let quota = Quota::new(64);
            pair.keep_frames(End::Left);
            let target = absent_nearby(ends.0, 7);
            let client = connect(&mut pair, &quota, 1, (ends.0, target));
            pair.run(secs(20));
            assert_eq!(pair.of(&client).connected, Some(Err(Errno::EHOSTUNREACH)));
            let frames = pair.take_frames(End::Left);
            assert_eq!(frames.iter().filter(|frame| asked(frame) == Some(target)).count(), 3);
        }
    }
}

#[test]
fn forged_messages_evict_nobody_and_are_not_believed() {
    for kind in IP_KINDS {
        const FORGED: u16 = 3000;
        for ends in [V4, V6] {
            let mut pair = Pair::with(kind, &clean(), &wide(1), &wide(2));
            let quota = Quota::new(256);
            let (mut one, mut other) = pair.joined([&quota, &quota], ends);
            pair.exchange(secs(5), &mut one, &mut other, (1000, 1000));
            pair.keep_frames(End::Left);
            for n in 0..FORGED {
                pair.inject(End::Left, &claim(absent(ends.0, n), FORGER));
                pair.inject(End::Left, &question(absent(ends.0, FORGED + n), FORGER));
                if n % 16 == 0 {
                    pair.run(millis(1));
                }
            }
            let unasked = pair.counter(End::Left, "drop.neighbour_unasked");
            assert_eq!(unasked, FORGED.into());
            pair.exchange(secs(5), &mut one, &mut other, (1000, 1000));
            let frames = pair.take_frames(End::Left);
            assert!(
                frames.iter().all(|frame| asked(frame).is_none()),
                "the neighbour was forgotten"
            );
            // A claim that nobody asked for is not remembered.
            let target = absent(ends.0, 1);
            connect(&mut pair, &quota, 50, (ends.0, target));
            pair.run(millis(10));
            let frames = pair.take_frames(End::Left);
            assert!(frames.iter().any(|frame| asked(frame) == Some(target)));
            assert!(frames.iter().all(|frame| frame[..6] != FORGER));
        }
    }
}

#[test]
fn a_neighbour_in_use_is_asked_alone_and_may_move() {
    for kind in IP_KINDS {
        const MOVED: Mac = [2, 0, 0, 0, 0, 0x22];
        for ends in [V4, V6] {
            let mut pair = Pair::new(kind, &clean());
            let quota = Quota::new(256);
            let (mut one, mut other) = pair.joined([&quota, &quota], ends);
            pair.keep_frames(End::Left);
            for _ in 0..20 {
                pair.run(secs(10));
                pair.exchange(secs(5), &mut one, &mut other, (1000, 1000));
            }
            let frames = pair.take_frames(End::Left);
            let questions: Vec<_> = frames.iter().filter(|frame| asked(frame).is_some()).collect();
            assert!((3..=10).contains(&questions.len()), "{} questions in 200 s", questions.len());
            assert!(questions.iter().all(|question| question[..6] == RIGHT), "all were asked");
            // It says so when it has another address: frames go there from now on.
            pair.inject(End::Left, &claim(ends.1, MOVED));
            pair.write_until(&mut one, 21_000 + 1000);
            pair.run(millis(50));
            let frames = pair.take_frames(End::Left);
            assert!(
                frames.iter().any(|frame| frame[..6] == MOVED),
                "nothing went to the new address"
            );
        }
    }
}

#[test]
fn a_neighbour_that_moved_without_a_word_is_found_again() {
    for kind in IP_KINDS {
        for ends in [V4, V6] {
            let mut pair = Pair::new(kind, &clean());
            let quota = Quota::new(256);
            let (mut one, mut other) = pair.joined([&quota, &quota], ends);
            // As if it had been at this address until now.
            pair.inject(End::Left, &claim(ends.1, FORGER));
            pair.exchange(secs(60), &mut one, &mut other, (1000, 1000));
            pair.run(secs(60));
            pair.exchange(secs(60), &mut one, &mut other, (1000, 1000));
        }
    }
}

#[test]
fn probes_for_our_addresses_are_answered() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        pair.keep_frames(End::Left);
        let (IpAddr::V4(own), IpAddr::V6(own6)) = (V4.0, V6.0) else { unreachable!() };
        // RFC 5227 section 2.1.1.
        pair.inject(End::Left, &arp(EVERYBODY, ASKS, (FORGER, Ipv4Addr::UNSPECIFIED), own));
        pair.run(millis(10));
        let frames = pair.take_frames(End::Left);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0][..6], FORGER);
        assert_eq!(frames[0][20..22], [0, ANSWERS]);
        assert_eq!(frames[0][22..28], LEFT);
        assert_eq!(frames[0][28..32], own.octets());
        // RFC 4862 section 5.4.2: to the solicited-node group, from nobody.
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
        let group_mac = [0x33, 0x33, 0xff, 0, 0, 1];
        let probe = |option| {
            let from = (FORGER, Ipv6Addr::UNSPECIFIED);
            ndp((group_mac, group), from, (135, 0, own6), option)
        };
        pair.inject(End::Left, &probe(None));
        pair.run(millis(10));
        let frames = pair.take_frames(End::Left);
        assert_eq!(frames.len(), 1);
        let everybody = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let expected = ndp(
            ([0x33, 0x33, 0, 0, 0, 1], everybody),
            (LEFT, own6),
            // RFC 4861 section 7.2.4: not solicited, override.
            (136, 0x20, own6),
            Some(2),
        );
        assert_eq!(frames[0], expected);
        // RFC 4861 section 7.1.1: nobody has no Ethernet address.
        pair.inject(End::Left, &probe(Some(1)));
        assert_eq!(pair.counter(End::Left, "drop.neighbour_unsound"), 1);
        // And for others' addresses we do not speak.
        let theirs = Ipv4Addr::new(10, 0, 0, 77);
        pair.inject(End::Left, &arp(EVERYBODY, ASKS, (FORGER, Ipv4Addr::UNSPECIFIED), theirs));
        pair.run(millis(10));
        assert!(pair.take_frames(End::Left).is_empty());
    }
}

#[test]
fn questions_are_answered_and_claims_to_our_addresses_counted() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        pair.keep_frames(End::Left);
        for ends in [V4, V6] {
            pair.inject(End::Left, &question(ends.1, RIGHT));
            pair.run(millis(10));
            let frames = pair.take_frames(End::Left);
            assert_eq!(frames.len(), 1);
            let expected = match ends {
                (IpAddr::V4(own), IpAddr::V4(asker)) => {
                    let mut reply = arp(RIGHT, ANSWERS, (LEFT, own), asker);
                    reply[32..38].copy_from_slice(&RIGHT);
                    reply
                }
                (IpAddr::V6(own), IpAddr::V6(asker)) => {
                    ndp((RIGHT, asker), (LEFT, own), (136, 0x60, own), Some(2))
                }
                _ => unreachable!("both of one family"),
            };
            assert_eq!(frames[0], expected);
            let before = pair.counter(End::Left, "drop.address_conflict");
            pair.inject(End::Left, &claim(ends.0, FORGER));
            assert_eq!(pair.counter(End::Left, "drop.address_conflict"), before + 1);
        }
    }
}

#[test]
fn more_neighbours_than_the_library_remembers_are_reached() {
    for kind in IP_KINDS {
        const MANY: u16 = 600;
        let mac = |n: u16| [2, 7, 7, 0, (n >> 8) as u8, n as u8];
        for ends in [V4, V6] {
            let mut pair = Pair::with(kind, &clean(), &wide(1), &wide(2));
            let quota = Quota::new(256);
            pair.keep_frames(End::Left);
            let mut client = pair.bind(End::Left, &quota, 1, SocketAddr::new(ends.0, 9));
            for round in 0..3 {
                for n in 0..MANY {
                    let to = absent(ends.0, n);
                    let header =
                        Header { len: 4, peer: Some(SocketAddr::new(to, 9).into()), local: None };
                    assert!(client.writer.write_datagram(&header, &[1; 4]));
                    pair.submit(End::Left, Request::Send { socket: client.socket });
                    pair.run(Instant::from_micros(10).since(Instant::ZERO));
                    if round == 0 {
                        pair.inject(End::Left, &claim(to, mac(n)));
                        pair.run(Instant::from_micros(10).since(Instant::ZERO));
                    }
                    let frames = pair.take_frames(End::Left);
                    let sent = frames.iter().filter(|frame| asked(frame).is_none());
                    let to: Vec<_> = sent.map(|frame| frame[..6].to_vec()).collect();
                    assert_eq!(to, [mac(n)], "round {round}, neighbour {n}");
                }
            }
        }
    }
}

#[test]
fn a_stranger_is_answered_once_it_is_known() {
    for kind in IP_KINDS {
        let mut pair = Pair::with(kind, &clean(), &wide(1), &wide(2));
        pair.keep_frames(End::Left);
        let ping = |n: u8| {
            let mut frame = Vec::new();
            PacketBuilder::ethernet2([2, 7, 7, 0, 0, n], LEFT)
                .ipv4([10, 77, 0, n], [10, 0, 0, 1], 64)
                .icmpv4_echo_request(1, 1)
                .write(&mut frame, b"x")
                .unwrap();
            frame
        };
        // One after the other, faster than one a second.
        for n in 1..=50 {
            let stranger = absent(V4.0, n.into());
            pair.inject(End::Left, &ping(n));
            pair.run(millis(1));
            let frames = pair.take_frames(End::Left);
            assert_eq!(
                frames.iter().map(|frame| asked(frame)).collect::<Vec<_>>(),
                [Some(stranger)]
            );
            pair.inject(End::Left, &claim(stranger, [2, 7, 7, 0, 0, n]));
            pair.inject(End::Left, &ping(n));
            pair.run(millis(1));
            let frames = pair.take_frames(End::Left);
            assert_eq!(frames.len(), 1);
            assert_eq!(frames[0][..6], [2, 7, 7, 0, 0, n]);
        }
        assert_eq!(pair.counter(End::Left, "drop.answer_no_neighbour"), 50);
    }
}

#[test]
fn of_a_long_answer_to_a_stranger_nothing_is_sent() {
    for kind in IP_KINDS {
        let mut pair = Pair::with(kind, &clean(), &wide(1), &wide(2));
        pair.keep_frames(End::Left);
        let mut whole = Vec::new();
        PacketBuilder::ipv4([10, 77, 0, 1], [10, 0, 0, 1], 64)
            .icmpv4_echo_request(1, 1)
            .write(&mut whole, &[7; 4000])
            .unwrap();
        let payload = &whole[20..];
        for (at, last) in [(0, false), (1480, false), (2960, true)] {
            let piece = &payload[at..payload.len().min(at + 1480)];
            let mut header = etherparse::Ipv4Header::new(
                piece.len() as u16,
                64,
                1.into(),
                [10, 77, 0, 1],
                [10, 0, 0, 1],
            )
            .unwrap();
            header.more_fragments = !last;
            header.dont_fragment = false;
            header.identification = 7;
            header.fragment_offset = etherparse::IpFragOffset::try_new(at as u16 / 8).unwrap();
            header.header_checksum = header.calc_header_checksum();
            let mut frame = [LEFT, [2, 7, 7, 0, 0, 1]].concat();
            frame.extend([8, 0].iter().chain(&header.to_bytes()).chain(piece));
            pair.inject(End::Left, &frame);
        }
        pair.run(millis(1));
        let frames = pair.take_frames(End::Left);
        assert_eq!(
            frames.iter().map(|frame| asked(frame)).collect::<Vec<_>>(),
            [Some(absent(V4.0, 1))]
        );
        assert_eq!(pair.counter(End::Left, "drop.answer_no_neighbour"), 1);
    }
}

#[test]
fn a_link_local_gateway_needs_no_link_local_address() {
    for kind in IP_KINDS {
        let prefix = |address: &str, len| Prefix { address: address.parse().unwrap(), len };
        let mut near = config(1);
        near.routes = vec![Route { to: prefix("::", 0), via: "fe80::1".parse().unwrap() }];
        // The far station stands for its own gateway.
        let mut far = config(2);
        far.addresses.extend([prefix("fe80::1", 64), prefix("2001:db8::1", 64)]);
        let mut pair = Pair::with(kind, &clean(), &near, &far);
        let quota = Quota::new(256);
        for (socket, to) in [(1, "2001:db8::1"), (2, "fe80::1")] {
            let to: IpAddr = to.parse().unwrap();
            assert_eq!(pair.stack(End::Left).source_for(to), Some(V6.0));
            pair.listen(End::Right, 10 + socket, SocketAddr::new(to, 1000), 1);
            let mut other = pair.credit(End::Right, &quota, 10 + socket, 20 + socket);
            let mut one = connect(&mut pair, &quota, socket, (V6.0, to));
            pair.expect(secs(10), "a connection", |pair| pair.of(&other).accepted.is_some());
            pair.exchange(secs(5), &mut one, &mut other, (10_000, 10_000));
        }
    }
}
