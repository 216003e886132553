//! A daemon that is killed: every call that waits returns an error, whether it sleeps or spins, and
//! the same processes open new sockets once there is a daemon again.

use std::net::SocketAddr;

use dmm_tests::lab::{FAMILIES, Family, Lab, PortKind, ROLES};
use dmm_tests::peer::Outcome;
use dmm_tests::program::Program;
use nix::errno::Errno;

use crate::matrix::with_one_and_two_instances;

with_one_and_two_instances!(
    waiting_calls_end_with_the_daemon_and_new_sockets_work_after_its_restart
);

fn waiting_calls_end_with_the_daemon_and_new_sockets_work_after_its_restart(instances: usize) {
    let mut lab = Lab::new(PortKind::AfPacket, instances);
    let link = lab.link();
    let any = SocketAddr::new(link.peer(Family::V4), 0);
    let mut server = lab.peer(link, &format!("--listen {any} --count 4 witness"));
    let to = server.ready();
    // Each gets one byte, and then waits for more: asleep, or spinning.
    let receive = format!("--rounds 2 --announce 1 --connect {to} drain");
    let mut sleeping = lab.library(&receive);
    let mut spinning = lab.library(&format!("--polling {receive}"));
    let any = SocketAddr::new(link.stack(Family::V4), 0);
    let mut accepting = lab.library(&format!("--rounds 2 --listen {any} drain"));
    let _ = accepting.ready();
    // Neither end reads: one fills all that lies between them, and then waits for room.
    let any = SocketAddr::new(link.peer(Family::V6), 0);
    let mut full = lab.peer(link, &format!("--listen {any} pour"));
    let write = format!("--rounds 2 --announce 1 --connect {} pour", full.ready());
    let mut writing = lab.library(&write);
    writing.under_way();
    sleeping.under_way();
    spinning.under_way();
    sleeping.asleep();
    accepting.asleep();
    writing.asleep();
    spinning.spins();

    lab.daemon.kill();
    for program in [&mut sleeping, &mut spinning, &mut accepting, &mut writing] {
        assert_eq!(only_outcome(program).errno, Some(Errno::ECONNRESET as i32));
    }

    lab.daemon.restart();
    for program in [&mut sleeping, &mut spinning, &mut accepting] {
        program.next_round();
    }
    sleeping.under_way();
    spinning.under_way();
    let to = accepting.ready();
    let client = lab.peer(link, &format!("--connect {to} exchange --bytes 1000")).outcome();
    assert_eq!((client.sent, &client.error), (1000, &None));
    assert_eq!(only_outcome(&mut accepting).received, 1000);
    for (family, role) in FAMILIES.into_iter().zip(ROLES) {
        let pair = lab.pair(family, role, "echo", "exchange --bytes 1000000");
        assert_eq!(pair.client.outcome().received, 1_000_000);
        assert_eq!(pair.server.outcome().error, None);
    }
}

/// What came of the one connection of a round.
fn only_outcome(program: &mut Program) -> Outcome {
    let mut report = program.round();
    assert_eq!(report.outcomes.len(), 1, "{report:?}");
    report.outcomes.remove(0)
}
