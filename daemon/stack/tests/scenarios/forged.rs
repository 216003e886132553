//! Segments in the peer's name that are not the peer's, or come when they should not (RFC 5961,
//! RFC 9293 section 3.10.7).

use std::net::IpAddr;

use dmm_proto::op::{How, SocketOption};
use dmm_stack::Request;
use dmm_stack::pair::{Client, End, Pair, Quota};
use etherparse::{PacketBuilder, SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice};
use nix::errno::Errno;

use crate::{IP_KINDS, V4, V6, clean, left, millis, right, secs};

const LEFT_PORT: u16 = 50_000;

/// The numbers of the last segment in `frames`.
fn last(frames: &[Vec<u8>]) -> TcpHeader {
    let tcp = frames.iter().rev().find_map(|frame| {
        match SlicedPacket::from_ethernet(frame).ok()?.transport? {
            TransportSlice::Tcp(tcp) => Some(tcp.to_header()),
            _ => None,
        }
    });
    tcp.expect("a segment was sent")
}

/// A segment from the left end to the right one, as `change` makes it.
fn forged(change: impl FnOnce(&mut TcpHeader)) -> Vec<u8> {
    let mut header = TcpHeader::new(LEFT_PORT, 80, 0, 1000);
    change(&mut header);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .tcp_header(header)
        .write(&mut frame, b"")
        .unwrap();
    frame
}

/// An established connection, and the number that the right end expects next.
fn world(kind: &str) -> (Pair, Quota, Client, Client, u32) {
    let mut pair = Pair::new(kind, &clean());
    let quota = Quota::new(256);
    pair.keep_frames(End::Right);
    let (mut one, mut other) = pair.joined([&quota, &quota], V4);
    pair.exchange(secs(5), &mut one, &mut other, (3000, 3000));
    pair.run(secs(1));
    let next = last(&pair.take_frames(End::Right)).acknowledgment_number;
    (pair, quota, one, other, next)
}

