//! Requests of the owner, as the test kind takes them.
//!
//! Owns: what each [`Request`] does here. Called between bursts. Must never: change anything when
//! it returns an error, or touch a socket's shared lines after its close.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use dmm_port::Instant;
use dmm_proto::op::How;
use nix::errno::Errno;

use super::connection::{Connection, State};
use super::segment::Ends;
use super::{Listener, Place, TestStack};
use crate::sockets::credits::Credits;
use crate::{Fifos, Request, SocketId};

impl TestStack {
    /// Takes a request.
    pub(super) fn take_request(&mut self, now: Instant, request: Request) -> Result<(), Errno> {
        match request {
            Request::Connect { socket, local, remote, fifos } => {
                self.connect(now, socket, Ends { local, remote }, fifos)?;
            }
            Request::Listen { socket, local, backlog } => {
                if self.ids.contains_key(&socket) || self.listeners.contains_key(&local) {
                    return Err(Errno::EADDRINUSE);
                }
                let listener = Listener {
                    id: socket,
                    backlog: backlog.max(1) as usize,
                    ready: VecDeque::new(),
                    credits: Credits::default(),
                };
                self.listeners.insert(local, listener);
                self.ids.insert(socket, Place::Listener(local));
            }
            Request::Accept { listener, socket, fifos } => {
                let Some(Place::Listener(local)) = self.ids.get(&listener).copied() else {
                    return Err(Errno::EINVAL);
                };
                if self.ids.contains_key(&socket) {
                    return Err(Errno::EINVAL);
                }
                let listener = self.listeners.get_mut(&local).ok_or(Errno::EINVAL)?;
                listener.credits.push(socket, fifos);
                self.ids.insert(socket, Place::Credit(local));
                self.hand_out(local);
            }
            Request::Bind { .. } | Request::SetPeer { .. } | Request::Group { .. } => {
                return Err(Errno::EPROTONOSUPPORT);
            }
            Request::Send { socket } => {
                let ends = self.ends(socket)?;
                if let Some(Err(breach)) = self.connections.get_mut(&ends).map(Connection::hear) {
                    self.breach(ends, breach);
                }
            }
            Request::Receive { socket } => {
                let connection = self.connection(socket)?;
                connection.receiver.stalled = false;
                connection.stir();
            }
            Request::Shutdown { socket, how } => {
                let connection = self.connection(socket)?;
                connection.sender.finishing |= how != How::Read;
                connection.stir();
            }
            Request::SetOption { socket, .. } => {
                self.connection(socket)?;
                return Err(Errno::ENOPROTOOPT);
            }
            Request::Close { socket } => self.close(now, socket, false)?,
            Request::Abort { socket } => self.close(now, socket, true)?,
        }
        Ok(())
    }

    fn connect(
        &mut self,
        now: Instant,
        socket: SocketId,
        ends: Ends,
        fifos: Fifos,
    ) -> Result<(), Errno> {
        if self.ids.contains_key(&socket) || self.connections.contains_key(&ends) {
            return Err(Errno::EADDRINUSE);
        }
        if self.connections.len() >= self.sockets_max {
            return Err(Errno::ENOBUFS);
        }
        self.opening = self.opening.wrapping_add(1);
        let mut connection = Connection::new(now, ends, self.opening, State::Opening);
        connection.adopt(socket, fifos);
        self.connections.insert(ends, connection);
        self.ids.insert(socket, Place::Connection(ends));
        Ok(())
    }

    fn close(&mut self, now: Instant, socket: SocketId, abort: bool) -> Result<(), Errno> {
        match self.ids.get(&socket).copied().ok_or(Errno::EBADF)? {
            Place::Connection(ends) => {
                if let Some(connection) = self.connections.get_mut(&ends) {
                    connection.close(now, abort);
                }
                self.bury(now, ends);
            }
            Place::Listener(local) => {
                let Some(mut listener) = self.listeners.remove(&local) else { return Ok(()) };
                while let Some((credit, _)) = listener.credits.pop() {
                    self.gone(credit);
                }
                let waits = |connection: &&mut Connection| {
                    connection.listener == Some(socket) && connection.owner.is_none()
                };
                self.connections.values_mut().filter(waits).for_each(Connection::abort);
                self.gone(socket);
            }
            Place::Credit(local) => {
                if let Some(listener) = self.listeners.get_mut(&local) {
                    listener.credits.remove(socket);
                }
                self.gone(socket);
            }
        }
        Ok(())
    }

    fn ends(&self, socket: SocketId) -> Result<Ends, Errno> {
        match self.ids.get(&socket) {
            Some(Place::Connection(ends)) => Ok(*ends),
            _ => Err(Errno::EBADF),
        }
    }

    fn connection(&mut self, socket: SocketId) -> Result<&mut Connection, Errno> {
        let ends = self.ends(socket)?;
        self.connections.get_mut(&ends).ok_or(Errno::EBADF)
    }
}
