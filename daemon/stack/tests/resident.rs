//! Resident memory, in a process of its own: a connection that carries no data takes next to none,
//! and what it took is given back.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::time::Duration;

use dmm_port::wire::WireConfig;
use dmm_stack::Request;
use dmm_stack::config::Neighbour;
use dmm_stack::pair::{End, Pair, Quota, address_v4, config};
use etherparse::PacketBuilder;

const ROUNDS: u16 = 5;
const SYNS_PER_ROUND: u16 = 4000;
/// Bytes of each buffer of a connection.
const BUFFER_BYTES: u32 = 1 << 16;
/// What half-open connections may take beyond what was resident before, 8 KiB each: two pages of
/// records, and none of the 128 KiB of buffers.
const GROWTH_MAX_BYTES: u64 = 8192 * SYNS_PER_ROUND as u64;

/// Bytes of buffers that a stack keeps for its next connections, and half as much again for what
/// the heap keeps of records.
const KEPT_MAX_BYTES: u64 = 24 << 20;
const CONNECTIONS: u16 = 1000;
/// Bytes that each of them carries, together more than both stacks may keep.
const CARRIED_BYTES: u64 = 60_000;

/// Bytes of this process that are in memory (proc(5), `statm`).
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("a mounted /proc");
    let pages: u64 = statm.split(' ').nth(1).expect("seven fields").parse().expect("a number");
    let page_bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    pages * u64::try_from(page_bytes.expect("a limit").expect("a size")).expect("positive")
}

fn half_open(pair: &mut Pair) -> usize {
    pair.sockets(End::Right).iter().filter(|report| report.state == "SYN-RECV").count()
}

// One after the other: what is resident is so for the whole process.
#[test]
fn connections_take_what_they_carry_and_give_it_back() {
    half_open_connections_take_no_buffers_and_give_back_the_rest();
    buffers_that_held_data_are_given_back();
}

fn half_open_connections_take_no_buffers_and_give_back_the_rest() {
    let mut right = config(2);
    right.neighbours = vec![Neighbour { address: address_v4(1), mac: [2, 0, 0, 0, 0, 1] }];
    right.sockets_max = 8192;
    (right.tcp.rx_buffer, right.tcp.tx_buffer) = (BUFFER_BYTES, BUFFER_BYTES);
    let mut pair = Pair::with("smoltcp", &WireConfig::default(), &config(1), &right);
    pair.listen(End::Right, 0, "10.0.0.2:80".parse().unwrap(), 4096);
    pair.run(Duration::from_secs(1));
    // Nobody answers what is answered.
    pair.port(End::Left).set_link_up(false);
    let before = resident_bytes();
    for round in 0..ROUNDS {
        for n in 0..SYNS_PER_ROUND {
            let mut syn = Vec::new();
            let port = 1024 + round * SYNS_PER_ROUND + n;
            PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .tcp(port, 80, 1, 1000)
                .syn()
                .write(&mut syn, b"")
                .unwrap();
            pair.inject(End::Right, &syn);
        }
        assert_eq!(half_open(&mut pair), usize::from(SYNS_PER_ROUND));
        let growth = resident_bytes().saturating_sub(before);
        assert!(growth < GROWTH_MAX_BYTES, "{growth} bytes more in round {round}");
        pair.run(Duration::from_secs(20));
        assert_eq!(half_open(&mut pair), 0);
        let growth = resident_bytes().saturating_sub(before);
        assert!(growth < GROWTH_MAX_BYTES, "{growth} bytes are left of round {round}");
    }
    let expired = u64::from(ROUNDS * SYNS_PER_ROUND);
    assert_eq!(pair.counter(End::Right, "drop.tcp_half_open_expired"), expired);
}

fn buffers_that_held_data_are_given_back() {
    let quota = Quota::new(256);
    let mut pair = Pair::new("smoltcp", &WireConfig::default());
    pair.listen(End::Right, 0, "10.0.0.2:80".parse().unwrap(), 4096);
    let before = resident_bytes();
    let mut clients: Vec<_> = (1..=CONNECTIONS)
        .map(|n| {
            let ends = (SocketAddr::new(address_v4(1), n), "10.0.0.2:80".parse().unwrap());
            let mut client = pair.connect(End::Left, &quota, n.into(), ends);
            pair.expect(Duration::from_secs(5), "the connection", |pair| {
                pair.write_until(&mut client, CARRIED_BYTES);
                client.sent == CARRIED_BYTES
            });
            // An idle socket lets go of its chunks, which the next ones need.
            pair.run(Duration::from_secs(1));
            for end in [End::Left, End::Left, End::Right, End::Right] {
                let now = pair.now;
                pair.stack(end).trim(now);
            }
            client
        })
        .collect();
    // Nobody took the connections: what came waits in the library's buffers.
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown > CARRIED_BYTES * u64::from(CONNECTIONS), "{grown} bytes");
    for client in clients.drain(..) {
        pair.submit(End::Left, Request::Abort { socket: client.socket });
    }
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.sockets(End::Right).len(), 1, "the listener is left");
    let kept = resident_bytes().saturating_sub(before);
    assert!(kept < 2 * KEPT_MAX_BYTES, "{kept} of {grown} bytes are left");
}
