//! Clients that are killed in the middle of a transfer: the peer is told, everything they held
//! comes back, and nobody else notices. 100 of them in a row (CI; `DMM_TEST_KILLS` for more).

use std::net::SocketAddr;

use dmm_tests::lab::{Family, Lab, PortKind, Role};
use dmm_tests::peer::Outcome;
use nix::errno::Errno;

use crate::matrix::{size, with_one_and_two_instances};

with_one_and_two_instances!(a_killed_client_is_cleaned_up_and_nobody_else_notices);

fn a_killed_client_is_cleaned_up_and_nobody_else_notices(instances: usize) {
    kill_clients(PortKind::Tap, instances);
}

#[test]
fn a_killed_client_of_one_daemon_is_told_to_the_other_over_vhost_user() {
    kill_clients(PortKind::Vhost, 1);
}

#[test]
fn a_killed_client_of_one_daemon_is_told_to_the_other_over_memif() {
    kill_clients(PortKind::Memif, 2);
}

fn kill_clients(kind: PortKind, instances: usize) {
    let kills = size("DMM_TEST_KILLS", 100);
    let lab = Lab::new(kind, instances);
    let link = lab.link();
    let idle = lab.holdings();

    let echo = format!("--listen {} echo", SocketAddr::new(link.peer(Family::V4), 0));
    let mut bystander_server = lab.peer(link, &echo);
    let connect = format!("--connect {} exchange", bystander_server.ready());
    let mut bystander = lab.library(&connect);
    bystander.under_way();
    let alone = lab.holdings();

    for kill in 0..kills {
        let family = if kill % 2 == 0 { Family::V4 } else { Family::V6 };
        let role = if kill % 4 < 2 { Role::LibraryConnects } else { Role::PeerConnects };
        // The victim sends, receives, or both.
        let (victim, survivor) = match kill % 3 {
            0 => ("pour", "drain"),
            1 => ("drain", "pour"),
            _ => ("exchange", "echo"),
        };
        let survivor = match role {
            Role::LibraryConnects => {
                let mut pair = lab.pair(family, role, survivor, victim);
                pair.client.under_way();
                pair.client.kill();
                pair.server.outcome()
            }
            Role::PeerConnects => {
                let mut pair = lab.pair(family, role, victim, survivor);
                pair.server.under_way();
                pair.server.kill();
                pair.client.outcome()
            }
        };
        assert_told(&survivor, kill);
        // The bystander's chunks come and go; those of the dead are looked at once it has ended. Who
        // closed first is in TIME-WAIT for a while (RFC 9293 section 3.6.1): not waited for each time.
        let in_time_wait = (kill + 1) % (kills / 4).max(1) != 0;
        lab.wait_for_holdings_ignoring(&alone, |holdings| {
            holdings.chunks = 0;
            if in_time_wait {
                (holdings.stack_sockets, holdings.orphans) = (0, 0);
            }
        });
    }

    // The bystander's data is whole.
    bystander.close_stdin();
    let (bystander, server) = (bystander.outcome(), bystander_server.outcome());
    assert_eq!((&bystander.error, &server.error), (&None, &None));
    assert_eq!(bystander.sent_sha256, server.received_sha256);
    assert_eq!(bystander.received_sha256, bystander.sent_sha256);
    assert!(bystander.end_of_file && bystander.sent > 0);
    lab.wait_for_holdings(&idle);
    let stats = lab.daemon.stats();
    assert_eq!(stats.counters["sessions.opened"], kills + 1);
    println!("clean-up took {} us at most", stats.counters["sessions.cleanup_us_max"]);
}

/// The peer read the end of the connection, or was told that it was reset.
fn assert_told(survivor: &Outcome, kill: u64) {
    let errors = [Errno::ECONNRESET, Errno::EPIPE].map(|errno| Some(errno as i32));
    let told = errors.contains(&survivor.errno) || survivor.end_of_file;
    assert!(told, "kill {kill}: {survivor:?}");
}
