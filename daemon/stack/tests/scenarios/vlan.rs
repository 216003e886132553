//! Stacks in a virtual LAN (IEEE 802.1Q): every frame that is sent has the tag, and no other is taken.

use std::net::SocketAddr;

use dmm_proto::op::SocketOption;
use dmm_stack::config::StackConfig;
use dmm_stack::pair::{End, Pair, Quota, config};
use dmm_stack::{BuildError, Ping, Request};
use etherparse::{EtherType, PacketBuilder, SlicedPacket, VlanSlice};

use crate::many::{count, set};
use crate::udp::{receive, send};
use crate::{V4, V6, clean, left, lossy, right, secs};

const VLAN: u16 = 7;

fn tagged(station: u8) -> StackConfig {
    StackConfig { vlan: Some(VLAN), ..config(station) }
}

fn pair_in_vlan() -> (Pair, Quota) {
    let mut pair = Pair::with("native", &clean(), &tagged(1), &tagged(2));
    pair.keep_frames(End::Left);
    (pair, Quota::new(256))
}

/// Checks the tag of a frame, and that what is behind it can be parsed. Returns its type.
fn tag_of(frame: &[u8]) -> EtherType {
    let packet = SlicedPacket::from_ethernet(frame).expect("a sound frame");
    let Some(VlanSlice::SingleVlan(tag)) = packet.vlan() else { panic!("no tag: {frame:02x?}") };
    assert_eq!((tag.vlan_identifier().value(), tag.priority_code_point().value()), (VLAN, 0));
    assert_eq!(frame[6..12], [2, 0, 0, 0, 0, 1]);
    assert!(packet.net.is_some());
    tag.ether_type()
}

/// A datagram from station 2's port 7 to port 53 of station 1, with these tags.
fn datagram(tags: &[[u8; 4]]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1])
        .ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64)
        .udp(7, 53)
        .write(&mut frame, b"datagram")
        .unwrap();
    frame.splice(12..12, tags.concat());
    frame
}

