//! Transfers with random loss, both ways at once: all bytes arrive as they are (CI; `DMM_TEST_LINUX_MIB` for more).

use dmm_tests::lab::{FAMILIES, PortKind, ROLES};
use serde_json::json;

use super::{Packet, World, over_tap_and_veth};
use crate::matrix::size;

over_tap_and_veth!(a_loss_of_a_thousandth, a_loss_of_a_hundredth, a_loss_of_a_twentieth);

fn a_loss_of_a_thousandth(kind: PortKind) {
    bytes_survive(kind, 1);
}

fn a_loss_of_a_hundredth(kind: PortKind) {
    bytes_survive(kind, 10);
}

fn a_loss_of_a_twentieth(kind: PortKind) {
    bytes_survive(kind, 50);
}

/// Loses so many of a thousand packets, whatever they carry, in each direction.
fn bytes_survive(kind: PortKind, thousandths: u32) {
    let bytes = size("DMM_TEST_LINUX_MIB", 4) << 20;
    let world = World::new(kind, &json!({}));
    let firewall = world.firewall();
    let some = format!("tcp dport != 0 numgen random mod 1000 < {thousandths}");
    firewall.lose_incoming(&some);
    firewall.lose_outgoing(&some);
    for (family, role) in FAMILIES.into_iter().zip(ROLES) {
        let server = format!("exchange --bytes {bytes} --seed 1");
        let client = format!("exchange --bytes {bytes} --seed 2");
        // Of a short transfer nothing may be lost.
        let mut lost = firewall.counts();
        loop {
            let pair = world.lab.pair(family, role, &server, &client);
            let (client, server) = (pair.client.outcome(), pair.server.outcome());
            for (from, to) in [(&client, &server), (&server, &client)] {
                assert_eq!((&from.error, &to.error), (&None, &None), "{family:?} {role:?}");
                assert_eq!((to.received, to.end_of_file), (bytes, true));
                assert_eq!(to.received_sha256, from.sent_sha256);
            }
            let before = std::mem::replace(&mut lost, firewall.counts());
            if lost.0 > before.0 && lost.1 > before.1 {
                break;
            }
        }
    }
    // Both ends told what had arrived behind a hole.
    let us = FAMILIES.map(|family| world.us(family).ip());
    let tells = |p: &&Packet| !p.options.sacks.is_empty();
    let packets = world.sniffer.packets();
    let (ours, theirs): (Vec<_>, Vec<_>) =
        packets.iter().filter(tells).partition(|p| us.contains(&p.from.ip()));
    assert!(!ours.is_empty() && !theirs.is_empty(), "{} and {}", ours.len(), theirs.len());
    let again = world.lab.counters().get("stack.s0.0.tcp.retransmitted").copied();
    assert!(again.is_some_and(|again| again > 0), "{:?}", world.lab.counters());
}
