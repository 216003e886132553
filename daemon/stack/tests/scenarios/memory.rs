//! Chunks: idle sockets hold none, and exhausted quotas recover.

use dmm_proto::Breach;
use dmm_proto::fifo::datagram::Header;
use dmm_proto::sync::Ordering;
use dmm_stack::kinds::KINDS;
use dmm_stack::pair::{End, Pair, Quota};

use crate::{IP_KINDS, V4, clean, left, millis, right, secs};

fn trim_all(pair: &mut Pair) {
    let now = pair.now;
    for end in [End::Left, End::Right] {
        pair.stack(end).trim(now);
        pair.stack(end).trim(now);
    }
}

#[test]
fn idle_sockets_hold_no_chunk_and_talk_again() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let (mut one, mut other) = pair.joined([&quota, &quota], V4);
        for round in 1..20 {
            pair.exchange(secs(5), &mut one, &mut other, (round * 7000, round * 3000));
            pair.run(secs(1));
            assert!(quota.pool.used() > 0);
            trim_all(&mut pair);
            assert_eq!(quota.pool.used(), 0, "round {round}");
        }
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn idle_udp_sockets_have_room_unless_chunks_are_scarce() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(6);
        let mut sockets = vec![pair.bind(End::Left, &quota, 1, left(1))];
        trim_all(&mut pair);
        assert_eq!(quota.pool.used(), 1, "room for the next datagram");
        // A program that does not wait can send it.
        let header = Header { len: 3, peer: Some(right(9).into()), local: None };
        assert!(sockets[0].writer.write_datagram(&header, b"now"));
        for number in 2..5 {
            sockets.push(pair.bind(End::Left, &quota, number, left(number as u16)));
        }
        pair.run(secs(5));
        assert_eq!(quota.pool.used(), 4);
        trim_all(&mut pair);
        assert!(quota.pool.used() <= 3, "{} of 6", quota.pool.used());
        let all: Vec<_> = sockets.iter().collect();
        pair.clean_up(&all, &[], &[&quota]);
    }
}

#[test]
fn a_used_up_quota_stops_a_reader_until_chunks_come_back() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quotas = [Quota::new(64), Quota::new(4)];
        let (mut one, mut other) = pair.joined([&quotas[0], &quotas[1]], V4);
        pair.run(secs(1));
        trim_all(&mut pair);
        let taken: Vec<_> = std::iter::from_fn(|| quotas[1].pool.take()).collect();
        pair.run_until(secs(10), |pair| {
            pair.write_until(&mut one, 200_000);
            pair.read_all(&mut other);
            false
        });
        assert!(other.received < 200_000);
        taken.into_iter().for_each(|chunk| quotas[1].pool.give(chunk));
        pair.expect(secs(30), "the rest", |pair| {
            pair.write_until(&mut one, 200_000);
            pair.read_all(&mut other);
            other.received == 200_000
        });
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quotas[0], &quotas[1]]);
    }
}

#[test]
fn a_used_up_quota_stops_a_writer_until_chunks_come_back() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quotas = [Quota::new(4), Quota::new(64)];
        let (mut one, mut other) = pair.joined([&quotas[0], &quotas[1]], V4);
        pair.exchange(secs(5), &mut one, &mut other, (1000, 0));
        pair.run(secs(1));
        trim_all(&mut pair);
        let taken: Vec<_> = std::iter::from_fn(|| quotas[0].pool.take()).collect();
        assert_eq!(taken.len(), 4);
        pair.write_until(&mut one, 50_000);
        pair.run(secs(2));
        assert_eq!(one.sent, 1000, "there is no room");
        taken.into_iter().for_each(|chunk| quotas[0].pool.give(chunk));
        // As a daemon does, ten times a second: what one direction reserved serves the other.
        for _ in 0..20 {
            pair.run(millis(50));
            pair.write_until(&mut one, 50_000);
            pair.run(millis(50));
            pair.read_all(&mut other);
            let now = pair.now;
            pair.stack(End::Left).trim(now);
        }
        assert_eq!(other.received, 50_000);
        pair.run(secs(1));
        assert_eq!(pair.next_deadline(), None, "nobody asks for chunks any more");
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quotas[0], &quotas[1]]);
    }
}

#[test]
fn sockets_that_starve_look_for_chunks_ever_less_often() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quotas = [Quota::new(4), Quota::new(64)];
        let (mut one, mut other) = pair.joined([&quotas[0], &quotas[1]], V4);
        pair.exchange(secs(5), &mut one, &mut other, (1000, 0));
        let datagrams = pair.bind(End::Left, &quotas[0], 9, left(9));
        pair.run(secs(1));
        trim_all(&mut pair);
        let taken: Vec<_> = std::iter::from_fn(|| quotas[0].pool.take()).collect();
        pair.write_until(&mut one, 50_000);
        pair.submit(End::Left, dmm_stack::Request::Send { socket: datagrams.socket });
        let mut looks = 0;
        pair.run_until(secs(20), |_| {
            looks += 1;
            false
        });
        // Each at 10, 30, 70, 150, 310 and 630 ms, then every 640.
        assert!((30..100).contains(&looks), "{looks} looks");
        taken.into_iter().for_each(|chunk| quotas[0].pool.give(chunk));
        let heard = pair.of(&one).writable;
        pair.expect(secs(1), "word of the chunks", |pair| pair.of(&one).writable > heard);
        pair.clean_up(&[&one, &other, &datagrams], &[(End::Right, 0)], &[&quotas[0], &quotas[1]]);
    }
}

#[test]
fn a_hostile_cursor_is_told_and_ends_the_connection_alone() {
    for kind in KINDS {
        for (breach, tail) in [(Breach::TxTail, true), (Breach::RxHead, false)] {
            let mut pair = Pair::new(kind, &clean());
            let quota = Quota::new(64);
            let (mut one, mut other) = pair.joined([&quota, &quota], V4);
            pair.exchange(secs(5), &mut one, &mut other, (1000, 1000));
            let line = one.parts.client.clone();
            let word = if tail { &line.tx_tail } else { &line.rx_head };
            word.store(u64::MAX / 2, Ordering::Relaxed);
            let socket = one.socket;
            pair.submit(End::Left, dmm_stack::Request::Send { socket });
            pair.submit(End::Left, dmm_stack::Request::Receive { socket });
            pair.expect(secs(5), "the breach", |pair| pair.of(&one).breach == Some(breach));
            pair.expect(secs(5), "the reset", |pair| pair.of(&other).broken.is_some());
            pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
        }
    }
}

#[test]
fn a_hostile_datagram_is_told() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let mut one = pair.bind(End::Left, &quota, 1, left(1));
        one.writer.write(&[&[0xff; 56]], true);
        pair.submit(End::Left, dmm_stack::Request::Send { socket: one.socket });
        pair.expect(secs(1), "the breach", |pair| pair.of(&one).breach == Some(Breach::Datagram));
        let other = pair.bind(End::Left, &quota, 2, left(2));
        pair.clean_up(&[&one, &other], &[], &[&quota]);
    }
}
