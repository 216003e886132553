//! Datagrams to all stations of a link (RFC 919, RFC 1122 section 3.3.6).

use std::net::SocketAddr;

use dmm_proto::op::SocketOption;
use dmm_stack::pair::{Client, End, Pair, Quota};
use dmm_stack::{Request, SocketId};
use etherparse::PacketBuilder;
use nix::errno::Errno;

use crate::udp::{receive, send};
use crate::{IP_KINDS, clean, left, right, secs};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn set(pair: &mut Pair, client: &Client, option: SocketOption, value: u32) {
    pair.submit(client.end, Request::SetOption { socket: client.socket, option, value });
}

/// How many datagrams are there.
pub(crate) fn count(client: &mut Client) -> usize {
    let mut buffer = [0; 2048];
    std::iter::from_fn(|| client.reader.read_datagram(&mut buffer, false)).count()
}

#[test]
fn who_did_not_ask_may_not_send_to_all() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let mut one = pair.bind(End::Left, &quota, 1, left(1000));
        pair.keep_frames(End::Left);
        let peer = |peer| Request::SetPeer { socket: SocketId(1), peer };
        for (count, all) in (1..).zip([at("255.255.255.255:53"), at("10.0.0.255:53")]) {
            send(&mut pair, &mut one, Some(all), 10);
            pair.run(secs(5));
            assert_eq!(pair.counter(End::Left, "drop.udp_tx_broadcast_forbidden"), count);
            assert_eq!(pair.try_submit(End::Left, peer(Some(all))), Err(Errno::EACCES));
        }
        assert_eq!(pair.take_frames(End::Left), Vec::<Vec<u8>>::new());
        set(&mut pair, &one, SocketOption::Broadcast, 1);
        pair.submit(End::Left, peer(Some(at("10.0.0.255:53"))));
        send(&mut pair, &mut one, None, 10);
        pair.run(secs(1));
        assert_eq!(pair.take_frames(End::Left).len(), 1);
        pair.clean_up(&[&one], &[], &[&quota]);
    }
}

#[test]
fn what_goes_to_all_comes_to_who_is_bound_to_any_address() {
    for kind in IP_KINDS {
        for all in [at("255.255.255.255:53"), at("10.0.0.255:53")] {
            let mut pair = Pair::new(kind, &clean());
            let quota = Quota::new(64);
            let mut one = pair.bind(End::Left, &quota, 1, left(1000));
            let mut own = pair.bind(End::Left, &quota, 2, at("0.0.0.0:53"));
            let mut other = pair.bind(End::Right, &quota, 1, at("0.0.0.0:53"));
            let mut elsewhere = pair.bind(End::Right, &quota, 2, at("0.0.0.0:54"));
            set(&mut pair, &one, SocketOption::Broadcast, 1);
            for len in [0, 100, 4000] {
                pair.keep_frames(End::Left);
                send(&mut pair, &mut one, Some(all), len);
                let header = receive(&mut pair, &mut other).expect("it arrives");
                assert_eq!((header.len, header.peer), (len, Some(left(1000).into())));
                assert_eq!(header.local, Some(all.into()));
                let frames = pair.take_frames(End::Left);
                assert!(!frames.is_empty() && frames.iter().all(|frame| frame[..6] == [0xff; 6]));
                // As on Linux, the sender's own stack is among all.
                if kind == "native" {
                    assert_eq!(receive(&mut pair, &mut own).map(|header| header.len), Some(len));
                }
            }
            assert_eq!(count(&mut elsewhere), 0);
            pair.clean_up(&[&one, &own, &other, &elsewhere], &[], &[&quota]);
        }
    }
}

#[test]
fn who_is_bound_to_one_address_hears_what_goes_there_alone() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let mut one = pair.bind(End::Left, &quota, 1, left(1000));
        set(&mut pair, &one, SocketOption::Broadcast, 1);
        let mut unicast = pair.bind(End::Right, &quota, 1, right(53));
        let mut subnet = pair.bind(End::Right, &quota, 2, at("10.0.0.255:53"));
        for to in [at("255.255.255.255:53"), at("10.0.0.255:53"), right(53)] {
            send(&mut pair, &mut one, Some(to), 10);
        }
        pair.run(secs(5));
        assert_eq!((count(&mut unicast), count(&mut subnet)), (1, 1));
        // What it sends comes from an address that is the stack's.
        send(&mut pair, &mut subnet, Some(left(1000)), 10);
        let header = receive(&mut pair, &mut one).expect("it arrives");
        assert_eq!(header.peer, Some(right(53).into()));
        let refused =
            |pair: &mut Pair, place| pair.bind_as(End::Right, &quota, 3, (at(place), false));
        assert_eq!(refused(&mut pair, "10.0.1.255:53").err(), Some(Errno::EADDRNOTAVAIL));
        assert_eq!(refused(&mut pair, "10.0.0.255:53").err(), Some(Errno::EADDRINUSE));
        pair.clean_up(&[&one, &unicast, &subnet], &[], &[&quota]);
    }
}

/// RFC 1122 section 3.2.2: no error answers what went to many, whichever of its addresses says so.
#[test]
fn nobody_answers_what_went_to_all() {
    let mut pair = Pair::new("native", &clean());
    let frame = |to_mac, to| {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], to_mac)
            .ipv4([10, 0, 0, 2], to, 64)
            .udp(7, 53)
            .write(&mut frame, b"anybody?")
            .unwrap();
        frame
    };
    let own = [2, 0, 0, 0, 0, 1];
    let all = [0xff; 6];
    for (to_mac, to) in [(all, [10, 0, 0, 255]), (own, [255; 4]), (all, [10, 0, 0, 1])] {
        pair.inject(End::Left, &frame(to_mac, to));
    }
    pair.run(secs(5));
    assert_eq!(pair.counter(End::Left, "drop.udp_no_socket"), 3);
    assert_eq!(pair.counter(End::Left, "tx.frames"), 0);
}

/// Who sends to many does not wait for the way back to itself, which 64 frames fill.
#[test]
fn what_finds_the_way_back_full_goes_out_all_the_same() {
    let mut pair = Pair::new("native", &clean());
    let quota = Quota::new(256);
    let mut own = pair.bind(End::Left, &quota, 0, at("0.0.0.0:53"));
    let mut other = pair.bind(End::Right, &quota, 0, at("0.0.0.0:53"));
    let mut senders: Vec<_> =
        (1..=9).map(|id| pair.bind(End::Left, &quota, id, left(1000 + id as u16))).collect();
    for sender in &mut senders[..8] {
        (0..8).for_each(|_| send(&mut pair, sender, Some(left(53)), 10));
    }
    set(&mut pair, &senders[8], SocketOption::Broadcast, 1);
    send(&mut pair, &mut senders[8], Some(at("10.0.0.255:53")), 10);
    pair.run(secs(5));
    assert_eq!(pair.counter(End::Left, "drop.loop_full"), 1);
    assert_eq!((count(&mut own), count(&mut other)), (64, 1));
    let all: Vec<_> = senders.iter().chain([&own, &other]).collect();
    pair.clean_up(&all, &[], &[&quota]);
}
