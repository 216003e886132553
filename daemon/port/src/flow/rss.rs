//! The flow hash: Toeplitz with the well-known symmetric key.
//!
//! Owns: the key that every port programs, the hash, and the spread of hashes over shards. Called
//! once per frame where a port has no RSS of its own, and by active opens. Must never: differ from
//! what a NIC with [`RSS_KEY`] and a default indirection table computes.

use std::net::{IpAddr, SocketAddr};

use super::Flow;

/// The RSS key: 0x6d5a repeated, under which both directions of a flow hash alike (Woo and Park,
/// "Scalable TCP Session Monitoring with Symmetric Receive-side Scaling", 2012).
pub const RSS_KEY: [u8; 40] = {
    let mut key = [0; 40];
    let mut at = 0;
    while at < key.len() {
        key[at] = if at % 2 == 0 { 0x6d } else { 0x5a };
        at += 1;
    }
    key
};

/// Entries of the indirection table whose default fill [`shard_of`] reproduces.
pub const INDIRECTION_ENTRIES: u32 = 128;

/// The Toeplitz hash under [`RSS_KEY`] of the source address, destination address, source port and
/// destination port of a frame that belongs to `flow`.
#[must_use]
pub fn toeplitz(flow: &Flow) -> u32 {
    let ports = flow.local.port() ^ flow.remote.port();
    hash_folded(fold(flow.local.ip()) ^ fold(flow.remote.ip()) ^ ports)
}

/// The Toeplitz hash under [`RSS_KEY`] of two addresses alone: what a NIC computes for fragments.
#[must_use]
pub fn toeplitz_addresses(local: IpAddr, remote: IpAddr) -> u32 {
    hash_folded(fold(local) ^ fold(remote))
}

/// The Toeplitz hash of `flow` under any key, bit by bit: for devices that insist on their own.
#[must_use]
pub fn toeplitz_with(key: &[u8; 40], flow: &Flow) -> u32 {
    let mut input = [0; 36];
    let mut len = 0;
    let mut append = |bytes: &[u8]| {
        input[len..len + bytes.len()].copy_from_slice(bytes);
        len += bytes.len();
    };
    for end in [flow.remote, flow.local] {
        match end {
            SocketAddr::V4(end) => append(&end.ip().octets()),
            SocketAddr::V6(end) => append(&end.ip().octets()),
        }
    }
    append(&flow.remote.port().to_be_bytes());
    append(&flow.local.port().to_be_bytes());
    let mut hash = 0;
    for (at, byte) in input[..len].iter().enumerate() {
        hash ^= hash_byte(key, at, *byte);
    }
    hash
}

/// The shard that owns flows of this `hash`, where `shards` queues share a 128-entry indirection
/// table filled round robin, as drivers fill it by default.
///
/// # Panics
/// If `shards` is 0.
#[must_use]
pub const fn shard_of(hash: u32, shards: usize) -> usize {
    (hash % INDIRECTION_ENTRIES) as usize % shards
}

/// Whether frames of `flow` arrive at `shard` of `shards`. An active open tries local ports until
/// this holds, so that the answers come back to the instance that asked.
///
/// # Panics
/// If `shards` is 0.
#[must_use]
pub fn lands_on(flow: &Flow, shard: usize, shards: usize) -> bool {
    shard_of(toeplitz(flow), shards) == shard
}

/// The exclusive-or of an address's 16-bit words.
///
/// Toeplitz is linear, and [`RSS_KEY`] repeats every 16 bits, so input words at different places
/// contribute by the same rule: their exclusive-or can be hashed in their stead.
fn fold(address: IpAddr) -> u16 {
    let bits = match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (bits >> 64) as u64 ^ bits as u64
        }
    };
    let half = (bits >> 32) as u32 ^ bits as u32;
    (half >> 16) as u16 ^ half as u16
}

fn hash_folded(word: u16) -> u32 {
    let [high, low] = word.to_be_bytes();
    TABLE[0][high as usize] ^ TABLE[1][low as usize]
}

/// The hash of each byte value at an even and at an odd position, under [`RSS_KEY`]; 2 KiB.
static TABLE: [[u32; 256]; 2] = {
    let mut table = [[0; 256]; 2];
    let mut at = 0;
    while at < 2 {
        let mut byte = 0;
        while byte < 256 {
            table[at][byte] = hash_byte(&RSS_KEY, at, byte as u8);
            byte += 1;
        }
        at += 1;
    }
    table
};

