//! Requests of the owner.
//!
//! Owns: what each [`Request`] does. Called between bursts. Must never: change anything when it
//! returns an error, or touch a socket's shared lines after its close.
#![forbid(unsafe_code)]

use std::net::SocketAddr;

use ::smoltcp::socket::tcp;
use dmm_port::Instant;
use dmm_port::flow::Flow;
use dmm_proto::op::{How, SocketOption};
use nix::errno::Errno;

use super::SmoltcpStack;
use super::connection::{Connection, Owner, Phase};
use crate::datagram::Datagram;
use crate::listener::Listener;
use crate::slots::{Place, Slot, SlotIndex};
use crate::{Event, Fifos, Request, SocketId};

impl SmoltcpStack {
    /// Takes a request.
    pub(super) fn take_request(&mut self, now: Instant, request: Request) -> Result<(), Errno> {
        match request {
            Request::Connect { socket, local, remote, fifos } => {
                self.connect(now, socket, Flow { local, remote }, fifos)
            }
            Request::Listen { socket, local, backlog } => self.listen(socket, local, backlog),
            Request::Accept { listener, socket, fifos } => {
                self.accept(now, listener, socket, fifos)
            }
            Request::Bind { socket, local, fifos } => self.bind(socket, local, fifos),
            Request::SetPeer { socket, peer } => self.set_peer(socket, peer),
            Request::Send { socket } => self.send(socket),
            Request::Receive { socket } => self.read_on(socket),
            Request::Shutdown { socket, how } => self.shutdown(socket, how),
            Request::SetOption { socket, option, value } => self.set_option(socket, option, value),
            Request::Close { socket } => self.close(now, socket, false),
            Request::Abort { socket } => self.close(now, socket, true),
        }
    }

    fn connect(
        &mut self,
        now: Instant,
        socket: SocketId,
        flow: Flow,
        fifos: Fifos,
    ) -> Result<(), Errno> {
        let Flow { local, remote } = flow;
        self.check_new(socket)?;
        if remote.port() == 0 || remote.ip().is_unspecified() || local.port() == 0 {
            return Err(Errno::EINVAL);
        }
        if local.is_ipv4() != remote.is_ipv4() || !self.net.is_own(local.ip()) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        // RFC 9293 section 3.9.2.3: TCP talks to one station.
        if !crate::net::is_unicast(remote.ip()) || self.net.source_for(remote.ip()).is_none() {
            return Err(Errno::ENETUNREACH);
        }
        if self.flows.contains_key(&flow) {
            return Err(Errno::EADDRINUSE);
        }
        let options = self.options;
        let tcp = self.spare_socket(&options).ok_or(Errno::ENOBUFS)?;
        let owner = Owner::Socket(socket);
        let mut connection = Connection::new(now, tcp, flow, owner, Some(fifos), options);
        let context = self.link.iface().context();
        // What the library refuses was refused above.
        let opened = connection.tcp().connect(context, remote, local);
        opened.map_err(|_| Errno::EINVAL)?;
        let index = self.slots.insert(Slot::Connection(Box::new(connection)));
        self.slots.assign(socket, Place::Slot(index));
        self.flows.insert(flow, index);
        self.slots.mark(index);
        Ok(())
    }

    fn listen(&mut self, socket: SocketId, local: SocketAddr, backlog: u32) -> Result<(), Errno> {
        self.check_new(socket)?;
        self.check_local(local)?;
        if self.listeners.contains_key(&local) {
            return Err(Errno::EADDRINUSE);
        }
        let listener = Listener::new(socket, local, backlog, self.options);
        let index = self.slots.insert(Slot::Listener(Box::new(listener)));
        self.slots.assign(socket, Place::Slot(index));
        self.listeners.insert(local, index);
        Ok(())
    }

