//! One segment is lost: the receiver tells what came behind it, and the sender sends that one again and no other.

use dmm_tests::firewall::ONCE;
use dmm_tests::lab::{FAMILIES, PortKind, ROLES};
use serde_json::json;

use super::{Joined, Packet, World, ahead, over_tap_and_veth};

over_tap_and_veth!(a_hole_of_the_kernels_is_told, a_hole_of_ours_is_filled_alone);

/// Full segments before the one that is lost, of the ten that go out first.
const BEFORE: u32 = 4;

/// Bytes of a transfer.
const BYTES: usize = 300_000;

/// The numbers of the segment that is to be lost, at the fifth place of one sender's stream, whose handshake is
/// complete.
fn hole(packets: &[Packet], joined: &Joined, ours: bool) -> (u32, u32) {
    let syn = packets.iter().find(|p| joined.is_ours(p) == ours && p.flags.syn);
    let syn = syn.expect("it opened");
    let mss = packets.iter().filter_map(|p| p.options.mss).min().expect("the SYNs say");
    // Timestamps take 12 bytes of it.
    let len = u32::from(mss) - 12;
    let start = syn.sequence.wrapping_add(1).wrapping_add(BEFORE * len);
    (start, start.wrapping_add(len))
}

/// Matches the segment.
fn at((start, _): (u32, u32)) -> String {
    format!("tcp sequence {start} tcp flags & (syn | fin | rst) == 0 {ONCE}")
}

fn a_hole_of_the_kernels_is_told(kind: PortKind) {
    let world = World::new(kind, &json!({}));
    let firewall = world.firewall();
    for (family, role) in FAMILIES.into_iter().zip(ROLES) {
        let joined = world.joined(family, role);
        world.handshake(&joined);
        let hole = hole(&world.packets(&joined), &joined, false);
        firewall.clear();
        firewall.lose_outgoing(&at(hole));
        joined.kernel_sends(BYTES);
        assert_eq!(firewall.counts(), (0, 1), "a segment was lost");
        let packets = world.packets(&joined);
        check_blocks(&packets, &joined, true, hole);
        let again: Vec<_> =
            packets.iter().filter(|p| p.from == joined.them && p.sequence == hole.0).collect();
        assert_eq!(again.len(), 1, "the kernel sent it again: {again:#?}");
    }
}

fn a_hole_of_ours_is_filled_alone(kind: PortKind) {
    let world = World::new(kind, &json!({}));
    let firewall = world.firewall();
    for (family, role) in FAMILIES.into_iter().zip(ROLES) {
        let joined = world.joined(family, role);
        world.handshake(&joined);
        let hole = hole(&world.packets(&joined), &joined, true);
        firewall.clear();
        firewall.lose_incoming(&at(hole));
        joined.we_send(BYTES);
        assert_eq!(firewall.counts(), (1, 0), "a segment was lost");
        let packets = world.packets(&joined);
        check_blocks(&packets, &joined, false, hole);
        let ours: Vec<_> =
            packets.iter().filter(|p| p.from == joined.us && !p.is_empty()).collect();
        let mut next = ours[0].sequence;
        // What was new when the hole was filled is beyond what this is about: the tail may be probed.
        let (mut again, mut filled) = (Vec::new(), None);
        for packet in ours {
            if ahead(packet.sequence, next) < 0 {
                if filled.is_none_or(|filled| ahead(packet.sequence, filled) < 0) {
                    again.push((packet.sequence, packet.end()));
                }
                filled = filled.or(Some(next));
            }
            if ahead(packet.end(), next) > 0 {
                next = packet.end();
            }
        }
        assert_eq!(again, [hole], "the hole alone");
        let info = joined.ours.info().expect("a native stack");
        assert!(info.total_retrans >= 1, "{info:?}");
    }
}

/// One end tells of a hole: while it is there each acknowledgement ends before it and tells first what came last;
/// it begins by the segment behind the hole, and ends with the hole.
fn check_blocks(packets: &[Packet], joined: &Joined, ours: bool, hole: (u32, u32)) {
    let tells = packets.iter().filter(|p| joined.is_ours(p) == ours && !p.options.sacks.is_empty());
    let told: Vec<_> = tells.collect();
    assert!(!told.is_empty(), "nobody told of it");
    let mut end = hole.1;
    for packet in &told {
        assert_eq!(packet.acknowledgement, hole.0, "{packet:?}");
        let [(start, behind)] = packet.options.sacks[..] else { panic!("{packet:?}") };
        assert_eq!(start, hole.1, "{packet:?}");
        assert!(ahead(behind, end) >= 0 && behind != start, "{packet:?}");
        end = behind;
    }
    let last = packets.iter().rfind(|p| joined.is_ours(p) == ours && p.flags.ack);
    let last = last.expect("it acknowledged");
    assert!(ahead(last.acknowledgement, end) >= 0, "it is filled: {last:?}");
}
