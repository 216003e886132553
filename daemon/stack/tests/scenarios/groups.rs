//! Groups of IPv4 and IPv6: who gets what, and what routers are told (RFC 3376, RFC 3810, RFC 2236).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use dmm_port::checksum::{fold, sum};
use dmm_proto::op::SocketOption;
use dmm_stack::pair::{Client, End, Pair, Quota};
use dmm_stack::{Request, SocketId};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use nix::errno::Errno;

use crate::many::{count, set};
use crate::udp::{receive, send};
use crate::{clean, left, millis, right, secs};

const GROUP_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(239, 1, 2, 3));
const GROUP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3));
const GROUPS: [IpAddr; 2] = [GROUP_V4, GROUP_V6];

const IS_INCLUDE: u8 = 1;
const IS_EXCLUDE: u8 = 2;
const TO_INCLUDE: u8 = 3;
const TO_EXCLUDE: u8 = 4;

fn group(joins: bool, client: &Client, group: IpAddr) -> Request {
    Request::Group { socket: client.socket, group, joins }
}

fn join(pair: &mut Pair, client: &Client, address: IpAddr) {
    pair.submit(client.end, group(true, client, address));
}

fn leave(pair: &mut Pair, client: &Client, address: IpAddr) {
    pair.submit(client.end, group(false, client, address));
}

fn any(like: IpAddr, port: u16) -> SocketAddr {
    let any = if like.is_ipv4() { "0.0.0.0" } else { "::" };
    SocketAddr::new(any.parse().unwrap(), port)
}

/// A pair whose left end has a socket on port 53 of any address of the family.
fn ground(like: IpAddr) -> (Pair, Quota, Client) {
    let mut pair = Pair::new("native", &clean());
    let quota = Quota::new(256);
    let one = pair.bind(End::Left, &quota, 1, any(like, 53));
    pair.keep_frames(End::Left);
    (pair, quota, one)
}

/// What a frame says of groups: the message's type, where it goes, and kind, group and sources of each record.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    message: u8,
    to: IpAddr,
    records: Vec<(u8, IpAddr, Vec<IpAddr>)>,
}

/// Reads a frame of the left end, checking all that every such frame must have.
fn said(frame: &[u8]) -> Said {
    let packet = SlicedPacket::from_ethernet(frame).expect("a sound frame");
    let (to, bytes, at, v4) = match (&packet.net, &packet.transport) {
        (Some(NetSlice::Ipv4(ip)), _) => {
            let header = ip.header();
            assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
            assert_eq!((header.ttl(), header.options()), (1, &[0x94, 4, 0, 0][..]));
            assert_eq!((header.protocol().0, header.source()), (2, [10, 0, 0, 1]));
            let to = header.destination();
            assert_eq!(frame[..6], [1, 0, 0x5e, to[1] & 0x7f, to[2], to[3]]);
            let bytes = &frame[38..];
            assert_eq!(fold(sum(bytes)), 0xffff, "the checksum");
            (IpAddr::from(to), bytes, 4, true)
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) => {
            let header = ip.header();
            let to = header.destination();
            assert_eq!((header.hop_limit(), header.source()[..2].to_vec()), (1, vec![0xfe, 0x80]));
            assert_eq!(frame[54..62], [58, 0, 5, 2, 0, 0, 1, 0], "the router alert");
            assert!(icmp.is_checksum_valid(header.source(), to));
            assert_eq!((&frame[..2], &frame[2..6]), (&[0x33, 0x33][..], &to[12..]));
            (IpAddr::from(to), &frame[62..], 8, false)
        }
        other => panic!("{other:?}"),
    };
    let address = |bytes: &[u8]| match v4 {
        true => IpAddr::from(*bytes.first_chunk::<4>().unwrap()),
        false => IpAddr::from(*bytes.first_chunk::<16>().unwrap()),
    };
    let mut records = Vec::new();
    if matches!(bytes[0], 0x22 | 143) {
        let mut rest = &bytes[8..];
        for _ in 0..u16::from_be_bytes([bytes[6], bytes[7]]) {
            let size = if v4 { 4 } else { 16 };
            let sources = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
            let list = rest[4 + size..][..sources * size].chunks(size).map(address).collect();
            records.push((rest[0], address(&rest[4..]), list));
            rest = &rest[4 + size * (1 + sources)..];
        }
        assert!(rest.is_empty());
    } else {
        records.push((0, address(&bytes[at..]), Vec::new()));
    }
    Said { message: bytes[0], to, records }
}

