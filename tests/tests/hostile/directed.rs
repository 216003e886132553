//! One attack for each reason for which the daemon ends a session or refuses one.

use std::fmt::Debug;
use std::os::fd::AsFd;

use dmm_proto::Breach;
use dmm_proto::arena::CHUNK_BYTES;
use dmm_proto::hello::{AttachError, receive_welcome};
use dmm_proto::layout::RING_ENTRIES;
use dmm_proto::mock::{Area, HostileClient, LyingHello, Random, Word};
use dmm_proto::op::{Address, How, Socket, Submission};
use dmm_proto::request::Request;
use dmm_tests::deadline::eventually;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;

use crate::ground::{Ground, LEFT, LEFT_ADDRESS, reach};
use crate::process::{Process, Role};

/// The socket that the attacks open in a slot.
pub const fn socket(slot: u32) -> Socket {
    Socket { slot, generation: 1 }
}

/// Asks for a UDP socket in a slot.
pub fn bind_operation(slot: u32) -> Submission {
    let local =
        Address::from(std::net::SocketAddr::new(LEFT_ADDRESS.parse().expect("as written"), 0));
    Submission::Bind { socket: socket(slot), local, shares: false }
}

/// Makes the client's line of a slot ready for a new socket.
pub fn bind(client: &HostileClient, slot: u32) {
    client.attachment.memory.client_line(slot).reset();
}

/// Opens a UDP socket in slot 0 as a client should.
fn open(client: &mut HostileClient) {
    bind(client, 0);
    client.operate(0, LEFT, &bind_operation(0));
}

/// Breaks the contract in one way.
fn breach(client: &mut HostileClient, how: Breach) {
    let quota = client.attachment.memory.geometry.sockets;
    match how {
        Breach::RingTail => {
            client.lie(Word::SubmissionTail { channel: LEFT }, u64::from(RING_ENTRIES) + 1);
            mark(client, 0);
        }
        Breach::RingHead => {
            open(client);
            let ask = Submission::SetPeer { socket: socket(0), peer: None };
            client.lie(Word::CompletionHead { channel: LEFT }, 1 << 31);
            // The head is looked at when the ring seems full.
            for _ in 0..RING_ENTRIES + 1 {
                client.operate(0, LEFT, &ask);
                if RING_ENTRIES - in_flight(client) == 0 {
                    eventually("room for questions", || {
                        let full = in_flight(client) == RING_ENTRIES;
                        if full && !is_over(client) { Err("none".into()) } else { Ok(()) }
                    });
                }
            }
        }
        Breach::RxHead => {
            open(client);
            client.lie(Word::Line { slot: 0, word: 0 }, 1);
            client.operate(0, LEFT, &Submission::Receive { socket: socket(0) });
        }
        Breach::TxTail => {
            open(client);
            client.lie(Word::Line { slot: 0, word: 2 }, u64::MAX);
            client.operate(0, LEFT, &Submission::Send { socket: socket(0) });
        }
        Breach::Datagram => {
            open(client);
            wait_for_room(client);
            for chunk in 0..u64::from(client.attachment.memory.geometry.chunks) {
                client.scribble_at(Area::Arena, chunk * CHUNK_BYTES as u64, u64::MAX);
            }
            client.lie(Word::Line { slot: 0, word: 2 }, 64);
            client.operate(0, LEFT, &Submission::Send { socket: socket(0) });
        }
        Breach::Operation => client.submit(0, LEFT, &[u64::MAX; 8]),
        Breach::Slot => client.operate(0, LEFT, &bind_operation(quota)),
        Breach::SlotState => {
            client.operate(0, LEFT, &Submission::Send { socket: socket(0) });
        }
        Breach::Generation => {
            open(client);
            let late = Socket { generation: 2, ..socket(0) };
            // Not a close, which may meet what is gone already.
            client.operate(0, LEFT, &Submission::Send { socket: late });
        }
        Breach::Kind => {
            open(client);
            client.operate(0, LEFT, &Submission::Shutdown { socket: socket(0), how: How::Both });
        }
        Breach::Address => {
            let mut entry = bind_operation(0).encode();
            entry[4] = 9 << 16;
            client.submit(0, LEFT, &entry);
        }
        Breach::Context => mark(client, 1),
        Breach::Request => {
            dmm_proto::hello::Hello { name: "again".into() }
                .send(client.socket.as_fd())
                .expect("the daemon listens");
        }
        Breach::Flood => {
            // Until the daemon hangs up, and without a look at its answers.
            while Request::Identify.send(client.socket.as_fd()).is_ok() {}
        }
        Breach::Memory => unreachable!("see NOT_FROM_OUTSIDE"),
    }
}