    fn accept(
        &mut self,
        now: Instant,
        listener: SocketId,
        socket: SocketId,
        fifos: Fifos,
    ) -> Result<(), Errno> {
        let index = self.index(listener)?;
        if !self.slots.is_free(socket) {
            return Err(Errno::EINVAL);
        }
        let listener = self.slots.listener(index).ok_or(Errno::EINVAL)?;
        listener.credits.push(socket, fifos);
        self.slots.assign(socket, Place::Credit(index));
        self.hand_out(now, index);
        Ok(())
    }

    fn bind(&mut self, socket: SocketId, local: SocketAddr, mut fifos: Fifos) -> Result<(), Errno> {
        self.check_new(socket)?;
        self.check_local(local)?;
        if self.datagrams.contains_key(&local) {
            return Err(Errno::EADDRINUSE);
        }
        fifos.tx.grant();
        let datagram = Datagram::new(socket, local, fifos, self.options);
        let index = self.slots.insert(Slot::Datagram(Box::new(datagram)));
        self.slots.assign(socket, Place::Slot(index));
        self.datagrams.insert(local, index);
        Ok(())
    }

    fn set_peer(&mut self, socket: SocketId, peer: Option<SocketAddr>) -> Result<(), Errno> {
        let index = self.index(socket)?;
        let net = &self.net;
        let datagram = self.slots.datagram(index).ok_or(Errno::EOPNOTSUPP)?;
        if let Some(peer) = peer {
            if peer.is_ipv4() != datagram.local.is_ipv4() {
                return Err(Errno::EAFNOSUPPORT);
            }
            if net.source_for(peer.ip()).is_none() {
                return Err(Errno::ENETUNREACH);
            }
        }
        datagram.peer = peer;
        Ok(())
    }

    fn send(&mut self, socket: SocketId) -> Result<(), Errno> {
        let index = self.index(socket)?;
        let tx = match self.slots.get_mut(index) {
            Some(Slot::Connection(connection)) => {
                connection.room.hungry = true;
                &mut connection.tx
            }
            Some(Slot::Datagram(datagram)) => {
                datagram.room.hungry = true;
                &mut datagram.tx
            }
            _ => return Err(Errno::EOPNOTSUPP),
        };
        if let Some(tx) = tx {
            // A breach is found again, and told, when the socket is served.
            let _ = tx.hear();
            self.slots.mark(index);
        }
        Ok(())
    }

    fn read_on(&mut self, socket: SocketId) -> Result<(), Errno> {
        let index = self.index(socket)?;
        if let Some(connection) = self.slots.connection(index) {
            connection.stalled = false;
        }
        self.slots.mark(index);
        Ok(())
    }

    fn shutdown(&mut self, socket: SocketId, how: How) -> Result<(), Errno> {
        let index = self.index(socket)?;
        let connection = self.slots.connection(index).ok_or(Errno::EOPNOTSUPP)?;
        connection.deaf |= how != How::Write;
        connection.finishing |= how != How::Read;
        self.slots.mark(index);
        Ok(())
    }

    fn set_option(
        &mut self,
        socket: SocketId,
        option: SocketOption,
        value: u32,
    ) -> Result<(), Errno> {
        let index = self.index(socket)?;
        match self.slots.get_mut(index) {
            Some(Slot::Connection(connection)) => {
                connection.options.set(option, value)?;
                let options = connection.options;
                connection.tcp().set_options(&options);
            }
            Some(Slot::Listener(listener)) => listener.options.set(option, value)?,
            Some(Slot::Datagram(datagram)) => datagram.options.set(option, value)?,
            None => return Err(Errno::EBADF),
        }
        self.slots.mark(index);
        Ok(())
    }