fn all_said(pair: &mut Pair) -> Vec<Said> {
    pair.take_frames(End::Left).iter().map(|frame| said(frame)).collect()
}

/// A report of one record in the newest version.
fn report(kind: u8, group: IpAddr) -> Said {
    let (message, to) = match group {
        IpAddr::V4(_) => (0x22, "224.0.0.22"),
        IpAddr::V6(_) => (143, "ff02::16"),
    };
    Said { message, to: to.parse().unwrap(), records: vec![(kind, group, Vec::new())] }
}

/// A frame of a router with a message of IGMP or MLD, whose checksum is put in.
fn from_router(to: IpAddr, mut message: Vec<u8>) -> Vec<u8> {
    let mut frame = vec![1, 0, 0x5e, 0, 0, 1, 2, 0, 0, 0, 0, 9];
    match to {
        IpAddr::V4(to) => {
            let checksum = !fold(sum(&message));
            message[2..4].copy_from_slice(&checksum.to_be_bytes());
            frame.extend([8, 0]);
            let mut header = vec![0x46, 0xc0, 0, 24 + message.len() as u8, 0, 0, 0, 0, 1, 2, 0, 0];
            header.extend([10, 0, 0, 9].iter().chain(&to.octets()).chain(&[0x94, 4, 0, 0]));
            let checksum = !fold(sum(&header));
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            frame.extend(header);
        }
        IpAddr::V6(to) => {
            let from = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9).octets();
            let pseudo = sum(&from) + sum(&to.octets()) + 58 + message.len() as u64;
            let checksum = !fold(pseudo + sum(&message));
            message[2..4].copy_from_slice(&checksum.to_be_bytes());
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((8 + message.len() as u16).to_be_bytes());
            frame.extend([0, 1]);
            frame.extend(from.iter().chain(&to.octets()).chain(&[58, 0, 5, 2, 0, 0, 1, 0]));
        }
    }
    frame.extend(message);
    frame
}

/// A query in the newest version, that asks for an answer within 10 s.
fn query(like: IpAddr, group: Option<IpAddr>, sources: &[IpAddr]) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let (mut message, all): (_, IpAddr) = match like.is_ipv4() {
        true => (vec![0x11, 100, 0, 0], "224.0.0.1".parse().unwrap()),
        false => (vec![130, 0, 0, 0, 0x27, 0x10, 0, 0], "ff02::1".parse().unwrap()),
    };
    let unspecified = any(like, 0).ip();
    message.extend(octets(group.unwrap_or(unspecified)));
    message.extend([2, 125, 0, sources.len() as u8]);
    sources.iter().for_each(|source| message.extend(octets(*source)));
    from_router(group.unwrap_or(all), message)
}

#[test]
fn joining_and_leaving_are_said_twice() {
    for address in GROUPS {
        let (mut pair, quota, one) = ground(address);
        for (joins, kind) in [(true, TO_EXCLUDE), (false, TO_INCLUDE)] {
            pair.submit(End::Left, group(joins, &one, address));
            pair.run(Duration::from_micros(1));
            assert_eq!(all_said(&mut pair), [report(kind, address)], "at once");
            pair.run(secs(1));
            assert_eq!(all_said(&mut pair), [report(kind, address)], "and again within a second");
            pair.run(secs(100));
            assert_eq!(all_said(&mut pair), []);
        }
        // A closed socket leaves, and with the last one the group is left.
        let other = pair.bind(End::Left, &quota, 2, any(address, 54));
        join(&mut pair, &one, address);
        join(&mut pair, &other, address);
        pair.run(secs(2));
        all_said(&mut pair);
        pair.close(&other);
        pair.run(secs(2));
        assert_eq!(all_said(&mut pair), []);
        pair.close(&one);
        pair.run(secs(2));
        assert_eq!(all_said(&mut pair), [report(TO_INCLUDE, address), report(TO_INCLUDE, address)]);
        pair.clean_up(&[&one, &other], &[], &[&quota]);
    }
}

