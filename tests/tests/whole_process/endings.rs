//! How connections end, and how they fail to begin: half-closed, reset, refused, unreachable.

use std::net::SocketAddr;

use dmm_tests::lab::{FAMILIES, Family, Lab, ROLES, Role};
use nix::errno::Errno;

use crate::matrix::on_every_port;

on_every_port!(half_closed, reset, refused_and_unreachable);

const BYTES: u64 = 1 << 20;

/// Each end in turn sends everything and closes its direction before the other sends anything.
fn half_closed(lab: &Lab) {
    let [first, second] =
        ["send", "receive"].map(|order| format!("exchange --bytes {BYTES} --order {order}"));
    for (family, role) in FAMILIES.into_iter().flat_map(|f| ROLES.map(|role| (f, role))) {
        for (server, client) in [(&first, &second), (&second, &first)] {
            let pair = lab.pair(family, role, server, client);
            let (client, server) = (pair.client.outcome(), pair.server.outcome());
            for (from, to) in [(&client, &server), (&server, &client)] {
                assert_eq!((&from.error, &to.error), (&None, &None), "{family:?} {role:?}");
                assert_eq!(to.received_sha256, from.sent_sha256);
                assert!(to.end_of_file);
            }
        }
    }
}

/// SO_LINGER with 0 seconds (socket(7)) resets; the other end's next call says ECONNRESET.
fn reset(lab: &Lab) {
    let reset = (Some(Errno::ECONNRESET as i32), None);
    for (family, role) in FAMILIES.into_iter().flat_map(|f| ROLES.map(|role| (f, role))) {
        let pair = lab.pair(family, role, "reset", "witness");
        let (witness, resetter) = (pair.client.outcome(), pair.server.outcome());
        assert_eq!((witness.errno, resetter.error), reset, "{family:?} {role:?}: by the server");
        let pair = lab.pair(family, role, "witness", "reset");
        let (resetter, witness) = (pair.client.outcome(), pair.server.outcome());
        assert_eq!((witness.errno, resetter.error), reset, "{family:?} {role:?}: by the client");
    }
}

fn refused_and_unreachable(lab: &Lab) {
    let link = lab.link();
    for family in FAMILIES {
        // Port 9, discard, has no listener on either side.
        for role in ROLES {
            let outcome = match role {
                Role::LibraryConnects => {
                    let to = SocketAddr::new(link.peer(family), 9);
                    lab.library(&format!("--connect {to} drain")).outcome()
                }
                Role::PeerConnects => {
                    let to = SocketAddr::new(link.stack(family), 9);
                    lab.peer(link, &format!("--connect {to} drain")).outcome()
                }
            };
            assert_eq!(outcome.errno, Some(Errno::ECONNREFUSED as i32), "{family:?} {role:?}");
        }
        // Nobody answers for this address of the subnet.
        let to = SocketAddr::new(link.nobody(family), 9);
        let outcome = lab.library(&format!("--connect {to} --timeout-ms 5000 drain")).outcome();
        let allowed = [Errno::EHOSTUNREACH as i32, Errno::ETIMEDOUT as i32];
        assert!(outcome.errno.is_some_and(|errno| allowed.contains(&errno)), "{outcome:?}");
        // No route leads to this one.
        let to = match family {
            Family::V4 => "198.51.100.1:9",
            Family::V6 => "[2001:db8::1]:9",
        };
        let outcome = lab.library(&format!("--connect {to} --timeout-ms 5000 drain")).outcome();
        assert_eq!(outcome.errno, Some(Errno::ENETUNREACH as i32), "{family:?}: {outcome:?}");
    }
}
