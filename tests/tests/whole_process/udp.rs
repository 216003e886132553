//! Datagrams of every size: empty, small, the largest that needs no fragments, and beyond.

use std::net::SocketAddr;

use dmm_tests::deadline::eventually;
use dmm_tests::lab::{FAMILIES, Family, Lab, PortKind, ROLES};

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

/// As on Linux a send does not fail for want of room where nothing waits to be sent, though the daemon has taken
/// the room of an idle socket back.
#[test]
fn a_send_after_an_idle_time_need_not_wait() {
    let lab = Lab::new(PortKind::Tap, 2);
    let client = dmm::Client::attach(lab.daemon.socket()).expect("the daemon listens");
    for family in FAMILIES {
        let local = SocketAddr::new(lab.link().stack(family), 0);
        let socket = client.bind_udp(None, local).expect("our address");
        socket.set_nonblocking(true).expect("it lives");
        let to = SocketAddr::new(lab.link().peer(family), 9);
        for _ in 0..3 {
            eventually("the end of the room", || match lab.holdings().chunks {
                0 => Ok(()),
                chunks => Err(format!("{chunks} chunks")),
            });
            assert_eq!(socket.send_to(&[7; 100], to).expect("there is room"), 100);
        }
    }
}
