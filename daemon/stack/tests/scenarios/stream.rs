//! Bytes both ways over TCP and over the test kind's protocol.

use dmm_proto::op::{How, SocketOption};
use dmm_stack::Request;
use dmm_stack::kinds::KINDS;
use dmm_stack::pair::{Client, End, Pair, Quota, config};

use etherparse::{SlicedPacket, TransportSlice};

use crate::{IP_KINDS, V4, V6, clean, lossy, millis, secs};

const MIB: u64 = 1 << 20;

/// Chunks for a few sockets: 16 MiB.
const CHUNKS: u32 = 1024;

/// Whether a frame is a TCP segment with payload.
fn has_payload(frame: &[u8]) -> bool {
    match SlicedPacket::from_ethernet(frame).unwrap().transport {
        Some(TransportSlice::Tcp(tcp)) => !tcp.payload().is_empty(),
        _ => false,
    }
}

fn transfer(mut pair: Pair, ends: (std::net::IpAddr, std::net::IpAddr), bytes: (u64, u64)) {
    let quotas = [Quota::new(CHUNKS), Quota::new(CHUNKS)];
    let (mut one, mut other) = pair.joined([&quotas[0], &quotas[1]], ends);
    pair.exchange(secs(600), &mut one, &mut other, bytes);
    pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quotas[0], &quotas[1]]);
}

#[test]
fn bytes_arrive_over_a_clean_wire() {
    for kind in KINDS {
        for ends in [V4, V6] {
            transfer(Pair::new(kind, &clean()), ends, (4 * MIB, 3 * MIB));
        }
    }
}

#[test]
fn bytes_arrive_over_a_lossy_wire() {
    for kind in KINDS {
        for seed in 0..8 {
            transfer(Pair::new(kind, &lossy(seed)), V4, (MIB, MIB / 2));
        }
    }
}

#[test]
fn a_reader_that_sleeps_closes_the_window_and_loses_nothing() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(CHUNKS);
        let (mut one, mut other) = pair.joined([&quota, &quota], V4);
        // Far more than both FIFOs and both of the library's buffers hold.
        let total = 4 * MIB;
        pair.run_until(secs(20), |pair| {
            pair.write_until(&mut one, total);
            false
        });
        assert!(one.sent < total && other.received == 0);
        let waiting = pair.of(&one).writable;
        pair.expect(secs(60), "the rest", |pair| {
            pair.write_until(&mut one, total);
            pair.read_all(&mut other);
            other.received == total
        });
        assert!(pair.of(&one).writable > waiting, "the writer was told of room");
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn half_closing_works_both_ways() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(CHUNKS);
        let (mut one, mut other) = pair.joined([&quota, &quota], V4);
        pair.expect(secs(10), "the writing", |pair| {
            pair.write_until(&mut one, 100_000);
            one.sent == 100_000
        });
        pair.shutdown(&one, How::Write);
        pair.expect(secs(10), "the peer's FIN behind all bytes", |pair| {
            if pair.of(&other).ended {
                pair.read_all(&mut other);
                return true;
            }
            pair.read_all(&mut other);
            false
        });
        assert_eq!(other.received, 100_000);
        assert!(!pair.of(&one).ended);
        // The other direction is still open, for as long as its sender likes.
        pair.run(secs(120));
        pair.exchange(secs(10), &mut one, &mut other, (0, 200_000));
        pair.shutdown(&other, How::Write);
        pair.expect(secs(10), "the second FIN", |pair| pair.of(&one).ended);
        assert_eq!((pair.of(&one).broken, pair.of(&other).broken), (None, None));
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn an_idle_connection_has_nothing_due_and_stays() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(CHUNKS);
        let (mut one, mut other) = pair.joined([&quota, &quota], V4);
        pair.exchange(secs(10), &mut one, &mut other, (1000, 1000));
        pair.run(secs(5));
        assert_eq!(pair.next_deadline(), None, "an idle connection needs no timer");
        pair.run(secs(100_000));
        pair.exchange(secs(10), &mut one, &mut other, (1000, 1000));
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn keep_alive_finds_a_peer_that_is_gone() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(CHUNKS);
        let (one, other) = pair.joined([&quota, &quota], V4);
        let (socket, option) = (one.socket, SocketOption::KeepAlive);
        pair.submit(End::Left, Request::SetOption { socket, option, value: 10 });
        find_that_the_peer_is_gone(pair, &quota, (&one, &other));
    }
}

