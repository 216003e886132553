//! Requests of the owner.
//!
//! Owns: what each [`Request`] does. Called between bursts. Must never: change anything when it
//! returns an error, or touch a socket's shared lines after its close.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use dmm_port::Instant;
use dmm_port::flow::Flow;
use dmm_proto::op::SocketOption;
use nix::errno::Errno;

use super::bound::Bound;
use super::datagram::Datagram;
use super::listener::Listener;
use super::options::Options;
use super::slots::{Place, Slot, SlotIndex};
use super::{Connection, Owner, Rest, Sockets};
use crate::ip::net::is_unicast;
use crate::{Event, Fifos, Request, SocketId};

/// Groups that a socket may be a member of at most, as Linux has it (`igmp_max_memberships`).
const MEMBERSHIPS_MAX: usize = 20;

impl<C: Connection> Sockets<C> {
    /// Takes a request. A connection to be opened is made by `open`, perhaps with the number from which it may
    /// begin.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        request: Request,
        open: impl FnOnce(SocketId, Flow, Fifos, Options, Option<u32>) -> Result<C, Errno>,
    ) -> Result<(), Errno> {
        match request {
            Request::Connect { socket, local, remote, fifos } => {
                let flow = Flow { local, remote };
                let before = self.of_flow(&flow).zip(self.succession(now, &flow));
                self.check_connect(socket, flow, before.is_some())?;
                let first = before.map(|(_, number)| number);
                let connection = open(socket, flow, fifos, self.options, first)?;
                if let Some((index, _)) = before {
                    self.remove(index);
                }
                self.insert(socket, Slot::Connection(Box::new(connection)), |sockets, index| {
                    sockets.flows.insert(flow, index);
                    sockets.slots.mark(index);
                });
                Ok(())
            }
            Request::Listen { socket, local, backlog } => self.listen(socket, local, backlog),
            Request::Accept { listener, socket, fifos } => {
                self.accept(now, listener, socket, fifos)
            }
            Request::Bind { socket, local, shares, fifos } => {
                self.bind(socket, (local, shares), fifos)
            }
            Request::SetPeer { socket, peer } => self.set_peer(socket, peer),
            Request::Group { socket, group, joins } => self.group(now, socket, (group, joins)),
            Request::Send { socket } => self.send(socket),
            Request::Receive { socket } => {
                let index = self.index(socket)?;
                if let Some(connection) = self.slots.connection(index) {
                    connection.receive();
                }
                self.slots.mark(index);
                Ok(())
            }
            Request::Shutdown { socket, how } => {
                let index = self.index(socket)?;
                self.slots.connection(index).ok_or(Errno::EOPNOTSUPP)?.shut_down(how);
                self.slots.mark(index);
                Ok(())
            }
            Request::SetOption { socket, option, value } => self.set_option(socket, option, value),
            Request::Close { socket } => self.close(now, socket, false),
            Request::Abort { socket } => self.close(now, socket, true),
        }
    }

    fn check_connect(&self, socket: SocketId, flow: Flow, succeeds: bool) -> Result<(), Errno> {
        let Flow { local, remote } = flow;
        self.check_new(socket)?;
        if remote.port() == 0 || remote.ip().is_unspecified() || local.port() == 0 {
            return Err(Errno::EINVAL);
        }
        if local.is_ipv4() != remote.is_ipv4() || !self.net.is_own(local.ip()) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        // RFC 9293 section 3.9.2.3: TCP talks to one station.
        let one = is_unicast(remote.ip()) && !self.net.is_many(remote.ip());
        if !one || self.net.source_for(remote.ip()).is_none() {
            return Err(Errno::ENETUNREACH);
        }
        if self.flows.contains_key(&flow) && !succeeds { Err(Errno::EADDRINUSE) } else { Ok(()) }
    }

    fn insert(
        &mut self,
        socket: SocketId,
        slot: Slot<C>,
        enter: impl FnOnce(&mut Self, SlotIndex),
    ) {
        let index = self.slots.insert(slot);
        self.slots.assign(socket, Place::Slot(index));
        enter(self, index);
    }

    fn listen(&mut self, socket: SocketId, local: SocketAddr, backlog: u32) -> Result<(), Errno> {
        self.check_new(socket)?;
        self.check_local(local)?;
        if self.listeners.contains_key(&local) {
            return Err(Errno::EADDRINUSE);
        }
        let listener = Listener::new(socket, local, backlog, self.options);
        self.insert(socket, Slot::Listener(Box::new(listener)), |sockets, index| {
            sockets.listeners.insert(local, index);
        });
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

    fn bind(
        &mut self,
        socket: SocketId,
        (local, shares): (SocketAddr, bool),
        mut fifos: Fifos,
    ) -> Result<(), Errno> {
        self.check_new(socket)?;
        // Of a group or a broadcast address, it receives what goes there alone (ip(7)).
        if !self.net.is_many(local.ip()) || local.port() == 0 {
            self.check_local(local)?;
        }
        self.datagrams.get(&local).map_or(Ok(()), |bound| bound.admits(shares))?;
        fifos.tx.grant();
        let datagram = Datagram::new(socket, local, fifos, self.options);
        self.insert(socket, Slot::Datagram(Box::new(datagram)), |sockets, index| {
            let bound = sockets.datagrams.entry(local);
            let bound = bound.and_modify(|bound| bound.join(index));
            bound.or_insert_with(|| Bound::new(index, shares));
        });
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
            if net.is_broadcast(peer.ip()) && !datagram.options.broadcast {
                return Err(Errno::EACCES);
            }
        }
        if let Some(bound) = self.datagrams.get_mut(&datagram.local) {
            bound.connect(index, datagram.peer, peer);
        }
        (datagram.peer, datagram.sent_to_peer) = (peer, false);
        Ok(())
    }

    fn group(
        &mut self,
        now: Instant,
        socket: SocketId,
        (group, joins): (IpAddr, bool),
    ) -> Result<(), Errno> {
        let index = self.index(socket)?;
        let groups = self.groups.as_mut().ok_or(Errno::EOPNOTSUPP)?;
        let datagram = self.slots.datagram(index).ok_or(Errno::EOPNOTSUPP)?;
        if group.is_ipv4() != datagram.local.is_ipv4() {
            return Err(Errno::EINVAL);
        }
        let at = datagram.groups.iter().position(|other| *other == group);
        match (joins, at) {
            (true, Some(_)) => Err(Errno::EADDRINUSE),
            (true, None) if datagram.groups.len() == MEMBERSHIPS_MAX => Err(Errno::ENOBUFS),
            (true, None) => {
                groups.join(now, group)?;
                datagram.groups.push(group);
                Ok(())
            }
            (false, Some(at)) => {
                datagram.groups.swap_remove(at);
                groups.leave(now, group);
                Ok(())
            }
            (false, None) => Err(Errno::EADDRNOTAVAIL),
        }
    }

    fn send(&mut self, socket: SocketId) -> Result<(), Errno> {
        let index = self.index(socket)?;
        match self.slots.get_mut(index) {
            Some(Slot::Connection(connection)) => connection.send(),
            Some(Slot::Datagram(datagram)) => {
                datagram.room.hungry = true;
                if let Some(tx) = &mut datagram.tx {
                    // A breach is found again, and told, when the socket is served.
                    let _ = tx.hear();
                }
            }
            _ => return Err(Errno::EOPNOTSUPP),
        }
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
                let waited = connection.is_deferred();
                connection.set_option(option, value)?;
                if connection.is_deferred() && !waited {
                    self.events.push(Event::Deferred { socket });
                }
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
            Some(Slot::Datagram(_)) => self.close_datagram(now, index, abort),
            None => return Err(Errno::EBADF),
        }
        Ok(())
    }

    fn close_connection(&mut self, now: Instant, index: SlotIndex, socket: SocketId, abort: bool) {
        let Some(connection) = self.slots.connection(index) else { return };
        if connection.owner() != Owner::Socket(socket) {
            return;
        }
        connection.set_owner(Owner::Orphan(socket));
        match connection.close(now, abort) {
            Rest::Nothing => drop(self.remove(index)),
            Rest::Something => self.slots.mark(index),
        }
    }

    fn close_listener(&mut self, index: SlotIndex) {
        let Some(Slot::Listener(mut listener)) = self.slots.remove(index) else { return };
        self.listeners.remove(&listener.local);
        while let Some((credit, _)) = listener.credits.pop() {
            self.gone(credit);
        }
        for waiting in listener.half_open.iter().chain(&listener.ready) {
            if let Some(connection) = self.slots.connection(*waiting) {
                connection.set_owner(Owner::Nobody);
                connection.abort();
                self.slots.mark(*waiting);
            }
        }
        self.gone(listener.id);
    }

    fn close_datagram(&mut self, now: Instant, index: SlotIndex, abort: bool) {
        let Some(datagram) = self.slots.datagram(index) else { return };
        let first = !std::mem::replace(&mut datagram.closing, true);
        datagram.rx = None;
        let unsent = match &mut datagram.tx {
            Some(tx) if !abort && first => tx.seal().is_ok() && tx.queued() > 0,
            _ => false,
        };
        for group in std::mem::take(&mut datagram.groups) {
            if let Some(groups) = &mut self.groups {
                groups.leave(now, group);
            }
        }
        let (local, peer) = (datagram.local, datagram.peer);
        if first && self.datagrams.get_mut(&local).is_some_and(|bound| bound.leave(index, peer)) {
            self.datagrams.remove(&local);
        }
        if unsent {
            self.slots.mark(index);
        } else if abort || first {
            self.remove_datagram(index);
        }
    }

    /// Takes a UDP socket that was closed out of the table.
    pub(super) fn remove_datagram(&mut self, index: SlotIndex) {
        self.waiting.retain(|waiting| *waiting != index);
        if let Some(Slot::Datagram(datagram)) = self.slots.remove(index) {
            self.gone(datagram.id);
        }
    }

    /// An id stands for nothing any more.
    pub(super) fn gone(&mut self, socket: SocketId) {
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
