//! How connections end, and how attempts fail.

use std::time::Duration;

use dmm_proto::op::{How, SocketOption};
use dmm_stack::kinds::KINDS;
use dmm_stack::pair::{End, Pair, Quota, config};
use dmm_stack::{Request, SocketId};
use nix::errno::Errno;

use crate::{IP_KINDS, V4, clean, left, right, secs};

/// Bits of a TCP segment's flags (RFC 9293 section 3.1).
const RST: u8 = 4;

/// Whether a frame is a TCP segment over IPv4 with a flag.
fn has_flag(frame: &[u8], flag: u8) -> bool {
    frame[12..14] == [8, 0] && frame[23] == 6 && frame[47] & flag != 0
}

#[test]
fn a_port_without_listener_refuses() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(16);
        let one = pair.connect(End::Left, &quota, 1, (left(5000), right(81)));
        pair.expect(secs(5), "the refusal", |pair| {
            pair.of(&one).connected == Some(Err(Errno::ECONNREFUSED))
        });
        assert!(!pair.of(&one).gone, "the owner closes it");
        pair.clean_up(&[&one], &[], &[&quota]);
    }
}

#[test]
fn a_host_that_is_not_there_is_unreachable() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(16);
        let one = pair.connect(End::Left, &quota, 1, (left(5000), "10.0.0.9:80".parse().unwrap()));
        pair.expect(secs(5), "the failure", |pair| {
            pair.of(&one).connected == Some(Err(Errno::EHOSTUNREACH))
        });
        pair.clean_up(&[&one], &[], &[&quota]);
    }
}

#[test]
fn a_peer_that_does_not_answer_times_out() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(16);
        // The neighbours know each other before the wire is cut.
        let (one, other) = pair.joined([&quota, &quota], V4);
        pair.port(End::Left).set_link_up(false);
        let late = pair.connect(End::Left, &quota, 2, (left(5001), right(80)));
        pair.expect(secs(31), "the time out", |pair| {
            pair.of(&late).connected == Some(Err(Errno::ETIMEDOUT))
        });
        pair.port(End::Left).set_link_up(true);
        pair.clean_up(&[&one, &other, &late], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn data_without_answer_times_out_after_the_user_timeout() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let (mut one, other) = pair.joined([&quota, &quota], V4);
        let (option, value) = (SocketOption::UserTimeout, 5_000);
        pair.submit(End::Left, Request::SetOption { socket: one.socket, option, value });
        pair.run(secs(100));
        pair.port(End::Left).set_link_up(false);
        let before = pair.now;
        pair.write_until(&mut one, 1000);
        pair.expect(secs(30), "the time out", |pair| {
            pair.of(&one).broken == Some(Errno::ETIMEDOUT)
        });
        let waited = pair.now - before;
        assert!((secs(5)..secs(6)).contains(&waited), "{waited:?}");
        pair.submit(End::Right, Request::Abort { socket: other.socket });
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn an_abort_resets_the_peer() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let (mut one, mut other) = pair.joined([&quota, &quota], V4);
        pair.exchange(secs(5), &mut one, &mut other, (5000, 5000));
        pair.submit(End::Left, Request::Abort { socket: one.socket });
        pair.expect(secs(5), "the reset", |pair| pair.of(&other).broken == Some(Errno::ECONNRESET));
        assert!(pair.of(&one).gone && !pair.of(&other).ended);
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn bytes_before_a_reset_can_still_be_read() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let (mut one, mut other) = pair.joined([&quota, &quota], V4);
        pair.write_until(&mut one, 3000);
        pair.run(secs(1));
        pair.submit(End::Left, Request::Abort { socket: one.socket });
        pair.run(secs(1));
        assert_eq!(pair.of(&other).broken, Some(Errno::ECONNRESET));
        pair.read_all(&mut other);
        assert_eq!(other.received, 3000);
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn closing_with_unread_bytes_is_a_reset() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let (mut one, other) = pair.joined([&quota, &quota], V4);
        pair.write_until(&mut one, 10);
        pair.run(secs(1));
        pair.close(&other);
        pair.expect(secs(5), "the reset", |pair| pair.of(&one).broken == Some(Errno::ECONNRESET));
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn bytes_after_a_close_are_answered_with_a_reset() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let (mut one, other) = pair.joined([&quota, &quota], V4);
        pair.close(&other);
        pair.expect(secs(5), "the end", |pair| pair.of(&one).ended);
        assert_eq!(pair.of(&one).broken, None);
        pair.write_until(&mut one, 10);
        pair.expect(secs(5), "the reset", |pair| pair.of(&one).broken == Some(Errno::ECONNRESET));
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn lingering_for_no_time_is_a_reset() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let (one, other) = pair.joined([&quota, &quota], V4);
        let (option, value) = (SocketOption::ResetOnClose, 1);
        pair.submit(End::Left, Request::SetOption { socket: one.socket, option, value });
        pair.keep_frames(End::Left);
        pair.close(&one);
        pair.expect(secs(5), "the reset", |pair| pair.of(&other).broken == Some(Errno::ECONNRESET));
        assert!(pair.take_frames(End::Left).iter().any(|frame| has_flag(frame, RST)));
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn a_closed_socket_still_sends_what_was_written() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &crate::lossy(3));
        let quotas = [Quota::new(64), Quota::new(64)];
        let (mut one, mut other) = pair.joined([&quotas[0], &quotas[1]], V4);
        // Beyond the library's buffer, so that the FIFO must be kept.
        pair.run_until(secs(2), |pair| {
            pair.write_until(&mut one, 240_000);
            one.sent == 240_000
        });
        assert_eq!(one.sent, 240_000, "written before the close");
        pair.close(&one);
        // The lines belong to another socket from now on.
        one.parts.client.reset();
        one.parts.daemon.reset(0);
        let line = one.parts.daemon.clone();
        pair.expect(secs(120), "the end", |pair| {
            pair.read_all(&mut other);
            pair.of(&other).ended
        });
        pair.read_all(&mut other);
        assert_eq!((other.received, pair.of(&other).broken), (240_000, None));
        pair.close(&other);
        pair.expect(secs(60), "the end of both", |pair| pair.of(&one).gone && pair.of(&other).gone);
        let word = line.tx_head.load(dmm_proto::sync::Ordering::Relaxed);
        assert_eq!(word, 0, "a closed socket's line was touched");
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quotas[0], &quotas[1]]);
    }
}

