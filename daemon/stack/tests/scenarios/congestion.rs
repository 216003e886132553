//! Congestion control over a bottleneck: what each algorithm is for.

use std::time::Duration;

use dmm_port::wire::WireConfig;
use dmm_proto::congestion::CongestionControl;
use dmm_proto::op::SocketOption;
use dmm_stack::config::{Congestion, Ecn};
use dmm_stack::pair::{Client, End, Pair, Quota, config};
use dmm_stack::{Request, SocketId};
use nix::errno::Errno;

use crate::{V4, V6, clean, left, millis, right, secs};

/// 100 Mb/s and a round trip of 20 ms, which is a window of 250 KB, or 166 segments.
fn bottleneck(seed: u64, queue_limit: usize, loss: f64) -> WireConfig {
    WireConfig {
        seed,
        delay: millis(10),
        rate_mbps: Some(100),
        queue_limit,
        loss,
        ..WireConfig::default()
    }
}

/// Stacks with 4 MiB of buffer.
fn stacks(wire: &WireConfig, congestion: Congestion) -> (Pair, [Quota; 2]) {
    let tuned = |station| {
        let mut config = config(station);
        config.tcp.congestion = congestion;
        config.tcp.rx_buffer = 4 << 20;
        config
    };
    let quota = || Quota::with_fifos(2048, 4 << 20);
    (Pair::with("native", wire, &tuned(1), &tuned(2)), [quota(), quota()])
}

/// A transfer to the right: how fast it was in Mb/s, the smoothed round trip in its middle, and the share of
/// segments that were sent again.
struct Run {
    rate: f64,
    rtt: Duration,
    again: f64,
    marked: u64,
}

fn transfer(wire: &WireConfig, congestion: Congestion, bytes: u64) -> Run {
    let (mut pair, [near, far]) = stacks(wire, congestion);
    let (mut client, mut server) = pair.joined([&near, &far], V4);
    let began = pair.now;
    let mut rtt = Duration::ZERO;
    pair.expect(secs(3600), "all bytes", |pair| {
        pair.write_until(&mut client, bytes);
        pair.read_all(&mut server);
        if rtt.is_zero() && server.received > bytes / 2 {
            let now = pair.now;
            rtt = pair.stack(End::Left).tcp_info(now, client.socket).expect("it is open").rtt.0;
        }
        server.received == bytes
    });
    let rate = bytes as f64 * 8.0 / pair.now.since(began).as_secs_f64() / 1e6;
    let again = pair.counter(End::Left, "tcp.retransmitted") as f64;
    let again = again / pair.counter(End::Left, "tx.tcp_segments") as f64;
    let marked = pair.port(End::Left).tx_wire_stats().marked;
    pair.clean_up(&[&client, &server], &[(End::Right, 0)], &[&near, &far]);
    Run { rate, rtt, again, marked }
}

/// Chance losses are no congestion to a model of the path; CUBIC takes each for one.
#[test]
fn bbr_fills_a_path_that_loses_by_chance() {
    for seed in 0..3 {
        let wire = bottleneck(seed, 300, 0.01);
        let [cubic, bbr] =
            [Congestion::Cubic, Congestion::Bbr].map(|kind| transfer(&wire, kind, 20 << 20));
        assert!(bbr.rate > 70.0, "seed {seed}: {} Mb/s", bbr.rate);
        assert!(cubic.rate < 20.0, "seed {seed}: CUBIC has {} Mb/s", cubic.rate);
    }
}

/// A queue of 3000 frames is 360 ms, which CUBIC fills and BBR leaves alone.
#[test]
fn bbr_leaves_a_deep_queue_empty() {
    let wire = bottleneck(1, 3000, 0.0);
    let [cubic, bbr] =
        [Congestion::Cubic, Congestion::Bbr].map(|kind| transfer(&wire, kind, 100 << 20));
    assert!(bbr.rate > 85.0 && cubic.rate > 85.0, "{} and {} Mb/s", bbr.rate, cubic.rate);
    assert!(bbr.rtt < millis(35) && cubic.rtt > millis(60), "{:?} and {:?}", bbr.rtt, cubic.rtt);
}

