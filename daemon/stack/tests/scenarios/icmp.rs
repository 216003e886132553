//! Errors that come by ICMP, about segments of ours (RFC 1191, RFC 5461, RFC 5927).

use std::net::IpAddr;

use dmm_stack::pair::{End, Pair, Quota};
use etherparse::PacketBuilder;
use nix::errno::Errno;

use crate::{V4, V6, clean, left, right, secs};

/// An error about the packet in `frame`, which the left station sent, from somebody on the way.
pub(crate) fn error(frame: &[u8], (kind, code, last): (u8, u8, u32)) -> Vec<u8> {
    let quoted = &frame[14..];
    let v4 = quoted[0] >> 4 == 4;
    let mut message = vec![kind, code, 0, 0];
    message.extend(last.to_be_bytes());
    message.extend(&quoted[..quoted.len().min(if v4 { 28 } else { 48 })]);
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
    let mut error = Vec::new();
    let (IpAddr::V4(from), IpAddr::V4(to)) = (V4.1, V4.0) else { panic!("IPv4") };
    let (IpAddr::V6(from6), IpAddr::V6(to6)) = (V6.1, V6.0) else { panic!("IPv6") };
    if v4 {
        let ip = link.ipv4(from.octets(), to.octets(), 64);
        ip.icmpv4_raw(kind, code, last.to_be_bytes()).write(&mut error, &message[8..]).unwrap();
    } else {
        let ip = link.ipv6(from6.octets(), to6.octets(), 64);
        ip.icmpv6_raw(kind, code, last.to_be_bytes()).write(&mut error, &message[8..]).unwrap();
    }
    error
}

/// The last segment that the left end sent.
fn last_sent(pair: &mut Pair) -> Vec<u8> {
    pair.take_frames(End::Left).pop().expect("a frame was sent")
}

#[test]
fn an_attempt_to_connect_ends_with_what_is_said_of_its_syn() {
    for ((kind, code), errno) in
        [((3, 0), Errno::ENETUNREACH), ((3, 1), Errno::EHOSTUNREACH), ((3, 3), Errno::ECONNREFUSED)]
    {
        let mut pair = Pair::new("native", &clean());
        let quota = Quota::new(64);
        let (one, other) = pair.joined([&quota, &quota], V4);
        pair.port(End::Left).set_link_up(false);
        pair.keep_frames(End::Left);
        let late = pair.connect(End::Left, &quota, 2, (left(5001), right(81)));
        pair.run(secs(1));
        let syn = last_sent(&mut pair);
        // Who does not know the number was not on the way.
        let mut guess = syn.clone();
        guess[38] ^= 0x55;
        pair.inject(End::Left, &error(&guess, (kind, code, 0)));
        pair.run(secs(1));
        assert_eq!(pair.of(&late).connected, None);
        pair.inject(End::Left, &error(&syn, (kind, code, 0)));
        pair.run(secs(1));
        assert_eq!(pair.of(&late).connected, Some(Err(errno)));
        pair.port(End::Left).set_link_up(true);
        pair.clean_up(&[&one, &other, &late], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn an_established_connection_goes_on_whatever_is_said() {
    let mut pair = Pair::new("native", &clean());
    let quota = Quota::new(64);
    let (mut one, mut other) = pair.joined([&quota, &quota], V4);
    pair.keep_frames(End::Left);
    pair.write_until(&mut one, 1000);
    pair.run(std::time::Duration::from_micros(1));
    let segment = last_sent(&mut pair);
    for code in 0..16 {
        pair.inject(End::Left, &error(&segment, (3, code, 0)));
    }
    pair.run(secs(1));
    pair.read_all(&mut other);
    pair.exchange(secs(5), &mut one, &mut other, (100_000, 100_000));
    assert_eq!(pair.of(&one).broken, None);
    pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
}

#[test]
fn segments_become_as_short_as_the_path_asks_for() {
    for (ends, error_of, mtu, least) in [(V4, (3, 4), 1000, 552), (V6, (2, 0), 1400, 1280)] {
        for (said, most) in [(mtu, mtu as usize), (68, least)] {
            let mut pair = Pair::new("native", &clean());
            let quota = Quota::new(256);
            let (mut one, mut other) = pair.joined([&quota, &quota], ends);
            pair.keep_frames(End::Left);
            pair.write_until(&mut one, 5000);
            pair.run(std::time::Duration::from_micros(1));
            let frames = pair.take_frames(End::Left);
            let long = frames.iter().find(|frame| frame.len() > 1414).expect("a full segment");
            pair.inject(End::Left, &error(long, (error_of.0, error_of.1, said)));
            pair.run(secs(1));
            pair.read_all(&mut other);
            assert_eq!(other.received, 5000, "what was too long is sent again");
            pair.exchange(secs(5), &mut one, &mut other, (200_000, 0));
            let longest = pair.take_frames(End::Left).iter().map(Vec::len).max().unwrap();
            assert!(longest <= most + 14 && longest + 100 > most, "{longest} of {most}");
            pair.clean_up(&[&one, &other], &[(End::Right, 0)], &[&quota]);
        }
    }
}
