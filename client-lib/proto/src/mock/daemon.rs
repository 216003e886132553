//! A daemon without a stack: it answers the hello and gives tests the daemon's ends of everything.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;

use crate::arena::ChunkPool;
use crate::doorbell::{Listener, Ringer, WorkerBell, bell};
use crate::fifo::{RxFifo, TxFifo};
use crate::hello::{Hello, send_refusal, send_welcome};
use crate::layout::Geometry;
use crate::lease::{Heir, LeaseTable, ProcessId};
use crate::message::{cookie_of, receive};
use crate::op::Completion;
use crate::pair::{PairGeometry, PairMemory, Side};
use crate::rehome::Outbox;
use crate::request::{PACKET_BYTES_MAX, Reply, Request};
use crate::ring::Consumer;
use crate::session::{Beacon, Memory, StackInfo};

/// Leases of the fake in all, and of one process.
const LEASES_MAX: u32 = 1024;
/// Completions that may wait on one channel.
const WAITING_MAX: usize = 4096;

/// A daemon whose stack is the test.
pub struct FakeDaemon {
    /// What every client of it gets.
    pub geometry: Geometry,
    /// What it shows to all clients.
    pub beacon: Beacon,
    /// The leases that are out.
    pub leases: LeaseTable,
    sessions: u64,
}

impl FakeDaemon {
    /// A daemon that gives each client so much.
    pub fn new(geometry: Geometry) -> io::Result<Self> {
        let leases = LeaseTable::new(LEASES_MAX, LEASES_MAX);
        Ok(Self { geometry, beacon: Beacon::create()?, leases, sessions: 0 })
    }

    /// Answers a client's hello. One stack, "fake", runs all instances, on the workers in turn.
    pub fn serve(&mut self, socket: OwnedFd) -> io::Result<FakeSession> {
        let mut bytes = [0; PACKET_BYTES_MAX];
        let (len, _) = receive(socket.as_fd(), &mut bytes)?;
        let hello = Hello::parse(&bytes[..len]).or_else(|error| {
            let words = error.to_string();
            send_refusal(socket.as_fd(), Errno::EPROTO, &words)?;
            Err(io::Error::other(words))
        })?;
        let g = self.geometry;
        let memory = Memory::create(g)?;
        let v4 = Vec::new();
        let fake = StackInfo { name: "fake".into(), first_instance: 0, instances: g.instances, v4 };
        let workers: Vec<u32> = (0..g.instances).map(|instance| instance % g.workers).collect();
        memory.write_stacks(&[fake], &workers);
        let (ringer, listener) = bell()?;
        let bells = (0..g.workers).map(|_| WorkerBell::new()).collect::<io::Result<Vec<_>>>()?;
        let mut fds = vec![
            self.beacon.region().fd(),
            memory.daemon.fd(),
            memory.client.fd(),
            memory.arena.fd(),
            listener.as_fd(),
        ];
        fds.extend(bells.iter().map(AsFd::as_fd));
        send_welcome(socket.as_fd(), &g, &fds)?;
        let mut contexts: Vec<Option<Ringer>> = (0..g.contexts).map(|_| None).collect();
        contexts[0] = Some(ringer);
        self.sessions += 1;
        Ok(FakeSession {
            process: ProcessId(self.sessions),
            hello,
            pool: Arc::new(ChunkPool::new(g.chunks)),
            bells,
            contexts,
            memory,
            socket,
        })
    }

    /// Answers a request of `session` about leases: all but `OpenContext`, which is the session's,
    /// and `Claim`, for which this only says whether the claimant may; the test moves the socket.
    pub fn answer_lease(
        &mut self,
        session: &FakeSession,
        request: Request,
        fds: &[OwnedFd],
    ) -> io::Result<bool> {
        if fds.len() != request.descriptors() {
            return session.refuse(Errno::EPROTO, "wrong number of descriptors").map(|()| false);
        }
        let cookie = fds.first().map(|fd| cookie_of(fd.as_fd())).transpose()?;
        let outcome = match (request, cookie) {
            (Request::Identify, _) => Ok(Some(Reply::Identified { process: session.process })),
            (Request::Lease { heir, .. }, Some(cookie)) => {
                let holder = match heir {
                    Heir::Process(heir) => heir,
                    Heir::Bearer => session.process,
                };
                self.leases.grant(cookie, holder, heir).map(|lease| Some(Reply::Leased { lease }))
            }
            (Request::Withdraw { lease }, _) => {
                self.leases.withdraw(lease).map(|_| Some(Reply::Withdrawn))
            }
            (Request::Claim { .. }, Some(cookie)) => {
                self.leases.claim(cookie, session.process).map(|_| None)
            }
            _ => return Ok(false),
        };
        match outcome {
            Ok(Some(reply)) => reply.send(session.socket.as_fd(), &[]).map(|()| true),
            Ok(None) => Ok(true),
            Err(error) => session.refuse(Errno::EPERM, &error.to_string()).map(|()| false),
        }
    }

