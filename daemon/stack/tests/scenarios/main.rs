//! Scenarios in virtual time: two stacks of one kind, a wire, and scripted clients.
#![forbid(unsafe_code)]

mod backlog;
mod black_hole;
mod congestion;
mod ending;
mod fast_open;
mod floods;
mod forged;
mod fragments;
mod groups;
mod handover;
mod hostile;
mod icmp;
mod many;
mod memory;
mod neighbours;
mod network;
mod pings;
mod sharing;
mod stream;
mod udp;
mod unreachable;
mod vlan;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dmm_port::wire::WireConfig;
use dmm_stack::pair::{address_v4, address_v6};

/// The kinds that speak IP.
const IP_KINDS: [&str; 2] = ["native", "smoltcp"];

/// 1 Gb/s and a round trip of 1 ms.
fn clean() -> WireConfig {
    WireConfig { delay: Duration::from_micros(500), rate_mbps: Some(1000), ..WireConfig::default() }
}

/// The same path, losing 2%, reordering 1% and doubling 1% of all frames.
fn lossy(seed: u64) -> WireConfig {
    WireConfig { seed, loss: 0.02, reorder: 0.01, duplicate: 0.01, ..clean() }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const V4: (IpAddr, IpAddr) = (address_v4(1), address_v4(2));
const V6: (IpAddr, IpAddr) = (address_v6(1), address_v6(2));

fn left(port: u16) -> SocketAddr {
    SocketAddr::new(V4.0, port)
}

fn right(port: u16) -> SocketAddr {
    SocketAddr::new(V4.1, port)
}
