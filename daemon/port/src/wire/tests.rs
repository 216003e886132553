//! The wire in virtual time: what each impairment does, conservation, replay.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{BURST, Instant, TX_SLOTS};

/// Both ends of a wire with one queue, driven by one thread.
struct Ends {
    left: WirePort,
    right: WirePort,
    tx: Box<dyn TxQueue>,
    rx: Box<dyn RxQueue>,
}

impl Ends {
    fn new(config: &WireConfig) -> Self {
        let (mut left, mut right) = WirePort::pair(config).unwrap();
        let (_, tx) = left.queue_pair(0).unwrap();
        let (rx, _) = right.queue_pair(0).unwrap();
        Self { left, right, tx, rx }
    }

    fn send(&mut self, frame: &[u8], now: Instant) {
        self.tx.burst().next(frame.len()).unwrap().copy_from_slice(frame);
        self.tx.flush(now);
    }

    /// Sends frames that hold their number and `len` bytes, one every `gap`, from time 0 on.
    fn send_numbered(&mut self, count: u32, len: usize, gap: Duration) {
        for number in 0..count {
            let mut frame = vec![0; len];
            frame[..4].copy_from_slice(&number.to_be_bytes());
            self.send(&frame, Instant::ZERO + gap * number);
        }
    }

    /// Receives everything in flight, each frame when it is due.
    fn drain(&mut self) -> Vec<(Instant, Vec<u8>)> {
        let mut arrived = Vec::new();
        while let Some(now) = self.rx.deadline() {
            let frames = self.rx.burst(now);
            assert!(!frames.is_empty(), "nothing is there at the deadline {now:?}");
            arrived.extend(frames.iter().map(|frame| (now, frame.bytes.to_vec())));
        }
        arrived
    }

    fn drain_numbers(&mut self) -> Vec<u32> {
        let number = |(_, frame): (_, Vec<u8>)| u32::from_be_bytes(*frame.first_chunk().unwrap());
        self.drain().into_iter().map(number).collect()
    }

    fn stats(&self) -> WireStats {
        self.left.tx_wire_stats()
    }
}

fn conserved(stats: &WireStats) -> bool {
    stats.sent + stats.duplicated
        == stats.delivered + stats.lost + stats.overflowed + stats.in_flight
}

const US: Duration = Duration::from_micros(1);

#[test]
fn a_perfect_wire_delivers_at_once_and_in_order() {
    let mut ends = Ends::new(&WireConfig::default());
    assert_eq!(ends.rx.deadline(), None);
    assert!(ends.rx.burst(Instant::from_micros(9)).is_empty());
    ends.send(b"one", Instant::from_micros(10));
    ends.send(b"two", Instant::from_micros(10));
    assert!(ends.rx.burst(Instant::from_micros(9)).is_empty(), "not before it is sent");
    let frames = ends.rx.burst(Instant::from_micros(10));
    assert_eq!(frames.iter().map(|frame| frame.bytes).collect::<Vec<_>>(), [b"one", b"two"]);
    assert!(ends.rx.burst(Instant::from_micros(10)).is_empty(), "a frame arrives once");
    let counted = WireStats { sent: 2, delivered: 2, ..WireStats::default() };
    assert_eq!(ends.stats(), counted);
    assert_eq!(ends.right.rx_wire_stats(), counted);
    assert_eq!(ends.right.tx_wire_stats(), WireStats::default());
    assert_eq!(ends.right.stats().rx_bytes, 6);
    assert!(ends.right.xstats().contains(&("rx_delivered".to_owned(), 2)));
}

#[test]
fn bursts_are_bounded_and_continue() {
    let mut ends = Ends::new(&WireConfig::default());
    for _ in 0..TX_SLOTS {
        ends.tx.burst().next(60).unwrap();
    }
    ends.tx.flush(Instant::ZERO);
    assert_eq!(ends.rx.burst(Instant::ZERO).len(), BURST);
    assert_eq!(ends.rx.deadline(), Some(Instant::ZERO));
    assert_eq!(ends.rx.burst(Instant::ZERO).len(), TX_SLOTS - BURST);
    assert_eq!(ends.rx.deadline(), None);
}

#[test]
fn delay_and_deadline_agree() {
    let mut ends = Ends::new(&WireConfig { delay: 50 * US, ..WireConfig::default() });
    ends.send(b"frame", Instant::from_micros(100));
    assert_eq!(ends.rx.deadline(), Some(Instant::from_micros(150)));
    assert!(ends.rx.burst(Instant::from_nanos(149_999)).is_empty());
    assert_eq!(ends.rx.burst(Instant::from_micros(150)).len(), 1);
}