/// A queue of an eighth of the window: what it does not hold is lost, and found out soon.
#[test]
fn bbr_loses_little_in_a_shallow_queue() {
    let run = transfer(&bottleneck(1, 20, 0.0), Congestion::Bbr, 100 << 20);
    assert!(run.rate > 80.0, "{} Mb/s", run.rate);
    assert!(run.again < 0.05, "{} sent again", run.again);
}

/// RFC 8257: marks from 20 frames on hold the queue there, where ECN by itself halves the window each time.
#[test]
fn dctcp_keeps_a_marking_queue_short_and_full() {
    let wire = WireConfig { delay: millis(1), mark_limit: Some(20), ..bottleneck(1, 1000, 0.0) };
    let run = transfer(&wire, Congestion::Dctcp, 50 << 20);
    assert!(run.rate > 90.0, "{} Mb/s", run.rate);
    // 20 frames are 2.4 ms.
    assert!(run.rtt < millis(6), "{:?}", run.rtt);
    assert!(run.marked > 100 && run.again == 0.0, "{} marked, {} again", run.marked, run.again);
    // Without it nobody asks for marks, and the queue fills.
    let plain = transfer(&wire, Congestion::Cubic, 50 << 20);
    assert_eq!(plain.marked, 0);
    assert!(plain.rtt > 4 * run.rtt, "{:?}", plain.rtt);
}

/// RFC 3168: a mark is taken as a loss is, and nothing is lost.
#[test]
fn marks_hold_cubic_back_without_a_loss() {
    for address in [V4, V6] {
        let wire = WireConfig { mark_limit: Some(100), ..bottleneck(1, 1000, 0.0) };
        let mut configs = [config(1), config(2)];
        configs[0].tcp.ecn = Ecn::On;
        configs[1].tcp.rx_buffer = 4 << 20;
        let mut pair = Pair::with("native", &wire, &configs[0], &configs[1]);
        let quota = Quota::with_fifos(2048, 4 << 20);
        let (mut client, mut server) = pair.joined([&quota, &quota], address);
        pair.exchange(secs(600), &mut client, &mut server, (20 << 20, 0));
        let stats = pair.port(End::Left).tx_wire_stats();
        assert!(stats.marked > 0 && stats.overflowed == 0, "{stats:?}");
        assert_eq!(pair.counter(End::Left, "tcp.retransmitted"), 0);
    }
}

/// Four flows of the same algorithm come to similar shares.
#[test]
fn flows_share_a_path() {
    for congestion in [Congestion::Cubic, Congestion::Bbr, Congestion::Reno] {
        let wire = bottleneck(1, 200, 0.0);
        let (mut pair, [near, far]) = stacks(&wire, congestion);
        pair.listen(End::Right, 0, right(80), 8);
        let mut flows: Vec<(Client, Client)> = (1..5)
            .map(|number| {
                let server = pair.credit(End::Right, &far, 0, number);
                let port = 2000 + number as u16;
                (pair.connect(End::Left, &near, number, (left(port), right(80))), server)
            })
            .collect();
        pair.expect(secs(10), "all handshakes", |pair| {
            flows.iter().all(|(client, _)| pair.of(client).connected == Some(Ok(())))
        });
        let end = pair.now + secs(30);
        let mut counted = false;
        let mut before = [0; 4];
        pair.run_until(secs(30), |pair| {
            for (client, server) in &mut flows {
                let until = client.sent + (1 << 20);
                pair.write_until(client, until);
                pair.read_all(server);
            }
            // The last two thirds count.
            if !counted && pair.now + secs(20) >= end {
                counted = true;
                before = std::array::from_fn(|flow| flows[flow].1.received);
            }
            false
        });
        let shares: [f64; 4] =
            std::array::from_fn(|flow| (flows[flow].1.received - before[flow]) as f64);
        let (sum, squares) = shares
            .iter()
            .fold((0.0, 0.0), |(sum, squares), share| (sum + share, squares + share * share));
        let rate = sum * 8.0 / 20.0 / 1e6;
        assert!(rate > 85.0, "{congestion:?}: {rate} Mb/s");
        // Jain's index: 1 for equal shares, a quarter if one had all.
        let index = sum * sum / (4.0 * squares);
        assert!(index > 0.8, "{congestion:?}: {index}, {shares:?}");
    }
}

