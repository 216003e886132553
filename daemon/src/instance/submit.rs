//! From a client's submissions to the stack's requests.
//!
//! Each submission was decoded; here it is checked against what the session's slots hold. What does
//! not fit is a breach; what fits but cannot be done is answered with an errno.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dmm_port::Instant;
use dmm_port::flow::{Flow, Transport, shard_of, toeplitz};
use dmm_proto::Breach;
use dmm_proto::fifo::{RxFifo, State, TxFifo};
use dmm_proto::op::{self, Address, Completion, Opening, SocketOption, Submission};
use dmm_stack::{Fifos, Request, SocketId};
use nix::errno::Errno;

use super::binding::{Bound, Holder};
use super::socket::{Kind, Socket};
use super::{Instance, OPERATIONS_PER_TURN};

impl Instance {
    /// Takes operations from the clients that marked some. Returns whether there were any.
    pub(super) fn drain_clients(&mut self, now: Instant) -> bool {
        let mut worked = false;
        for owner in 0..self.attachments.len() {
            worked |= self.drain_attachment(now, owner);
        }
        worked
    }

    pub(super) fn drain_attachment(&mut self, now: Instant, owner: usize) -> bool {
        let Some(attachment) = self.attachments[owner].as_mut() else { return false };
        let mut contexts = attachment.take_pending();
        let mut worked = false;
        while contexts != 0 {
            let context = contexts.trailing_zeros();
            contexts &= contexts - 1;
            match self.drain_channel(now, owner, context) {
                Ok(taken) => worked |= taken > 0,
                Err(breach) => {
                    self.breaches.push((owner, breach));
                    return true;
                }
            }
        }
        worked
    }

    /// Takes operations from one channel, up to a bound. Returns how many.
    fn drain_channel(&mut self, now: Instant, owner: usize, context: u32) -> Result<usize, Breach> {
        let mut taken = 0;
        while taken < OPERATIONS_PER_TURN {
            let Some(attachment) = self.attachments[owner].as_mut() else { return Ok(taken) };
            let Some(submission) = attachment.next_submission(context)? else { break };
            taken += 1;
            self.submit(now, owner, context, submission)?;
        }
        if let Some(attachment) = self.attachments[owner].as_mut() {
            attachment.release(context);
            if attachment.is_waiting(context) {
                attachment.stall(context);
            } else if taken == OPERATIONS_PER_TURN {
                attachment.leave_unfinished(context);
            }
            attachment.session.usage.operations.fetch_add(taken as u64, Ordering::Relaxed);
        }
        self.counters.operations.add(taken as u64);
        Ok(taken)
    }

    fn submit(
        &mut self,
        now: Instant,
        owner: usize,
        context: u32,
        submission: Submission,
    ) -> Result<(), Breach> {
        match submission {
            Submission::Connect { socket, local, remote, opening } => {
                self.free_slot(owner, socket)?;
                self.connect(now, (owner, context), socket, (local.0, remote.0), opening)
            }
            Submission::Listen { socket, local, backlog, opening } => {
                self.free_slot(owner, socket)?;
                self.listen(now, (owner, context), socket, local.0, (backlog, opening))
            }
            Submission::Accept { listener, socket } => {
                self.free_slot(owner, socket)?;
                self.accept(now, (owner, context), listener, socket)
            }
            Submission::Bind { socket, local, shares } => {
                self.free_slot(owner, socket)?;
                self.bind(now, (owner, context), socket, (local.0, shares))
            }
            Submission::Group { socket, group, joins } => {
                let id = self.find(owner, socket, &[Kind::Datagram])?;
                let group = Request::Group { socket: id, group: group.0.ip(), joins };
                let errno = self.stack.submit(now, group).map_or_else(|errno| errno as u32, |()| 0);
                let context = self.sockets.get(id).map_or(context, |entry| entry.context);
                self.answer(owner, context, Completion::Bound { socket, errno, local: None })
            }
            Submission::SetPeer { socket, peer } => self.set_peer(now, owner, socket, peer),
            Submission::Send { socket } => {
                let id = self.find(owner, socket, &[Kind::Stream, Kind::Datagram])?;
                self.ask(now, Request::Send { socket: id });
                Ok(())
            }
            Submission::Receive { socket } => {
                let id = self.find(owner, socket, &[Kind::Stream, Kind::Datagram])?;
                self.ask(now, Request::Receive { socket: id });
                Ok(())
            }
            Submission::Shutdown { socket, how } => {
                let id = self.find(owner, socket, &[Kind::Stream])?;
                self.ask(now, Request::Shutdown { socket: id, how });
                Ok(())
            }
            Submission::SetOption { socket, option, value } => {
                let id =
                    self.find(owner, socket, &[Kind::Stream, Kind::Listener, Kind::Datagram])?;
                self.set_option(now, (owner, context), (socket, id), (option, value))
            }
            Submission::Inform { socket, number } => {
                self.inform(now, (owner, context), socket, number)
            }
            Submission::Close { socket } => self.close(now, owner, socket),
            Submission::Rehome { socket, context } => self.rehome(owner, socket, context),
        }
    }

