//! What a hostile client does: one action each, drawn from its seed.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering;

use dmm_proto::arena::CHUNK_BYTES;
use dmm_proto::attach::Attachment;
use dmm_proto::fifo::State;
use dmm_proto::layout::{CONTEXTS_MAX, RING_ENTRIES};
use dmm_proto::message::send;
use dmm_proto::mock::{Area, HostileClient, Word};
use dmm_proto::op::{Address, Opening, Submission};
use dmm_proto::request::Request;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{Shutdown, shutdown};

use crate::directed::{bind, bind_operation, socket};
use crate::ground::{LEFT, RIGHT, RIGHT_ADDRESS};
use crate::operations;

/// Numbers at the edges of what the daemon counts in: rings, buffers, chunks, words.
const EDGES: [u64; 18] = [
    0,
    1,
    RING_ENTRIES as u64 - 1,
    RING_ENTRIES as u64,
    RING_ENTRIES as u64 + 1,
    CHUNK_BYTES as u64 - 1,
    CHUNK_BYTES as u64,
    CHUNK_BYTES as u64 + 1,
    (256 << 10) - 1,
    256 << 10,
    (256 << 10) + 1,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    1 << 63,
    (1 << 63) - 1,
    u64::MAX - 1,
    u64::MAX,
];

/// Sockets that the lies are about.
const SLOTS: u32 = 6;

/// Writes a number at some edge into a word that the daemon reads.
pub fn lie_at_an_edge(client: &mut HostileClient) {
    let geometry = client.attachment.memory.geometry;
    let value = EDGES[client.random.below(EDGES.len() as u64) as usize];
    let mut below = |bound: u32| client.random.below(u64::from(bound)) as u32;
    let channel = below(geometry.channels());
    let word = match below(8) {
        0 => Word::SubmissionTail { channel },
        1 => Word::CompletionHead { channel },
        2 => Word::Pending { instance: below(geometry.instances) },
        _ => Word::Line { slot: below(SLOTS), word: below(8) },
    };
    client.lie(word, value);
    ring_all(client);
}

/// Writes any lies into words that the daemon reads.
pub fn lie_somewhere(client: &mut HostileClient) {
    for _ in 0..1 + client.random.below(16) {
        client.lie_somewhere(SLOTS);
    }
    ring_all(client);
}

/// Scribbles all over what it can write.
pub fn scribble(client: &mut HostileClient) {
    let area = if client.random.below(3) == 0 { Area::Arena } else { Area::Client };
    let count = 1 + client.random.below(64) as usize;
    client.scribble(area, count);
    ring_all(client);
}

/// Scribbles over the sleep flags.
pub fn confuse_sleep(client: &mut HostileClient) {
    let geometry = client.attachment.memory.geometry;
    for context in 0..geometry.contexts {
        let value = client.random.lie();
        client.scribble_at(
            Area::Client,
            geometry.context_lines_at() + 128 * u64::from(context),
            value,
        );
    }
    // Somebody who sleeps is rung, as soon as there is something to say.
    open_one(client);
}

/// Submits anything.
pub fn submit(client: &mut HostileClient) {
    let geometry = client.attachment.memory.geometry;
    let instance = client.random.below(u64::from(geometry.instances)) as u32;
    for _ in 0..1 + client.random.below(24) {
        let entry = operations::entry(&mut client.random, &geometry);
        client.submit(0, instance, &entry);
    }
}

/// Submits only what is well-formed, about sockets that are there: deeper than lies get.
pub fn operate(client: &mut HostileClient) {
    let geometry = client.attachment.memory.geometry;
    for slot in 0..SLOTS {
        bind(client, slot);
        client.operate(0, LEFT, &bind_operation(slot));
    }
    for _ in 0..1 + client.random.below(16) {
        let operation = operations::operation(&mut client.random, &geometry);
        if operation.socket().slot < SLOTS && operation.socket().generation == 1 {
            client.operate(0, LEFT, &operation);
        }
    }
}

