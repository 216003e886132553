//! What the SYNs offer, and what comes of it.

use std::process::Command;

use dmm::ConnectOptions;
use dmm_tests::command::run;
use dmm_tests::lab::{FAMILIES, Family, PortKind, ROLES, Role};
use serde_json::json;

use super::{Joined, World, over_tap_and_veth};

over_tap_and_veth!(
    all_options_are_negotiated,
    what_the_kernel_leaves_out_is_left_out,
    what_the_configuration_leaves_out_is_not_offered,
    options_of_sockets_show_on_the_wire,
);

/// Bits of `tcpi_options`.
const TIMESTAMPS: u8 = 1;
const SACK: u8 = 2;
const SCALE: u8 = 4;

/// Payload of a segment at most, without options, on a link with an MTU of 1500.
const fn mss(family: Family) -> u16 {
    match family {
        Family::V4 => 1460,
        Family::V6 => 1440,
    }
}

impl World {
    /// What the kernel says of its end.
    fn ss(&self, of: &Joined) -> String {
        let mut ss: Command = self.lab.kernel().command("ss");
        ss.args(["-Htino", "src", &of.them.to_string(), "dst", &of.us.to_string()]);
        run(&mut ss)
    }
}

fn all_options_are_negotiated(kind: PortKind) {
    let world = World::new(kind, &json!({}));
    for (family, role) in FAMILIES.into_iter().flat_map(|f| ROLES.map(|role| (f, role))) {
        let joined = world.joined(family, role);
        joined.we_send(5000);
        joined.kernel_sends(5000);
        let (syn, answer) = world.handshake(&joined);
        assert_eq!(joined.is_ours(&syn), role == Role::LibraryConnects);
        for packet in [&syn, &answer] {
            assert_eq!(packet.options.mss, Some(mss(family)), "{packet:?}");
            assert!(packet.options.sack_permitted, "{packet:?}");
        }
        let (began, _) = syn.options.timestamps.expect("the SYN has them");
        assert_eq!(answer.options.timestamps.expect("the answer has them").1, began);
        let [shift, answered] =
            [&syn, &answer].map(|p| p.options.shift.expect("both SYNs have it"));
        let (ours, theirs) =
            if role == Role::LibraryConnects { (shift, answered) } else { (answered, shift) };
        let info = joined.ours.info().expect("a native stack");
        assert_eq!(info.options & (TIMESTAMPS | SACK | SCALE), TIMESTAMPS | SACK | SCALE);
        assert_eq!(info.shifts, (theirs, ours));
        assert_eq!((info.bytes_received, info.state), (5000, 1));
        let kernels = world.ss(&joined);
        assert!(kernels.contains(" ts sack "), "{kernels}");
        assert!(kernels.contains(&format!(" wscale:{ours},{theirs} ")), "{kernels}");
        // Each segment has a timestamp, and echoes one of the other's.
        let packets = world.packets(&joined);
        assert!(packets.len() > 10, "{packets:#?}");
        for (at, packet) in packets.iter().enumerate() {
            let (_, echo) = packet.options.timestamps.unwrap_or_else(|| panic!("{packet:?}"));
            let told = |other: &&super::Packet| {
                other.from != packet.from
                    && other.options.timestamps.is_some_and(|(v, _)| v == echo)
            };
            let first = packet.flags.syn && !packet.flags.ack;
            assert!(first || packets[..at].iter().any(|other| told(&other)), "{packet:?}");
        }
    }
}

