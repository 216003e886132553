//! Many connections at once: 1,000 open together, each of which echoes.

use dmm_tests::lab::{FAMILIES, Lab, ROLES};

use crate::matrix::on_every_port;

on_every_port!(a_thousand_connections_echo);

const CONNECTIONS: usize = 1000;

/// Bytes each way in each of them.
const BYTES: u64 = 3000;

fn a_thousand_connections_echo(lab: &Lab) {
    let idle = lab.holdings();
    for (family, role) in FAMILIES.into_iter().flat_map(|f| ROLES.map(|role| (f, role))) {
        // Neither end uses a connection before it has them all.
        let server = format!("--together --count {CONNECTIONS} echo");
        let client = format!("--together --count {CONNECTIONS} exchange --bytes {BYTES}");
        let pair = lab.pair(family, role, &server, &client);
        let (client, server) = (pair.client.finish(), pair.server.finish());
        assert_eq!(client.outcomes.len(), CONNECTIONS, "{family:?} {role:?}");
        for outcome in &client.outcomes {
            assert_eq!(outcome.error, None, "{family:?} {role:?}");
            assert_eq!((outcome.sent, outcome.received), (BYTES, BYTES));
            assert_eq!(outcome.sent_sha256, outcome.received_sha256);
            assert!(outcome.end_of_file);
        }
        let echoed: u64 = server.outcomes.iter().map(|outcome| outcome.sent).sum();
        assert_eq!(echoed, BYTES * CONNECTIONS as u64);
        lab.wait_for_holdings(&idle);
    }
}