#[test]
fn an_orphan_whose_peer_is_gone_is_given_up() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let (mut one, other) = pair.joined([&quota, &quota], V4);
        pair.run(secs(1));
        pair.port(End::Left).set_link_up(false);
        pair.write_until(&mut one, 1000);
        pair.close(&one);
        pair.expect(secs(60), "the end", |pair| pair.of(&one).gone);
        pair.submit(End::Right, Request::Abort { socket: other.socket });
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn an_orphan_whose_peer_never_closes_is_given_up() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let (one, other) = pair.joined([&quota, &quota], V4);
        pair.close(&one);
        pair.expect(secs(60), "the end", |pair| pair.of(&one).gone);
        assert!(pair.of(&other).ended);
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn what_is_closed_needs_no_attention_until_its_timer() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let (mut one, mut other) = pair.joined([&quota, &quota], V4);
        pair.exchange(secs(5), &mut one, &mut other, (50_000, 0));
        pair.close(&one);
        pair.run(secs(1));
        let waits = |pair: &mut Pair| pair.next_deadline().map(|at| at - pair.now);
        assert!(waits(&mut pair).is_some_and(|span| span > secs(20)), "half closed");
        pair.close(&other);
        pair.run(secs(1));
        assert!(waits(&mut pair).is_some_and(|span| span > secs(3)), "in TIME-WAIT");
        let states: Vec<_> = pair.sockets(End::Left).iter().map(|report| report.state).collect();
        assert_eq!(states, ["TIME-WAIT"]);
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn both_ends_may_close_at_once() {
    for kind in KINDS {
        for seed in 0..20 {
            let mut pair = Pair::new(kind, &crate::lossy(seed));
            let quota = Quota::new(64);
            let (mut one, mut other) = pair.joined([&quota, &quota], V4);
            pair.exchange(secs(20), &mut one, &mut other, (100, 100));
            pair.shutdown(&one, How::Write);
            pair.shutdown(&other, How::Both);
            pair.expect(secs(60), "both ends", |pair| pair.of(&one).ended && pair.of(&other).ended);
            assert_eq!((pair.of(&one).broken, pair.of(&other).broken), (None, None));
            pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
        }
    }
}