    fn connect(
        &mut self,
        now: Instant,
        (owner, context): (usize, u32),
        socket: op::Socket,
        (asked, remote): (SocketAddr, SocketAddr),
        opening: Opening,
    ) -> Result<(), Breach> {
        let local = match self.connect_from(now, asked, remote) {
            Ok(local) => local,
            Err(errno) => return self.refuse_connect(owner, context, socket, errno),
        };
        let flow = Flow { local, remote };
        let shards = self.steering.shards;
        let home = if shards == 1 { 0 } else { shard_of(toeplitz(&flow), shards) };
        if home != self.config.shard {
            let instance = self.config.first_instance + u32::try_from(home).expect("few shards");
            return self.answer(owner, context, Completion::Redirected { socket, instance });
        }
        let holder = match self.hold_source(owner, socket, asked.port(), &flow) {
            Ok(holder) => holder,
            Err(errno) => return self.refuse_connect(owner, context, socket, errno),
        };
        let Some(id) = self.open(owner, context, socket, Kind::Stream) else {
            if let Some(holder) = holder {
                self.bindings.release(Transport::Tcp, local, holder);
            }
            return self.refuse_connect(owner, context, socket, Errno::ENFILE);
        };
        if let Some(holder) = holder {
            self.hold(id, Transport::Tcp, local, holder);
        }
        let fifos = self.fifos(id, self.config.tcp_buffers);
        if let Err(errno) =
            self.stack.submit(now, Request::Connect { socket: id, local, remote, fifos })
        {
            self.forget(id);
            return self.refuse_connect(owner, context, socket, errno);
        }
        self.flows.insert((local, remote), id);
        if let Some(entry) = self.sockets.get_mut(id) {
            entry.flow = Some((local, remote));
        }
        // Before the stack's next poll sends the SYN.
        for (option, value) in opening.options() {
            self.set_option(now, (owner, context), (socket, id), (option, value))?;
        }
        Ok(())
    }

    fn set_option(
        &mut self,
        now: Instant,
        (owner, context): (usize, u32),
        (socket, id): (op::Socket, SocketId),
        (option, value): (SocketOption, u32),
    ) -> Result<(), Breach> {
        match self.stack.submit(now, Request::SetOption { socket: id, option, value }) {
            Ok(()) => Ok(()),
            Err(errno) => {
                let errno = errno as u32;
                self.answer(owner, context, Completion::Refused { socket, option, errno })
            }
        }
    }

    /// Tells what a socket knows of itself, part by part.
    fn inform(
        &mut self,
        now: Instant,
        (owner, context): (usize, u32),
        socket: op::Socket,
        number: u32,
    ) -> Result<(), Breach> {
        let id = self.find(owner, socket, &[Kind::Stream, Kind::Listener])?;
        let Some(info) = self.stack.tcp_info(now, id) else {
            let (errno, words) = (Errno::EOPNOTSUPP as u16, Default::default());
            let refusal = Completion::Info { socket, number, errno, part: 0, words };
            return self.answer(owner, context, refusal);
        };
        for (part, words) in (0_u32..).zip(info.encode()) {
            let told = Completion::Info { socket, number, errno: 0, part, words };
            self.answer(owner, context, told)?;
        }
        Ok(())
    }

