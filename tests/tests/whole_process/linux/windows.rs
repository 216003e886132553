//! Windows of more than 64 KiB: on a long way more is under way than a header can say.

use dmm_tests::lab::{Family, Lab, PortKind, ROLES};
use serde_json::json;

use super::{Joined, Packet, World, ahead};

/// What a header's window can say at most.
const UNSCALED_MAX: i64 = 65_535;

/// Bytes of a transfer.
const BYTES: usize = 8 << 20;

#[test]
fn more_is_under_way_than_64_kib() {
    let tcp = json!({"rx_buffer": 4 << 20, "tx_buffer": 4 << 20});
    let lab = Lab::on_cable_with_tcp(PortKind::AfPacket, "--delay-us 10000", 1, &tcp);
    let world = World::of(lab);
    for role in ROLES {
        let joined = world.joined(Family::V4, role);
        joined.we_send(BYTES);
        joined.kernel_sends(BYTES);
        let packets = world.packets(&joined);
        for ours in [true, false] {
            let most = under_way(&packets, &joined, ours);
            assert!(most > UNSCALED_MAX, "{role:?}: {most} bytes at most, ours: {ours}");
        }
    }
}

/// The most bytes of one end that were sent and not known to be acknowledged, at least: a segment echoes the
/// timestamp of the last one that its sender had got. None goes beyond the other's window.
fn under_way(packets: &[Packet], joined: &Joined, ours: bool) -> i64 {
    let syn = |of: bool| packets.iter().find(|p| joined.is_ours(p) == of && p.flags.syn);
    let first = syn(ours).expect("the handshake was seen").sequence.wrapping_add(1);
    let shift = syn(!ours).and_then(|p| p.options.shift).expect("windows are shifted");
    // What the other acknowledged at most by a time, in order.
    let mut acknowledged: Vec<(u32, u32)> = Vec::new();
    // A SYN's window is not shifted.
    let window = syn(!ours).map_or(0, |p| u32::from(p.window));
    let (mut most, mut right) = (0, first.wrapping_add(window));
    for packet in packets.iter().filter(|p| !p.flags.syn) {
        let (time, echo) = packet.options.timestamps.expect("both use them");
        if joined.is_ours(packet) != ours {
            let edge = packet.acknowledgement.wrapping_add(u32::from(packet.window) << shift);
            right = if ahead(edge, right) > 0 { edge } else { right };
            acknowledged.push((time, packet.acknowledgement));
        } else if !packet.is_empty() {
            let beyond = ahead(packet.end(), right);
            assert!(beyond <= 0, "{beyond} bytes beyond the window: {packet:?}");
            let known = acknowledged.iter().rev().find(|(time, _)| ahead(*time, echo) <= 0);
            most = most.max(known.map_or(0, |(_, known)| ahead(packet.end(), *known)));
        }
    }
    most
}
