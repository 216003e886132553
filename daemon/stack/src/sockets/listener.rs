//! A TCP listener: the connections that wait at it, and the credits that wait for connections.
//!
//! Owns: the backlog. Called when a SYN arrives, when a connection is established or dies before
//! anybody took it, and for each credit. Must never: let half-open and waiting connections
//! together exceed the backlog.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::sockets::credits::Credits;
use crate::sockets::options::Options;
use crate::sockets::slots::SlotIndex;
use crate::{Fifos, SocketId, SocketReport};

/// A listener.
pub(crate) struct Listener {
    /// The caller's id.
    pub(crate) id: SocketId,
    /// Where it listens; the address may be unspecified.
    pub(crate) local: SocketAddr,
    /// Connections that may wait.
    backlog: usize,
    /// Options for its connections.
    pub(crate) options: Options,
    /// Connections whose handshake is under way.
    pub(crate) half_open: Vec<SlotIndex>,
    /// Connections that were taken with their SYN, as far as their handshakes may be under way.
    pub(crate) fast: Vec<SlotIndex>,
    /// Established connections, oldest first.
    pub(crate) ready: VecDeque<SlotIndex>,
    /// Ids and FIFOs for the next connections, oldest first.
    pub(crate) credits: Credits<Fifos>,
}

impl Listener {
    /// A listener that nobody has connected to.
    pub(crate) fn new(id: SocketId, local: SocketAddr, backlog: u32, options: Options) -> Self {
        Self {
            id,
            local,
            // listen(2): a backlog of 0 still lets a connection wait.
            backlog: backlog.max(1) as usize,
            options,
            half_open: Vec::new(),
            fast: Vec::new(),
            ready: VecDeque::new(),
            credits: Credits::default(),
        }
    }

    /// Whether another connection may be taken with its SYN: as many as its owner allows, and no more than
    /// the backlog, as on Linux.
    pub(crate) fn takes_fast(&self) -> bool {
        self.fast.len() < self.backlog.min(self.options.fast_open as usize)
    }

    /// Whether another connection may begin.
    pub(crate) fn has_room(&self) -> bool {
        self.half_open.len() + self.ready.len() < self.backlog
    }

    /// Whether another complete handshake may wait.
    pub(crate) fn takes_completed(&self) -> bool {
        self.ready.len() < self.backlog
    }

    /// Forgets a connection that died. The list is as short as the backlog.
    pub(crate) fn forget(&mut self, connection: SlotIndex) {
        self.half_open.retain(|index| *index != connection);
        self.ready.retain(|index| *index != connection);
    }

    /// Takes an established connection over from the half-open ones.
    pub(crate) fn established(&mut self, connection: SlotIndex) {
        self.half_open.retain(|index| *index != connection);
        self.ready.push_back(connection);
    }

    /// As `ss` would show it: with the connections that wait in place of bytes.
    pub(crate) fn report(&self) -> SocketReport {
        SocketReport {
            socket: Some(self.id),
            protocol: "tcp",
            state: "LISTEN",
            local: self.local,
            remote: None,
            rx_queued: self.ready.len() as u64,
            tx_queued: self.backlog as u64,
        }
    }

    /// The next connection and the credit that it goes to, if there are both.
    pub(crate) fn match_up(&mut self) -> Option<(SlotIndex, SocketId, Fifos)> {
        if self.ready.is_empty() {
            return None;
        }
        let (id, fifos) = self.credits.pop()?;
        Some((self.ready.pop_front()?, id, fifos))
    }
}
