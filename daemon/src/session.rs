//! A session: what the control thread and the workers share about one client process.
//!
//! Made by the control thread at the hello, handed to every worker, and freed when the last worker
//! has let go of it and its last orphaned connection is gone.
#![forbid(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use dmm_proto::Breach;
use dmm_proto::arena::ChunkPool;
use dmm_proto::doorbell::{Listener, Ringer, WorkerBell};
use dmm_proto::layout::Geometry;
use dmm_proto::session::Memory;

use crate::fault::Guard;
use crate::orphans::{Membership, UserOrphans};

/// Names a session among all that the daemon ever had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// Who the client is, as the kernel and (for the name) the client say.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Process.
    pub pid: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The program's name.
    pub name: String,
}

/// What a client used; each counter is written by workers and read by reports.
#[derive(Default)]
pub struct Usage {
    /// Sockets open now, owned by the client.
    pub sockets: AtomicU64,
    /// Sockets opened since the session began.
    pub opened: AtomicU64,
    /// Operations submitted.
    pub operations: AtomicU64,
}

/// One client process's session.
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// Who it is.
    pub peer: Peer,
    /// Guards over what the client may write; before `memory`, so that they are gone first.
    guards: [Guard; 2],
    /// The shared regions.
    pub memory: Memory,
    /// The arena's free chunks.
    pub pool: Arc<ChunkPool>,
    /// What it used.
    pub usage: Usage,
    /// Its sockets that are closed and not gone.
    pub membership: Membership,
    /// The doorbell of each context that is open.
    contexts: Box<[OnceLock<Ringer>]>,
    /// Each worker's doorbell for this client.
    bells: Box<[WorkerBell]>,
    /// How it broke the contract, if it did.
    breach: OnceLock<Breach>,
    /// A worker has said that the session must end.
    condemned: AtomicBool,
}

impl Session {
    /// Makes a session, whose orphans `user` pays for.
    pub fn create(
        id: SessionId,
        peer: Peer,
        user: Arc<UserOrphans>,
        geometry: Geometry,
    ) -> io::Result<Arc<Self>> {
        let memory = Memory::create(geometry)?;
        let guards = [Guard::over(memory.client.range())?, Guard::over(memory.arena.range())?];
        let bells = (0..geometry.workers).map(|_| WorkerBell::new()).collect::<io::Result<_>>()?;
        let session = Self {
            id,
            peer,
            memory,
            pool: Arc::new(ChunkPool::new(geometry.chunks)),
            usage: Usage::default(),
            membership: Membership::new(user, geometry.sockets),
            contexts: (0..geometry.contexts).map(|_| OnceLock::new()).collect(),
            bells,
            breach: OnceLock::new(),
            condemned: AtomicBool::new(false),
            guards,
        };
        Ok(Arc::new(session))
    }

    /// Opens a context. `None` if there is no such context or it is open already.
    pub fn open_context(&self, context: u32) -> io::Result<Option<Listener>> {
        let Some(place) = self.contexts.get(context as usize) else { return Ok(None) };
        let (ringer, listener) = dmm_proto::doorbell::bell()?;
        Ok(place.set(ringer).is_ok().then_some(listener))
    }

    /// The doorbell of an open context.
    pub fn ringer(&self, context: u32) -> Option<&Ringer> {
        self.contexts.get(context as usize)?.get()
    }

    /// Each worker's doorbell: to be watched and passed on, never to be read or written.
    pub fn bells(&self) -> &[WorkerBell] {
        &self.bells
    }

    /// Says that the client broke the contract. Returns whether this is the first word of it.
    pub fn condemn(&self, breach: Breach) -> bool {
        let _ = self.breach.set(breach);
        !self.condemned.swap(true, Ordering::AcqRel)
    }

    /// Whether a page of what the client shares could not be touched.
    pub fn faulted(&self) -> bool {
        self.guards.iter().any(Guard::was_hit)
    }

    /// How the client broke the contract, if it did.
    pub fn breach(&self) -> Option<Breach> {
        self.breach.get().copied()
    }
}