/// Lets the same slot hold a socket on each instance at once, all over the same lines.
pub fn share_a_slot(client: &mut HostileClient) {
    bind(client, 0);
    for instance in 0..client.attachment.memory.geometry.instances {
        client.operate(0, instance, &bind_operation(0));
        let local = SocketAddr::new("0.0.0.0".parse().expect("as written"), 0);
        let bind = Submission::Bind { socket: socket(0), local: local.into(), shares: false };
        client.operate(0, instance, &bind);
    }
    for value in [64, 4096] {
        client.lie(Word::Line { slot: 0, word: 2 }, value);
        for instance in 0..client.attachment.memory.geometry.instances {
            client.operate(0, instance, &Submission::Send { socket: socket(0) });
        }
    }
}

/// Sends datagrams whose frames are nonsense, or nearly right.
pub fn malform_datagrams(client: &mut HostileClient) {
    open_one(client);
    let chunks = u64::from(client.attachment.memory.geometry.chunks);
    let len = client.random.lie();
    let family = client.random.below(8);
    for chunk in 0..chunks.min(16) {
        let at = chunk * CHUNK_BYTES as u64;
        client.scribble_at(Area::Arena, at, len);
        client.scribble_at(Area::Arena, at + 8, 0x0a5a_0002_0000_0000);
        client.scribble_at(Area::Arena, at + 24, 7 | family << 16);
    }
    let tail = EDGES[client.random.below(8) as usize];
    client.lie(Word::Line { slot: 0, word: 2 }, tail);
    client.operate(0, LEFT, &Submission::Send { socket: socket(0) });
}

/// Talks to itself over the wire: a listener on one stack, a connection from the other, and cursors
/// that move without a byte having been written or read.
pub fn converse(client: &mut HostileClient) {
    let port = 7100 + client.random.below(8) as u16;
    let there = Address::from(SocketAddr::new(RIGHT_ADDRESS.parse().expect("as written"), port));
    let anywhere = Address::from(SocketAddr::new("0.0.0.0".parse().expect("as written"), 0));
    (0..3).for_each(|slot| bind(client, slot));
    client.operate(
        0,
        RIGHT,
        &Submission::Listen {
            socket: socket(0),
            local: there,
            backlog: 4,
            opening: Opening::default(),
        },
    );
    let accept = Submission::Accept { listener: socket(0), socket: socket(1) };
    client.operate(0, RIGHT, &accept);
    let from = LEFT + client.random.below(2) as u32;
    let connect = Submission::Connect {
        socket: socket(2),
        local: anywhere,
        remote: there,
        opening: Opening::default(),
    };
    client.operate(0, from, &connect);
    let line = client.attachment.memory.daemon_line(2);
    for _ in 0..200 {
        if line.state.load(Ordering::Acquire) & State::OPEN != 0 {
            break;
        }
        std::thread::yield_now();
    }
    let limit = line.tx_limit.load(Ordering::Acquire);
    let edge = EDGES[client.random.below(EDGES.len() as u64) as usize];
    let tail = [limit, limit / 2, limit + 1, edge][client.random.below(4) as usize];
    client.lie(Word::Line { slot: 2, word: 2 }, tail);
    client.operate(0, from, &Submission::Send { socket: socket(2) });
    let arrived = client.attachment.memory.daemon_line(1).rx_tail.load(Ordering::Acquire);
    let read = [arrived, arrived + 1, arrived.wrapping_sub(1)][client.random.below(3) as usize];
    client.lie(Word::Line { slot: 1, word: 0 }, read);
    client.operate(0, RIGHT, &Submission::Receive { socket: socket(1) });
}

/// Takes pages away under the daemon.
pub fn punch_holes(client: &mut HostileClient) {
    open_one(client);
    let area = if client.random.below(2) == 0 { Area::Arena } else { Area::Client };
    client.punch_hole(area).expect("seals do not prevent it");
    client.operate(0, LEFT, &Submission::Send { socket: socket(0) });
}

/// Tries to write what it must not and to resize anything.
pub fn overreach(client: &mut HostileClient) {
    let powers = client.forbidden_powers();
    assert!(powers.is_empty(), "a client can {powers:?}");
}

