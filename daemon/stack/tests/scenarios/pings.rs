//! Echo requests of ours: answered and measured, given up, and not fooled by forged answers.

use std::time::Duration;

use dmm_port::wire::WireConfig;
use dmm_stack::Ping;
use dmm_stack::config::Neighbour;
use dmm_stack::pair::{End, Pair, address_v4, address_v6, config};
use etherparse::PacketBuilder;
use nix::errno::Errno;

use crate::{IP_KINDS, clean, secs};

#[test]
fn pings_are_answered_and_measured() {
    for kind in IP_KINDS {
        let wire = WireConfig { delay: Duration::from_millis(3), ..clean() };
        let mut pair = Pair::new(kind, &wire);
        for (token, to) in [(1, address_v4(2)), (2, address_v6(2))] {
            let until = pair.now + secs(1);
            let ping = Ping { token, to, bytes: 1400, until };
            let now = pair.now;
            pair.stack(End::Left).ping(now, &ping).unwrap();
            pair.run(secs(1));
            let pongs = pair.take_pongs(End::Left);
            let [(answered, Ok(pong))] = pongs[..] else { panic!("{pongs:?}") };
            assert_eq!((answered, pong.hop_limit), (token, 64));
            // The wire's delay both ways, and at its speed 2,884 bytes.
            let expected = Duration::from_millis(6)..Duration::from_micros(6_100);
            assert!(expected.contains(&pong.round_trip), "{pong:?}");
        }
        assert_eq!(pair.counter(End::Left, "drop.echo_reply_unasked"), 0);
    }
}

#[test]
fn pings_that_cannot_be_answered_say_why() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let (now, until) = (pair.now, pair.now + secs(5));
        let mut ping =
            |token, to, bytes| pair.stack(End::Left).ping(now, &Ping { token, to, bytes, until });
        let elsewhere = "192.0.2.1".parse().unwrap();
        assert_eq!(ping(0, elsewhere, 0), Err(Errno::ENETUNREACH));
        assert_eq!(ping(0, address_v4(1), 0), Err(Errno::ENETUNREACH));
        assert_eq!(ping(0, "10.0.0.255".parse().unwrap(), 0), Err(Errno::ENETUNREACH));
        assert_eq!(ping(0, address_v4(2), 1473), Err(Errno::EMSGSIZE));
        assert_eq!(ping(1, address_v4(77), 0), Ok(()));
        for token in 2..=64 {
            assert_eq!(ping(token, address_v4(77), 0), Ok(()));
        }
        assert_eq!(ping(65, address_v4(77), 0), Err(Errno::EAGAIN));
        pair.run(secs(6));
        let pongs = pair.take_pongs(End::Left);
        assert_eq!(pongs.len(), 64);
        assert!(pongs.iter().all(|(_, result)| *result == Err(Errno::EHOSTUNREACH)));

        // A neighbour that is known, and silent.
        let mut left = config(1);
        left.neighbours = vec![Neighbour { address: address_v4(77), mac: [2, 0, 0, 0, 0, 77] }];
        let mut pair = Pair::with(kind, &clean(), &left, &config(2));
        let ping = Ping { token: 1, to: address_v4(77), bytes: 8, until: pair.now + secs(1) };
        let now = pair.now;
        pair.stack(End::Left).ping(now, &ping).unwrap();
        pair.run(secs(2));
        assert_eq!(pair.take_pongs(End::Left), [(1, Err(Errno::ETIMEDOUT))]);
    }
}

/// The answer must be to the request: from whom it went to, in every byte.
#[test]
fn forged_answers_are_counted_and_not_taken() {
    for kind in IP_KINDS {
        let mut left = config(1);
        left.neighbours = vec![Neighbour { address: address_v4(77), mac: [2, 0, 0, 0, 0, 77] }];
        let mut pair = Pair::with(kind, &clean(), &left, &config(2));
        pair.keep_frames(End::Left);
        let ping = Ping { token: 1, to: address_v4(77), bytes: 8, until: pair.now + secs(9) };
        let now = pair.now;
        pair.stack(End::Left).ping(now, &ping).unwrap();
        pair.run(secs(1));
        let request = pair.take_frames(End::Left).remove(0);
        let answer = |id: [u8; 2], number: [u8; 2], from: [u8; 4], payload: &[u8]| {
            let mut frame = Vec::new();
            let (id, number) = (u16::from_be_bytes(id), u16::from_be_bytes(number));
            PacketBuilder::ethernet2([2, 0, 0, 0, 0, 77], [2, 0, 0, 0, 0, 1])
                .ipv4(from, [10, 0, 0, 1], 64)
                .icmpv4_echo_reply(id, number)
                .write(&mut frame, payload)
                .unwrap();
            frame
        };
        let (id, number) = ([request[38], request[39]], [request[40], request[41]]);
        let (host, payload) = ([10, 0, 0, 77], &request[42..]);
        let wrong = [
            answer([id[0], id[1] ^ 1], number, host, payload),
            answer(id, [number[0], number[1] ^ 1], host, payload),
            answer(id, number, [10, 0, 0, 78], payload),
            answer(id, number, host, &payload[1..]),
            answer(id, number, host, &[payload, &[0]].concat()),
        ];
        for frame in &wrong {
            pair.inject(End::Left, frame);
        }
        pair.run(secs(1));
        assert_eq!(pair.take_pongs(End::Left), []);
        assert_eq!(pair.counter(End::Left, "drop.echo_reply_unasked"), 5);
        let right = answer(id, number, host, payload);
        pair.inject(End::Left, &right);
        pair.inject(End::Left, &right);
        pair.run(secs(1));
        assert!(matches!(pair.take_pongs(End::Left)[..], [(1, Ok(_))]));
        assert_eq!(pair.counter(End::Left, "drop.echo_reply_unasked"), 6);
    }
}
