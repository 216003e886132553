//! Explicit congestion notification (RFC 3168): a mark on the way is echoed, and the echo answered.

use dmm_tests::firewall::ONCE;
use dmm_tests::lab::{FAMILIES, Family, PortKind, ROLES, Role};
use serde_json::json;

use super::{Joined, Packet, World, ahead, over_tap_and_veth};

over_tap_and_veth!(marks_are_echoed_and_answered, it_is_used_as_configured);

/// The ECN field.
const NOT_CAPABLE: u8 = 0;
const CAPABLE: u8 = 2;
const CONGESTED: u8 = 3;

/// Bits of `tcpi_options`.
const ECN: u8 = 8;
const ECN_SEEN: u8 = 16;

/// Bytes of a transfer: many windows.
const BYTES: usize = 2_000_000;

fn marks_are_echoed_and_answered(kind: PortKind) {
    let world = World::new(kind, &json!({"ecn": "on"}));
    world.lab.kernel().set("tcp_ecn", "1");
    let firewall = world.firewall();
    for (family, role) in FAMILIES.into_iter().flat_map(|f| ROLES.map(|role| (f, role))) {
        let joined = world.joined(family, role);
        let (syn, answer) = world.handshake(&joined);
        assert_eq!((syn.flags.ece, syn.flags.cwr), (true, true), "{syn:?}");
        assert_eq!((answer.flags.ece, answer.flags.cwr), (true, false), "{answer:?}");
        let ip = if family == Family::V4 { "ip" } else { "ip6" };
        let (matches, mark) = (format!("{ip} ecn ect0 {ONCE}"), format!("{ip} ecn set ce"));
        firewall.clear();
        firewall.incoming(&matches, &mark);
        joined.we_send(BYTES);
        assert_eq!(firewall.counts(), (1, 0), "a packet of ours was marked");
        let info = joined.ours.info().expect("a native stack");
        assert_eq!(info.options & (ECN | ECN_SEEN), ECN);
        firewall.clear();
        firewall.outgoing(&matches, &mark);
        joined.kernel_sends(BYTES);
        assert_eq!(firewall.counts(), (0, 1), "a packet of the kernel's was marked");
        let info = joined.ours.info().expect("a native stack");
        assert_eq!(info.options & (ECN | ECN_SEEN), ECN | ECN_SEEN);
        let packets = world.packets(&joined);
        check_fields(&packets, &joined);
        for ours in [true, false] {
            check_echo(&packets, &joined, ours);
        }
    }
}

/// Payload that goes out first is capable, all else is not.
fn check_fields(packets: &[Packet], joined: &Joined) {
    for ours in [true, false] {
        let sent: Vec<_> = packets.iter().filter(|p| joined.is_ours(p) == ours).collect();
        let mut next = sent[0].sequence.wrapping_add(1);
        let mut marked = 0;
        for packet in sent {
            let new = !packet.is_empty() && ahead(packet.sequence, next) >= 0;
            if new {
                next = packet.end();
                marked += u32::from(packet.ecn() == CONGESTED);
            } else {
                assert_eq!(packet.ecn(), NOT_CAPABLE, "{packet:?}");
            }
            assert!(!new || packet.ecn() == CAPABLE || marked == 1, "{packet:?}");
        }
        // What the firewall marks of ours is marked behind where it is seen.
        assert_eq!(marked, u32::from(!ours));
    }
}

/// One end echoes a mark until the other says that it slowed down, and then no more.
fn check_echo(packets: &[Packet], joined: &Joined, ours: bool) {
    let echoes = |p: &&Packet| joined.is_ours(p) == ours && p.flags.ece && !p.flags.syn;
    let first = packets.iter().position(|p| echoes(&p)).expect("an echo");
    let answers = |p: &Packet| joined.is_ours(p) != ours && p.flags.cwr && !p.flags.syn;
    let answer = packets[first..].iter().position(answers).expect("an answer") + first;
    assert!(!packets[answer].is_empty(), "{:#?}", packets[answer]);
    let after: Vec<_> = packets[answer..].iter().filter(echoes).collect();
    // The answer is on its way to us for a while.
    let silent = packets.iter().rposition(|p| echoes(&p)).expect("the first");
    let rest = packets[silent..].iter().filter(|p| joined.is_ours(p) == ours).count();
    assert!(rest > 10, "it never stopped: {} echoes after the answer", after.len());
    let again = packets[answer + 1..].iter().filter(|p| answers(p)).count();
    // A loss, as of a ring that was full, makes the window smaller too.
    let first_of = |p: &&Packet| joined.is_ours(p) != ours;
    let mut next = packets.iter().find(first_of).expect("it opened").sequence;
    let lost = packets.iter().filter(|p| joined.is_ours(p) != ours && !p.is_empty()).filter(|p| {
        let again = ahead(p.sequence, next) < 0;
        next = if again { next } else { p.end() };
        again
    });
    assert!(again <= lost.count(), "one mark is answered once, not {again} times more");
}

fn it_is_used_as_configured(kind: PortKind) {
    // What we ask for, and what we agree to.
    for (configured, asks, agrees) in
        [("on", true, true), ("passive", false, true), ("off", false, false)]
    {
        let world = World::new(kind, &json!({"ecn": configured}));
        world.lab.kernel().set("tcp_ecn", "1");
        for role in ROLES {
            let joined = world.joined(Family::V4, role);
            joined.we_send(10_000);
            joined.kernel_sends(10_000);
            let (syn, answer) = world.handshake(&joined);
            let used = if role == Role::LibraryConnects { asks } else { agrees };
            let asked = if role == Role::LibraryConnects { asks } else { true };
            assert_eq!((syn.flags.ece, syn.flags.cwr), (asked, asked), "{configured}: {syn:?}");
            assert_eq!(answer.flags.ece, used, "{configured}: {answer:?}");
            let info = joined.ours.info().expect("a native stack");
            assert_eq!(info.options & ECN, if used { ECN } else { 0 });
            let capable = world.packets(&joined).iter().any(|p| p.ecn() != NOT_CAPABLE);
            assert_eq!(capable, used, "{configured}");
        }
    }
}
