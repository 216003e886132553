//! Service: what a socket that asks for it gets.
//!
//! Owns: the order of things in a socket's turn (give up, move bytes, send, settle, set the
//! timer), and the end of connections. Called from the poll, within its budget. Must never: serve
//! a socket without bound, or touch the FIFOs of one that broke the contract.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ::smoltcp::socket::tcp;
use dmm_port::{Instant, TxBurst};
use dmm_proto::fifo::datagram::Header;
use nix::errno::Errno;

use super::SmoltcpStack;
use super::carrier::Carrier;
use super::connection::{GivingUp, Phase};
use super::link::Link;
use super::sequence::REPETITIONS;
use crate::ip::{Counters, Sent};
use crate::sockets::datagram::Datagram;
use crate::sockets::slots::{Slot, SlotIndex};
use crate::sockets::udp::{Carried, Carry, QUESTION_INTERVAL};
use crate::sockets::{Moved, Owner};

/// Frames that a connection sends in one turn: a quarter of a port's burst, so that a row of slots
/// (64) is shared by eight busy connections.
const SEGMENTS_PER_TURN: usize = 8;

/// When to look again at a connection that the library says is due although it sends nothing: one
/// tick of its coarsest clock.
const NOTHING_SENT_RETRY: Duration = Duration::from_millis(1);

impl SmoltcpStack {
    /// Serves a socket. Returns false, with the socket asking again, if slots have run out.
    pub(super) fn serve(&mut self, now: Instant, index: SlotIndex, tx: &mut TxBurst<'_>) -> bool {
        match self.sockets.slots.get_mut(index) {
            Some(Slot::Connection(_)) => self.serve_connection(now, index, tx),
            Some(Slot::Datagram(_)) => {
                let (carrier, link) = (&mut self.carrier, &mut self.link);
                let mut turn = Turn { now, carrier, link, tx, counters: &mut self.counters };
                self.sockets.serve_datagram(now, index, &mut turn)
            }
            Some(Slot::Listener(_)) | None => true,
        }
    }

    fn serve_connection(&mut self, now: Instant, index: SlotIndex, tx: &mut TxBurst<'_>) -> bool {
        let Some(connection) = self.sockets.slots.connection(index) else { return true };
        if let Some((at, why)) = connection.gives_up_at()
            && at <= now
        {
            let errno = match why {
                GivingUp::Silence => Errno::ETIMEDOUT,
                GivingUp::Neighbour => Errno::EHOSTUNREACH,
            };
            let opening = connection.phase == Phase::Opening;
            self.sockets.give_up(index, opening, errno);
        }
        self.move_bytes(now, index);
        let Some(connection) = self.sockets.slots.connection(index) else { return true };
        if let Some(frame) = connection.probe(now) {
            self.own.probes += 1;
            for _ in 0..REPETITIONS {
                self.link.feed(now, &frame, None, Some(connection.turn()), &mut self.counters);
            }
        }
        let mut slots_left = true;
        let (mut sent, mut waits) = (0, false);
        // A reset that cannot be sent for want of a neighbour is not worth asking for it.
        let mute = connection.phase == Phase::Over && connection.neighbour_since.is_some();
        while !mute && sent < SEGMENTS_PER_TURN {
            let remote = connection.flow.remote.ip();
            let turn = (connection.turn(), remote);
            match self.link.send(now, tx, turn, &mut self.counters) {
                Sent::Frame => sent += 1,
                Sent::Nothing => break,
                Sent::NoSlot => {
                    slots_left = false;
                    break;
                }
                Sent::NoNeighbour => {
                    if connection.neighbour_since.is_none() {
                        connection.neighbour_since = Some(now);
                    }
                    waits = true;
                    break;
                }
            }
        }
        if sent > 0 {
            connection.neighbour_since = None;
        }
        connection.settle(now);
        if waits {
            self.sockets.wait_for_neighbour(index);
        }
        if self.finish(index, slots_left) {
            return slots_left;
        }
        self.set_timer(now, index, sent, slots_left);
        slots_left
    }

