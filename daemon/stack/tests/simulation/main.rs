//! Seeded scenarios in virtual time: paths of every quality, several connections, readers that sleep,
//! ends in every order. Bytes arrive intact and in order, and nothing is left over.
//!
//! A fixed set runs with each change, a longer one by `scripts/test-long` (`DMM_TEST_SEEDS` scenarios for
//! each pair of kinds). A failure names its seed, which `DMM_TEST_SEED` runs alone.
#![forbid(unsafe_code)]

mod chance;

use std::net::SocketAddr;
use std::time::Duration;

use chance::Chance;
use dmm_port::Instant;
use dmm_port::wire::WireConfig;
use dmm_proto::op::{How, SocketOption};
use dmm_stack::Request;
use dmm_stack::config::{Congestion, Neighbour, StackConfig};
use dmm_stack::pair::{Client, End, Pair, Quota, address_v4, address_v6, config};

/// Scenarios for each pair of kinds, unless `DMM_TEST_SEEDS` says otherwise.
const SEEDS: u64 = 200;
/// Chunks of each end: 64 MiB.
const CHUNKS: u32 = 4096;
/// A scenario of the worst path takes minutes; one that takes longer hangs.
const SPAN: Duration = Duration::from_secs(4 * 3600);

/// What a connection does.
struct Plan {
    begins: Instant,
    /// Bytes there and back.
    bytes: (u64, u64),
    /// Which end closes first.
    first: End,
    /// It closes when it has written all, or when all has come.
    early: bool,
    /// How long the readers sleep between looks.
    sleeps: [Duration; 2],
    no_delay: bool,
}

struct Conversation {
    plan: Plan,
    number: u16,
    ends: Option<[Client; 2]>,
    /// When the readers look again.
    looks: [Instant; 2],
    shut: [bool; 2],
    over: bool,
}

fn wire(chance: &mut Chance) -> WireConfig {
    let rare = |chance: &mut Chance, odds: f64, most: f64| {
        if chance.comes(odds) { most * chance.share() } else { 0.0 }
    };
    WireConfig {
        seed: chance.next(),
        delay: Duration::from_micros(chance.below(40_000)),
        jitter: Duration::from_micros(chance.below(3_000) * u64::from(chance.comes(0.5))),
        rate_mbps: chance.comes(0.8).then(|| 1 + chance.below(1000) as u32),
        queue_limit: 10 + chance.below(1000) as usize,
        loss: rare(chance, 0.7, 0.05),
        duplicate: rare(chance, 0.5, 0.02),
        reorder: rare(chance, 0.5, 0.05),
        reorder_delay: Duration::from_micros(1 + chance.below(20_000)),
        corrupt: rare(chance, 0.3, 0.01),
        mark_limit: chance.comes(0.5).then(|| chance.below(100) as usize),
        ..WireConfig::default()
    }
}

fn stack(chance: &mut Chance, kind: &str, station: u8) -> StackConfig {
    let mut config = config(station);
    config.mtu = [1280, 1400, 1500][chance.below(3) as usize];
    let buffers = [1 << 14, 1 << 16, 1 << 18];
    config.tcp.rx_buffer = buffers[chance.below(3) as usize];
    config.tcp.tx_buffer = buffers[chance.below(3) as usize];
    let algorithms: &[Congestion] = match kind {
        "native" => &[Congestion::Cubic, Congestion::Reno, Congestion::Dctcp, Congestion::Bbr],
        _ => &[Congestion::Cubic, Congestion::Reno],
    };
    config.tcp.congestion = algorithms[chance.below(algorithms.len() as u64) as usize];
    // ARP has no checksum: what a bit's flip makes of an address is believed for half a minute.
    let (peer, address) = (3 - station, [address_v4, address_v6]);
    let known = |address: fn(u8) -> std::net::IpAddr| Neighbour {
        address: address(peer),
        mac: [2, 0, 0, 0, 0, peer],
    };
    config.neighbours = address.map(known).to_vec();
    config.tcp.keepalive_s = Some(300);
    // The worst paths lose a handshake's segments several times over.
    config.tcp.user_timeout_s = 600;
    config
}

fn plan(chance: &mut Chance) -> Plan {
    let bytes = |chance: &mut Chance| match chance.below(3) {
        0 => 0,
        1 => chance.below(5_000),
        _ => chance.below(400_000),
    };
    let sleep = |chance: &mut Chance| {
        let millis = if chance.comes(0.3) { chance.below(500) } else { 0 };
        Duration::from_millis(millis)
    };
    Plan {
        begins: Instant::from_micros(chance.below(2_000_000)),
        bytes: (bytes(chance), bytes(chance)),
        first: if chance.comes(0.5) { End::Left } else { End::Right },
        early: chance.comes(0.5),
        sleeps: [sleep(chance), sleep(chance)],
        no_delay: chance.comes(0.5),
    }
}

