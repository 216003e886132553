//! A stack's configuration in the stack crate's terms.
#![forbid(unsafe_code)]

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context;
use dmm_admin::config::{Cidr, Congestion, Ecn, Features, StackConfig};
use dmm_port::PortInfo;
use dmm_stack::config as stack;

/// Seconds without progress before a connection is given up: Linux's `tcp_retries2` of 15 comes to
/// 924 s; RFC 9293 section 3.8.3 recommends at least 100 s.
const USER_TIMEOUT_S: u32 = 120;

/// What the instance of a stack is made from. All instances of a stack share `fast_open_key`: a peer shows any
/// of them the cookie that another gave it.
pub fn of(
    config: &StackConfig,
    port: &PortInfo,
    (seed, fast_open_key): (u64, [u8; 16]),
    sockets_max: u32,
) -> stack::StackConfig {
    let gateways = config.gateway.0.iter().map(|&via| stack::Route { to: default_of(via), via });
    let routes = config.routes.iter().map(|r| stack::Route { to: prefix(&r.to), via: r.via });
    let neighbours =
        config.neighbours.iter().map(|n| stack::Neighbour { address: n.address, mac: n.mac.0 });
    stack::StackConfig {
        mac: port.mac,
        mtu: port.mtu,
        vlan: config.vlan,
        rx_checksum: port.rx_checksum,
        addresses: config.addresses.iter().map(prefix).collect(),
        routes: gateways.chain(routes).collect(),
        neighbours: neighbours.collect(),
        tcp: stack::TcpConfig {
            rx_buffer: config.tcp.rx_buffer,
            tx_buffer: config.tcp.tx_buffer,
            congestion: match config.tcp.congestion {
                Congestion::None => stack::Congestion::None,
                Congestion::Reno => stack::Congestion::Reno,
                Congestion::Cubic => stack::Congestion::Cubic,
                Congestion::Dctcp => stack::Congestion::Dctcp,
                Congestion::Bbr => stack::Congestion::Bbr,
            },
            user_timeout_s: USER_TIMEOUT_S,
            keepalive_s: config.tcp.keepalive_s,
            features: features(config.tcp.features),
            ecn: match config.tcp.ecn {
                Ecn::Off => stack::Ecn::Off,
                Ecn::Passive => stack::Ecn::Passive,
                Ecn::On => stack::Ecn::On,
            },
            train_min: stack::TRAIN_MIN,
            fast_open_key: Some(fast_open_key),
        },
        udp: stack::UdpConfig { rx_buffer: config.udp.rx_buffer, tx_buffer: config.udp.tx_buffer },
        sockets_max,
        seed,
    }
}

fn features(features: Features) -> stack::Features {
    let Features { sack, timestamps, paws, rack, prr, frto, black_holes } = features;
    stack::Features { sack, rack, prr, frto, paws, stamps: timestamps, black_holes }
}

/// A seed that nobody can guess: initial sequence numbers follow from it (RFC 6528).
pub fn secret_seed() -> anyhow::Result<u64> {
    secret().map(u64::from_ne_bytes)
}

/// Bytes that nobody can guess.
pub fn secret<const BYTES: usize>() -> anyhow::Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    let mut random = std::fs::File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    random.read_exact(&mut bytes).context("cannot read /dev/urandom")?;
    Ok(bytes)
}

fn prefix(cidr: &Cidr) -> stack::Prefix {
    stack::Prefix { address: cidr.address, len: cidr.prefix_len }
}

fn default_of(via: IpAddr) -> stack::Prefix {
    let address = match via {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    stack::Prefix { address, len: 0 }
}
