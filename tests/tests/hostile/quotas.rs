//! What is more than a client, or all clients, may have is refused, clearly and counted.

use dmm_proto::Breach;
use dmm_proto::attach::Attachment;
use dmm_proto::hello::AttachError;
use dmm_proto::mock::{HostileClient, Word};
use std::os::fd::AsFd;

use serde_json::json;

use crate::bystander::honest;
use crate::directed::{bind, bind_operation, wait_for_end};
use crate::ground::{Ground, LEFT, RIGHT_ADDRESS, reach};
use dmm_tests::deadline::eventually;

const SOCKETS: u32 = 4;
const CONTEXTS: u32 = 2;
const SESSIONS: u64 = 3;

#[test]
fn sessions_contexts_and_sockets_are_limited() {
    let ground = Ground::new(
        &json!({"max_sessions": SESSIONS, "sockets": SOCKETS, "contexts": CONTEXTS, "bytes": 2 << 20}),
    );
    let before = ground.holdings();
    let clients: Vec<_> = (0..SESSIONS).map(|seed| ground.attach(seed)).collect();
    let one_more = HostileClient::attach(reach(&ground.daemon.socket()), 0);
    match one_more.err() {
        Some(AttachError::Refused { errno, text }) => {
            assert_eq!(errno, nix::libc::EAGAIN);
            assert!(text.contains("clients.max_sessions"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(ground.refused("sessions"), 1);
    contexts(&clients[0]);
    sockets(&ground, clients);
    ground.wait_for_holdings(&before);
}

/// Every context opens once, and none beyond the quota.
fn contexts(client: &HostileClient) {
    let open = |context| Attachment::open_context(client.socket.as_fd(), context);
    assert!(open(1).is_ok());
    for context in [0, 1, CONTEXTS, 64, u32::MAX] {
        match open(context).err() {
            Some(AttachError::Refused { errno, text }) => {
                assert_eq!(errno, nix::libc::EINVAL);
                assert!(text.contains("clients.contexts"), "{text}");
            }
            other => panic!("context {context}: {other:?}"),
        }
    }
}

/// As many sockets as the quota says open, and the next slot is a breach.
fn sockets(ground: &Ground, mut clients: Vec<HostileClient>) {
    let client = &mut clients[0];
    // A mark for a context that cannot be is no more than a mark.
    client.lie(Word::Pending { instance: LEFT }, !0 << CONTEXTS);
    for slot in 0..SOCKETS {
        bind(client, slot);
        client.operate(0, LEFT, &bind_operation(slot));
    }
    eventually("as many sockets as there may be", || {
        let sockets = ground.daemon.status().sockets;
        if sockets == u64::from(SOCKETS) { Ok(()) } else { Err(format!("{sockets}")) }
    });
    client.operate(0, LEFT, &bind_operation(SOCKETS));
    wait_for_end(client, Breach::Slot);
    eventually("the count of the breach", || {
        let count = ground.refused(Breach::Slot.name());
        if count == 1 { Ok(()) } else { Err(format!("{count}")) }
    });
}

#[test]
fn the_library_says_that_a_client_has_all_the_sockets_that_it_may_have() {
    let ground = Ground::new(&json!({"sockets": SOCKETS, "bytes": 4 << 20}));
    let listen = format!("--stack right --listen {RIGHT_ADDRESS}:0 drain");
    let mut server = honest(&ground.daemon, &listen);
    let to = server.ready();
    // The first is taken; the others wait in the listener's backlog, and hear of its end.
    let connect = format!("--stack left --connect {to} --count 6 --together pour");
    let mut client = honest(&ground.daemon, &connect);
    client.under_way();
    server.kill();
    let report = client.finish();
    let refused = report.outcomes.iter().filter(|o| o.errno == Some(nix::libc::EMFILE)).count();
    assert_eq!(refused, 6 - SOCKETS as usize, "{report:?}");
}