#[test]
fn rate_spaces_frames_and_queue_drops_the_tail() {
    // 1000 bytes at 8 Mb/s take 1 ms each; four fit the queue.
    let config =
        WireConfig { rate_mbps: Some(8), queue_limit: 4, delay: 7 * US, ..WireConfig::default() };
    let mut ends = Ends::new(&config);
    ends.send_numbered(6, 1000, Duration::ZERO);
    let times: Vec<u64> = ends.drain().iter().map(|(at, _)| at.as_micros()).collect();
    assert_eq!(times, [1007, 2007, 3007, 4007]);
    assert_eq!((ends.stats().overflowed, ends.tx.dropped()), (2, 2));
    assert_eq!(ends.left.stats().tx_errors, 2);
    // The link is idle again, and the queue empty.
    ends.send(&[0; 500], Instant::from_micros(10_000));
    assert_eq!(ends.rx.deadline(), Some(Instant::from_micros(10_507)));
}

#[test]
fn in_flight_is_bounded_when_nobody_receives() {
    let config = WireConfig { in_flight_limit: 10, duplicate: 1.0, ..WireConfig::default() };
    let mut ends = Ends::new(&config);
    ends.send_numbered(8, 60, US);
    let stats = ends.stats();
    assert_eq!((stats.in_flight, stats.overflowed, stats.duplicated), (10, 6, 8));
    assert!(conserved(&stats), "{stats:?}");
    assert_eq!(ends.drain().len(), 10);
}

#[test]
fn jitter_varies_delay_and_keeps_order() {
    let config = WireConfig { delay: 100 * US, jitter: 40 * US, seed: 5, ..WireConfig::default() };
    let mut ends = Ends::new(&config);
    ends.send_numbered(1000, 60, 50 * US);
    let arrived = ends.drain();
    let delays: Vec<Duration> = (0u32..)
        .zip(&arrived)
        .map(|(number, (at, frame))| {
            assert_eq!(frame[..4], number.to_be_bytes());
            at.since(Instant::ZERO + 50 * US * number)
        })
        .collect();
    let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
    assert!(*least >= 100 * US && *least < 102 * US, "{least:?}");
    assert!(*most < 140 * US && *most > 138 * US, "{most:?}");
    // Frames so close together that jitter alone would reorder them.
    ends.send_numbered(1000, 60, Duration::from_nanos(1));
    assert!(ends.drain_numbers().is_sorted());
}

#[test]
fn reordered_frames_are_overtaken_and_the_others_keep_order() {
    let config = WireConfig {
        reorder: 0.1,
        reorder_delay: 20 * US,
        seed: 3,
        jitter: US,
        ..WireConfig::default()
    };
    let mut ends = Ends::new(&config);
    ends.send_numbered(1000, 60, US);
    let numbers = ends.drain_numbers();
    let mut newest = 0;
    let overtaken = numbers
        .iter()
        .filter(|number| {
            let late = **number < newest;
            newest = newest.max(**number);
            late
        })
        .count() as u64;
    // The last few may be held back with nobody behind them.
    let reordered = ends.stats().reordered;
    assert!((50..200).contains(&reordered), "{reordered}");
    assert!(overtaken <= reordered && overtaken + 20 >= reordered, "{overtaken} of {reordered}");
    let mut sorted = numbers;
    sorted.sort_unstable();
    assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
}

#[test]
fn duplicates_arrive_in_pairs() {
    let mut ends = Ends::new(&WireConfig { duplicate: 1.0, ..WireConfig::default() });
    ends.send_numbered(3, 60, US);
    assert_eq!(ends.drain_numbers(), [0, 0, 1, 1, 2, 2]);
}

#[test]
fn corruption_flips_one_bit_anywhere() {
    let mut ends = Ends::new(&WireConfig { corrupt: 1.0, seed: 9, ..WireConfig::default() });
    let mut flipped = std::collections::HashSet::new();
    for round in 0..2000 {
        ends.send(&[0x55; 8], Instant::from_micros(round));
        let (_, frame) = ends.drain().remove(0);
        let difference = u64::from_be_bytes(frame.try_into().unwrap()) ^ 0x5555_5555_5555_5555;
        assert_eq!(difference.count_ones(), 1);
        flipped.insert(difference);
    }
    assert_eq!(flipped.len(), 64, "every bit is hit at some time");
    // An empty frame has no bit to flip.
    ends.send(&[], Instant::from_micros(9999));
    assert_eq!(ends.stats().corrupted, 2000);
}