#[test]
fn members_get_what_is_sent_to_the_group_and_others_do_not() {
    for address in GROUPS {
        let mut pair = Pair::new("native", &clean());
        let quota = Quota::new(256);
        let to = SocketAddr::new(address, 53);
        let own = if address.is_ipv4() { right(1000).ip() } else { crate::V6.1 };
        let mut sender = pair.bind(End::Right, &quota, 1, SocketAddr::new(own, 1000));
        let shared =
            |pair: &mut Pair, id, at| pair.bind_as(End::Left, &quota, id, (at, true)).unwrap();
        let mut members = [shared(&mut pair, 1, any(address, 53)), shared(&mut pair, 2, to)];
        let mut stranger = shared(&mut pair, 3, any(address, 53));
        let mut elsewhere = pair.bind(End::Left, &quota, 4, any(address, 54));
        send(&mut pair, &mut sender, Some(to), 10);
        pair.run(secs(1));
        assert_eq!(pair.counter(End::Left, "drop.group_not_joined"), 1);
        for member in [&members[0], &members[1], &elsewhere] {
            join(&mut pair, member, address);
        }
        // Whole, and in fragments.
        for len in [100, 4000] {
            send(&mut pair, &mut sender, Some(to), len);
            for member in &mut members {
                let header = receive(&mut pair, member).expect("it arrives");
                assert_eq!((header.len, header.local), (len, Some(to.into())));
                assert_eq!(header.peer, Some(SocketAddr::new(own, 1000).into()));
            }
        }
        leave(&mut pair, &members[0], address);
        send(&mut pair, &mut sender, Some(to), 10);
        pair.run(secs(1));
        assert_eq!(members.each_mut().map(count), [0, 1]);
        leave(&mut pair, &members[1], address);
        leave(&mut pair, &elsewhere, address);
        for len in [10, 4000] {
            send(&mut pair, &mut sender, Some(to), len);
        }
        pair.run(secs(1));
        // One packet, and three fragments that are not kept either.
        assert_eq!(pair.counter(End::Left, "drop.group_not_joined"), 1 + 1 + 3);
        assert_eq!((count(&mut stranger), count(&mut elsewhere)), (0, 0));
        let [a, b] = &members;
        pair.clean_up(&[&sender, a, b, &stranger, &elsewhere], &[], &[&quota]);
    }
}

#[test]
fn memberships_are_bounded_and_each_is_one() {
    let (mut pair, quota, one) = ground(GROUP_V4);
    let address = |number: u16| {
        let [high, low] = number.to_be_bytes();
        IpAddr::from([239, 0, high, low])
    };
    let refusal = |pair: &mut Pair, request| pair.try_submit(End::Left, request).err();
    assert_eq!(refusal(&mut pair, group(true, &one, left(0).ip())), Some(Errno::EINVAL));
    assert_eq!(refusal(&mut pair, group(true, &one, GROUP_V6)), Some(Errno::EINVAL));
    assert_eq!(refusal(&mut pair, group(false, &one, GROUP_V4)), Some(Errno::EADDRNOTAVAIL));
    (0..20).for_each(|number| join(&mut pair, &one, address(number)));
    assert_eq!(refusal(&mut pair, group(true, &one, address(3))), Some(Errno::EADDRINUSE));
    assert_eq!(refusal(&mut pair, group(true, &one, address(20))), Some(Errno::ENOBUFS));
    let mut others = Vec::new();
    for id in 0..12 {
        let other = pair.bind(End::Left, &quota, 10 + id, any(GROUP_V4, 100 + id as u16));
        let first = 20 * (1 + id as u16);
        (first..first + 20).take_while(|number| *number < 256).for_each(|number| {
            join(&mut pair, &other, address(number));
        });
        others.push(other);
    }
    let last = pair.bind(End::Left, &quota, 30, any(GROUP_V4, 200));
    assert_eq!(refusal(&mut pair, group(true, &last, address(300))), Some(Errno::ENOBUFS));
    join(&mut pair, &last, address(7));
    pair.run(secs(2));
    // All of them in few frames that fit.
    all_said(&mut pair);
    pair.inject(End::Left, &query(GROUP_V4, None, &[]));
    pair.run(secs(11));
    let said = all_said(&mut pair);
    assert_eq!(said.len(), 2);
    let kinds = said.iter().flat_map(|said| said.records.iter().map(|(kind, ..)| *kind));
    assert_eq!(kinds.filter(|kind| *kind == IS_EXCLUDE).count(), 256);
    let all: Vec<_> = others.iter().chain([&one, &last]).collect();
    pair.clean_up(&all, &[], &[&quota]);

    let mut pair = Pair::new("smoltcp", &clean());
    let one = pair.bind(End::Left, &quota, 1, left(53));
    assert_eq!(refusal(&mut pair, group(true, &one, GROUP_V4)), Some(Errno::EOPNOTSUPP));
    let mut only_v6 = dmm_stack::pair::config(1);
    only_v6.addresses.remove(0);
    let mut pair = Pair::with("native", &clean(), &only_v6, &dmm_stack::pair::config(2));
    let one = pair.bind(End::Left, &quota, 1, any(GROUP_V4, 53));
    assert_eq!(refusal(&mut pair, group(true, &one, GROUP_V4)), Some(Errno::ENODEV));
}