/// Fills and empties the doorbells of either direction, lets calls on them block, and sends the wrong
/// way.
pub fn abuse_bells(client: &mut HostileClient) {
    let worker = client.random.below(u64::from(client.attachment.memory.geometry.workers)) as u32;
    let listener = client.attachment.listener.as_fd();
    match client.random.below(6) {
        0 => client.fill_bell(worker),
        1 => {
            client.fill_bell(worker);
            // The daemon leaves it alone, whatever it would do to a call. So must we.
            client.let_bell_block(worker, true).expect("the file is ours");
            client.lie(Word::Pending { instance: LEFT }, 1);
            std::thread::yield_now();
            client.let_bell_block(worker, false).expect("the file is ours");
            client.drain_bell(worker).expect("it is full");
        }
        2 => {
            // A call that fails cannot leave a descriptor with the daemon.
            let sent = send(listener, b"no bell", &[client.socket.as_fd()]);
            assert_eq!(sent.map_err(|e| e.raw_os_error()), Err(Some(Errno::EPIPE as i32)));
            let bell = client.attachment.workers[worker as usize].as_fd();
            let sent = send(bell, b"no socket", &[client.socket.as_fd()]);
            assert_eq!(sent.map_err(|e| e.raw_os_error()), Err(Some(Errno::ENOTSOCK as i32)));
        }
        3 => {
            // To be rung without end, and with an end that blocks: each has its own file.
            fcntl(listener, FcntlArg::F_SETFL(OFlag::empty())).expect("the file is ours");
            let flag = client.attachment.memory.geometry.context_lines_at();
            client.scribble_at(Area::Client, flag, 1);
        }
        4 => {
            let how = [Shutdown::Read, Shutdown::Write, Shutdown::Both];
            let how = how[client.random.below(3) as usize];
            // The daemon may have hung up.
            let _ = shutdown(client.attachment.listener.as_fd().as_raw_fd(), how);
        }
        _ => {
            let clone = listener.try_clone_to_owned();
            drop(clone.expect("descriptors are left"));
            ring_all(client);
        }
    }
    open_one(client);
}

/// Asks a lot and takes no answer.
pub fn flood_operations(client: &mut HostileClient) {
    open_one(client);
    let ask = Submission::SetPeer { socket: socket(0), peer: None };
    for _ in 0..8 {
        let count = 1 + client.random.below(u64::from(RING_ENTRIES)) as u32;
        client.submit_many(0, LEFT, &ask.encode(), count);
        std::thread::yield_now();
    }
}

/// Asks a lot on the session socket and reads no answer.
pub fn flood_requests(client: &mut HostileClient) {
    for _ in 0..client.random.below(400) {
        if Request::Identify.send(client.socket.as_fd()).is_err() {
            return;
        }
    }
}

/// Says something on the session socket.
pub fn send_garbage(client: &mut HostileClient) {
    for _ in 0..1 + client.random.below(3) {
        // The first may have ended the session.
        let _ = client.send_garbage();
    }
}

/// Opens contexts that there are and that there are not, and uses them.
pub fn open_contexts(client: &mut HostileClient) {
    for _ in 0..3 {
        let context = client.random.below(u64::from(CONTEXTS_MAX) + 2) as u32 / 8;
        // Refused, or ended by an earlier breach: all the same.
        let _ = Attachment::open_context(client.socket.as_fd(), context);
        if context < client.attachment.memory.geometry.contexts {
            let geometry = client.attachment.memory.geometry;
            let entry = operations::entry(&mut client.random, &geometry);
            client.submit(context, LEFT, &entry);
        }
    }
}

/// Opens a UDP socket in slot 0.
fn open_one(client: &mut HostileClient) {
    bind(client, 0);
    client.operate(0, LEFT, &bind_operation(0));
}

/// Marks everything as pending and rings every worker.
fn ring_all(client: &HostileClient) {
    let geometry = client.attachment.memory.geometry;
    for instance in 0..geometry.instances {
        client.lie(Word::Pending { instance }, 1);
    }
    for worker in 0..geometry.workers {
        client.ring(worker);
    }
}
