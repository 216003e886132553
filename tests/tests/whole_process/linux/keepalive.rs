//! Signs of life on a silent connection: asked for, and given, by each end.

use std::time::Duration;

use dmm_tests::lab::{FAMILIES, PortKind, ROLES};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::json;

use super::{Joined, Packet, World, over_tap_and_veth};

over_tap_and_veth!(we_ask_and_the_kernel_answers, the_kernel_asks_and_we_answer);

fn we_ask_and_the_kernel_answers(kind: PortKind) {
    let world = World::new(kind, &json!({}));
    let joined: Vec<_> = FAMILIES.into_iter().zip(ROLES).map(|(f, r)| world.joined(f, r)).collect();
    for joined in &joined {
        joined.we_send(1000);
        joined.ours.set_keepalive(Some(Duration::from_secs(1))).expect("it lives");
    }
    joined.iter().for_each(|joined| check(&world, joined, true));
}

fn the_kernel_asks_and_we_answer(kind: PortKind) {
    let world = World::new(kind, &json!({}));
    let joined: Vec<_> = FAMILIES.into_iter().zip(ROLES).map(|(f, r)| world.joined(f, r)).collect();
    for joined in &joined {
        joined.kernel_sends(1000);
        setsockopt(&joined.theirs, sockopt::KeepAlive, &true).expect("it is a socket");
        setsockopt(&joined.theirs, sockopt::TcpKeepIdle, &1).expect("TCP's");
        setsockopt(&joined.theirs, sockopt::TcpKeepInterval, &1).expect("TCP's");
    }
    joined.iter().for_each(|joined| check(&world, joined, false));
}

/// One end asks by an old number, twice, and each time the other says what it expects.
fn check(world: &World, joined: &Joined, ours: bool) {
    let asks = |p: &Packet, next: u32| {
        joined.is_ours(p) == ours && p.sequence == next.wrapping_sub(1) && p.is_empty()
    };
    let answers = |p: &Packet, next: u32| joined.is_ours(p) != ours && p.acknowledgement == next;
    world.sniffer.wait("two questions and their answers", |packets| {
        let mut packets = packets.iter().filter(|p| joined.has(p));
        let syn = packets.clone().find(|p| joined.is_ours(p) == ours && p.flags.syn)?;
        let next = syn.sequence.wrapping_add(1001);
        for _ in 0..2 {
            packets.find(|p| asks(p, next))?;
            packets.find(|p| answers(p, next))?;
        }
        Some(())
    });
    // It goes on as before.
    joined.we_send(1000);
    joined.kernel_sends(1000);
}