    /// Moves a connection's bytes and tells its owner.
    fn move_bytes(&mut self, now: Instant, index: SlotIndex) {
        let Some(connection) = self.sockets.slots.connection(index) else { return };
        // RFC 1122 section 4.2.2.13: data that nobody will read is answered with a reset.
        if matches!(connection.owner, Owner::Orphan(_)) && connection.tcp().can_recv() {
            connection.phase = Phase::Over;
            connection.tcp().abort();
        }
        if connection.phase == Phase::Opening {
            return;
        }
        match connection.exchange(now) {
            Ok(moved) => self.sockets.tell(index, moved),
            Err(breach) => self.sockets.breach(index, breach),
        }
    }

    /// Delivers what came before a reset, as far as it fits.
    pub(super) fn deliver_last(&mut self, now: Instant, index: SlotIndex) {
        let Some(connection) = self.sockets.slots.connection(index) else { return };
        match connection.exchange(now) {
            Ok(moved) => self.sockets.tell(index, Moved { ended: false, writable: false, ..moved }),
            Err(breach) => self.sockets.breach(index, breach),
        }
    }

    /// Removes a connection that nobody owns and that has nothing left to do. Returns whether it
    /// did.
    fn finish(&mut self, index: SlotIndex, slots_left: bool) -> bool {
        let Some(connection) = self.sockets.slots.connection(index) else { return true };
        if !matches!(connection.owner, Owner::Orphan(_) | Owner::Nobody) {
            return false;
        }
        // A reset that cannot be sent for want of a neighbour is not worth waiting for.
        let over = connection.state() == tcp::State::Closed && slots_left;
        if !connection.is_finished() && !over {
            return false;
        }
        self.remove(index);
        true
    }

    fn set_timer(&mut self, now: Instant, index: SlotIndex, sent: usize, slots_left: bool) {
        let Some(connection) = self.sockets.slots.connection(index) else { return };
        let poll = self.link.next_poll(now, connection.sockets());
        let rest = [
            connection.gives_up_at().map(|(at, _)| at),
            connection.retry_at(),
            connection.probe_at(),
        ];
        let due = poll.is_some_and(|at| at <= now);
        let poll = match poll {
            Some(_) if due && (sent > 0 || !slots_left) => None,
            Some(_) if due && connection.neighbour_since.is_some() => {
                (connection.phase != Phase::Over).then(|| now + QUESTION_INTERVAL)
            }
            Some(_) if due => Some(now + NOTHING_SENT_RETRY),
            poll => poll,
        };
        let wake = rest.into_iter().chain([poll]).flatten().min();
        if !slots_left {
            self.sockets.slots.mark_first(index);
        } else if due && sent > 0 {
            self.sockets.slots.mark(index);
        }
        self.sockets.slots.wake_at(index, wake);
    }

    /// Takes a connection out of every table, and keeps its memory for another.
    pub(super) fn remove(&mut self, index: SlotIndex) {
        if let Some(connection) = self.sockets.remove(index) {
            self.buffers.give(*connection);
        }
    }

    /// Removes a connection that died before anybody took it.
    pub(super) fn discard(&mut self, index: SlotIndex) {
        if let Some(connection) = self.sockets.discard(index) {
            self.buffers.give(*connection);
        }
    }
}

/// The shared library socket, on a UDP socket's turn.
struct Turn<'a, 'b> {
    now: Instant,
    carrier: &'a mut Carrier,
    link: &'a mut Link,
    tx: &'a mut TxBurst<'b>,
    counters: &'a mut Counters,
}

impl Carry for Turn<'_, '_> {
    fn carry(
        &mut self,
        datagram: &Datagram,
        header: &Header,
        ends: (IpAddr, SocketAddr),
    ) -> Carried {
        self.carrier.send(self.now, self.link, self.tx, datagram, (header, ends), self.counters)
    }
}