fn run(kinds: [&str; 2], seed: u64) {
    println!("{kinds:?}: seed {seed}");
    let mut chance = Chance::new(seed);
    let wire = WireConfig { seed, ..wire(&mut chance) };
    let (left, right) = (stack(&mut chance, kinds[0], 1), stack(&mut chance, kinds[1], 2));
    let mut pair = Pair::mixed(kinds, &wire, &left, &right);
    let quotas = [Quota::new(CHUNKS), Quota::new(CHUNKS)];
    let v6 = chance.comes(0.5);
    let hosts = if v6 { address_v6 } else { address_v4 };
    let count = 1 + chance.below(8) as u16;
    let mut conversations: Vec<_> = (0..count)
        .map(|number| {
            // Each has a listener of its own, so that it is known whose credit is used.
            let server = SocketAddr::new(hosts(2), 1000 + number);
            pair.listen(End::Right, u32::from(number), server, 4);
            Conversation {
                plan: plan(&mut chance),
                number,
                ends: None,
                looks: [Instant::ZERO; 2],
                shut: [false; 2],
                over: false,
            }
        })
        .collect();
    let end = pair.now + SPAN;
    loop {
        // What readers and beginners wait for is no deadline of a stack.
        let wake = |conversations: &[Conversation], now| {
            conversations.iter().filter_map(|c| c.wakes_at(now)).min().unwrap_or(end).min(end)
        };
        let until = wake(&conversations, pair.now);
        pair.run_until(until - pair.now, |pair| {
            conversations.iter_mut().for_each(|c| c.advance(pair, &quotas, hosts));
            conversations.iter().all(|c| c.over) || wake(&conversations, pair.now) < until
        });
        if conversations.iter().all(|c| c.over) {
            break;
        }
        if pair.now >= end {
            let left: Vec<_> = conversations.iter().map(|c| c.state(&mut pair)).collect();
            pair.fail(&format!("{kinds:?} is not done after {SPAN:?} on {wire:?}: {left:?}"));
        }
    }
    let clients: Vec<_> = conversations.iter().flat_map(|c| c.ends.iter().flatten()).collect();
    let listeners: Vec<_> = (0..count).map(|number| (End::Right, number.into())).collect();
    pair.run(Duration::from_secs(700));
    pair.clean_up(&clients, &listeners, &[&quotas[0], &quotas[1]]);
}

impl Conversation {
    fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let times = [self.plan.begins, self.looks[0], self.looks[1]];
        times.into_iter().filter(|at| !self.over && *at > now).min()
    }

    /// How far it is: of each end what it has sent and received, and what it was told.
    fn state(&self, pair: &mut Pair) -> String {
        let mut ends = self.ends.iter().flatten();
        let mut end = || ends.next().map(|end| (end.sent, end.received, pair.of(end)));
        let (left, right) = (end(), end());
        format!("{left:?} of {:?}, then {right:?}; looks {:?}", self.plan.bytes, self.looks)
    }

    fn advance(&mut self, pair: &mut Pair, quotas: &[Quota; 2], hosts: fn(u8) -> std::net::IpAddr) {
        if self.over || pair.now < self.plan.begins {
            return;
        }
        let (number, plan) = (self.number, &self.plan);
        let ends = self.ends.get_or_insert_with(|| {
            let (from, to) = (
                SocketAddr::new(hosts(1), 5000 + number),
                SocketAddr::new(hosts(2), 1000 + number),
            );
            let right = pair.credit(End::Right, &quotas[1], number.into(), 100 + u32::from(number));
            let left = pair.connect(End::Left, &quotas[0], 100 + u32::from(number), (from, to));
            if plan.no_delay {
                let (socket, option) = (left.socket, SocketOption::NoDelay);
                pair.submit(End::Left, Request::SetOption { socket, option, value: 1 });
            }
            [left, right]
        });
        let [left, right] = ends;
        if pair.of(left).connected != Some(Ok(())) || pair.of(right).accepted.is_none() {
            if let Some(Err(errno)) = pair.of(left).connected {
                pair.fail(&format!("connection {number}: {errno}"));
            }
            // Of a handshake whose last segment is lost, and all that repeat it, one end knows nothing.
            // The other one's questions for a sign of life tell.
            if pair.of(left).broken.is_some() {
                pair.close(left);
                pair.close(right);
                self.over = true;
            }
            return;
        }
        let bytes = [plan.bytes.0, plan.bytes.1];
        for (at, client) in [&mut *left, &mut *right].into_iter().enumerate() {
            if let Some(errno) = pair.of(client).broken {
                pair.fail(&format!("connection {number}, {:?}: {errno}", client.end));
            }
            pair.write_until(client, bytes[at]);
            if pair.now >= self.looks[at] {
                pair.read_all(client);
                self.looks[at] = pair.now + plan.sleeps[at];
            }
            let written = client.sent == bytes[at];
            let ended = pair.of(client).ended && client.received == bytes[1 - at];
            let turn = if client.end == plan.first {
                plan.early || client.received == bytes[1 - at]
            } else {
                ended
            };
            if written && turn && !self.shut[at] {
                self.shut[at] = true;
                pair.shutdown(client, How::Write);
            }
        }
        let ended = |pair: &mut Pair, client: &Client, all: u64| {
            pair.of(client).ended && client.received == all
        };
        if ended(pair, left, bytes[1]) && ended(pair, right, bytes[0]) && self.shut == [true; 2] {
            pair.close(left);
            pair.close(right);
            self.over = true;
        }
    }
}

fn seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    match number("DMM_TEST_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("DMM_TEST_SEEDS").unwrap_or(SEEDS)).collect(),
    }
}

#[test]
fn native_and_native() {
    seeds().into_iter().for_each(|seed| run(["native", "native"], seed));
}

#[test]
fn native_asks_smoltcp() {
    seeds().into_iter().for_each(|seed| run(["native", "smoltcp"], seed));
}

#[test]
fn smoltcp_asks_native() {
    seeds().into_iter().for_each(|seed| run(["smoltcp", "native"], seed));
}