#[test]
fn an_id_and_a_port_can_be_used_again() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        pair.listen(End::Right, 0, right(80), 8);
        for round in 0..50 {
            let other = pair.credit(End::Right, &quota, 0, 1);
            let one = pair.connect(End::Left, &quota, 1, (left(6000 + round), right(80)));
            pair.expect(secs(5), "the connection", |pair| pair.of(&other).accepted.is_some());
            let busy = quota.open(End::Left, SocketId(1), 1 << 16).0;
            let again = Request::Connect {
                socket: SocketId(1),
                local: left(7000),
                remote: right(80),
                fifos: busy,
            };
            assert!(pair.try_submit(End::Left, again).is_err());
            let reset = round % 2 == 0;
            pair.run(Duration::from_millis(5));
            if reset {
                pair.submit(End::Left, Request::Abort { socket: one.socket });
            } else {
                pair.close(&one);
            }
            pair.run(Duration::from_millis(5));
            pair.close(&other);
            pair.expect(secs(40), "the end", |pair| pair.of(&one).gone && pair.of(&other).gone);
            assert_eq!(quota.pool.used(), 0);
        }
        pair.clean_up(&[], &[(End::Right, 0)], &[&quota]);
    }
}

/// RFC 6191: the end that closed first may open the same connection again after a second, if both ends have
/// timestamps, and the new one begins beyond all that was sent before.
#[test]
fn time_wait_makes_way_for_the_same_connection() {
    let mut pair = Pair::new("native", &clean());
    let quota = Quota::new(64);
    let (mut client, mut server) = pair.joined([&quota, &quota], V4);
    // So fast that the numbers are ahead of the clock that they begin from.
    pair.exchange(secs(10), &mut client, &mut server, (20 << 20, 0));
    pair.keep_frames(End::Left);
    pair.close(&client);
    pair.expect(secs(5), "the end of the stream", |pair| pair.of(&server).ended);
    pair.close(&server);
    pair.expect(secs(5), "the other end's", |pair| pair.of(&server).gone);
    let last = sequence(pair.take_frames(End::Left).last().expect("it sent its last"));
    let flow = (left(50_000), right(80));
    let (fifos, _) = quota.open(End::Left, SocketId(2), 1 << 16);
    let early = Request::Connect { socket: SocketId(2), local: flow.0, remote: flow.1, fifos };
    assert_eq!(pair.try_submit(End::Left, early), Err(Errno::EADDRINUSE));
    assert!(!pair.of(&client).gone, "it waits");
    pair.run(secs(2));
    let again = pair.connect(End::Left, &quota, 2, flow);
    let other = pair.credit(End::Right, &quota, 0, 2);
    pair.expect(secs(5), "the handshake", |pair| {
        pair.of(&again).connected == Some(Ok(())) && pair.of(&other).accepted.is_some()
    });
    let first = sequence(&pair.take_frames(End::Left)[0]);
    assert!(first.wrapping_sub(last) > 65_535 && first.wrapping_sub(last) < 1 << 31);
    assert!(pair.of(&client).gone, "it made way");
    pair.clean_up(&[&again, &other], &[(End::Right, 0)], &[&quota]);
}

/// The sequence number of a segment over IPv4.
fn sequence(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[38..42].try_into().expect("four bytes"))
}

/// Without timestamps nothing tells old segments from new ones.
#[test]
fn time_wait_without_timestamps_lasts() {
    let [mut one, other] = [config(1), config(2)];
    one.tcp.features.stamps = false;
    let mut pair = Pair::with("native", &clean(), &one, &other);
    let quota = Quota::new(64);
    let (client, server) = pair.joined([&quota, &quota], V4);
    pair.close(&client);
    pair.expect(secs(5), "the end of the stream", |pair| pair.of(&server).ended);
    pair.close(&server);
    pair.run(secs(5));
    let (fifos, _) = quota.open(End::Left, SocketId(2), 1 << 16);
    let (local, remote) = (left(50_000), right(80));
    let early = Request::Connect { socket: SocketId(2), local, remote, fifos };
    assert_eq!(pair.try_submit(End::Left, early), Err(Errno::EADDRINUSE));
    pair.run(secs(6));
    let again = pair.connect(End::Left, &quota, 2, (local, remote));
    pair.expect(secs(5), "the handshake", |pair| pair.of(&again).connected == Some(Ok(())));
}
