//! Hostile bytes from the network: nothing panics, and bystanders are not harmed.

use dmm_stack::kinds::KINDS;
use dmm_stack::pair::{Client, End, Pair, Quota};
use etherparse::PacketBuilder;
use proptest::prelude::*;

use crate::{V4, clean, right, secs};

/// A stack with a connection, a listener and a UDP socket, and what its peer sent so far.
fn world(kind: &str) -> (Pair, Vec<Client>, Vec<Vec<u8>>) {
    let mut pair = Pair::new(kind, &clean());
    let quota = Quota::new(256);
    pair.keep_frames(End::Left);
    let (mut one, mut other) = pair.joined([&quota, &quota], V4);
    pair.exchange(secs(5), &mut one, &mut other, (3000, 3000));
    let mut clients = vec![one, other];
    if kind != "test" {
        clients.push(pair.bind(End::Right, &quota, 7, right(53)));
    }
    let frames = pair.take_frames(End::Left);
    (pair, clients, frames)
}

/// How a frame that was once good is made worse.
#[derive(Clone, Debug)]
struct Damage {
    frame: prop::sample::Index,
    /// Where it is cut off.
    cut: Option<prop::sample::Index>,
    bytes: Vec<(prop::sample::Index, u8)>,
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<prop::sample::Index>;
    let bytes = prop::collection::vec((index(), any::<u8>()), 0..6);
    (index(), prop::option::weighted(0.2, index()), bytes).prop_map(|(frame, cut, bytes)| Damage {
        frame,
        cut,
        bytes,
    })
}

/// Brings IPv4 and TCP or UDP checksums up to date, so that the damage gets past them.
fn mend(frame: &mut [u8]) {
    let sum = |bytes: &[u8], start: u32| {
        let mut sum = start;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    };
    if frame.len() < 54 || frame[12..15] != [8, 0, 0x45] {
        return;
    }
    frame[24..26].fill(0);
    let header = sum(&frame[14..34], 0);
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let end = (14 + total).min(frame.len());
    let at = match frame[23] {
        6 => 50,
        17 => 40,
        _ => return,
    };
    if end < at + 2 {
        return;
    }
    frame[at..at + 2].fill(0);
    let pseudo: u32 = frame[26..34].chunks(2).map(|p| u32::from(p[0]) << 8 | u32::from(p[1])).sum();
    let start = pseudo + u32::from(frame[23]) + (end - 34) as u32;
    let checksum = sum(&frame[34..end], start);
    frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_frames_do_no_harm(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..50),
    ) {
        for kind in KINDS {
            let (mut pair, mut clients, _) = world(kind);
            for frame in &frames {
                pair.inject(End::Right, frame);
            }
            pair.run(secs(1));
            let (one, rest) = clients.split_at_mut(1);
            pair.exchange(secs(5), &mut one[0], &mut rest[0], (1000, 1000));
        }
    }

    #[test]
    fn damaged_frames_never_panic(damages in prop::collection::vec(damage(), 1..60)) {
        for kind in KINDS {
            let (mut pair, _clients, frames) = world(kind);
            for damage in &damages {
                let mut frame = damage.frame.get(&frames).clone();
                for (at, byte) in &damage.bytes {
                    // The headers are where it matters.
                    let headers = frame.len().min(100);
                    frame[at.index(headers)] = *byte;
                }
                if let Some(cut) = damage.cut {
                    frame.truncate(cut.index(frame.len()));
                }
                mend(&mut frame);
                pair.inject(End::Right, &frame);
                pair.run(crate::millis(1));
            }
            pair.run(secs(100));
        }
    }
}

/// RFC 1122 section 3.2.1.3: what claims to come from us, from many or from nobody is not answered, or an echo
/// would go round for ever.
#[test]
fn packets_from_impossible_addresses_are_counted_and_not_taken() {
    for kind in crate::IP_KINDS {
        let (mut pair, clients, _) = world(kind);
        pair.run(secs(1));
        pair.keep_frames(End::Right);
        let sources: [[u8; 4]; 8] = [
            [10, 0, 0, 2],
            [10, 0, 0, 255],
            [224, 0, 0, 1],
            [255, 255, 255, 255],
            [127, 0, 0, 1],
            [0, 0, 0, 0],
            [0, 1, 2, 3],
            [240, 0, 0, 1],
        ];
        for source in sources {
            let link = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
            let mut frame = Vec::new();
            link().ipv4(source, [10, 0, 0, 2], 64).udp(53, 53).write(&mut frame, b"x").unwrap();
            pair.inject(End::Right, &frame);
            frame.clear();
            let syn = link().ipv4(source, [10, 0, 0, 2], 64).tcp(80, 80, 1, 1000).syn();
            syn.write(&mut frame, &[]).unwrap();
            pair.inject(End::Right, &frame);
        }
        pair.run(secs(1));
        assert_eq!(pair.counter(End::Right, "drop.impossible_source"), 2 * sources.len() as u64);
        assert_eq!(pair.counter(End::Right, "rx.udp_datagrams"), 0);
        assert_eq!(pair.take_frames(End::Right), Vec::<Vec<u8>>::new(), "{kind} answers");
        drop(clients);
    }
}