#[test]
fn a_stack_keeps_connections_alive_that_do_not_ask_for_it() {
    for kind in IP_KINDS {
        let mut left = config(1);
        left.tcp.keepalive_s = Some(10);
        let mut pair = Pair::with(kind, &clean(), &left, &config(2));
        let quota = Quota::new(CHUNKS);
        let (one, other) = pair.joined([&quota, &quota], V4);
        find_that_the_peer_is_gone(pair, &quota, (&one, &other));
    }
}

fn find_that_the_peer_is_gone(mut pair: Pair, quota: &Quota, (one, other): (&Client, &Client)) {
    pair.run(secs(200));
    assert_eq!(pair.of(one).broken, None, "the peer answers");
    pair.port(End::Left).set_link_up(false);
    pair.expect(secs(60), "the time out", |pair| {
        pair.of(one).broken == Some(nix::errno::Errno::ETIMEDOUT)
    });
    pair.port(End::Left).set_link_up(true);
    pair.submit(End::Right, Request::Abort { socket: other.socket });
    pair.clean_up(&[one, other], &[(End::Right, 0)], &[quota]);
}

#[test]
fn nagle_waits_and_no_delay_does_not() {
    for kind in IP_KINDS {
        for (value, most) in [(0, 3), (1, 20)] {
            let mut pair = Pair::new(kind, &clean());
            let quota = Quota::new(CHUNKS);
            let (mut one, mut other) = pair.joined([&quota, &quota], V4);
            let option = SocketOption::NoDelay;
            pair.submit(End::Left, Request::SetOption { socket: one.socket, option, value });
            pair.keep_frames(End::Left);
            for step in 1..=20 {
                pair.write_until(&mut one, step * 10);
                pair.run(std::time::Duration::from_micros(10));
            }
            pair.exchange(secs(5), &mut one, &mut other, (0, 0));
            pair.run(millis(100));
            pair.read_all(&mut other);
            assert_eq!(other.received, 200);
            let count =
                pair.take_frames(End::Left).iter().filter(|frame| has_payload(frame)).count();
            assert!(count <= most && count * 7 >= most, "{count} segments with NODELAY {value}");
            pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
        }
    }
}

#[test]
fn two_hundred_connections_share_a_wire() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &lossy(5));
        let quotas = [Quota::new(8 * CHUNKS), Quota::new(8 * CHUNKS)];
        pair.listen(End::Right, 0, crate::right(80), 256);
        let mut clients: Vec<_> = (1..=200_u16)
            .map(|n| {
                let other = pair.credit(End::Right, &quotas[1], 0, n.into());
                let ends = (crate::left(1000 + n), crate::right(80));
                (pair.connect(End::Left, &quotas[0], n.into(), ends), other)
            })
            .collect();
        // Credits are used in the order of completed handshakes: each side checks its own pattern.
        pair.expect(secs(300), "all transfers", |pair| {
            let mut done = true;
            for (one, other) in &mut clients {
                if pair.of(one).connected == Some(Ok(())) && one.sent < 20_000 {
                    pair.write_until(one, 20_000);
                }
                if pair.of(other).accepted.is_some() && other.sent < 10_000 {
                    pair.write_until(other, 10_000);
                }
                if let Some(errno) = pair.of(one).broken {
                    pair.fail(&format!("{:?}: {errno}", one.socket));
                }
                pair.read_all(one);
                pair.read_all(other);
                done &= one.received == 10_000 && other.received == 20_000;
            }
            done
        });
        // Timers that were put off and are not needed any more come once.
        pair.run(secs(31));
        assert_eq!(pair.next_deadline(), None, "200 idle connections need no timer");
        let all: Vec<_> = clients.iter().flat_map(|(one, other)| [one, other]).collect();
        pair.clean_up(&all, &[(End::Right, 0)], &[&quotas[0], &quotas[1]]);
    }
}
