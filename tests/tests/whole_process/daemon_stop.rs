//! A daemon that is stopped and goes on: who spins for it goes to sleep, and nothing is lost.

use std::net::SocketAddr;

use dmm_tests::lab::{Family, Lab, PortKind};
use nix::sys::signal::Signal;

use crate::matrix::with_one_and_two_instances;

with_one_and_two_instances!(nobody_spins_for_a_daemon_that_is_stopped);

fn nobody_spins_for_a_daemon_that_is_stopped(instances: usize) {
    let lab = Lab::new(PortKind::Tap, instances);
    let link = lab.link();
    let any = SocketAddr::new(link.peer(Family::V4), 0);
    let mut server = lab.peer(link, &format!("--listen {any} witness"));
    let to = server.ready();
    let mut spinning = lab.library(&format!("--polling --announce 1 --connect {to} drain"));
    spinning.under_way();
    spinning.spins();

    lab.daemon.signal(Signal::SIGSTOP);
    // Its workers' hearts stand still (`WorkerLine::heartbeat`).
    spinning.asleep();
    lab.daemon.signal(Signal::SIGCONT);
    // It hears of the end of the connection that comes now, and reports.
    drop(server);
    let outcome = spinning.outcome();
    assert_eq!(outcome.received, 1, "{outcome:?}");
    // Whoever waits for a daemon that goes on spins as before.
    let any = SocketAddr::new(link.peer(Family::V4), 0);
    let mut server = lab.peer(link, &format!("--listen {any} witness"));
    let to = server.ready();
    let mut spinning = lab.library(&format!("--polling --announce 1 --connect {to} drain"));
    spinning.under_way();
    spinning.spins();
}