    /// A refused attempt frees its slot: the completion is followed by `Closed`.
    fn refuse_connect(
        &mut self,
        owner: usize,
        context: u32,
        socket: op::Socket,
        errno: Errno,
    ) -> Result<(), Breach> {
        let errno = errno as u32;
        self.answer(owner, context, Completion::Connected { socket, errno, local: None })?;
        self.answer(owner, context, Completion::Closed { socket })
    }

    /// This end of a connection to `remote`: what the client bound, or what the stack chooses.
    fn connect_from(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<SocketAddr, Errno> {
        if remote.port() == 0 || remote.ip().is_multicast() {
            return Err(Errno::ECONNREFUSED);
        }
        let source = self.stack.source_for(remote.ip()).ok_or(Errno::ENETUNREACH)?;
        let source = match local.ip() {
            ip if ip.is_unspecified() => source,
            ip if ip.is_ipv4() != remote.is_ipv4() => return Err(Errno::EAFNOSUPPORT),
            ip if self.is_own(ip) => ip,
            _ => return Err(Errno::EADDRNOTAVAIL),
        };
        if local.port() != 0 {
            return Ok(SocketAddr::new(source, local.port()));
        }
        self.port_cursor = self.port_cursor.wrapping_add(7);
        let shards = (self.config.shard, self.steering.shards);
        let in_use = |local| self.flows.contains_key(&(local, remote));
        let free = |in_use: &dyn Fn(SocketAddr) -> bool| {
            self.bindings.ephemeral(source, remote, shards, self.port_cursor, in_use)
        };
        free(&in_use)
            .or_else(|| {
                // Where all are in use, connections in TIME-WAIT may make way.
                let makes_way = |local| self.stack.makes_way(now, &Flow { local, remote });
                free(&|local| in_use(local) && !makes_way(local))
            })
            .ok_or(Errno::EADDRNOTAVAIL)
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        self.stack.source_for(ip) == Some(ip)
    }

    fn listen(
        &mut self,
        now: Instant,
        (owner, context): (usize, u32),
        socket: op::Socket,
        local: SocketAddr,
        (backlog, opening): (u32, Opening),
    ) -> Result<(), Breach> {
        let bound = self.bind_port(owner, Transport::Tcp, socket, (local, false));
        let local = match bound {
            Ok(Bound::Here(local)) => local,
            Ok(Bound::Elsewhere(_)) => unreachable!("TCP ports have no home"),
            Err(errno) => return self.refuse_bind(owner, context, socket, errno),
        };
        let holder = self.holder(owner, socket);
        let Some(id) = self.open(owner, context, socket, Kind::Listener) else {
            self.bindings.release(Transport::Tcp, local, holder);
            return self.refuse_bind(owner, context, socket, Errno::ENFILE);
        };
        self.hold(id, Transport::Tcp, local, holder);
        let backlog = backlog.clamp(1, self.config.backlog_max);
        match self.stack.submit(now, Request::Listen { socket: id, local, backlog }) {
            Ok(()) => {
                for (option, value) in opening.options() {
                    self.set_option(now, (owner, context), (socket, id), (option, value))?;
                }
                self.opened(owner, context, id, local)
            }
            Err(errno) => {
                self.forget(id);
                self.refuse_bind(owner, context, socket, errno)
            }
        }
    }

    fn accept(
        &mut self,
        now: Instant,
        (owner, context): (usize, u32),
        listener: op::Socket,
        socket: op::Socket,
    ) -> Result<(), Breach> {
        let listener = self.find(owner, listener, &[Kind::Listener])?;
        let Some(id) = self.open(owner, context, socket, Kind::Credit) else {
            return self.answer(owner, context, Completion::Closed { socket });
        };
        let fifos = self.fifos(id, self.config.tcp_buffers);
        if self.stack.submit(now, Request::Accept { listener, socket: id, fifos }).is_err() {
            self.forget(id);
            return self.answer(owner, context, Completion::Closed { socket });
        }
        Ok(())
    }

    fn bind(
        &mut self,
        now: Instant,
        (owner, context): (usize, u32),
        socket: op::Socket,
        (local, shares): (SocketAddr, bool),
    ) -> Result<(), Breach> {
        let local = match self.bind_port(owner, Transport::Udp, socket, (local, shares)) {
            Ok(Bound::Here(local)) => local,
            Ok(Bound::Elsewhere(shard)) => {
                let shard = u32::try_from(shard).expect("few shards");
                let instance = self.config.first_instance + shard;
                return self.answer(owner, context, Completion::Redirected { socket, instance });
            }
            Err(errno) => return self.refuse_bind(owner, context, socket, errno),
        };
        let holder = self.holder(owner, socket);
        let Some(id) = self.open(owner, context, socket, Kind::Datagram) else {
            self.bindings.release(Transport::Udp, local, holder);
            return self.refuse_bind(owner, context, socket, Errno::ENFILE);
        };
        self.hold(id, Transport::Udp, local, holder);
        let fifos = self.fifos(id, self.config.udp_buffers);
        match self.stack.submit(now, Request::Bind { socket: id, local, shares, fifos }) {
            Ok(()) => self.opened(owner, context, id, local),
            Err(errno) => {
                self.forget(id);
                self.refuse_bind(owner, context, socket, errno)
            }
        }
    }

    fn set_peer(
        &mut self,
        now: Instant,
        owner: usize,
        socket: op::Socket,
        peer: Option<Address>,
    ) -> Result<(), Breach> {
        let id = self.find(owner, socket, &[Kind::Datagram])?;
        let peer = peer.map(|peer| peer.0);
        let reachable = peer.is_none_or(|peer| self.stack.source_for(peer.ip()).is_some());
        let result = if reachable {
            self.stack.submit(now, Request::SetPeer { socket: id, peer })
        } else {
            Err(Errno::ENETUNREACH)
        };
        let errno = result.map_or_else(|errno| errno as u32, |()| 0);
        let Some(entry) = self.sockets.get(id) else { return Ok(()) };
        let local = entry.binding.map(|(_, local, _)| {
            let unspecified = local.ip().is_unspecified();
            let source = peer.filter(|_| unspecified).and_then(|p| self.stack.source_for(p.ip()));
            Address(SocketAddr::new(source.unwrap_or(local.ip()), local.port()))
        });
        self.answer(owner, entry.context, Completion::Bound { socket, errno, local })
    }

    /// Closes a socket. One that the daemon has given back by itself meanwhile (an attempt that was
    /// refused or redirected) is closed already: the two words crossed.
    fn close(&mut self, now: Instant, owner: usize, socket: op::Socket) -> Result<(), Breach> {
        let all = [Kind::Stream, Kind::Listener, Kind::Datagram];
        let id = match self.find(owner, socket, &all) {
            Ok(id) => id,
            Err(Breach::SlotState | Breach::Generation) => return Ok(()),
            Err(breach) => return Err(breach),
        };
        let context = self.sockets.get(id).map_or(0, |entry| entry.context);
        self.let_go(now, id, false);
        self.answer(owner, context, Completion::Closed { socket })
    }

    fn rehome(&mut self, owner: usize, socket: op::Socket, context: u32) -> Result<(), Breach> {
        let all = [Kind::Stream, Kind::Listener, Kind::Datagram];
        let id = self.find(owner, socket, &all)?;
        let attachment = self.attachments[owner].as_ref().ok_or(Breach::SlotState)?;
        if attachment.session.ringer(context).is_none() {
            return Err(Breach::Context);
        }
        let Some(entry) = self.sockets.get_mut(id) else { return Ok(()) };
        let from = std::mem::replace(&mut entry.context, context);
        // A `Look` may be under way on the old channel; the new context looks for itself.
        entry.client.rx_told.swap(0, Ordering::AcqRel);
        let Some(attachment) = self.attachments[owner].as_mut() else { return Ok(()) };
        attachment.rehome(from, context, socket)?;
        self.mark_dirty(owner);
        Ok(())
    }

    /// Asks the stack something that cannot be refused to a socket in the right state; a socket
    /// that broke meanwhile has said so by an event.
    fn ask(&mut self, now: Instant, request: Request) {
        let _ = self.stack.submit(now, request);
    }

    fn free_slot(&self, owner: usize, socket: op::Socket) -> Result<(), Breach> {
        let attachment = self.attachments[owner].as_ref().ok_or(Breach::SlotState)?;
        match attachment.slot(socket.slot)? {
            None => Ok(()),
            Some(_) => Err(Breach::SlotState),
        }
    }

    fn find(&self, owner: usize, socket: op::Socket, kinds: &[Kind]) -> Result<SocketId, Breach> {
        let attachment = self.attachments[owner].as_ref().ok_or(Breach::SlotState)?;
        let id = attachment.slot(socket.slot)?.ok_or(Breach::SlotState)?;
        let entry = self.sockets.get(id).ok_or(Breach::SlotState)?;
        if entry.name.generation != socket.generation {
            return Err(Breach::Generation);
        }
        if !kinds.contains(&entry.kind) {
            return Err(Breach::Kind);
        }
        Ok(id)
    }

    /// Opens a socket in a slot that was checked to be free.
    fn open(
        &mut self,
        owner: usize,
        context: u32,
        name: op::Socket,
        kind: Kind,
    ) -> Option<SocketId> {
        let attachment = self.attachments[owner].as_mut()?;
        let memory = &attachment.session.memory;
        let socket = Socket {
            owner: Some(owner),
            name,
            kind,
            context,
            daemon: memory.daemon_line(name.slot),
            client: memory.client_line(name.slot),
            binding: None,
            flow: None,
            charge: None,
        };
        let Some(id) = self.sockets.insert(socket) else {
            self.counters.sockets_refused.add(1);
            return None;
        };
        attachment.set_slot(name.slot, Some(id));
        attachment.session.usage.sockets.fetch_add(1, Ordering::Relaxed);
        attachment.session.usage.opened.fetch_add(1, Ordering::Relaxed);
        self.counters.sockets_opened.add(1);
        Some(id)
    }

    fn fifos(&self, id: SocketId, (rx, tx): (u32, u32)) -> Fifos {
        let entry = self.sockets.get(id).expect("just opened");
        let owner = entry.owner.expect("just opened");
        let session = &self.attachments[owner].as_ref().expect("just opened").session;
        let parts = session.memory.fifo(entry.name.slot);
        entry.daemon.reset(rx);
        Fifos {
            rx: RxFifo::new(&parts, Arc::clone(&session.pool), rx),
            tx: TxFifo::new(&parts, Arc::clone(&session.pool), tx),
        }
    }

    pub(super) fn holder(&self, owner: usize, socket: op::Socket) -> Holder {
        let session = self.attachments[owner].as_ref().expect("the caller's").session.id;
        Holder { session, slot: socket.slot, generation: socket.generation }
    }

    fn bind_port(
        &mut self,
        owner: usize,
        transport: Transport,
        socket: op::Socket,
        (local, shares): (SocketAddr, bool),
    ) -> Result<Bound, Errno> {
        let ip = local.ip();
        // UDP may be bound to addresses of many, which the stack knows.
        if transport == Transport::Tcp && !ip.is_unspecified() && !self.is_own(ip) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        self.port_cursor = self.port_cursor.wrapping_add(7);
        let holder = self.holder(owner, socket);
        let session = self.attachments[owner].as_ref().map(|attachment| &attachment.session);
        let sharer = session.filter(|_| shares).map(|session| session.peer.uid);
        let shard = self.config.shard;
        self.bindings.bind(transport, (local, sharer), holder, shard, self.port_cursor)
    }

    fn hold(&mut self, id: SocketId, transport: Transport, local: SocketAddr, holder: Holder) {
        if let Some(entry) = self.sockets.get_mut(id) {
            entry.binding = Some((transport, local, holder));
        }
    }

    fn opened(
        &mut self,
        owner: usize,
        context: u32,
        id: SocketId,
        local: SocketAddr,
    ) -> Result<(), Breach> {
        let Some(entry) = self.sockets.get(id) else { return Ok(()) };
        let socket = entry.name;
        if entry.kind == Kind::Datagram {
            // Listeners have no line of their own: all shards share their slot.
            entry.daemon.raise(State::OPEN);
        }
        let local = Some(Address(local));
        self.answer(owner, context, Completion::Bound { socket, errno: 0, local })
    }

    fn refuse_bind(
        &mut self,
        owner: usize,
        context: u32,
        socket: op::Socket,
        errno: Errno,
    ) -> Result<(), Breach> {
        let errno = errno as u32;
        self.answer(owner, context, Completion::Bound { socket, errno, local: None })
    }

    /// Takes a socket back that the stack refused.
    fn forget(&mut self, id: SocketId) {
        self.disown(id);
        self.release_port(id);
        self.sockets.remove(id);
    }
}
