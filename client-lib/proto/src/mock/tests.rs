//! The hostile client against the daemon's ends of this crate: whatever it writes is a value or a
//! breach, never a panic, and every kind of breach that is decided here is reached.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::*;
use crate::Breach;
use crate::hello::AttachError;
use crate::layout::Geometry;
use crate::op::{Completion, Socket, Submission};

const GEOMETRY: Geometry =
    Geometry { sockets: 4, contexts: 2, instances: 2, workers: 1, chunks: 16 };
const CAPACITY: u32 = 64 * 1024;

fn sockets() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

fn attached(seed: u64) -> (FakeDaemon, FakeSession, HostileClient) {
    let (ours, theirs) = sockets();
    let client = std::thread::spawn(move || HostileClient::attach(theirs, seed));
    let mut daemon = FakeDaemon::new(GEOMETRY).unwrap();
    let session = daemon.serve(ours).unwrap();
    (daemon, session, client.join().unwrap().unwrap())
}

/// One turn of a daemon that uses everything of this crate that reads what a client writes.
struct Turn {
    submissions: Vec<crate::ring::Consumer>,
    completions: Vec<crate::rehome::Outbox>,
    fifos: Vec<(crate::fifo::RxFifo, crate::fifo::TxFifo)>,
}

impl Turn {
    fn new(session: &FakeSession) -> Self {
        let channels =
            || (0..GEOMETRY.contexts).flat_map(|c| (0..GEOMETRY.instances).map(move |i| (c, i)));
        Self {
            submissions: channels().map(|(c, i)| session.submissions(c, i)).collect(),
            completions: channels().map(|(c, i)| session.completions(c, i)).collect(),
            fifos: (0..GEOMETRY.sockets).map(|slot| session.open(slot, CAPACITY)).collect(),
        }
    }

    fn run(&mut self) -> Result<(), Breach> {
        for ring in &mut self.submissions {
            while let Some(entry) = ring.pop()? {
                Submission::decode(&entry)?;
            }
            ring.release();
        }
        for outbox in &mut self.completions {
            // Enough to fill the ring soon: only then is the client's cursor looked at.
            for _ in 0..64 {
                outbox.push(Completion::Look { socket: Socket { slot: 0, generation: 0 } })?;
            }
            outbox.flush()?;
        }
        let mut bytes = [0; 3000];
        for (index, (rx, tx)) in self.fifos.iter_mut().enumerate() {
            rx.refresh()?;
            rx.write(&bytes);
            rx.publish();
            let _ = rx.must_tell();
            rx.copy_unread(0, &mut bytes);
            rx.let_go()?;
            tx.hear()?;
            if index == 0
                && let Some(header) = tx.next_datagram()?
            {
                tx.consume_datagram(&header);
            } else {
                let len = tx.copy_out(0, &mut bytes);
                tx.consume(len);
            }
            tx.let_go()?;
            tx.grant();
            let _ = tx.take_wanted();
        }
        Ok(())
    }
}

#[test]
fn whatever_a_client_writes_is_a_value_or_a_breach() {
    let mut breaches = HashSet::new();
    for seed in 0..400 {
        let (_daemon, session, mut client) = attached(seed);
        let mut turn = Turn::new(&session);
        for _ in 0..60 {
            match client.random.below(8) {
                0 => client.scribble(Area::Client, 4),
                1 => client.scribble(Area::Arena, 64),
                2 => client.punch_hole(Area::Client).unwrap(),
                3 => {
                    let entry = std::array::from_fn(|_| client.random.lie());
                    client.submit(0, 0, &entry);
                }
                _ => {
                    client.lie_somewhere(GEOMETRY.sockets);
                }
            }
            if let Err(breach) = turn.run() {
                breaches.insert(breach);
                break;
            }
        }
    }
    let expected = [
        Breach::RingTail,
        Breach::RingHead,
        Breach::RxHead,
        Breach::TxTail,
        Breach::Datagram,
        Breach::Operation,
        Breach::Address,
    ];
    for breach in expected {
        assert!(breaches.contains(&breach), "{breach:?} was never reached: {breaches:?}");
    }
}

#[test]
fn a_client_that_takes_no_completion_out_floods_only_itself() {
    let (_daemon, session, _client) = attached(1);
    let mut turn = Turn::new(&session);
    let breach = (0..100_000).find_map(|slot| {
        turn.completions[0].push(Completion::Look { socket: Socket { slot, generation: 0 } }).err()
    });
    assert_eq!(breach, Some(Breach::Flood));
}

