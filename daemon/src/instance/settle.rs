//! From the stack's events to a client's lines and completions.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use dmm_port::Instant;
use dmm_proto::Breach;
use dmm_proto::fifo::State;
use dmm_proto::op::{Address, Completion};
use dmm_stack::{Event, Request, SocketId};
use nix::errno::Errno;

use super::Instance;
use super::socket::Kind;

/// Orphans of one instance at most, whoever left them. With the default buffers of 64 KiB each way
/// and what the FIFOs still hold, one takes some 240 KiB: all of them 4 GiB.
const ORPHANS_MAX: usize = 1 << 14;

impl Instance {
    /// Tells the clients what happened.
    pub(super) fn settle(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            self.settle_one(event);
        }
        // The buffer is kept, so that the steady state allocates nothing.
        self.events = events;
    }

    fn settle_one(&mut self, event: Event) {
        match event {
            Event::Connected { socket, result } => self.connected(socket, result),
            Event::Deferred { socket } => {
                if let Some(name) = self.sockets.get(socket).map(|entry| entry.name) {
                    self.tell(socket, Completion::Deferred { socket: name });
                }
            }
            Event::Accepted { socket, listener, local, peer } => {
                let listener = self.sockets.get(listener).map_or(0, |l| l.name.slot);
                if let Some(entry) = self.sockets.get_mut(socket) {
                    entry.kind = Kind::Stream;
                    entry.daemon.raise(State::OPEN);
                    let (local, peer) = (Address(local), Address(peer));
                    let name = entry.name;
                    self.tell(socket, Completion::Accepted { socket: name, listener, local, peer });
                }
            }
            Event::Readable { socket } | Event::Writable { socket } => self.look(socket),
            Event::Ended { socket } => self.raise(socket, State::RX_ENDED),
            Event::Broken { socket, errno } => {
                self.set_error(socket, errno);
                self.raise(socket, State::BROKEN);
            }
            Event::Troubled { socket, errno } => {
                if let Some(entry) = self.sockets.get(socket).filter(|s| s.owner.is_some()) {
                    entry.daemon.report(errno as u32);
                    self.look(socket);
                }
            }
            Event::Breach { socket, breach } => {
                if let Some(owner) = self.sockets.get(socket).and_then(|entry| entry.owner) {
                    self.breaches.push((owner, breach));
                }
            }
            Event::Gone { socket } => self.gone(socket),
            Event::Ponged { token, result } => self.pongs.push((token, result)),
        }
    }

    fn connected(&mut self, id: SocketId, result: Result<(), Errno>) {
        let Some(entry) = self.sockets.get(id).filter(|entry| entry.owner.is_some()) else {
            return;
        };
        match result {
            Ok(()) => entry.daemon.raise(State::OPEN),
            Err(errno) => {
                entry.daemon.error.store(errno as u32, Ordering::Relaxed);
                entry.daemon.raise(State::BROKEN);
            }
        }
        let errno = result.map_or_else(|errno| errno as u32, |()| 0);
        let local = entry.flow.map(|(local, _)| Address(local));
        self.tell(id, Completion::Connected { socket: entry.name, errno, local });
    }

    fn set_error(&self, id: SocketId, errno: Errno) {
        if let Some(entry) = self.sockets.get(id).filter(|entry| entry.owner.is_some()) {
            entry.daemon.error.store(errno as u32, Ordering::Relaxed);
        }
    }

    fn raise(&mut self, id: SocketId, bits: u32) {
        if let Some(entry) = self.sockets.get(id).filter(|entry| entry.owner.is_some()) {
            entry.daemon.raise(bits);
            self.look(id);
        }
    }

    fn gone(&mut self, id: SocketId) {
        if let Some(entry) = self.sockets.get(id)
            && entry.owner.is_some()
            && entry.kind == Kind::Credit
        {
            // The listener closed before a connection came: the slot goes back.
            let completion = Completion::Closed { socket: entry.name };
            self.tell(id, completion);
            self.disown(id);
        }
        let owned = self.sockets.get(id).is_some_and(|entry| entry.owner.is_some());
        // A socket that its client has not closed keeps its place: the client will close it.
        if owned {
            return;
        }
        self.release_port(id);
        // Another may have taken its place (RFC 6191).
        if let Some(flow) = self.sockets.remove(id).and_then(|entry| entry.flow)
            && self.flows.get(&flow) == Some(&id)
        {
            self.flows.remove(&flow);
        }
    }

    /// Tells a socket's client to look at it, unless it was told and has not looked yet. The word
    /// is the client's to scribble over: what that piles up is bounded by the outbox.
    fn look(&mut self, id: SocketId) {
        let Some(entry) = self.sockets.get(id).filter(|entry| entry.owner.is_some()) else {
            return;
        };
        if entry.client.rx_told.swap(1, Ordering::AcqRel) == 0 {
            let socket = entry.name;
            self.tell(id, Completion::Look { socket });
        }
    }

    fn tell(&mut self, id: SocketId, completion: Completion) {
        let Some(entry) = self.sockets.get(id) else { return };
        let Some(owner) = entry.owner else { return };
        let context = entry.context;
        if let Err(breach) = self.answer(owner, context, completion) {
            self.breaches.push((owner, breach));
        }
    }

    /// Completes an operation on a context's channel.
    pub(super) fn answer(
        &mut self,
        owner: usize,
        context: u32,
        completion: Completion,
    ) -> Result<(), Breach> {
        let Some(Some(attachment)) = self.attachments.get_mut(owner) else { return Ok(()) };
        let waits = attachment.complete(context, completion)?;
        self.counters.completions_deferred.add(u64::from(waits));
        self.counters.completions.add(1);
        self.mark_dirty(owner);
        Ok(())
    }

    /// Closes a socket whose client is done with it, or aborts it: if `abort` says so, or if there
    /// are as many orphans as there may be (tcp(7), `tcp_max_orphans`).
    pub(super) fn let_go(&mut self, now: Instant, id: SocketId, abort: bool) {
        let Some(entry) = self.sockets.get(id) else { return };
        let session = entry.owner.and_then(|owner| self.session_of(owner));
        let mut request =
            if abort { Request::Abort { socket: id } } else { Request::Close { socket: id } };
        let mut charge = None;
        // Listeners and credits are gone at once.
        if !abort && matches!(entry.kind, Kind::Stream | Kind::Datagram) {
            let room = self.sockets.orphans() < ORPHANS_MAX;
            charge = session.filter(|_| room).and_then(|s| s.membership.orphans.charge());
            if charge.is_none() {
                self.counters.orphans_aborted.add(1);
                request = Request::Abort { socket: id };
            }
        }
        // A socket that cannot be closed is gone already, which an event will say.
        let _ = self.stack.submit(now, request);
        self.disown(id);
        if let Some(entry) = self.sockets.get_mut(id) {
            entry.charge = charge;
        }
    }

    /// Ends the client's part of a socket: the slot is free, its lines are not touched again.
    pub(super) fn disown(&mut self, id: SocketId) {
        let Some(owner) = self.sockets.orphan(id) else { return };
        let Some(entry) = self.sockets.get(id) else { return };
        let (slot, kind) = (entry.name.slot, entry.kind);
        if kind != Kind::Stream {
            self.release_port(id);
        }
        if let Some(Some(attachment)) = self.attachments.get_mut(owner) {
            attachment.set_slot(slot, None);
            attachment.session.usage.sockets.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn mark_dirty(&mut self, owner: usize) {
        if !self.dirty.contains(&owner) {
            self.dirty.push(owner);
        }
    }
}