/// What `byte` at position `at` of the input contributes: for each set bit, the 32 bits of the key
/// that start at that bit's position.
const fn hash_byte(key: &[u8; 40], at: usize, byte: u8) -> u32 {
    let mut window: u64 = 0;
    let mut i = 0;
    while i < 5 {
        window = (window << 8) | key[at + i] as u64;
        i += 1;
    }
    let mut hash = 0;
    let mut bit = 0;
    while bit < 8 {
        if byte & (0x80 >> bit) != 0 {
            hash ^= (window >> (8 - bit)) as u32;
        }
        bit += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The key of the vectors in Microsoft's "Verifying the RSS Hash Calculation".
    const MICROSOFT_KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f,
        0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
        0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    fn flow(local: &str, remote: &str) -> Flow {
        Flow { local: local.parse().unwrap(), remote: remote.parse().unwrap() }
    }

    #[test]
    fn microsofts_vectors_hold() {
        // Destination, source, hash with ports, from the same page.
        let vectors = [
            ("161.142.100.80:1766", "66.9.149.187:2794", 0x51cc_c178),
            ("65.69.140.83:4739", "199.92.111.2:14230", 0xc626_b0ea),
            ("12.22.207.184:38024", "24.19.198.95:12898", 0x5c2b_394a),
            ("209.142.163.6:2217", "38.27.205.30:48228", 0xafc7_327f),
            ("202.188.127.2:1303", "153.39.163.191:44251", 0x10e8_28a2),
            ("[3ffe:2501:200:3::1]:1766", "[3ffe:2501:200:1fff::7]:2794", 0x4020_7d3d),
            ("[ff02::1]:4739", "[3ffe:501:8::260:97ff:fe40:efab]:14230", 0xdde5_1bbf),
            (
                "[fe80::200:f8ff:fe21:67cf]:38024",
                "[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251",
                0x02d1_feef,
            ),
        ];
        for (local, remote, hash) in vectors {
            assert_eq!(toeplitz_with(&MICROSOFT_KEY, &flow(local, remote)), hash, "{local}");
        }
    }

    #[test]
    fn shards_fill_like_a_round_robin_table() {
        let table: Vec<usize> = (0..128).map(|entry| entry % 3).collect();
        for hash in [0, 1, 127, 128, 0x51cc_c178, u32::MAX] {
            assert_eq!(shard_of(hash, 3), table[(hash & 127) as usize]);
        }
        assert_eq!(shard_of(u32::MAX, 1), 0);
    }

    #[test]
    fn every_shard_is_reachable_from_few_local_ports() {
        for shard in 0..4 {
            let found = (40_000..40_128).any(|port| {
                let flow = flow(&format!("10.0.0.1:{port}"), "10.0.0.2:80");
                lands_on(&flow, shard, 4)
            });
            assert!(found, "no local port of 128 reaches shard {shard}");
        }
    }

    prop_compose! {
        fn any_flow()(v6: bool, a: u128, b: u128, pa: u16, pb: u16) -> Flow {
            let address = |bits: u128| -> IpAddr {
                if v6 { IpAddr::V6(bits.into()) } else { IpAddr::V4((bits as u32).into()) }
            };
            Flow {
                local: SocketAddr::new(address(a), pa),
                remote: SocketAddr::new(address(b), pb),
            }
        }
    }

    proptest! {
        #[test]
        fn fast_equals_bitwise(flow in any_flow()) {
            prop_assert_eq!(toeplitz(&flow), toeplitz_with(&RSS_KEY, &flow));
        }

        #[test]
        fn both_directions_hash_alike(flow in any_flow()) {
            prop_assert_eq!(toeplitz(&flow), toeplitz(&flow.reversed()));
        }

        #[test]
        fn addresses_alone_hash_as_with_equal_ports(mut flow in any_flow(), port: u16) {
            flow.local.set_port(port);
            flow.remote.set_port(port);
            let alone = toeplitz_addresses(flow.local.ip(), flow.remote.ip());
            prop_assert_eq!(alone, toeplitz(&flow));
        }
    }
}