/// `TCP_CONGESTION` of a socket, and of a listener for what it accepts.
#[test]
fn a_socket_chooses_its_algorithm() {
    let wire = bottleneck(3, 300, 0.01);
    let (mut pair, [near, far]) = stacks(&wire, Congestion::Cubic);
    pair.listen(End::Right, 0, right(80), 8);
    let option = SocketOption::CongestionControl;
    let choose = |socket, value| Request::SetOption { socket, option, value };
    let bbr = u32::from(CongestionControl::Bbr as u8);
    pair.submit(End::Right, choose(SocketId(0), bbr));
    assert_eq!(pair.try_submit(End::Right, choose(SocketId(0), 99)), Err(Errno::ENOENT));
    let mut server = pair.credit(End::Right, &far, 0, 1);
    let mut client = pair.connect(End::Left, &near, 1, (left(2000), right(80)));
    pair.expect(secs(60), "the handshake", |pair| pair.of(&server).accepted.is_some());
    // The server has BBR from its listener; the client chooses it later, and another before.
    let rate = |pair: &mut Pair, from: &mut Client, to: &mut Client| {
        let (began, until) = (pair.now, from.sent + (10 << 20));
        pair.expect(secs(600), "all bytes", |pair| {
            pair.write_until(from, until);
            pair.read_all(to);
            to.received == until
        });
        (10 << 20) as f64 * 8.0 / pair.now.since(began).as_secs_f64() / 1e6
    };
    let served = rate(&mut pair, &mut server, &mut client);
    let cubic = rate(&mut pair, &mut client, &mut server);
    pair.submit(End::Left, choose(client.socket, bbr));
    let chosen = rate(&mut pair, &mut client, &mut server);
    assert!(served > 2.0 * cubic && chosen > 2.0 * cubic, "{served}, {cubic}, {chosen} Mb/s");
}

/// `SO_MAX_PACING_RATE`, whatever the algorithm.
#[test]
fn a_socket_is_no_faster_than_its_owner_allows() {
    for congestion in [Congestion::Cubic, Congestion::Bbr] {
        let (mut pair, [near, far]) = stacks(&clean(), congestion);
        let (mut client, mut server) = pair.joined([&near, &far], V4);
        let (socket, option) = (client.socket, SocketOption::PacingRate);
        let refused = Request::SetOption { socket, option, value: 0 };
        assert_eq!(pair.try_submit(End::Left, refused), Err(Errno::EINVAL));
        pair.submit(End::Left, Request::SetOption { socket, option, value: 1_000_000 });
        let began = pair.now;
        pair.exchange(secs(60), &mut client, &mut server, (4_000_000, 0));
        let took = pair.now.since(began).as_secs_f64();
        assert!((3.8..4.3).contains(&took), "{congestion:?}: {took} s for 4 s' worth");
    }
}

/// What is paced is kept apart, so that a queue of a few frames is enough.
#[test]
fn pacing_spreads_a_window() {
    let wire = bottleneck(1, 15, 0.0);
    let (mut pair, [near, far]) = stacks(&wire, Congestion::None);
    let (mut client, mut server) = pair.joined([&near, &far], V4);
    let (socket, option) = (client.socket, SocketOption::PacingRate);
    pair.submit(End::Left, Request::SetOption { socket, option, value: 10_000_000 });
    pair.exchange(secs(60), &mut client, &mut server, (10_000_000, 0));
    assert_eq!(pair.port(End::Left).tx_wire_stats().overflowed, 0);
    assert_eq!(pair.counter(End::Left, "tcp.retransmitted"), 0);
}

/// The kind whose algorithms are the library's has but these.
#[test]
fn smoltcp_says_what_it_does_not_have() {
    for congestion in [Congestion::Bbr, Congestion::Dctcp] {
        let mut config = config(1);
        config.tcp.congestion = congestion;
        let error = dmm_stack::build("smoltcp", &config).err().expect("it is refused");
        assert!(error.to_string().contains("congestion control"), "{error}");
    }
}
