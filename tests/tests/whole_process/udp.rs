//! Datagrams of every size: empty, small, the largest that needs no fragments, and beyond.

use dmm_tests::lab::{FAMILIES, Family, Lab, ROLES};

use crate::matrix::on_every_port;

on_every_port!(datagrams_echo);

fn datagrams_echo(lab: &Lab) {
    for family in FAMILIES {
        // The MTU of 1500 less the headers (20 or 40 bytes, and 8) is 1472 or 1452.
        let sizes: &[usize] = match family {
            Family::V4 => &[0, 1, 100, 1472, 8000],
            Family::V6 => &[0, 1, 100, 1452, 1472, 8000],
        };
        let list = sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        for role in ROLES {
            let server = format!("udp-echo --count {}", sizes.len());
            let pair = lab.pair(family, role, &server, &format!("udp-ask --sizes {list}"));
            let (client, server) = (pair.client.outcome(), pair.server.outcome());
            assert_eq!(client.error, None, "{family:?} {role:?}: {:?}", lab.counters());
            assert_eq!(client.received, sizes.iter().sum::<usize>() as u64);
            assert_eq!(server.error, None, "{family:?} {role:?}");
        }
    }
}