/// No client can provoke a SIGBUS: its memory is sealed against shrinking, it is not made of huge
/// pages, and a hole in it reads as zeroes, which the siege's holes show to be harmless. A limit on
/// the daemon's own memory can; what happens then is proved by the unit test of `dmmd`'s `fault.rs`,
/// `a_page_that_was_taken_away_becomes_private_and_marks_its_range`.
pub const NOT_FROM_OUTSIDE: Breach = Breach::Memory;

/// The breaches that a client can commit.
pub fn breaches() -> impl Iterator<Item = Breach> {
    Breach::ALL.into_iter().filter(|breach| *breach != NOT_FROM_OUTSIDE)
}

/// Commits each breach once, and sees its own counter grow by one and that session end.
pub fn commit_every_breach(ground: &Ground) {
    for how in breaches() {
        let before = ground.refused(how.name());
        let mut client = ground.attach(how.index() as u64);
        breach(&mut client, how);
        wait_for_end(&client, how);
        eventually("the count of a breach", || {
            let now = ground.refused(how.name());
            if now > before { Ok(()) } else { Err(format!("refused.{} is {now}", how.name())) }
        });
    }
}

/// Begins badly in each way, and sees what is said of it.
pub fn tell_every_lie_at_the_hello(ground: &Ground) {
    let socket = ground.daemon.socket();
    let mut random = Random::new(1);
    for lie in LyingHello::ALL {
        let before = (ground.refused("hello"), ground.refused("version"));
        let connection = reach(&socket);
        lie.send(connection.as_fd(), &mut random).expect("the daemon listens");
        let answer = receive_welcome(connection.as_fd());
        let after = (ground.refused("hello"), ground.refused("version"));
        let counted = (after.0 - before.0, after.1 - before.1);
        match lie {
            LyingHello::Version(_) => {
                assert!(matches!(answer, Err(AttachError::Refused { .. })), "{answer:?}");
                assert_eq!(counted, (0, 1), "{lie:?}");
            }
            // Somebody who asks as an operator is answered as one, and a packet without a byte
            // cannot be told from a hang-up.
            LyingHello::Operator | LyingHello::Cut(0) => {
                assert!(answer.is_err());
                assert_eq!(counted, (0, 0), "{lie:?}");
            }
            _ => {
                assert!(matches!(answer, Err(AttachError::Refused { .. })), "{lie:?}: {answer:?}");
                assert_eq!(counted, (1, 0), "{lie:?}");
            }
        }
    }
}

/// Comes as a user who may not be a client.
pub fn come_as_a_stranger(ground: &Ground) {
    let before = ground.refused("access");
    let answer = Process::start(Role::Strange, &ground.daemon.socket(), 0).next();
    let answer = answer.expect("it says what came of it");
    assert!(answer.contains("clients.users"), "{answer}");
    assert_eq!(ground.refused("access"), before + 1);
}

/// Marks a context of the left stack as having submissions.
fn mark(client: &HostileClient, context: u32) {
    client.lie(Word::Pending { instance: LEFT }, 1 << context);
    client.ring(client.attachment.memory.worker_of(LEFT));
}

/// Submissions of context 0 to the left stack that were not taken.
fn in_flight(client: &HostileClient) -> u32 {
    use std::sync::atomic::Ordering;
    let ring = client.attachment.memory.submissions(LEFT);
    let (tail, head) = (&ring.tail.count, &ring.head.count);
    tail.load(Ordering::Acquire).wrapping_sub(head.load(Ordering::Acquire))
}

/// Waits until the socket in slot 0 may be written to.
fn wait_for_room(client: &HostileClient) {
    use std::sync::atomic::Ordering;
    let line = client.attachment.memory.daemon_line(0);
    eventually("room to write", || {
        let limit = line.tx_limit.load(Ordering::Acquire);
        if limit > 0 { Ok(()) } else { Err(format!("the limit is {limit}")) }
    });
}

/// Whether the daemon has ended the session.
pub fn is_over(client: &HostileClient) -> bool {
    let mut fds = [PollFd::new(client.socket.as_fd(), PollFlags::empty())];
    let ready = poll(&mut fds, PollTimeout::ZERO).expect("the socket is ours");
    ready > 0 && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

/// Waits until the daemon has ended the session.
pub fn wait_for_end(client: &HostileClient, why: impl Debug) {
    eventually(&format!("the end of a session ({why:?})"), || {
        if is_over(client) { Ok(()) } else { Err("it lives".to_owned()) }
    });
}

#[test]
fn every_breach_and_every_bad_beginning_is_refused_under_its_name() {
    let ground = Ground::new(&json!({"sockets": 32, "contexts": 4, "bytes": 4 << 20}));
    let before = ground.holdings();
    commit_every_breach(&ground);
    tell_every_lie_at_the_hello(&ground);
    come_as_a_stranger(&ground);
    ground.wait_for_holdings(&before);
    ground.wait_for_sleeps();
}