#[test]
fn questions_are_answered_once_at_a_time_that_nobody_can_tell() {
    for address in GROUPS {
        let mut times = Vec::new();
        for seed in 1..6 {
            let mut config = dmm_stack::pair::config(1);
            config.seed = seed;
            let mut pair = Pair::with("native", &clean(), &config, &dmm_stack::pair::config(2));
            let quota = Quota::new(16);
            let one = pair.bind(End::Left, &quota, 1, any(address, 53));
            join(&mut pair, &one, address);
            pair.run(secs(2));
            pair.keep_frames(End::Left);
            let began = pair.now;
            // A second one before the answer changes nothing but, perhaps, its time.
            pair.inject(End::Left, &query(address, None, &[]));
            pair.inject(End::Left, &query(address, Some(address), &[]));
            let before = pair.counter(End::Left, "tx.frames");
            pair.expect(secs(10), "an answer", |pair| {
                pair.counter(End::Left, "tx.frames") > before
            });
            times.push(pair.now.since(began));
            pair.run(secs(20));
            let said = all_said(&mut pair);
            assert!((1..=2).contains(&said.len()), "{said:?}");
            assert!(said.iter().all(|said| *said == report(IS_EXCLUDE, address)));
        }
        times.sort_unstable();
        times.dedup();
        assert_eq!(times.len(), 5, "each seed has its own: {times:?}");
    }
}

#[test]
fn who_asks_for_sources_hears_of_those() {
    for (address, sources) in [
        (GROUP_V4, ["10.0.0.7", "10.0.0.8"].map(|source| source.parse::<IpAddr>().unwrap())),
        (GROUP_V6, ["fd00::7", "fd00::8"].map(|source| source.parse().unwrap())),
    ] {
        let (mut pair, quota, one) = ground(address);
        join(&mut pair, &one, address);
        pair.run(secs(2));
        all_said(&mut pair);
        pair.inject(End::Left, &query(address, Some(address), &sources[..1]));
        pair.inject(End::Left, &query(address, Some(address), &sources));
        pair.run(secs(20));
        let mut expected = report(IS_INCLUDE, address);
        expected.records[0].2 = sources.to_vec();
        assert_eq!(all_said(&mut pair), [expected]);
        // More than are kept, together, stand for all.
        for n in 0..2 {
            let like = |at: u8| match address {
                IpAddr::V4(_) => IpAddr::from([10, 1, n, at]),
                IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, n.into(), at.into()).into(),
            };
            let many: Vec<_> = (0..40).map(like).collect();
            pair.inject(End::Left, &query(address, Some(address), &many));
        }
        pair.run(secs(20));
        assert_eq!(all_said(&mut pair), [report(IS_EXCLUDE, address)]);
        // A group of nobody's.
        let other = if address.is_ipv4() { "239.9.9.9" } else { "ff05::9" }.parse().unwrap();
        pair.inject(End::Left, &query(address, Some(other), &[]));
        pair.run(secs(20));
        assert_eq!(all_said(&mut pair), []);
        assert_eq!(pair.counter(End::Left, "drop.group_message_other"), 1);
        pair.clean_up(&[&one], &[], &[&quota]);
    }
}