    /// Makes a shortcut between two clients and hands it to both.
    pub fn pair(
        first: &FakeSession,
        second: &FakeSession,
        geometry: PairGeometry,
    ) -> io::Result<()> {
        let memory = PairMemory::create(geometry)?;
        let bells = |side| (0..geometry.contexts_of(side)).map(|_| bell()).collect();
        let [of_first, of_second]: [io::Result<Vec<(Ringer, Listener)>>; 2] =
            [bells(Side::First), bells(Side::Second)];
        let (of_first, of_second) = (of_first?, of_second?);
        let ends = [
            (first, Side::First, &of_first, &of_second),
            (second, Side::Second, &of_second, &of_first),
        ];
        for (session, side, ours, theirs) in ends {
            let mut fds = vec![memory.region().fd()];
            fds.extend(ours.iter().map(|(_, listener)| listener.as_fd()));
            fds.extend(theirs.iter().map(|(ringer, _)| ringer.as_fd()));
            Reply::Pair { pair: 0, side, geometry }.send(session.socket.as_fd(), &fds)?;
        }
        Ok(())
    }
}

/// The daemon's ends of one client's session.
pub struct FakeSession {
    /// The session's number.
    pub process: ProcessId,
    /// What the client said of itself.
    pub hello: Hello,
    /// The session socket.
    pub socket: OwnedFd,
    /// The regions.
    pub memory: Memory,
    /// The arena's free chunks.
    pub pool: Arc<ChunkPool>,
    /// The workers' doorbells, which the client rings.
    pub bells: Vec<WorkerBell>,
    /// The contexts' doorbells, as far as they are open.
    pub contexts: Vec<Option<Ringer>>,
}

impl FakeSession {
    /// The consuming end of a submission ring: once per channel.
    #[must_use]
    pub fn submissions(&self, context: u32, instance: u32) -> Consumer {
        let channel = self.memory.geometry.channel(context, instance);
        Consumer::new(self.memory.submissions(channel))
    }

    /// The filling end of a completion ring: once per channel.
    #[must_use]
    pub fn completions(&self, context: u32, instance: u32) -> Outbox {
        let channel = self.memory.geometry.channel(context, instance);
        let ring = crate::ring::Producer::new(self.memory.completions(channel));
        Outbox::new(ring, WAITING_MAX)
    }

    /// Makes the daemon's line of a slot ready and returns the FIFOs of a socket there, with room
    /// granted.
    #[must_use]
    pub fn open(&self, slot: u32, capacity: u32) -> (RxFifo, TxFifo) {
        let parts = self.memory.fifo(slot);
        parts.daemon.reset(capacity);
        let rx = RxFifo::new(&parts, Arc::clone(&self.pool), capacity);
        let mut tx = TxFifo::new(&parts, Arc::clone(&self.pool), capacity);
        tx.grant();
        (rx, tx)
    }

    /// Shows what an outbox holds to a context, and wakes it if it sleeps.
    pub fn flush(&self, outbox: &mut Outbox, context: u32) -> io::Result<()> {
        outbox.flush().map_err(io::Error::other)?;
        self.wake(context);
        Ok(())
    }

    /// Adds a completion and shows it at once.
    pub fn tell(&self, outbox: &mut Outbox, context: u32, what: Completion) -> io::Result<()> {
        outbox.push(what).map_err(io::Error::other)?;
        self.flush(outbox, context)
    }

    /// Rings a context's doorbell if it sleeps.
    pub fn wake(&self, context: u32) {
        if self.memory.context(context).asleep.is_up()
            && let Some(ringer) = &self.contexts[context as usize]
        {
            ringer.ring();
        }
    }

    /// The client's next request with its descriptors; `None` if it has gone. A packet that is no
    /// request is an error.
    pub fn request(&self) -> io::Result<Option<(Request, Vec<OwnedFd>)>> {
        let mut bytes = [0; PACKET_BYTES_MAX];
        let (len, fds) = receive(self.socket.as_fd(), &mut bytes)?;
        if len == 0 {
            return Ok(None);
        }
        let request = Request::parse(&bytes[..len]);
        let request = request.ok_or_else(|| io::Error::other(crate::Breach::Request))?;
        Ok(Some((request, fds)))
    }

    /// Opens a context at the client's request, or refuses it.
    pub fn open_context(&mut self, context: u32) -> io::Result<()> {
        match self.contexts.get_mut(context as usize) {
            Some(place @ None) => {
                let (ringer, listener) = bell()?;
                *place = Some(ringer);
                send_welcome(self.socket.as_fd(), &self.memory.geometry, &[listener.as_fd()])
            }
            _ => self.refuse(Errno::EINVAL, "no such context, or open already"),
        }
    }

    /// Answers a request.
    pub fn reply(&self, reply: Reply, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        reply.send(self.socket.as_fd(), fds)
    }

    /// Refuses a request.
    pub fn refuse(&self, errno: Errno, words: &str) -> io::Result<()> {
        send_refusal(self.socket.as_fd(), errno, words)
    }
}