#[test]
fn a_reset_must_have_the_very_number_that_is_expected() {
    for kind in IP_KINDS {
        let (mut pair, quota, mut one, mut other, next) = world(kind);
        for offset in [1, 100, 5000, u32::MAX, u32::MAX - 5000] {
            let reset = |header: &mut TcpHeader| {
                header.rst = true;
                header.sequence_number = next.wrapping_add(offset);
            };
            pair.inject(End::Right, &forged(reset));
        }
        pair.run(millis(1));
        assert_eq!(pair.counter(End::Right, "drop.tcp_challenged"), 5);
        assert_eq!(pair.counter(End::Right, "tcp.challenges"), 1, "their rate is limited");
        let challenge = last(&pair.take_frames(End::Right));
        assert_eq!(challenge.acknowledgment_number, next);
        pair.exchange(secs(5), &mut one, &mut other, (6000, 6000));
        pair.run(secs(1));
        let next = last(&pair.take_frames(End::Right)).acknowledgment_number;
        pair.inject(
            End::Right,
            &forged(|header| {
                header.rst = true;
                header.sequence_number = next;
            }),
        );
        pair.expect(secs(1), "the reset", |pair| pair.of(&other).broken == Some(Errno::ECONNRESET));
        pair.submit(End::Left, Request::Abort { socket: one.socket });
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn a_syn_on_a_connection_is_challenged_and_changes_nothing() {
    for kind in IP_KINDS {
        let (mut pair, quota, mut one, mut other, next) = world(kind);
        for number in [7, next, next.wrapping_add(100)] {
            pair.inject(
                End::Right,
                &forged(|header| {
                    header.syn = true;
                    header.sequence_number = number;
                }),
            );
            pair.run(millis(1));
            assert_eq!(last(&pair.take_frames(End::Right)).acknowledgment_number, next);
            pair.run(secs(1));
            pair.take_frames(End::Right);
        }
        assert_eq!(pair.counter(End::Right, "tcp.challenges"), 3);
        pair.exchange(secs(5), &mut one, &mut other, (6000, 6000));
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn a_new_connection_takes_the_place_of_one_in_time_wait() {
    for kind in IP_KINDS {
        let (mut pair, quota, one, other, _) = world(kind);
        // The end that closes first is the one in TIME-WAIT.
        pair.close(&other);
        pair.expect(secs(5), "the end", |pair| pair.of(&one).ended);
        pair.close(&one);
        pair.expect(secs(5), "the other's end", |pair| pair.of(&one).gone);
        let waiting = pair.sockets(End::Right);
        assert!(waiting.iter().any(|socket| socket.state == "TIME-WAIT"), "{waiting:?}");
        let server = pair.credit(End::Right, &quota, 0, 2);
        let before = pair.now;
        let again = pair.connect(End::Left, &quota, 2, (left(LEFT_PORT), right(80)));
        pair.expect(secs(1), "the connection", |pair| {
            pair.of(&again).connected == Some(Ok(())) && pair.of(&server).accepted.is_some()
        });
        assert!(pair.now - before < millis(100));
        assert!(pair.of(&other).gone);
        pair.clean_up(&[&again, &server], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn what_is_not_the_peers_is_no_sign_of_life() {
    for kind in IP_KINDS {
        let (mut pair, quota, one, mut other, next) = world(kind);
        let (option, value) = (SocketOption::UserTimeout, 5_000);
        pair.submit(End::Right, Request::SetOption { socket: other.socket, option, value });
        pair.port(End::Left).set_link_up(false);
        let before = pair.now;
        pair.write_until(&mut other, 6000);
        let mut guess = 1_u32;
        while pair.of(&other).broken.is_none() {
            guess = guess.wrapping_mul(2_654_435_761).wrapping_add(1);
            pair.inject(
                End::Right,
                &forged(|header| {
                    header.ack = true;
                    header.sequence_number = next.wrapping_add(1 << 30 | guess >> 2);
                    header.acknowledgment_number = guess;
                }),
            );
            let mut damaged = forged(|header| {
                header.ack = true;
                header.sequence_number = next;
            });
            damaged[50] ^= 1;
            pair.inject(End::Right, &damaged);
            pair.run(millis(200));
            assert!(pair.now - before < secs(30), "kept alive by guesses");
        }
        assert_eq!(pair.of(&other).broken, Some(Errno::ETIMEDOUT));
        assert!(pair.counter(End::Right, "drop.tcp_implausible") > 10);
        assert!(pair.counter(End::Right, "drop.rx_checksum") > 10);
        pair.submit(End::Left, Request::Abort { socket: one.socket });
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn a_flood_of_handshakes_that_nobody_completes_keeps_nobody_out() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        pair.listen(End::Right, 0, right(80), 8);
        let server = pair.credit(End::Right, &quota, 0, 1);
        for port in 0..100 {
            pair.inject(
                End::Right,
                &forged(|header| {
                    header.syn = true;
                    header.source_port = 1000 + port;
                }),
            );
        }
        pair.run(millis(10));
        assert_eq!(pair.counter(End::Right, "drop.tcp_backlog_full"), 92);
        // The left end resets what it did not begin; were it silent, their time would run out.
        pair.port(End::Left).set_link_up(false);
        for port in 0..100 {
            pair.inject(
                End::Right,
                &forged(|header| {
                    header.syn = true;
                    header.source_port = 2000 + port;
                }),
            );
        }
        pair.run(secs(2));
        pair.port(End::Left).set_link_up(true);
        let client = pair.connect(End::Left, &quota, 1, (left(LEFT_PORT), right(80)));
        pair.expect(secs(1), "the connection", |pair| pair.of(&client).connected == Some(Ok(())));
        assert!(pair.counter(End::Right, "drop.tcp_half_open_evicted") > 0);
        pair.clean_up(&[&client, &server], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn a_flood_of_handshakes_does_not_even_delay_who_completes_one() {
    let mut pair = Pair::new("native", &clean());
    let quota = Quota::new(64);
    let (one, other) = pair.joined([&quota, &quota], V4);
    let servers = [2, 3].map(|socket| pair.credit(End::Right, &quota, 0, socket));
    let mut clients = Vec::new();
    for round in 0..2_u16 {
        // Nobody answers: what the left end would say to these is lost.
        pair.port(End::Left).set_link_up(false);
        for port in 0..200 {
            let source_port = 1000 + 1000 * round + port;
            let syn = forged(|header| (header.syn, header.source_port) = (true, source_port));
            pair.inject(End::Right, &syn);
        }
        pair.run(millis(150));
        pair.port(End::Left).set_link_up(true);
        let before = pair.now;
        let ends = (left(40_000 + round), right(80));
        clients.push(pair.connect(End::Left, &quota, 10 + u32::from(round), ends));
        let (server, client) = (&servers[usize::from(round)], &clients[usize::from(round)]);
        pair.expect(secs(1), "the connection", |pair| {
            pair.of(client).connected == Some(Ok(())) && pair.of(server).accepted.is_some()
        });
        assert!(pair.now - before < millis(100), "at once");
    }
    assert_eq!(pair.counter(End::Right, "tcp.syn_cookies_taken"), 2);
    let [mut server, second] = servers;
    pair.exchange(secs(20), &mut clients[0], &mut server, (100_000, 100_000));
    // A guess is no cookie.
    let reset = pair.counter(End::Right, "tcp.resets_sent");
    pair.inject(
        End::Right,
        &forged(|header| {
            (header.ack, header.source_port) = (true, 777);
            (header.sequence_number, header.acknowledgment_number) = (77, 7777);
        }),
    );
    assert_eq!(pair.counter(End::Right, "tcp.resets_sent"), reset + 1);
    pair.run(secs(20));
    let all = [&one, &other, &clients[0], &clients[1], &server, &second];
    pair.clean_up(&all, &[(End::Right, 0)], &[&quota]);
}

#[test]
fn frames_that_are_not_for_this_stack_are_counted_as_what_they_are() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let syn = || forged(|header| header.syn = true);
        let mut other_mac = syn();
        other_mac[0] = 6;
        let mut tagged = syn();
        tagged.splice(12..12, [0x81, 0x00, 0, 7]);
        let mut damaged_header = syn();
        damaged_header[22] ^= 1;
        let mut other_ip = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 9, 9, 9], 64)
            .udp(7, 53)
            .write(&mut other_ip, b"x")
            .unwrap();
        let mut unknown = syn();
        unknown[12..14].copy_from_slice(&[0x88, 0x64]);
        let mut echo = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .icmpv4_echo_request(1, 1)
            .write(&mut echo, b"x")
            .unwrap();
        *echo.last_mut().unwrap() ^= 1;
        for (frame, counter) in [
            (other_mac, "drop.other_mac"),
            (tagged, "drop.vlan"),
            (damaged_header, "drop.rx_checksum"),
            (other_ip, "drop.not_ours"),
            (unknown, "drop.unknown_protocol"),
            (echo, "drop.rx_checksum"),
            (syn()[..40].to_vec(), "drop.ip_malformed"),
        ] {
            let before = pair.counter(End::Right, counter);
            pair.inject(End::Right, &frame);
            assert_eq!(pair.counter(End::Right, counter), before + 1, "{counter}");
        }
    }
}

#[test]
fn a_connection_in_time_wait_that_somebody_has_stays() {
    for kind in IP_KINDS {
        let (mut pair, quota, mut one, mut other, _) = world(kind);
        // The right end shuts down first, and has not read what came before the peer's end.
        pair.shutdown(&other, How::Write);
        pair.expect(secs(5), "the end", |pair| pair.of(&one).ended);
        pair.write_until(&mut one, 6000);
        pair.run(secs(1));
        pair.shutdown(&one, How::Write);
        pair.run(secs(1));
        let waiting = pair.sockets(End::Right);
        assert!(waiting.iter().any(|socket| socket.state == "TIME-WAIT"), "{waiting:?}");
        let next = last(&pair.take_frames(End::Right)).acknowledgment_number;
        for damaged in [false, true] {
            let mut syn = forged(|header| {
                header.syn = true;
                header.sequence_number = next.wrapping_add(1000);
            });
            syn[50] ^= u8::from(damaged);
            pair.inject(End::Right, &syn);
        }
        assert_eq!(pair.counter(End::Right, "drop.tcp_challenged"), 1);
        assert_eq!(pair.counter(End::Right, "drop.rx_checksum"), 1);
        pair.run(millis(100));
        pair.read_all(&mut other);
        assert_eq!((other.received, pair.of(&other).ended), (6000, true));
        pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn an_old_acknowledgement_of_a_syn_does_no_lasting_harm() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(256);
        // The neighbours know each other, so that the SYN is the next frame.
        let (first, second) = pair.joined([&quota, &quota], V4);
        pair.keep_frames(End::Right);
        pair.listen(End::Left, 9, left(80), 4);
        let mut server = pair.credit(End::Left, &quota, 9, 8);
        let mut client = pair.connect(End::Right, &quota, 7, (right(LEFT_PORT), left(80)));
        pair.run_until(secs(1), |pair| pair.counter(End::Right, "tx.frames") > 0);
        let isn = last(&pair.take_frames(End::Right)).sequence_number;
        pair.inject(
            End::Right,
            &forged(|header| {
                (header.source_port, header.destination_port) = (80, LEFT_PORT);
                header.ack = true;
                header.acknowledgment_number = isn.wrapping_sub(1 << 29);
            }),
        );
        pair.expect(secs(5), "the connection", |pair| {
            pair.of(&client).connected == Some(Ok(())) && pair.of(&server).accepted.is_some()
        });
        pair.exchange(secs(30), &mut client, &mut server, (100_000, 100_000));
        assert_eq!(pair.counter(End::Right, "drop.tcp_implausible"), 1, "that one alone");
        pair.clean_up(
            &[&first, &second, &client, &server],
            &[(End::Right, 0), (End::Left, 9)],
            &[&quota],
        );
    }
}

#[test]
fn a_reset_behind_an_extension_header_is_refused() {
    // The native kind reads past these headers.
    let mut pair = Pair::new("smoltcp", &clean());
    let quota = Quota::new(256);
    pair.keep_frames(End::Right);
    let (mut one, mut other) = pair.joined([&quota, &quota], V6);
    pair.exchange(secs(5), &mut one, &mut other, (3000, 3000));
    pair.run(secs(1));
    let next = last(&pair.take_frames(End::Right)).acknowledgment_number;
    let mut frame = Vec::new();
    let (IpAddr::V6(from), IpAddr::V6(to)) = V6 else { panic!("IPv6") };
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv6(from.octets(), to.octets(), 64)
        .tcp(LEFT_PORT, 80, next.wrapping_add(1), 1000)
        .rst()
        .write(&mut frame, b"")
        .unwrap();
    // Hop-by-hop options: six bytes of padding, then TCP (RFC 8200 section 4.3).
    frame[20] = 0;
    frame[18..20].copy_from_slice(&28_u16.to_be_bytes());
    frame.splice(54..54, [6, 0, 1, 4, 0, 0, 0, 0]);
    pair.inject(End::Right, &frame);
    assert_eq!(pair.counter(End::Right, "drop.tcp_implausible"), 1);
    pair.exchange(secs(5), &mut one, &mut other, (6000, 6000));
    pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
}

/// RFC 6191 section 2: in TIME-WAIT a newer timestamp shows that a SYN is new, whatever its number is.
#[test]
fn a_newer_timestamp_takes_the_place_of_one_in_time_wait() {
    for (later, taken) in [(5000, true), (u32::MAX - 5000, false)] {
        let (mut pair, _quota, one, other, next) = world("native");
        pair.close(&other);
        pair.expect(secs(5), "the end", |pair| pair.of(&one).ended);
        pair.close(&one);
        pair.run(secs(1));
        let echo =
            last(&pair.take_frames(End::Right)).options_iterator().find_map(|option| match option
                .ok()?
            {
                TcpOptionElement::Timestamp(_, echo) => Some(echo),
                _ => None,
            });
        let stamp = echo.expect("timestamps are in use").wrapping_add(later);
        // Before all that the connection ever had.
        let number = next.wrapping_sub(1 << 30);
        pair.inject(
            End::Right,
            &forged(|header| {
                (header.syn, header.sequence_number) = (true, number);
                let options = [TcpOptionElement::Timestamp(stamp, 0)];
                header.set_options(&options).expect("there is room");
            }),
        );
        pair.run(millis(10));
        let answer = last(&pair.take_frames(End::Right));
        assert_eq!((answer.syn, answer.ack), (taken, true));
        assert_eq!(answer.acknowledgment_number == number.wrapping_add(1), taken);
    }
}
