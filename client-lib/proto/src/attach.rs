//! Attaching: what a client makes of the descriptors that a daemon sends it.
//!
//! Called by the client library and by the mocks. Checks numbers, sizes and seals, so that whatever
//! answers on the daemon's socket can at worst be useless, not make this process fault.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::doorbell::{Listener, Ringer, WorkerBell};
use crate::hello::{AttachError, Hello, WELCOME_FDS, receive_welcome};
use crate::layout::Geometry;
use crate::pair::{PairGeometry, PairMemory, Side};
use crate::region::Region;
use crate::request::Request;
use crate::session::{Beacon, Memory};

/// A client's view of its session.
pub struct Attachment {
    /// The session's regions.
    pub memory: Memory,
    /// What the daemon shows to all clients.
    pub beacon: Beacon,
    /// The doorbell of context 0.
    pub listener: Listener,
    /// The workers' doorbells.
    pub workers: Vec<WorkerBell>,
}

impl Attachment {
    /// Says hello on a connected socket and opens what comes back.
    pub fn new(socket: BorrowedFd<'_>, hello: &Hello) -> Result<Self, AttachError> {
        hello.send(socket)?;
        let (geometry, fds) = receive_welcome(socket)?;
        Self::open(geometry, fds)
    }

    /// Opens the descriptors of a welcome.
    pub fn open(geometry: Geometry, fds: Vec<OwnedFd>) -> Result<Self, AttachError> {
        if fds.len() != WELCOME_FDS + geometry.workers as usize {
            return Err(AttachError::Malformed);
        }
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or(AttachError::Malformed);
        let beacon = Region::open(next()?, Geometry::beacon_bytes(), false)?;
        let daemon = Region::open(next()?, geometry.daemon_bytes(), false)?;
        let client = Region::open(next()?, geometry.client_bytes(), true)?;
        let arena = Region::open(next()?, geometry.arena_bytes(), true)?;
        let listener = Listener::from_fd(next()?);
        Ok(Self {
            memory: Memory::assemble(geometry, daemon, client, arena),
            beacon: Beacon::open(beacon),
            listener,
            workers: fds.map(WorkerBell::from_fd).collect(),
        })
    }

    /// Opens another context and returns its doorbell.
    pub fn open_context(socket: BorrowedFd<'_>, context: u32) -> Result<Listener, AttachError> {
        Request::OpenContext { context }.send(socket)?;
        let (_, fds) = receive_welcome(socket)?;
        let [fd] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| AttachError::Malformed)?;
        Ok(Listener::from_fd(fd))
    }
}

/// A client's view of a shortcut pair.
pub struct AttachedPair {
    /// The region.
    pub memory: PairMemory,
    /// The doorbell of each of this side's contexts, rung by the other client.
    pub listeners: Vec<Listener>,
    /// The doorbell of each of the other side's contexts.
    pub ringers: Vec<Ringer>,
}

impl AttachedPair {
    /// Opens what came with a `Reply::Pair`.
    pub fn open(geometry: PairGeometry, side: Side, fds: Vec<OwnedFd>) -> io::Result<Self> {
        let ours = geometry.contexts_of(side) as usize;
        let theirs = geometry.contexts_of(side.other()) as usize;
        if fds.len() != 1 + ours + theirs {
            let got = fds.len();
            return Err(io::Error::other(format!(
                "a pair of {ours} and {theirs} contexts came with {got} descriptors"
            )));
        }
        let mut fds = fds.into_iter();
        let region = fds.next().ok_or(io::ErrorKind::UnexpectedEof)?;
        let memory = PairMemory::open(geometry, side, region)?;
        let listeners = fds.by_ref().take(ours).map(Listener::from_fd).collect();
        Ok(Self { memory, listeners, ringers: fds.map(Ringer::from_fd).collect() })
    }
}
