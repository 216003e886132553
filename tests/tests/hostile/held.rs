//! Clients that are held, by their own doing, in the midst of a call on a doorbell.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use dmm_proto::layout::RING_ENTRIES;
use dmm_proto::mock::{Area, HostileClient};
use dmm_proto::op::Submission;
use dmm_tests::deadline::{PATIENCE, eventually};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;

use crate::bystander::Bystander;
use crate::directed::{bind, bind_operation, socket};
use crate::ground::{Ground, LEFT};
use crate::trap::{Copy, Held};

#[test]
fn a_client_held_in_the_midst_of_a_copy_holds_no_worker() {
    let ground = Ground::new(&json!({"sockets": 32, "contexts": 4, "bytes": 16 << 20}));
    let before = ground.holdings();
    let mut client = ground.attach(1);
    // Its own doorbell: it reads what was rung, and gets no further.
    bind(&client, 0);
    sleep(&client);
    client.operate(0, LEFT, &bind_operation(0));
    wait_for_ring(&client);
    let reader = Held::new(client.attachment.listener.as_fd(), Copy::Read, 1);
    // It is rung again, more often than its bell holds.
    let ask = Submission::SetPeer { socket: socket(0), peer: None };
    for asked in 1..=100 {
        sleep(&client);
        client.operate(0, LEFT, &ask);
        wait_for_answers(&client, 1 + asked);
    }
    // The workers' doorbells: it rings them, and gets no further.
    let bells = &client.attachment.workers;
    let writers = bells.iter().map(|bell| {
        bell.ring();
        Held::new(bell.as_fd(), Copy::Write, 8)
    });
    let writers: Vec<_> = writers.collect();
    bells.iter().for_each(dmm_proto::doorbell::WorkerBell::ring);
    assert!(Bystander::start(&ground.daemon).finish() > 0);
    ground.wait_for_sleeps();
    drop((reader, writers, client));
    ground.wait_for_holdings(&before);
}

#[test]
fn a_client_that_moves_a_socket_to_and_fro_is_bounded() {
    const CONTEXTS: [u32; 2] = [0, 1];
    let ground = Ground::new(&json!({"sockets": 32, "contexts": 2, "bytes": 4 << 20}));
    let before = ground.holdings();
    let mut client = ground.attach(2);
    dmm_proto::attach::Attachment::open_context(client.socket.as_fd(), 1).expect("it may");
    for slot in [0, 1] {
        bind(&client, slot);
        client.operate(1, LEFT, &bind_operation(slot));
    }
    // Context 0 takes nothing out: the ring fills, then one more waits, and then come those that
    // are moved away again.
    let to = |slot, context| Submission::Rehome { socket: socket(slot), context };
    for _ in 0..RING_ENTRIES {
        CONTEXTS.iter().for_each(|context| ask_on_1(&mut client, &to(0, *context)));
    }
    ask_on_1(&mut client, &to(1, 0));
    for _ in 0..1000 {
        CONTEXTS.iter().for_each(|context| ask_on_1(&mut client, &to(0, *context)));
    }
    crate::directed::wait_for_end(&client, "moved too often");
    assert_eq!(ground.refused(dmm_proto::Breach::Flood.name()), 1);
    ground.wait_for_holdings(&before);
}

/// Asks on context 1, where it takes every answer out.
fn ask_on_1(client: &mut HostileClient, ask: &Submission) {
    let memory = &client.attachment.memory;
    let channel = memory.geometry.channel(1, LEFT);
    let (asks, answers) = (memory.submissions(channel), memory.completions(channel));
    eventually("room for questions", || {
        let arrived = answers.tail.count.load(Ordering::Acquire);
        answers.head.count.store(arrived, Ordering::Release);
        let tail = asks.tail.count.load(Ordering::Acquire);
        let used = tail.wrapping_sub(asks.head.count.load(Ordering::Acquire));
        if used < RING_ENTRIES / 2 || crate::directed::is_over(client) {
            Ok(())
        } else {
            Err(format!("{used} wait"))
        }
    });
    client.operate(1, LEFT, ask);
}

/// Says that context 0 sleeps, which is to be rung when there is something to say.
fn sleep(client: &HostileClient) {
    client.scribble_at(Area::Client, client.attachment.memory.geometry.context_lines_at(), 1);
}

fn wait_for_ring(client: &HostileClient) {
    let mut fds = [PollFd::new(client.attachment.listener.as_fd(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(PATIENCE).expect("less than a day");
    assert_eq!(poll(&mut fds, patience), Ok(1), "nobody rang");
}

fn wait_for_answers(client: &HostileClient, count: u32) {
    let ring = client.attachment.memory.completions(LEFT);
    eventually("an answer", || {
        let now = ring.tail.count.load(Ordering::Acquire);
        if now >= count { Ok(()) } else { Err(format!("{now} of {count}")) }
    });
}