    fn close(&mut self, now: Instant, socket: SocketId, abort: bool) -> Result<(), Errno> {
        let index = match self.slots.place(socket) {
            Place::Slot(index) => index,
            Place::Credit(listener) => {
                if let Some(listener) = self.slots.listener(listener) {
                    listener.credits.remove(socket);
                }
                self.gone(socket);
                return Ok(());
            }
            Place::Free => return Err(Errno::EBADF),
        };
        match self.slots.get_mut(index) {
            Some(Slot::Connection(_)) => self.close_connection(now, index, socket, abort),
            Some(Slot::Listener(_)) => self.close_listener(index),
            Some(Slot::Datagram(_)) => self.close_datagram(index, abort),
            None => return Err(Errno::EBADF),
        }
        Ok(())
    }

    fn close_connection(&mut self, now: Instant, index: SlotIndex, socket: SocketId, abort: bool) {
        let Some(connection) = self.slots.connection(index) else { return };
        if connection.owner != Owner::Socket(socket) {
            return;
        }
        connection.owner = Owner::Orphan(socket);
        connection.orphaned(now);
        let mut reset = abort || connection.options.reset_on_close;
        reset |= connection.phase == Phase::Opening;
        // RFC 2525 section 2.17: a regular end would claim that all data was read.
        reset |= connection.tcp().can_recv() && !connection.deaf;
        if let Some(mut rx) = connection.rx.take() {
            reset |= rx.refresh().is_err() || (rx.unread() > 0 && !connection.deaf);
        }
        if let Some(tx) = &mut connection.tx {
            // A last breach tells nothing new about an owner that is done with the socket.
            reset |= tx.seal().is_err();
        }
        if reset {
            connection.tx = None;
            connection.phase = Phase::Over;
            // RFC 9293 section 3.10.4: a SYN that was not answered needs no reset.
            if connection.state() == tcp::State::SynSent {
                self.remove(index);
                return;
            }
            connection.tcp().abort();
        } else {
            connection.finishing = true;
        }
        self.slots.mark(index);
    }

    fn close_listener(&mut self, index: SlotIndex) {
        let Some(Slot::Listener(mut listener)) = self.slots.remove(index) else { return };
        self.listeners.remove(&listener.local);
        while let Some((credit, _)) = listener.credits.pop() {
            self.gone(credit);
        }
        for waiting in listener.half_open.iter().chain(&listener.ready) {
            if let Some(connection) = self.slots.connection(*waiting) {
                connection.owner = Owner::Nobody;
                connection.phase = Phase::Over;
                connection.tcp().abort();
                self.slots.mark(*waiting);
            }
        }
        self.gone(listener.id);
    }

    fn close_datagram(&mut self, index: SlotIndex, abort: bool) {
        let Some(datagram) = self.slots.datagram(index) else { return };
        let first = !std::mem::replace(&mut datagram.closing, true);
        datagram.rx = None;
        let unsent = match &mut datagram.tx {
            Some(tx) if !abort && first => tx.seal().is_ok() && tx.queued() > 0,
            _ => false,
        };
        if first {
            self.datagrams.remove(&datagram.local);
        }
        if unsent {
            self.slots.mark(index);
        } else if abort || first {
            self.remove_datagram(index);
        }
    }

    fn gone(&mut self, socket: SocketId) {
        self.slots.assign(socket, Place::Free);
        self.events.push(Event::Gone { socket });
    }

    fn index(&self, socket: SocketId) -> Result<SlotIndex, Errno> {
        match self.slots.place(socket) {
            Place::Slot(index) => Ok(index),
            Place::Credit(_) | Place::Free => Err(Errno::EBADF),
        }
    }

    fn check_new(&self, socket: SocketId) -> Result<(), Errno> {
        if !self.slots.is_free(socket) {
            return Err(Errno::EINVAL);
        }
        if self.slots.has_room() { Ok(()) } else { Err(Errno::ENOBUFS) }
    }

    fn check_local(&self, local: SocketAddr) -> Result<(), Errno> {
        match local {
            _ if local.port() == 0 => Err(Errno::EINVAL),
            _ if local.ip().is_unspecified() || self.net.is_own(local.ip()) => Ok(()),
            _ => Err(Errno::EADDRNOTAVAIL),
        }
    }
}