#[test]
fn loss_is_as_frequent_as_asked() {
    let mut ends = Ends::new(&WireConfig { loss: 0.02, seed: 11, ..WireConfig::default() });
    for round in 0..100_000 {
        let now = Instant::from_micros(round);
        ends.send(&[0; 60], now);
        ends.rx.burst(now);
    }
    // 2,000 expected with a deviation of 44: five deviations either way.
    let lost = ends.stats().lost;
    assert!((1780..2220).contains(&lost), "{lost} of 100,000 lost");
    assert_eq!(ends.stats().delivered + lost, 100_000);
}

#[test]
fn the_two_directions_differ() {
    let (mut left, mut right) =
        WirePort::pair(&WireConfig { loss: 0.5, ..WireConfig::default() }).unwrap();
    let (mut left_rx, mut left_tx) = left.queue_pair(0).unwrap();
    let (mut right_rx, mut right_tx) = right.queue_pair(0).unwrap();
    let fates: Vec<(usize, usize)> = (0..64)
        .map(|round| {
            let now = Instant::from_micros(round);
            for tx in [&mut left_tx, &mut right_tx] {
                tx.burst().next(60).unwrap();
                tx.flush(now);
            }
            (right_rx.burst(now).len(), left_rx.burst(now).len())
        })
        .collect();
    assert!(fates.iter().any(|(rightward, leftward)| rightward != leftward));
}

#[test]
fn a_cut_wire_loses_frames_until_it_is_mended() {
    let mut ends = Ends::new(&WireConfig { delay: US, ..WireConfig::default() });
    ends.send(b"before", Instant::ZERO);
    ends.right.set_link_up(false);
    assert!(!ends.left.link().up);
    ends.send(b"during", Instant::ZERO);
    ends.left.set_link_up(true);
    ends.send(b"after", Instant::ZERO);
    let arrived: Vec<_> = ends.drain().into_iter().map(|(_, frame)| frame).collect();
    assert_eq!(arrived, [b"before".to_vec(), b"after".to_vec()]);
    assert_eq!(ends.stats().lost, 1);
}

#[test]
fn queue_pairs_are_handed_out_once() {
    let (mut left, _right) =
        WirePort::pair(&WireConfig { queues: 2, ..WireConfig::default() }).unwrap();
    assert!(left.queue_pair(1).is_ok());
    let message = |result: io::Result<_>| result.err().unwrap().to_string();
    assert!(message(left.queue_pair(1)).contains("handed out already"));
    assert!(message(left.queue_pair(2)).contains("does not exist"));
    assert!(left.queue_pair(0).is_ok());
}

#[test]
fn wrong_configurations_are_refused_with_the_value() {
    let error = |config: WireConfig| WirePort::pair(&config).err().unwrap().to_string();
    let default = WireConfig::default;
    assert!(error(WireConfig { loss: 1.5, ..default() }).contains("loss is 1.5"));
    assert!(error(WireConfig { corrupt: f64::NAN, ..default() }).contains("corrupt is NaN"));
    assert!(error(WireConfig { rate_mbps: Some(0), ..default() }).contains("0 Mb/s"));
    assert!(error(WireConfig { queues: 0, ..default() }).contains("0 queues"));
    assert!(error(WireConfig { queues: 65, ..default() }).contains("65 queues"));
}

#[test]
fn ports_are_named_and_addressed_after_the_wire() {
    let (left, right) =
        WirePort::pair(&WireConfig { name: "lab".to_owned(), ..WireConfig::default() }).unwrap();
    let (again, _) =
        WirePort::pair(&WireConfig { name: "lab".to_owned(), ..WireConfig::default() }).unwrap();
    assert_eq!((&*left.info().name, &*right.info().name), ("lab-left", "lab-right"));
    assert_eq!(left.info().mac, again.info().mac);
    assert_ne!(left.info().mac, right.info().mac);
}

/// A UDP datagram over IPv4 between ports `remote` and 80, or a fragment of it.
fn datagram(remote: u16, fragment: bool) -> Vec<u8> {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(remote, 80)
        .write(&mut frame, b"data")
        .unwrap();
    if fragment {
        frame[20] = 0x20;
    }
    frame
}

