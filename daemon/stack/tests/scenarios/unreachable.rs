//! Errors that come by ICMP, about datagrams of ours (RFC 1122 section 4.1.3.3, udp(7)).

use std::net::SocketAddr;

use dmm_stack::pair::{Client, End, Pair, Quota};
use dmm_stack::{Request, SocketId};
use nix::errno::Errno;

use crate::icmp::error;
use crate::udp::{receive, send};
use crate::{IP_KINDS, V4, V6, clean, left, right, secs};

fn connect(pair: &mut Pair, client: &Client, peer: Option<SocketAddr>) {
    pair.submit(client.end, Request::SetPeer { socket: client.socket, peer });
}

#[test]
fn a_connected_socket_is_told_that_nobody_has_the_port() {
    for kind in IP_KINDS {
        for ends in [V4, V6] {
            let mut pair = Pair::new(kind, &clean());
            let quota = Quota::new(64);
            // On any address: the error says which one it came from.
            let any = if ends.0.is_ipv4() { "0.0.0.0:1000" } else { "[::]:1000" };
            let mut one = pair.bind(End::Left, &quota, 1, any.parse().unwrap());
            let mut unconnected = pair.bind(End::Left, &quota, 2, SocketAddr::new(ends.0, 1001));
            let nobody = SocketAddr::new(ends.1, 53);
            connect(&mut pair, &one, Some(nobody));
            send(&mut pair, &mut one, None, 10);
            send(&mut pair, &mut unconnected, Some(nobody), 10);
            pair.run(secs(5));
            assert_eq!(pair.of(&one).troubled, Some((Errno::ECONNREFUSED, 1)), "{kind}");
            assert_eq!(pair.of(&unconnected).troubled, None);
            assert_eq!(pair.counter(End::Left, "udp.errors_told"), 1);
            assert_eq!(pair.counter(End::Left, "drop.icmp_error"), 1);
            // It goes on, and is told anew of what it sends next.
            send(&mut pair, &mut one, None, 10);
            pair.run(secs(5));
            assert_eq!(pair.of(&one).troubled, Some((Errno::ECONNREFUSED, 2)));
            let mut other = pair.bind(End::Right, &quota, 1, nobody);
            send(&mut pair, &mut one, None, 10);
            assert!(receive(&mut pair, &mut other).is_some());
            pair.run(secs(1));
            assert_eq!(pair.of(&one).troubled, Some((Errno::ECONNREFUSED, 2)));
            pair.clean_up(&[&one, &unconnected, &other], &[], &[&quota]);
        }
    }
}

/// A socket that is connected to the other end, and the datagram that it sent.
fn sent(kind: &str, ends: (std::net::IpAddr, std::net::IpAddr)) -> (Pair, Quota, Client, Vec<u8>) {
    let mut pair = Pair::new(kind, &clean());
    let quota = Quota::new(64);
    let mut one = pair.bind(End::Left, &quota, 1, SocketAddr::new(ends.0, 1000));
    let _other = pair.bind(End::Right, &quota, 1, SocketAddr::new(ends.1, 53));
    connect(&mut pair, &one, Some(SocketAddr::new(ends.1, 53)));
    pair.keep_frames(End::Left);
    send(&mut pair, &mut one, None, 10);
    pair.run(secs(1));
    let frame = pair.take_frames(End::Left).pop().expect("a datagram");
    (pair, quota, one, frame)
}

#[test]
fn what_linux_calls_fatal_is_told_and_nothing_else() {
    for kind in IP_KINDS {
        for (ends, errors) in [
            (
                V4,
                &[
                    ((3, 0), None),
                    ((3, 1), None),
                    ((3, 2), Some(Errno::ENOPROTOOPT)),
                    ((3, 3), Some(Errno::ECONNREFUSED)),
                    ((3, 4), Some(Errno::EMSGSIZE)),
                    ((3, 7), Some(Errno::EHOSTDOWN)),
                    ((3, 10), Some(Errno::EHOSTUNREACH)),
                    ((3, 13), Some(Errno::EHOSTUNREACH)),
                    ((3, 16), None),
                    ((11, 0), None),
                    ((12, 0), Some(Errno::EPROTO)),
                ][..],
            ),
            (
                V6,
                &[
                    ((1, 0), None),
                    ((1, 1), Some(Errno::EACCES)),
                    ((1, 3), None),
                    ((1, 4), Some(Errno::ECONNREFUSED)),
                    ((2, 0), Some(Errno::EMSGSIZE)),
                    ((3, 0), None),
                    ((4, 1), Some(Errno::EPROTO)),
                ][..],
            ),
        ] {
            let (mut pair, _quota, one, frame) = sent(kind, ends);
            let mut told = 0;
            for &((of, code), errno) in errors {
                pair.inject(End::Left, &error(&frame, (of, code, 1280)));
                pair.run(secs(1));
                told += u32::from(errno.is_some());
                let last = pair.of(&one).troubled;
                assert_eq!(last.map_or(0, |(_, count)| count), told, "{kind} {of} {code}");
                if errno.is_some() {
                    assert_eq!(last.map(|(errno, _)| errno), errno);
                }
            }
        }
    }
}

