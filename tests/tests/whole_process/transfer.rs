//! Bulk data: 256 MiB each way arrive unchanged (CI; `DMM_TEST_MIB` for more), and the counters on
//! both sides of the port show that they went through it.

use dmm_tests::deadline::eventually;
use dmm_tests::lab::{FAMILIES, Lab, PortKind, ROLES};
use dmm_tests::namespace::LinkCounters;
use dmm_tests::peer::Outcome;

use crate::matrix::{on_every_port, size};

on_every_port!(megabytes_arrive_unchanged);

fn megabytes_arrive_unchanged(lab: &Lab) {
    let bytes = size("DMM_TEST_MIB", 256) << 20;
    for family in FAMILIES {
        for role in ROLES {
            let before = Counters::of(lab);
            let server = format!("exchange --bytes {bytes} --seed 1");
            let client = format!("exchange --bytes {bytes} --seed 2");
            let pair = lab.pair(family, role, &server, &client);
            let (client, server) = (pair.client.outcome(), pair.server.outcome());
            assert_arrived(&client, &server, bytes);
            Counters::of(lab).assert_more_than(&before, bytes);
        }
    }
}

/// What one end sent is what the other received, in both directions.
fn assert_arrived(client: &Outcome, server: &Outcome, bytes: u64) {
    for (from, to) in [(client, server), (server, client)] {
        assert_eq!((from.error.as_deref(), from.sent), (None, bytes));
        assert_eq!((to.received, to.end_of_file), (bytes, true));
        assert_eq!(to.received_sha256, from.sent_sha256);
    }
    assert_ne!(client.sent_sha256, server.sent_sha256, "the directions differ");
}

/// Frames and bytes, as the daemon and as its peer count them.
#[derive(Debug)]
struct Counters {
    daemon: LinkCounters,
    peer: LinkCounters,
}

impl Counters {
    fn of(lab: &Lab) -> Self {
        Self { daemon: lab.daemon_counters(lab.link()), peer: lab.peer_counters(lab.link()) }
    }

    fn assert_more_than(&self, before: &Self, bytes: u64) {
        for (now, before) in [(self.daemon, before.daemon), (self.peer, before.peer)] {
            assert!(now.rx_bytes - before.rx_bytes > bytes, "{self:?}, {before:?}");
            assert!(now.tx_bytes - before.tx_bytes > bytes, "{self:?}, {before:?}");
        }
    }
}

/// What the daemon sends, its peer receives, frame by frame, and the other way round.
#[test]
fn every_frame_is_counted_on_both_sides() {
    let lab = Lab::new(PortKind::Tap, 1);
    let bytes = 1 << 20;
    let exchange = format!("exchange --bytes {bytes}");
    for (family, role) in FAMILIES.into_iter().zip(ROLES) {
        let before = Counters::of(&lab);
        let pair = lab.pair(family, role, &exchange, &exchange);
        assert_eq!(pair.client.outcome().received, bytes);
        assert_eq!(pair.server.outcome().received, bytes);
        // The last acknowledgements may still be on their way.
        eventually("equal counts", || {
            let now = Counters::of(&lab);
            let sent = now.daemon.tx_packets - before.daemon.tx_packets;
            let arrived = now.peer.rx_packets - before.peer.rx_packets;
            let (came, taken) = (
                now.peer.tx_packets - before.peer.tx_packets,
                now.daemon.rx_packets - before.daemon.rx_packets,
            );
            let equal = sent == arrived && came == taken;
            if equal { Ok(()) } else { Err(format!("{now:?} after {before:?}")) }
        });
    }
    // And the instance under the stack's name saw them too.
    let counters = lab.counters();
    let frames = counters.get("instance.s0.0.rx.frames").copied().unwrap_or(0);
    assert!(frames > bytes / 1500, "{counters:?}");
}