#[test]
fn rss_spreads_flows_and_says_their_hash() {
    let config = WireConfig { queues: 4, rss: true, ..WireConfig::default() };
    let (mut left, mut right) = WirePort::pair(&config).unwrap();
    let (_, mut tx) = left.queue_pair(0).unwrap();
    let mut rx: Vec<_> = (0..4).map(|index| right.queue_pair(index).unwrap().0).collect();
    let mut used = [0; 4];
    for remote in 1000..1200 {
        let frame = datagram(remote, false);
        let crate::flow::Traffic::Udp(flow) = crate::flow::parse(&frame) else { panic!() };
        let hash = crate::flow::toeplitz(&flow);
        let owner = crate::flow::shard_of(hash, 4);
        tx.burst().next(frame.len()).unwrap().copy_from_slice(&frame);
        tx.flush(Instant::ZERO);
        for (shard, rx) in rx.iter_mut().enumerate() {
            let frames = rx.burst(Instant::ZERO);
            assert_eq!(frames.len(), usize::from(shard == owner));
            assert!(frames.iter().all(|frame| frame.hash == Some(hash)));
        }
        used[owner] += 1;
    }
    assert!(used.iter().all(|count| *count > 20), "{used:?}");

    let mut queues_of = |frames: &[Vec<u8>]| -> Vec<usize> {
        let count = |rx: &mut Box<dyn RxQueue>| {
            let frames = rx.burst(Instant::ZERO);
            assert!(frames.iter().all(|frame| frame.hash.is_none()));
            frames.len()
        };
        for frame in frames {
            tx.burst().next(frame.len()).unwrap().copy_from_slice(frame);
        }
        tx.flush(Instant::ZERO);
        rx.iter_mut().map(count).collect()
    };
    let fragments: Vec<_> = (1000..1010).map(|remote| datagram(remote, true)).collect();
    let counts = queues_of(&fragments);
    assert_eq!(counts.iter().max(), Some(&10), "fragments go by addresses alone: {counts:?}");
    assert_eq!(queues_of(&[vec![0; 60]]), [1, 0, 0, 0], "what has no flow goes to queue 0");
}

#[test]
fn without_rss_everything_lands_on_queue_0() {
    let config = WireConfig { queues: 2, ..WireConfig::default() };
    let (mut left, mut right) = WirePort::pair(&config).unwrap();
    let (_, mut tx) = left.queue_pair(1).unwrap();
    let (mut rx, _) = right.queue_pair(0).unwrap();
    for remote in 1000..1020 {
        let frame = datagram(remote, false);
        tx.burst().next(frame.len()).unwrap().copy_from_slice(&frame);
    }
    tx.flush(Instant::ZERO);
    let frames = rx.burst(Instant::ZERO);
    assert_eq!((frames.len(), frames[0].hash), (20, None));
}

prop_compose! {
    fn impaired()(
        seed: u64, loss in 0.0..0.5, duplicate in 0.0..0.5, reorder in 0.0..0.5,
        corrupt in 0.0..0.5, delay in 0u32..200, jitter in 0u32..200,
        rate in prop::option::of(1u32..1000), queue_limit in 1usize..50,
        in_flight_limit in 1usize..100,
    ) -> WireConfig {
        WireConfig {
            seed, loss, duplicate, reorder, corrupt, queue_limit, in_flight_limit,
            delay: US * delay, jitter: US * jitter, rate_mbps: rate,
            reorder_delay: 100 * US, ..WireConfig::default()
        }
    }
}

/// Sends a frame of each length, then lets time pass; receives every third time.
fn trace(config: &WireConfig, steps: &[(u16, u16)]) -> (Vec<(Instant, Vec<u8>)>, WireStats) {
    let mut ends = Ends::new(config);
    let mut now = Instant::ZERO;
    let mut arrived = Vec::new();
    for (at, (len, pause_us)) in steps.iter().enumerate() {
        ends.send(&vec![at as u8; usize::from(*len)], now);
        now = now + US * u32::from(*pause_us);
        if at % 3 == 0 {
            let frames = ends.rx.burst(now);
            arrived.extend(frames.iter().map(|frame| (now, frame.bytes.to_vec())));
        }
        let stats = ends.stats();
        assert!(conserved(&stats), "{stats:?}");
    }
    arrived.extend(ends.drain());
    let stats = ends.stats();
    assert_eq!((stats.in_flight, stats.delivered), (0, arrived.len() as u64));
    assert_eq!(stats.sent, steps.len() as u64);
    (arrived, stats)
}

fn steps() -> impl Strategy<Value = Vec<(u16, u16)>> {
    prop::collection::vec((0u16..1515, 0u16..100), 1..200)
}

proptest! {
    #[test]
    fn frames_are_conserved_and_runs_replay(config in impaired(), steps in steps()) {
        let (arrived, stats) = trace(&config, &steps);
        prop_assert!(conserved(&stats), "{:?}", stats);
        prop_assert_eq!((arrived, stats), trace(&config, &steps));
    }
}

#[test]
fn another_seed_is_another_run() {
    let config = |seed| WireConfig {
        seed,
        loss: 0.1,
        reorder: 0.1,
        duplicate: 0.1,
        corrupt: 0.1,
        jitter: 10 * US,
        ..WireConfig::default()
    };
    let steps = [(60, 5); 200];
    assert_eq!(trace(&config(1), &steps), trace(&config(1), &steps));
    assert_ne!(trace(&config(1), &steps), trace(&config(2), &steps));
}
