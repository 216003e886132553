//! What clients close and leave to the daemon counts as well.

use dmm_proto::op::{Completion, Opening, Submission};
use dmm_tests::deadline::eventually;
use serde_json::json;

use crate::directed::{bind, socket};
use crate::ground::{Ground, LEFT_ADDRESS, RIGHT};
use crate::ports::{Client, PEER_PORT, at, listen_on_both_shards};

const SOCKETS: u64 = 4;
const CLOSED: u64 = 10;

/// Opens connections whose peer never closes its end, and closes them.
fn close_many(client: &mut Client) {
    let connect = Submission::Connect {
        socket: socket(0),
        local: at("0.0.0.0", 0),
        remote: at(LEFT_ADDRESS, PEER_PORT),
        opening: Opening::default(),
    };
    for _ in 0..CLOSED {
        bind(&client.client, 0);
        client.client.operate(0, RIGHT, &connect);
        loop {
            match client.next_answer() {
                Completion::Connected { errno, .. } => {
                    assert_eq!(errno, 0);
                    client.client.operate(0, RIGHT, &Submission::Close { socket: socket(0) });
                }
                Completion::Closed { .. } => break,
                _ => {}
            }
        }
    }
}

#[test]
fn a_client_has_no_more_orphans_than_sockets_and_its_user_keeps_them() {
    let ground = Ground::new(&json!({"sockets": SOCKETS, "bytes": 4 << 20}));
    let _peer = listen_on_both_shards(&ground);
    let aborted = || ground.daemon.stats().counters["instance.right.0.sockets.orphans_aborted"];
    let wait_for_orphans = |wanted: u64| {
        eventually("the end of what was aborted", || {
            let orphans = ground.daemon.status().orphans;
            if orphans == wanted { Ok(()) } else { Err(format!("{orphans} orphans")) }
        });
    };
    let wait_for_sessions = |wanted: u64| {
        eventually("the end of the session", || {
            let sessions = ground.daemon.status().sessions;
            if sessions == wanted { Ok(()) } else { Err(format!("{sessions} sessions")) }
        });
    };
    let mut first = Client::attach(&ground, 1, RIGHT);
    close_many(&mut first);
    assert_eq!(aborted(), CLOSED - SOCKETS);
    wait_for_orphans(SOCKETS);
    // With the sockets of the listener's session, the user has leave for as many again.
    drop(first);
    wait_for_sessions(1);
    let mut second = Client::attach(&ground, 2, RIGHT);
    close_many(&mut second);
    wait_for_orphans(2 * SOCKETS);
    drop(second);
    wait_for_sessions(1);
    // What two sessions left is all that a third may leave, and more.
    let mut third = Client::attach(&ground, 3, RIGHT);
    let before = aborted();
    close_many(&mut third);
    assert_eq!(aborted(), before + CLOSED);
    wait_for_orphans(2 * SOCKETS);
}
