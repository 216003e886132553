//! The sockets of one instance: which client and slot each serves.
#![forbid(unsafe_code)]

use std::net::SocketAddr;

use dmm_port::flow::Transport;
use dmm_proto::fifo::{ClientLine, DaemonLine};
use dmm_proto::op;
use dmm_proto::shared::Shared;
use dmm_stack::SocketId;

use super::binding::Holder;
use crate::orphans::Charge;

/// What a socket is to the session layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A connection, or an attempt at one.
    Stream,
    /// A listener.
    Listener,
    /// A UDP socket.
    Datagram,
    /// A slot that waits for a listener's next connection.
    Credit,
}

/// One socket.
pub struct Socket {
    /// Index of the client's attachment; `None` once the client is done with the socket (an orphan
    /// that the stack still brings to its end).
    pub owner: Option<usize>,
    /// The client's name for it.
    pub name: op::Socket,
    /// What it is.
    pub kind: Kind,
    /// The context that hears of it.
    pub context: u32,
    /// The daemon's shared line; not to be written for an orphan.
    pub daemon: Shared<DaemonLine>,
    /// The client's shared line; likewise.
    pub client: Shared<ClientLine>,
    /// The port that it holds.
    pub binding: Option<(Transport, SocketAddr, Holder)>,
    /// The connection's ends, for the check that no second one has the same.
    pub flow: Option<(SocketAddr, SocketAddr)>,
    /// Of an orphan: what its client or user pays for it.
    pub charge: Option<Charge>,
}

/// Sockets by id; ids are small, dense and used again.
#[derive(Default)]
pub struct Sockets {
    slab: Vec<Option<Socket>>,
    free: Vec<u32>,
    max: u32,
    orphans: usize,
}

impl Sockets {
    /// An empty table for at most `max` sockets.
    pub fn new(max: u32) -> Self {
        Self { max, ..Self::default() }
    }

    /// Puts a socket in. `None` if there are as many as there may be.
    pub fn insert(&mut self, socket: Socket) -> Option<SocketId> {
        if let Some(index) = self.free.pop() {
            self.slab[index as usize] = Some(socket);
            return Some(SocketId(index));
        }
        let index = u32::try_from(self.slab.len()).ok().filter(|&index| index < self.max)?;
        self.slab.push(Some(socket));
        Some(SocketId(index))
    }

    /// The socket of an id, if it has one.
    pub fn get_mut(&mut self, id: SocketId) -> Option<&mut Socket> {
        self.slab.get_mut(id.0 as usize)?.as_mut()
    }

    /// The socket of an id, if it has one.
    pub fn get(&self, id: SocketId) -> Option<&Socket> {
        self.slab.get(id.0 as usize)?.as_ref()
    }

    /// Takes a socket out; its id may be used again.
    pub fn remove(&mut self, id: SocketId) -> Option<Socket> {
        let socket = self.slab.get_mut(id.0 as usize)?.take()?;
        self.free.push(id.0);
        self.orphans -= usize::from(socket.owner.is_none());
        Some(socket)
    }

    /// Takes a socket, which stays in the table, from its client. Returns whose it was.
    pub fn orphan(&mut self, id: SocketId) -> Option<usize> {
        let owner = self.get_mut(id)?.owner.take()?;
        self.orphans += 1;
        Some(owner)
    }

    /// The ids whose sockets serve the attachment `owner`, listeners first: their credits go with
    /// them.
    pub fn owned_by(&self, owner: usize) -> Vec<SocketId> {
        let mut ids = Vec::new();
        let mut others = Vec::new();
        for (index, socket) in (0_u32..).zip(&self.slab) {
            let Some(socket) = socket.as_ref().filter(|s| s.owner == Some(owner)) else { continue };
            let of_kind = if socket.kind == Kind::Listener { &mut ids } else { &mut others };
            of_kind.push(SocketId(index));
        }
        ids.append(&mut others);
        ids
    }

    /// Sockets in the table, orphans included.
    pub fn count(&self) -> usize {
        self.slab.len() - self.free.len()
    }

    /// Sockets whose clients are done with them.
    pub const fn orphans(&self) -> usize {
        self.orphans
    }
}