fn what_the_kernel_leaves_out_is_left_out(kind: PortKind) {
    let world = World::new(kind, &json!({}));
    for variable in ["tcp_timestamps", "tcp_sack", "tcp_window_scaling"] {
        world.lab.kernel().set(variable, "0");
    }
    for role in ROLES {
        let joined = world.joined(Family::V4, role);
        joined.we_send(200_000);
        joined.kernel_sends(200_000);
        let (syn, answer) = world.handshake(&joined);
        let offers = role == Role::LibraryConnects;
        assert_eq!(syn.options.sack_permitted, offers);
        assert_eq!(syn.options.shift.is_some(), offers);
        assert_eq!(syn.options.timestamps.is_some(), offers);
        let options = &answer.options;
        assert!(!options.sack_permitted && options.shift.is_none(), "{answer:?}");
        for packet in world.packets(&joined).iter().filter(|packet| **packet != syn) {
            assert_eq!((packet.options.timestamps, packet.options.sacks.len()), (None, 0));
        }
        let info = joined.ours.info().expect("a native stack");
        assert_eq!((info.options & (TIMESTAMPS | SACK | SCALE), info.shifts), (0, (0, 0)));
    }
}

fn what_the_configuration_leaves_out_is_not_offered(kind: PortKind) {
    let features = json!({"sack": false, "timestamps": false});
    let world = World::new(kind, &json!({"features": features}));
    for role in ROLES {
        let joined = world.joined(Family::V6, role);
        joined.we_send(5000);
        joined.kernel_sends(5000);
        let ours: Vec<_> =
            world.packets(&joined).into_iter().filter(|packet| joined.is_ours(packet)).collect();
        assert!(ours.len() > 4);
        for packet in ours {
            assert!(!packet.options.sack_permitted, "{packet:?}");
            assert_eq!(packet.options.timestamps, None, "{packet:?}");
            assert!(!packet.flags.syn || packet.options.shift.is_some(), "{packet:?}");
        }
        let kernels = world.ss(&joined);
        assert!(!kernels.contains(" ts ") && !kernels.contains(" sack "), "{kernels}");
    }
}

fn options_of_sockets_show_on_the_wire(kind: PortKind) {
    let world = World::new(kind, &json!({}));
    for family in FAMILIES {
        let options = ConnectOptions {
            max_segment: Some(900),
            traffic_class: 0x4b,
            hop_limit: Some(33),
            ..ConnectOptions::default()
        };
        let joined = world.connect(&world.kernel_listens(family), &options);
        check(&world, &joined, (900, 0x48, 33));
        let info = joined.ours.info().expect("a native stack");
        assert!((800..=900).contains(&info.snd_mss) && info.adv_mss == 900, "{info:?}");
        // Later, all but the segment's size can change.
        joined.ours.set_traffic_class(0x20).expect("it lives");
        joined.ours.set_ttl(44).expect("it lives");
        joined.we_send(1000);
        let changed = |packet: &super::Packet| {
            joined.is_ours(packet) && packet.class & !3 == 0x20 && packet.hop_limit == 44
        };
        world.sniffer.wait("the new class", |packets| packets.iter().find(|p| changed(p)).cloned());

        let listener = world.we_listen(family);
        listener.set_max_segment(Some(700)).expect("it lives");
        listener.set_traffic_class(0x88).expect("it lives");
        listener.set_ttl(77).expect("it lives");
        let joined = world.accept(&listener);
        check(&world, &joined, (700, 0x88, 77));
        let ours = &joined.ours;
        assert_eq!((ours.traffic_class().unwrap(), ours.ttl().unwrap()), (0x88, 77));
    }
}

/// Our packets look so, and nobody's payload is longer.
fn check(world: &World, joined: &Joined, (mss, class, hops): (u16, u8, u8)) {
    joined.we_send(20_000);
    joined.kernel_sends(20_000);
    let packets = world.packets(joined);
    let longest = packets.iter().map(super::Packet::len).max().expect("there are some");
    // Timestamps take 12 bytes of it.
    assert_eq!(longest, u32::from(mss) - 12);
    for packet in packets.iter().filter(|packet| joined.is_ours(packet)) {
        assert_eq!((packet.class & !3, packet.hop_limit), (class, hops), "{packet:?}");
        assert!(!packet.flags.syn || packet.options.mss == Some(mss), "{packet:?}");
    }
}
