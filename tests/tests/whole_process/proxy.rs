//! One program on two stacks of one daemon, moving data between them.

use std::net::SocketAddr;

use dmm_tests::lab::{FAMILIES, Lab, PortKind};

use crate::matrix::with_one_and_two_instances;

const BYTES: u64 = 16 << 20;

with_one_and_two_instances!(a_program_joins_two_stacks);

fn a_program_joins_two_stacks(instances: usize) {
    let lab = Lab::with_links(&[PortKind::Tap, PortKind::AfPacket], instances);
    let [near, far] = [lab.links[0], lab.links[1]];
    for (from, to) in [(0, 1), (1, 0)] {
        for family in FAMILIES {
            let (near, far) = if from == 0 { (near, far) } else { (far, near) };
            let frames = || lab.daemon.status().ports.iter().map(|p| p.stats.rx_frames).collect();
            let before: Vec<u64> = frames();
            let listen = SocketAddr::new(far.peer(family), 0);
            let server = format!("--listen {listen} exchange --bytes {BYTES} --seed 1");
            let mut server = lab.peer(far, &server);
            let listen = SocketAddr::new(near.stack(family), 0);
            let forward = server.ready();
            let mut proxy = lab.library(&format!(
                "--stack s{from} --listen {listen} --forward {forward} --forward-stack s{to} echo"
            ));
            let connect = proxy.ready();
            let client = format!("--connect {connect} exchange --bytes {BYTES} --seed 2");
            let client = lab.peer(near, &client).outcome();
            let (server, proxy) = (server.outcome(), proxy.outcome());
            assert_eq!((&client.error, &server.error, &proxy.error), (&None, &None, &None));
            assert_eq!(client.received_sha256, server.sent_sha256);
            assert_eq!(server.received_sha256, client.sent_sha256);
            assert_eq!((proxy.received, proxy.sent), (BYTES, BYTES));
            let after: Vec<u64> = frames();
            for (before, after) in before.iter().zip(&after) {
                assert!(after - before > BYTES / 1500, "both ports carried it: {after}");
            }
        }
    }
}
