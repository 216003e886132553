//! A daemon's whole life: started, used, asked to end. Its peers read the end of their connections,
//! and nothing of it is left on the machine.

use dmm_tests::lab::{FAMILIES, Lab, PortKind, Role};
use dmm_tests::leftovers::Leftovers;

#[test]
fn a_daemon_that_is_asked_to_end_closes_its_connections_and_leaves_nothing() {
    for (kind, instances) in [(PortKind::Tap, 2), (PortKind::AfPacket, 1)] {
        let before = Leftovers::now();
        let mut lab = Lab::new(kind, instances);
        assert_ne!(Leftovers::now(), before, "there is something to see");
        let exchange = "exchange --bytes 1000000";
        for (family, role) in FAMILIES.into_iter().zip([Role::LibraryConnects, Role::PeerConnects])
        {
            let pair = lab.pair(family, role, exchange, exchange);
            assert_eq!(pair.client.outcome().received, 1_000_000);
            assert_eq!(pair.server.outcome().received, 1_000_000);
        }

        // These are in the middle of it: nobody sends the last word.
        let socket = lab.daemon.socket();
        let mut pair = lab.pair(FAMILIES[0], Role::LibraryConnects, "drain", "exchange");
        pair.client.under_way();
        let status = lab.daemon.terminate();
        assert!(status.success(), "{status}: {}", lab.daemon.log());
        let peer = pair.server.outcome();
        assert!(peer.end_of_file, "a FIN, not a reset: {peer:?}");
        assert_eq!(peer.error, None);
        assert!(!socket.exists(), "its socket is gone");
        drop(pair.client);

        drop(lab);
        before.wait_until_no_more();
    }
}
