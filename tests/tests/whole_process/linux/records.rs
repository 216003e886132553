//! What is written, and in which segments it goes.

use std::io::{Read, Write};

use dmm_tests::lab::{Family, PortKind, ROLES};
use serde_json::json;

use super::{World, over_tap_and_veth};

over_tap_and_veth!(corks_join_what_records_part);

fn corks_join_what_records_part(kind: PortKind) {
    let world = World::new(kind, &json!({}));
    for role in ROLES {
        let joined = world.joined(Family::V4, role);
        let ours = &joined.ours;
        let began = joined.them;
        for (write, lengths) in [(None, vec![300]), (Some(()), vec![100, 100, 100])] {
            ours.set_cork(true).expect("it lives");
            let before = world.packets(&joined).len();
            for _ in 0..3 {
                match write {
                    None => (&*ours).write_all(&[7; 100]).expect("there is room"),
                    Some(()) => assert_eq!(ours.write_record(&[7; 100], true).expect("room"), 100),
                }
            }
            // Twice, so that there was a turn of the daemon's between.
            let _ = ours.info().expect("a native stack");
            let waits = ours.info().expect("a native stack").notsent_bytes;
            // The end of a record is not held, but for the last one, behind which nothing is written.
            assert_eq!(waits, if write.is_none() { 300 } else { 100 });
            ours.set_cork(false).expect("it lives");
            let mut bytes = [0; 300];
            (&joined.theirs).read_exact(&mut bytes).expect("all of it");
            assert_eq!(bytes, [7; 300]);
            let seen = world.sniffer.wait("the segments", |packets| {
                let ours = packets.iter().filter(|p| joined.has(p)).skip(before);
                let ours = ours.filter(|p| p.to == began && !p.is_empty());
                let seen: Vec<_> = ours.map(super::Packet::len).collect();
                (seen.iter().sum::<u32>() >= 300).then_some(seen)
            });
            assert_eq!(seen, lengths);
        }
    }
}