#[test]
fn an_older_querier_is_answered_in_its_version_for_as_long_as_it_is_there() {
    for address in GROUPS {
        let (mut pair, quota, one) = ground(address);
        join(&mut pair, &one, address);
        pair.run(secs(2));
        all_said(&mut pair);
        // IGMPv2 and MLDv1, within 10 s.
        let older = match address {
            IpAddr::V4(_) => {
                from_router("224.0.0.1".parse().unwrap(), vec![0x11, 100, 0, 0, 0, 0, 0, 0])
            }
            IpAddr::V6(_) => {
                let head = [130, 0, 0, 0, 0x27, 0x10, 0, 0];
                from_router("ff02::1".parse().unwrap(), [&head[..], &[0; 16]].concat())
            }
        };
        let (member, left, routers) = match address {
            IpAddr::V4(_) => (0x16, 0x17, "224.0.0.2"),
            IpAddr::V6(_) => (131, 132, "ff02::2"),
        };
        let word = |message, to| Said { message, to, records: vec![(0, address, Vec::new())] };
        let routers = routers.parse().unwrap();
        pair.inject(End::Left, &older);
        pair.run(secs(11));
        assert_eq!(all_said(&mut pair), [word(member, address)]);
        leave(&mut pair, &one, address);
        pair.run(secs(11));
        assert_eq!(all_said(&mut pair), [word(left, routers)]);
        join(&mut pair, &one, address);
        pair.run(secs(11));
        assert_eq!(all_said(&mut pair), [word(member, address), word(member, address)]);
        // One member's word is enough: after another's, nothing is said, and nothing at the end.
        let other = match address {
            IpAddr::V4(v4) => [&[0x16, 0, 0, 0][..], &v4.octets()].concat(),
            IpAddr::V6(v6) => [&[131, 0, 0, 0, 0, 0, 0, 0][..], &v6.octets()].concat(),
        };
        pair.inject(End::Left, &older);
        pair.inject(End::Left, &from_router(address, other));
        pair.run(secs(11));
        leave(&mut pair, &one, address);
        pair.run(secs(11));
        assert_eq!(all_said(&mut pair), []);
        // RFC 3376 section 8.12: 2 * 125 + 10 s later it is forgotten.
        pair.run(secs(260));
        join(&mut pair, &one, address);
        pair.run(secs(2));
        assert_eq!(all_said(&mut pair), [report(TO_EXCLUDE, address), report(TO_EXCLUDE, address)]);
        pair.clean_up(&[&one], &[], &[&quota]);
    }
}

#[test]
fn what_no_router_says_is_dropped_and_counted() {
    let (mut pair, quota, one) = ground(GROUP_V4);
    let six = pair.bind(End::Left, &quota, 2, any(GROUP_V6, 53));
    join(&mut pair, &one, GROUP_V4);
    join(&mut pair, &six, GROUP_V6);
    pair.run(secs(2));
    all_said(&mut pair);
    let (v4, v6) = (query(GROUP_V4, None, &[]), query(GROUP_V6, None, &[]));
    let mut unsound = Vec::new();
    // From beyond the link.
    let mut far = v4.clone();
    far[22] = 2;
    far[24..26].fill(0);
    let checksum = !fold(sum(&far[14..38]));
    far[24..26].copy_from_slice(&checksum.to_be_bytes());
    unsound.push(far);
    let mut far = v6.clone();
    far[21] = 255;
    unsound.push(far);
    // Damaged.
    let mut damaged = v4.clone();
    damaged[39] ^= 1;
    unsound.push(damaged);
    // More sources than there are, lengths of no version, and sources of every group.
    let all = "224.0.0.1".parse().unwrap();
    unsound.push(from_router(all, vec![0x11, 9, 0, 0, 239, 1, 2, 3, 2, 125, 0xff, 0xff]));
    unsound.push(from_router(all, vec![0x11, 9, 0, 0, 0, 0, 0, 0, 0, 0]));
    unsound.push(from_router(all, vec![0x11, 9, 0, 0]));
    unsound.push(from_router(all, vec![0x11, 9, 0, 0, 0, 0, 0, 0, 2, 125, 0, 1, 1, 2, 3, 4]));
    // To the wrong group, and of none.
    unsound.push(from_router(GROUP_V4, vec![0x11, 9, 0, 0, 0, 0, 0, 0]));
    unsound.push(from_router(all, vec![0x11, 9, 0, 0, 10, 0, 0, 1]));
    // By a packet that does not alert routers.
    let mut quiet = v6.clone();
    quiet[56..62].copy_from_slice(&[1, 4, 0, 0, 0, 0]);
    unsound.push(quiet);
    let count = unsound.len() as u64;
    for frame in &unsound {
        pair.inject(End::Left, frame);
    }
    pair.run(secs(20));
    assert_eq!(pair.counter(End::Left, "drop.group_message_unsound"), count);
    // Leaves, and reports of the newest version, are for routers.
    pair.inject(End::Left, &from_router(all, vec![0x17, 0, 0, 0, 239, 1, 2, 3]));
    pair.inject(End::Left, &from_router(all, vec![0x22, 0, 0, 0, 0, 0, 0, 0]));
    // In the newest version, another's membership is nothing to ours.
    pair.inject(End::Left, &from_router(GROUP_V4, vec![0x16, 0, 0, 0, 239, 1, 2, 3]));
    pair.run(secs(20));
    assert_eq!(pair.counter(End::Left, "drop.group_message_other"), 3);
    assert_eq!(all_said(&mut pair), []);
    pair.clean_up(&[&one, &six], &[], &[&quota]);
}