#[test]
fn what_the_socket_did_not_send_is_nothing_to_it() {
    for kind in IP_KINDS {
        let (mut pair, quota, one, frame) = sent(kind, V4);
        let changed = |at: usize| {
            let mut other = frame.clone();
            other[at] ^= 0x40;
            other
        };
        // In turn: our address, the peer's, our port, the peer's, the protocol.
        for (count, at) in (1..).zip([29, 33, 35, 37, 23]) {
            pair.inject(End::Left, &error(&changed(at), (3, 3, 0)));
            pair.run(secs(1));
            assert_eq!(pair.of(&one).troubled, None, "{kind} {at}");
            assert_eq!(pair.counter(End::Left, "drop.icmp_error"), count);
        }
        // A quotation that ends before the ports, and a part of a packet that is not its first.
        let whole = error(&frame, (3, 3, 0));
        let mut piece = frame.clone();
        piece[21] = 9;
        pair.inject(End::Left, &error(&frame[..36], (3, 3, 0)));
        pair.inject(End::Left, &error(&piece, (3, 3, 0)));
        // It was sent to the peer that the socket had before, and then to none.
        connect(&mut pair, &one, Some(right(54)));
        pair.inject(End::Left, &whole);
        connect(&mut pair, &one, Some(right(53)));
        pair.inject(End::Left, &whole);
        connect(&mut pair, &one, None);
        pair.inject(End::Left, &whole);
        pair.run(secs(1));
        assert_eq!(pair.of(&one).troubled, None);
        assert_eq!(pair.counter(End::Left, "drop.icmp_error"), 10);
        // What was closed is not looked for.
        pair.close(&one);
        pair.inject(End::Left, &whole);
        pair.run(secs(1));
        assert_eq!(pair.counter(End::Left, "drop.icmp_error"), 11);
        pair.submit(End::Right, Request::Close { socket: SocketId(1) });
        pair.clean_up(&[], &[], &[&quota]);
    }
}

#[test]
fn a_flood_of_errors_is_told_once_a_turn() {
    for kind in IP_KINDS {
        let (mut pair, _quota, one, frame) = sent(kind, V4);
        let whole = error(&frame, (3, 3, 0));
        for _ in 0..1000 {
            pair.inject(End::Left, &whole);
        }
        pair.run(secs(1));
        assert_eq!(pair.of(&one).troubled, Some((Errno::ECONNREFUSED, 1)));
    }
}

/// As Linux has it, 50 at once and 1,000 a second (`icmp_msgs_burst`, `icmp_msgs_per_sec`).
#[test]
fn a_flood_of_datagrams_to_nobody_is_answered_in_measure() {
    let mut pair = Pair::new("native", &clean());
    let quota = Quota::new(64);
    let mut one = pair.bind(End::Left, &quota, 1, left(1000));
    send(&mut pair, &mut one, Some(right(53)), 10);
    pair.keep_frames(End::Left);
    pair.run(secs(1));
    send(&mut pair, &mut one, Some(right(53)), 10);
    pair.run(secs(1));
    let frame = pair.take_frames(End::Left).pop().expect("a datagram");
    let before = pair.counter(End::Right, "tx.frames");
    for _ in 0..1000 {
        pair.inject(End::Right, &frame);
        pair.run(std::time::Duration::from_micros(100));
    }
    // 100 ms: the burst, and one for each.
    let sent = pair.counter(End::Right, "tx.frames") - before;
    assert!((140..=160).contains(&sent), "{sent}");
    assert_eq!(pair.counter(End::Right, "drop.icmp_unanswered"), 1000 - sent);
}