#[test]
fn seals_leave_a_client_no_forbidden_power() {
    let (_daemon, _session, client) = attached(2);
    assert_eq!(client.forbidden_powers(), Vec::<String>::new());
}

#[test]
fn a_bell_can_be_filled_and_stolen_from_but_not_broken() {
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
    let (_daemon, session, mut client) = attached(3);
    // As a worker watches it.
    let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
    let edges = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
    epoll.add(&session.bells[0], EpollEvent::new(edges, 0)).unwrap();
    let mut events = [EpollEvent::empty()];
    let mut heard = || epoll.wait(&mut events, EpollTimeout::ZERO).unwrap();
    client.fill_bell(0);
    assert_eq!((heard(), heard()), (1, 0));
    assert_eq!(client.drain_bell(0).unwrap(), u64::MAX - 1);
    client.submit_many(1, 1, &[0; 8], 3);
    assert_eq!(client.drain_bell(0).unwrap(), 1);
    assert_eq!(heard(), 0, "it was stolen");
    client.submit_many(1, 1, &[0; 8], 3);
    assert_eq!((heard(), heard()), (1, 0));
}

#[test]
fn a_flood_is_a_ring_tail_out_of_range() {
    let (_daemon, session, mut client) = attached(4);
    let send = Submission::Send { socket: Socket { slot: 0, generation: 1 } };
    client.operate(0, 1, &send);
    assert_eq!(session.memory.pending(1).contexts.load(crate::sync::Ordering::Acquire), 1);
    let mut ring = session.submissions(0, 1);
    assert_eq!(ring.pop().unwrap().map(|e| Submission::decode(&e)), Some(Ok(send)));
    client.submit_many(0, 1, &send.encode(), 257);
    assert_eq!(ring.pop(), Err(Breach::RingTail));
}

#[test]
fn hellos_that_lie_are_refused_and_cost_no_descriptor() {
    let mut random = Random::new(5);
    for lie in LyingHello::ALL {
        let (ours, theirs) = sockets();
        lie.send(theirs.as_fd(), &mut random).unwrap();
        let served = FakeDaemon::new(GEOMETRY).unwrap().serve(ours);
        // A good hello with descriptors that nobody asked for is a good hello.
        assert_eq!(served.is_ok(), lie == LyingHello::Descriptors, "{lie:?}");
        if lie != LyingHello::Descriptors {
            let refused = crate::hello::receive_welcome(theirs.as_fd());
            assert!(matches!(refused, Err(AttachError::Refused { .. })), "{lie:?}");
        }
    }
}

#[test]
fn garbage_on_the_session_socket_is_a_breach_or_refused() {
    let (mut daemon, session, mut client) = attached(6);
    let mut outcomes = HashSet::new();
    for _ in 0..200 {
        client.send_garbage().unwrap();
        outcomes.insert(match session.request() {
            Ok(Some((request, fds))) => daemon.answer_lease(&session, request, &fds).unwrap(),
            Ok(None) => panic!("the client is there"),
            Err(_) => false,
        });
    }
    assert_eq!(outcomes.len(), 2, "nothing that looked like a request got through");
}

#[test]
fn a_client_with_too_few_or_unsealed_descriptors_is_not_fooled() {
    let (ours, theirs) = sockets();
    let client = std::thread::spawn(move || HostileClient::attach(theirs, 0).err());
    let mut bytes = [0; 256];
    crate::hello::receive(ours.as_fd(), &mut bytes).unwrap();
    crate::hello::send_welcome(ours.as_fd(), &GEOMETRY, &[ours.as_fd()]).unwrap();
    assert!(matches!(client.join().unwrap(), Some(AttachError::Malformed)));
    // The right number, but no shared memory at all.
    let (ours, theirs) = sockets();
    let client = std::thread::spawn(move || HostileClient::attach(theirs, 0).err());
    crate::hello::receive(ours.as_fd(), &mut bytes).unwrap();
    crate::hello::send_welcome(ours.as_fd(), &GEOMETRY, &[ours.as_fd(); 6]).unwrap();
    assert!(matches!(client.join().unwrap(), Some(AttachError::Io(_))));
}