#[test]
fn a_flood_of_questions_is_answered_in_measure() {
    for address in GROUPS {
        let (mut pair, quota, one) = ground(address);
        join(&mut pair, &one, address);
        pair.run(secs(2));
        all_said(&mut pair);
        // Each asks for an answer at once.
        let mut now = query(address, None, &[]);
        let at = if address.is_ipv4() { 39 } else { 66 };
        let before = u16::from_be_bytes([now[at], now[at + 1]]);
        match address {
            IpAddr::V4(_) => {
                now = from_router(
                    "224.0.0.1".parse().unwrap(),
                    vec![0x11, 0, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0],
                );
            }
            IpAddr::V6(_) => {
                let mut message = vec![130, 0, 0, 0, 0, 0, 0, 0];
                message.extend([0; 16]);
                message.extend([2, 125, 0, 0]);
                now = from_router("ff02::1".parse().unwrap(), message);
            }
        }
        assert_ne!(before, 0);
        for _ in 0..10_000 {
            pair.inject(End::Left, &now);
            pair.run(Duration::from_micros(100));
        }
        // A second, of which each answer takes some part of 100 ms; the soonest of hundreds of draws, a short one.
        let said = all_said(&mut pair);
        assert!(said.len() < 500, "{}", said.len());
        pair.run(secs(1));
        pair.clean_up(&[&one], &[], &[&quota]);
    }
}

#[test]
fn hops_and_the_way_back_are_the_senders_choice() {
    for address in GROUPS {
        let (mut pair, quota, mut one) = ground(address);
        let mut sender = pair.bind(End::Left, &quota, 2, any(address, 1000));
        join(&mut pair, &one, address);
        pair.run(secs(2));
        pair.take_frames(End::Left);
        let to = SocketAddr::new(address, 53);
        let hops = |frame: &[u8]| if address.is_ipv4() { frame[22] } else { frame[21] };
        let mut expect = |pair: &mut Pair, heard, frames: &[u8]| {
            send(pair, &mut sender, Some(to), 10);
            pair.run(secs(1));
            assert_eq!(count(&mut one), heard);
            let sent: Vec<_> = pair.take_frames(End::Left).iter().map(|f| hops(f)).collect();
            assert_eq!(sent, frames);
        };
        let option = |pair: &mut Pair, option, value| {
            pair.submit(End::Left, Request::SetOption { socket: SocketId(2), option, value });
        };
        expect(&mut pair, 1, &[1]);
        option(&mut pair, SocketOption::GroupHops, 7);
        expect(&mut pair, 1, &[7]);
        option(&mut pair, SocketOption::GroupLoop, 0);
        expect(&mut pair, 0, &[7]);
        option(&mut pair, SocketOption::GroupHops, 0);
        expect(&mut pair, 1, &[]);
        let wrong =
            Request::SetOption { socket: SocketId(2), option: SocketOption::GroupHops, value: 256 };
        assert_eq!(pair.try_submit(End::Left, wrong), Err(Errno::EINVAL));
        // Hops of other packets are others.
        option(&mut pair, SocketOption::HopLimit, 9);
        option(&mut pair, SocketOption::GroupHops, 3);
        expect(&mut pair, 0, &[3]);
        pair.clean_up(&[&one, &sender], &[], &[&quota]);
    }
}

/// A frame to a group that others asked for is none of ours, whoever's port it names.
#[test]
fn a_flood_to_a_group_of_others_costs_a_count_each() {
    let (mut pair, quota, mut one) = ground(GROUP_V4);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [1, 0, 0x5e, 1, 2, 3])
        .ipv4([10, 0, 0, 2], [239, 1, 2, 3], 1)
        .udp(7, 53)
        .write(&mut frame, b"stream")
        .unwrap();
    for _ in 0..1000 {
        pair.inject(End::Left, &frame);
    }
    pair.run(millis(100));
    assert_eq!((count(&mut one), pair.counter(End::Left, "drop.group_not_joined")), (0, 1000));
    assert_eq!(pair.counter(End::Left, "tx.frames"), 0);
    set(&mut pair, &one, SocketOption::GroupLoop, 1);
    pair.clean_up(&[&one], &[], &[&quota]);
}