#[test]
fn everything_that_is_sent_has_the_tag_and_is_understood() {
    for ends in [V4, V6] {
        let mut pair = Pair::with("native", &lossy(5), &tagged(1), &tagged(2));
        let quota = Quota::new(256);
        pair.keep_frames(End::Left);
        let (mut one, mut other) = pair.joined([&quota, &quota], ends);
        pair.exchange(secs(60), &mut one, &mut other, (300_000, 300_000));
        // Whole datagrams as long as the link takes, fragments, and an error.
        let at = |ip, port| SocketAddr::new(ip, port);
        let mut from = pair.bind(End::Left, &quota, 5, at(ends.0, 9));
        let mut to = pair.bind(End::Right, &quota, 5, at(ends.1, 53));
        let whole = if ends.0.is_ipv4() { 1472 } else { 1452 };
        for len in [0, whole, 8000] {
            let mut arrived = None;
            for _ in 0..20 {
                send(&mut pair, &mut from, Some(at(ends.1, 53)), len);
                arrived = receive(&mut pair, &mut to);
                if arrived.is_some() {
                    break;
                }
            }
            assert_eq!(arrived.map(|header| header.len), Some(len));
        }
        let (now, token) = (pair.now, 1);
        let ping = Ping { token, to: ends.1, bytes: 100, until: now + secs(30) };
        pair.stack(End::Left).ping(now, &ping).unwrap();
        pair.expect(secs(30), "the end of a ping", |pair| !pair.take_pongs(End::Left).is_empty());
        send(&mut pair, &mut from, Some(at(ends.1, 54)), 10);
        pair.run(secs(40));
        let frames = pair.take_frames(End::Left);
        let types: Vec<_> = frames.iter().map(|frame| tag_of(frame)).collect();
        assert!(types.contains(if ends.0.is_ipv4() { &EtherType::ARP } else { &EtherType::IPV6 }));
        assert_eq!(frames.iter().map(Vec::len).max(), Some(1518), "the MTU is the packet's");
        assert_eq!(pair.counter(End::Left, "drop.other_vlan"), 0);
        pair.clean_up(&[&one, &other, &from, &to], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn other_vlans_and_none_are_dropped_and_counted() {
    let (mut pair, quota) = pair_in_vlan();
    let mut one = pair.bind(End::Left, &quota, 1, left(53));
    // Priority and drop eligibility mean nothing.
    for high in [0x00, 0xe0, 0x10, 0xf0] {
        pair.inject(End::Left, &datagram(&[[0x81, 0, high, 7]]));
    }
    pair.run(secs(1));
    assert_eq!(count(&mut one), 4);
    let others = [
        datagram(&[]),
        datagram(&[[0x81, 0, 0, 8]]),
        datagram(&[[0x81, 0, 1, 7]]),
        // A priority alone.
        datagram(&[[0x81, 0, 0xe0, 0]]),
        // A service tag, of the same number.
        datagram(&[[0x88, 0xa8, 0, 7]]),
        datagram(&[[0x88, 0xa8, 0, 7], [0x81, 0, 0, 7]]),
        // Nothing behind the addresses, and half a tag.
        datagram(&[])[..12].to_vec(),
        datagram(&[[0x81, 0, 0, 7]])[..15].to_vec(),
    ];
    for other in &others {
        pair.inject(End::Left, other);
    }
    assert_eq!(pair.counter(End::Left, "drop.other_vlan"), others.len() as u64);
    // One tag too many.
    pair.inject(End::Left, &datagram(&[[0x81, 0, 0, 7], [0x81, 0, 0, 7]]));
    assert_eq!(pair.counter(End::Left, "drop.vlan"), 1);
    // Whose addresses are others' is not looked at further.
    let mut elsewhere = datagram(&[[0x81, 0, 0, 7]]);
    elsewhere[5] = 9;
    pair.inject(End::Left, &elsewhere);
    assert_eq!(pair.counter(End::Left, "drop.other_mac"), 1);
    pair.run(secs(1));
    assert_eq!(count(&mut one), 0);
    assert_eq!(pair.take_frames(End::Left), Vec::<Vec<u8>>::new());
    pair.clean_up(&[&one], &[], &[&quota]);
}

#[test]
fn without_a_vlan_tags_are_dropped_and_counted() {
    for kind in crate::IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(16);
        let mut one = pair.bind(End::Left, &quota, 1, left(53));
        let tags = [[0x81, 0, 0, 7], [0x81, 0, 0xe0, 0], [0x88, 0xa8, 0, 7]];
        for tag in tags {
            pair.inject(End::Left, &datagram(&[tag]));
        }
        pair.inject(End::Left, &datagram(&[]));
        pair.run(secs(1));
        assert_eq!(pair.counter(End::Left, "drop.vlan"), tags.len() as u64);
        assert_eq!(count(&mut one), 1);
        pair.clean_up(&[&one], &[], &[&quota]);
    }
}

/// What reads Ethernet addresses, and what must not be answered, behind a tag.
#[test]
fn what_is_read_by_address_is_read_behind_a_tag_as_well() {
    let (mut pair, quota) = pair_in_vlan();
    let mut one = pair.bind(End::Left, &quota, 1, left(1000));
    let mut own = pair.bind(End::Left, &quota, 2, "0.0.0.0:53".parse().unwrap());
    let mut other = pair.bind(End::Right, &quota, 1, "0.0.0.0:53".parse().unwrap());
    set(&mut pair, &one, SocketOption::Broadcast, 1);
    for len in [10, 4000] {
        send(&mut pair, &mut one, Some("10.0.0.255:53".parse().unwrap()), len);
        for client in [&mut own, &mut other] {
            assert_eq!(receive(&mut pair, client).map(|header| header.len), Some(len));
        }
    }
    // The neighbour is not known to a stack that hears of it in another VLAN.
    let frames = pair.take_frames(End::Left);
    assert!(frames.iter().all(|frame| tag_of(frame) == EtherType::IPV4 && frame[..6] == [0xff; 6]));
    let request = Request::SetPeer { socket: one.socket, peer: Some(right(9)) };
    pair.submit(End::Left, request);
    send(&mut pair, &mut one, None, 10);
    pair.run(secs(5));
    // To one station an error comes back, to all none.
    assert!(pair.of(&one).troubled.is_some());
    let before = pair.counter(End::Left, "tx.frames");
    let mut to_all = datagram(&[[0x81, 0, 0, 7]]);
    to_all[..6].fill(0xff);
    to_all[40..42].copy_from_slice(&[0, 99]);
    to_all[44..46].fill(0);
    pair.inject(End::Left, &to_all);
    pair.run(secs(1));
    assert_eq!(pair.counter(End::Left, "tx.frames"), before);
    assert_eq!(pair.counter(End::Left, "drop.icmp_unanswered"), 1);
    pair.clean_up(&[&one, &own, &other], &[], &[&quota]);
}

#[test]
fn what_no_vlan_can_be_is_refused() {
    for (kind, vlan, refused) in [
        ("native", 0, true),
        ("native", 1, false),
        ("native", 4094, false),
        ("native", 4095, true),
        ("smoltcp", 7, true),
        ("test", 7, true),
    ] {
        let config = StackConfig { vlan: Some(vlan), ..config(1) };
        let built = dmm_stack::build(kind, &config).err();
        assert_eq!(built, refused.then_some(BuildError::Vlan { vlan }), "{kind} {vlan}");
    }
}
