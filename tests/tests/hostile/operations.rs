//! Operations as a hostile client makes them up: well-formed, nearly so, and not at all.

use std::net::{IpAddr, SocketAddr};

use dmm_proto::layout::Geometry;
use dmm_proto::mock::Random;
use dmm_proto::op::{Address, How, Opening, Socket, SocketOption, Submission};
use dmm_proto::ring::Entry;

use crate::ground::{LEFT_ADDRESS, RIGHT_ADDRESS};

/// Addresses that mean something to somebody.
const ADDRESSES: [&str; 16] = [
    LEFT_ADDRESS,
    RIGHT_ADDRESS,
    "10.90.0.77",
    "0.0.0.0",
    "10.90.0.0",
    "10.90.0.255",
    "255.255.255.255",
    "127.0.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "fd00:90::1",
    "fd00:90::2",
    "::",
    "::1",
    "ff02::1",
    "::ffff:10.90.0.2",
];

/// Ports that somebody may have, and none.
const PORTS: [u16; 6] = [0, 1, crate::bystander::PORT, 7100, 32_768, u16::MAX];

/// An entry of a submission ring: an operation, one with a word changed, or eight random words.
pub fn entry(random: &mut Random, geometry: &Geometry) -> Entry {
    let mut entry = operation(random, geometry).encode();
    match random.below(8) {
        0 => entry = std::array::from_fn(|_| random.lie()),
        1 => entry[random.below(8) as usize] = random.lie(),
        // Every code there is and beyond, in front of what another code has.
        2 => entry[0] = entry[0] & !0xff | random.below(256),
        // An address of no family.
        3 => entry[[4, 7][random.below(2) as usize]] ^= random.below(16) << 16,
        _ => {}
    }
    entry
}

/// An operation, about a slot that may or may not be.
pub fn operation(random: &mut Random, geometry: &Geometry) -> Submission {
    let socket = socket(random, geometry);
    match random.below(13) {
        0 => Submission::Connect {
            socket,
            local: address(random),
            remote: address(random),
            opening: opening(random, 2),
        },
        1 => Submission::Listen {
            socket,
            local: address(random),
            backlog: random.lie() as u32,
            opening: opening(random, u64::from(u32::MAX)),
        },
        2 => Submission::Accept { listener: socket, socket: self::socket(random, geometry) },
        3 => Submission::Bind { socket, local: address(random), shares: random.below(2) == 1 },
        4 => {
            let peer = (random.below(4) > 0).then(|| address(random));
            Submission::SetPeer { socket, peer }
        }
        5 => Submission::Send { socket },
        6 => Submission::Receive { socket },
        7 => {
            let how = [How::Read, How::Write, How::Both][random.below(3) as usize];
            Submission::Shutdown { socket, how }
        }
        8 => {
            let option = SocketOption::ALL[random.below(SocketOption::ALL.len() as u64) as usize];
            Submission::SetOption { socket, option, value: random.lie() as u32 }
        }
        9 => Submission::Close { socket },
        10 => Submission::Inform { socket, number: random.lie() as u32 },
        11 => Submission::Group { socket, group: address(random), joins: random.below(4) > 0 },
        _ => Submission::Rehome { socket, context: context(random, geometry) },
    }
}

fn opening(random: &mut Random, fast: u64) -> Opening {
    Opening {
        max_segment: random.lie() as u16,
        traffic_class: random.below(256) as u8,
        hop_limit: random.below(256) as u8,
        fast_open: random.below(fast) as u32,
        congestion: random.below(256) as u8,
    }
}

/// A slot, mostly one of the first, and the generation that all of them begin with or another.
fn socket(random: &mut Random, geometry: &Geometry) -> Socket {
    let slot = match random.below(16) {
        0 => geometry.sockets - 1,
        1 => geometry.sockets + random.below(2) as u32,
        2 => random.lie() as u32,
        _ => random.below(6) as u32,
    };
    let generation = if random.below(12) == 0 { random.lie() as u32 } else { 1 };
    Socket { slot, generation }
}

/// A context, mostly one that is open.
fn context(random: &mut Random, geometry: &Geometry) -> u32 {
    match random.below(6) {
        0 => random.lie() as u32,
        1 => geometry.contexts,
        _ => random.below(u64::from(geometry.contexts)) as u32,
    }
}

fn address(random: &mut Random) -> Address {
    let ip: IpAddr = match random.below(20) {
        0 => std::net::Ipv4Addr::from(random.next() as u32).into(),
        1 => std::net::Ipv6Addr::from(u128::from(random.next()) << 64).into(),
        _ => ADDRESSES[random.below(16) as usize].parse().expect("as written above"),
    };
    let port = match random.below(8) {
        0 => random.next() as u16,
        _ => PORTS[random.below(6) as usize],
    };
    SocketAddr::new(ip, port).into()
}
