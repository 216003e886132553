//! Clients that stop: what they asked for waits, and nobody else does.

use dmm_tests::daemon::signal;
use dmm_tests::deadline::eventually;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::bystander::{Bystander, honest};
use crate::ground::{Ground, LEFT_ADDRESS};
use crate::process::{Process, Role};

#[test]
fn a_client_that_stops_with_its_answers_untaken_holds_up_nobody() {
    let ground = Ground::new(&json!({"sockets": 32, "contexts": 4, "bytes": 16 << 20}));
    let before = ground.holdings();
    let mut stuck: Vec<_> =
        (0..3).map(|seed| Process::start(Role::Choke, &ground.daemon.socket(), seed)).collect();
    for process in &mut stuck {
        assert_eq!(process.next().as_deref(), Some("choked"));
        signal(&process.child, Signal::SIGSTOP);
    }
    // They stop once their rings are full. The answer that finds no room is the worker's next, in its
    // own time.
    eventually("an answer for which there is no room", || {
        match ground.daemon.stats().counters["instance.left.0.client.completions_deferred"] {
            0 => Err("every answer found room".to_owned()),
            _ => Ok(()),
        }
    });
    // The workers look after them, and sleep in between.
    ground.wait_for_sleeps();
    // Others are served, and newcomers too.
    assert!(Bystander::start(&ground.daemon).finish() > 0);
    let listen = format!("--stack left --listen {LEFT_ADDRESS}:0 drain");
    let mut server = honest(&ground.daemon, &listen);
    let to = server.ready();
    let client = honest(
        &ground.daemon,
        &format!("--stack right --connect {to} exchange --bytes 1000000 --order send"),
    );
    assert_eq!(client.outcome().sent, 1_000_000);
    assert_eq!(server.outcome().received, 1_000_000);
    ground.wait_for_sleeps();
    drop(stuck);
    ground.wait_for_holdings(&before);
}
