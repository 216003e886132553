//! Paths that lose long packets without a word (RFC 2923 section 2.1, RFC 4821).

use dmm_stack::pair::{Client, End, Pair, Quota};

use crate::{V4, V6, clean, secs};

/// Ethernet and IP headers, and TCP's with timestamps, before the payload of a frame over IPv4.
const HEADERS: u32 = 14 + 20 + 32;

/// Bytes of the longest frame that the left end sends while `bytes` go to the right.
fn longest(pair: &mut Pair, client: &mut Client, server: &mut Client, bytes: u64) -> usize {
    pair.keep_frames(End::Left);
    pair.exchange(secs(60), client, server, (bytes, 0));
    pair.take_frames(End::Left).iter().map(Vec::len).max().unwrap_or(0)
}

#[test]
fn segments_become_shorter_until_they_arrive() {
    for (ends, carries) in [(V4, 1300), (V4, HEADERS + 512), (V6, 1294), (V6, 900)] {
        let mut pair = Pair::new("native", &clean());
        let quota = Quota::new(512);
        let (mut client, mut server) = pair.joined([&quota, &quota], ends);
        pair.port(End::Left).set_longest(Some(carries));
        pair.exchange(secs(60), &mut client, &mut server, (1 << 20, 1 << 20));
        let lost = pair.port(End::Left).tx_wire_stats().lost;
        assert!(lost > 0, "there was a hole");
        // No other segment than those of the first window, and one each time that a longer one is tried.
        assert!(lost < 60, "{lost} frames fell in");
        pair.clean_up(&[&client, &server], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn a_path_that_was_only_away_carries_full_segments_again() {
    let mut pair = Pair::new("native", &clean());
    let quota = Quota::new(512);
    let (mut client, mut server) = pair.joined([&quota, &quota], V4);
    assert_eq!(longest(&mut pair, &mut client, &mut server, 100_000), 1514);
    // Away for the time of several timeouts, with bytes under way.
    pair.port(End::Left).set_link_up(false);
    let back = pair.now + secs(5);
    let mut came_back = false;
    pair.expect(secs(60), "the bytes of an outage", |pair| {
        pair.write_until(&mut client, 150_000);
        pair.read_all(&mut server);
        if !came_back && pair.now >= back {
            came_back = true;
            pair.port(End::Left).set_link_up(true);
        }
        server.received == 150_000
    });
    let shorter = longest(&mut pair, &mut client, &mut server, 50_000);
    assert!(shorter < 1000, "{shorter} bytes");
    // A try each 10 s; two of them lead back to 1448 bytes of payload.
    for _ in 0..3 {
        pair.run(secs(11));
        longest(&mut pair, &mut client, &mut server, 20_000);
    }
    assert_eq!(longest(&mut pair, &mut client, &mut server, 100_000), 1514);
    assert_eq!(pair.counter(End::Left, "tcp.recoveries"), 0);
}

#[test]
fn a_lost_probe_is_no_congestion() {
    let mut pair = Pair::new("native", &clean());
    let quota = Quota::new(512);
    let (mut client, mut server) = pair.joined([&quota, &quota], V4);
    pair.port(End::Left).set_longest(Some(1000));
    pair.exchange(secs(60), &mut client, &mut server, (100_000, 0));
    let (lost, recoveries) =
        (pair.port(End::Left).tx_wire_stats().lost, pair.counter(End::Left, "tcp.recoveries"));
    for _ in 0..6 {
        pair.run(secs(30));
        pair.exchange(secs(60), &mut client, &mut server, (100_000, 0));
    }
    let tried = pair.port(End::Left).tx_wire_stats().lost - lost;
    assert!((2..=6).contains(&tried), "{tried} probes");
    assert_eq!(pair.counter(End::Left, "tcp.recoveries"), recoveries);
}
