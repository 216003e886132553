//! Service: what a socket that asks for it gets.
//!
//! Owns: the order of things in a socket's turn (give up, move bytes, send, settle, set the
//! timer), and the end of connections. Called from the poll, within its budget. Must never: serve
//! a socket without bound, or touch the FIFOs of one that broke the contract.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::time::Duration;

use ::smoltcp::socket::tcp;
use dmm_port::{Instant, TxBurst};
use dmm_proto::Breach;
use dmm_proto::fifo::TxFifo;
use nix::errno::Errno;

use super::SmoltcpStack;
use super::carrier::Carried;
use super::connection::{Connection, GivingUp, Moved, Owner, Phase};
use super::link::Sent;
use super::memory::{Memory, Tcp};
use super::sequence::REPETITIONS;
use crate::datagram::NEIGHBOUR_PATIENCE;
use crate::options::Options;
use crate::slots::{Place, Slot, SlotIndex};
use crate::{Event, Fifos, SocketId};

/// Frames that a connection sends in one turn: a quarter of a port's burst, so that a row of slots
/// (64) is shared by eight busy connections.
const SEGMENTS_PER_TURN: usize = 8;

/// Datagrams that a UDP socket sends in one turn, for the same reason.
const DATAGRAMS_PER_TURN: usize = 8;

/// Bytes of buffers kept for the next connections, with the pages that the last ones touched: those
/// of 32 connections with buffers of 256 KiB each way.
const SPARE_BYTES: usize = 16 << 20;

/// When to look again at a socket whose neighbour is asked for: an answer wakes it, and a neighbour
/// that was given up is asked for again.
const QUESTION_INTERVAL: Duration = Duration::from_secs(1);

/// When to look again at a connection that the library says is due although it sends nothing: one
/// tick of its coarsest clock.
const NOTHING_SENT_RETRY: Duration = Duration::from_millis(1);

impl SmoltcpStack {
    /// Serves a socket. Returns false, with the socket asking again, if slots have run out.
    pub(super) fn serve(&mut self, now: Instant, index: SlotIndex, tx: &mut TxBurst<'_>) -> bool {
        match self.slots.get_mut(index) {
            Some(Slot::Connection(_)) => self.serve_connection(now, index, tx),
            Some(Slot::Datagram(_)) => self.serve_datagram(now, index, tx),
            Some(Slot::Listener(_)) | None => true,
        }
    }

    fn serve_connection(&mut self, now: Instant, index: SlotIndex, tx: &mut TxBurst<'_>) -> bool {
        let Some(connection) = self.slots.connection(index) else { return true };
        if let Some((at, why)) = connection.gives_up_at()
            && at <= now
        {
            self.give_up(index, why);
        }
        self.move_bytes(now, index);
        let Some(connection) = self.slots.connection(index) else { return true };
        if let Some(frame) = connection.probe(now) {
            self.counters.probes += 1;
            for _ in 0..REPETITIONS {
                self.link.feed(now, &frame, None, Some(connection.turn()), &mut self.counters);
            }
        }
        let mut slots_left = true;
        let mut sent = 0;
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
                    if !self.waiting.contains(&index) {
                        self.waiting.push(index);
                    }
                    break;
                }
            }
        }
        if sent > 0 {
            connection.neighbour_since = None;
        }
        connection.settle(now);
        if self.finish(index, slots_left) {
            return slots_left;
        }
        self.set_timer(now, index, sent, slots_left);
        slots_left
    }

    /// Moves a connection's bytes and tells its owner.
    fn move_bytes(&mut self, now: Instant, index: SlotIndex) {
        let Some(connection) = self.slots.connection(index) else { return };
        // RFC 1122 section 4.2.2.13: data that nobody will read is answered with a reset.
        if matches!(connection.owner, Owner::Orphan(_)) && connection.tcp().can_recv() {
            connection.phase = Phase::Over;
            connection.tcp().abort();
        }
        if connection.phase == Phase::Opening {
            return;
        }
        match connection.exchange(now) {
            Ok(moved) => self.tell(index, moved),
            Err(breach) => self.breach(index, breach),
        }
    }

    fn tell(&mut self, index: SlotIndex, moved: Moved) {
        let Some(connection) = self.slots.connection(index) else { return };
        let Owner::Socket(socket) = connection.owner else { return };
        if moved.readable {
            self.events.push(Event::Readable { socket });
        }
        if moved.writable {
            self.events.push(Event::Writable { socket });
        }
        if moved.ended {
            self.events.push(Event::Ended { socket });
        }
    }

    /// Delivers what came before a reset, as far as it fits.
    pub(super) fn deliver_last(&mut self, now: Instant, index: SlotIndex) {
        let Some(connection) = self.slots.connection(index) else { return };
        match connection.exchange(now) {
            Ok(moved) => self.tell(index, Moved { ended: false, writable: false, ..moved }),
            Err(breach) => self.breach(index, breach),
        }
    }

    /// Ends a socket whose owner broke the contract, as far as the network can tell.
    pub(super) fn breach(&mut self, index: SlotIndex, breach: Breach) {
        let socket = match self.slots.get_mut(index) {
            Some(Slot::Connection(connection)) => {
                (connection.rx, connection.tx) = (None, None);
                connection.phase = Phase::Over;
                connection.tcp().abort();
                let Owner::Socket(socket) = connection.owner else { return };
                socket
            }
            Some(Slot::Datagram(datagram)) => {
                (datagram.rx, datagram.tx) = (None, None);
                datagram.id
            }
            _ => return,
        };
        self.slots.mark(index);
        self.events.push(Event::Breach { socket, breach });
    }

    fn give_up(&mut self, index: SlotIndex, why: GivingUp) {
        let Some(connection) = self.slots.connection(index) else { return };
        let opening = connection.phase == Phase::Opening;
        connection.phase = Phase::Over;
        connection.tcp().abort();
        let errno = match why {
            GivingUp::Silence => Errno::ETIMEDOUT,
            GivingUp::Neighbour => Errno::EHOSTUNREACH,
        };
        match connection.owner {
            Owner::Socket(socket) if opening => {
                self.counters.timeouts += 1;
                self.events.push(Event::Connected { socket, result: Err(errno) });
            }
            Owner::Socket(socket) => {
                self.counters.timeouts += 1;
                self.events.push(Event::Broken { socket, errno });
            }
            Owner::Orphan(_) => self.counters.timeouts += 1,
            Owner::Backlog(listener) => {
                self.counters.drop_half_open += 1;
                connection.owner = Owner::Nobody;
                if let Some(listener) = self.slots.listener(listener) {
                    listener.forget(index);
                }
            }
            Owner::Nobody => {}
        }
    }

    /// Removes a connection that nobody owns and that has nothing left to do. Returns whether it
    /// did.
    fn finish(&mut self, index: SlotIndex, slots_left: bool) -> bool {
        let Some(connection) = self.slots.connection(index) else { return true };
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
        let Some(connection) = self.slots.connection(index) else { return };
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
            self.slots.mark_first(index);
        } else if due && sent > 0 {
            self.slots.mark(index);
        }
        self.slots.wake_at(index, wake);
    }

    /// Takes a connection out of every table, and tells a former owner.
    pub(super) fn remove(&mut self, index: SlotIndex) {
        let Some(Slot::Connection(connection)) = self.slots.remove(index) else { return };
        self.flows.remove(&connection.flow);
        self.waiting.retain(|waiting| *waiting != index);
        if let Owner::Orphan(socket) | Owner::Socket(socket) = connection.owner {
            self.slots.assign(socket, Place::Free);
            self.events.push(Event::Gone { socket });
        }
        self.recycle(*connection);
    }

    /// Removes a connection that died before anybody took it.
    pub(super) fn discard(&mut self, index: SlotIndex) {
        let Some(connection) = self.slots.connection(index) else { return };
        if let Owner::Backlog(listener) = connection.owner {
            connection.owner = Owner::Nobody;
            if let Some(listener) = self.slots.listener(listener) {
                listener.forget(index);
            }
        }
        self.remove(index);
    }

    /// Gives waiting connections to waiting credits.
    pub(super) fn hand_out(&mut self, now: Instant, index: SlotIndex) {
        while let Some(listener) = self.slots.listener(index)
            && let Some((connection, socket, fifos)) = listener.match_up()
        {
            let listener_id = listener.id;
            self.adopt(now, connection, listener_id, socket, fifos);
        }
    }

    fn adopt(
        &mut self,
        now: Instant,
        index: SlotIndex,
        listener: SocketId,
        socket: SocketId,
        mut fifos: Fifos,
    ) {
        let Some(connection) = self.slots.connection(index) else { return };
        fifos.tx.grant();
        connection.owner = Owner::Socket(socket);
        (connection.rx, connection.tx) = (Some(fifos.rx), Some(fifos.tx));
        connection.settle(now);
        let (local, peer) = (connection.flow.local, connection.flow.remote);
        self.slots.assign(socket, Place::Slot(index));
        self.slots.mark(index);
        self.events.push(Event::Accepted { listener, socket, local, peer });
    }

    fn serve_datagram(&mut self, now: Instant, index: SlotIndex, tx: &mut TxBurst<'_>) -> bool {
        match self.try_datagram(now, index, tx) {
            Ok(slots_left) => slots_left,
            Err(breach) => {
                self.breach(index, breach);
                true
            }
        }
    }

    fn try_datagram(
        &mut self,
        now: Instant,
        index: SlotIndex,
        tx: &mut TxBurst<'_>,
    ) -> Result<bool, Breach> {
        let Some(datagram) = self.slots.datagram(index) else { return Ok(true) };
        let socket = datagram.id;
        if let Some(rx) = &mut datagram.rx {
            rx.refresh()?;
            if std::mem::take(&mut datagram.delivered) && rx.publish() {
                datagram.active = true;
                self.events.push(Event::Readable { socket });
            }
        }
        let turn = self.send_datagrams(now, index, tx)?;
        let Some(datagram) = self.slots.datagram(index) else { return Ok(true) };
        let Some(tx) = &mut datagram.tx else {
            // Its owner wrote nonsense and closed it: there is nothing left to send.
            if datagram.closing {
                self.remove_datagram(index);
            }
            return Ok(true);
        };
        datagram.active |= turn.taken > 0;
        if datagram.closing && tx.queued() == 0 {
            self.remove_datagram(index);
            return Ok(turn.slots_left);
        }
        if turn.taken > 0 || datagram.room.hungry {
            let offer = datagram.room.offer(tx)?;
            if offer.writable {
                datagram.active = true;
                self.events.push(Event::Writable { socket });
            }
        }
        if turn.taken > 0 || !datagram.room.hungry {
            datagram.backoff.fed();
        }
        if datagram.room.hungry {
            datagram.backoff.starved(now);
        }
        let wakes = [
            datagram.backoff.at(),
            datagram.neighbour_since.map(|since| since + NEIGHBOUR_PATIENCE),
            datagram.neighbour_since.map(|_| now + QUESTION_INTERVAL),
        ];
        let more = tx.queued() > 0 && datagram.neighbour_since.is_none();
        if !turn.slots_left {
            self.slots.mark_first(index);
        } else if more {
            self.slots.mark(index);
        }
        self.slots.wake_at(index, wakes.into_iter().flatten().filter(|at| *at > now).min());
        Ok(turn.slots_left)
    }

    /// Takes a UDP socket that was closed out of the table.
    pub(super) fn remove_datagram(&mut self, index: SlotIndex) {
        self.waiting.retain(|waiting| *waiting != index);
        if let Some(Slot::Datagram(datagram)) = self.slots.remove(index) {
            self.slots.assign(datagram.id, Place::Free);
            self.events.push(Event::Gone { socket: datagram.id });
        }
    }

    fn send_datagrams(
        &mut self,
        now: Instant,
        index: SlotIndex,
        tx: &mut TxBurst<'_>,
    ) -> Result<Turn, Breach> {
        let mut turn = Turn { taken: 0, slots_left: true };
        if let Some(fifo) = self.slots.datagram(index).and_then(|datagram| datagram.tx.as_mut()) {
            fifo.refresh()?;
        }
        for _ in 0..DATAGRAMS_PER_TURN {
            let Some(datagram) = self.slots.datagram(index) else { break };
            let Some(fifo) = &datagram.tx else { break };
            let Some(header) = fifo.next_datagram()? else { break };
            let (link, counters) = (&mut self.link, &mut self.counters);
            let route = datagram.route(&header, &self.net);
            let hop = route.and_then(|(_, to)| self.net.next_hop(to.ip()));
            let carried = match route {
                Some(ends) => self.carrier.send(now, link, tx, datagram, (&header, ends), counters),
                None => Carried::Nowhere,
            };
            match carried {
                Carried::NoSlot => {
                    turn.slots_left = false;
                    break;
                }
                Carried::NoNeighbour => {
                    let waited = datagram.given_up.is_some_and(|(silent, _)| Some(silent) == hop);
                    let since = *datagram.neighbour_since.get_or_insert(now);
                    if !waited && now < since + NEIGHBOUR_PATIENCE {
                        if !self.waiting.contains(&index) {
                            self.waiting.push(index);
                        }
                        break;
                    }
                    self.counters.drop_no_neighbour += 1;
                    if !waited {
                        let written = datagram.tx.as_ref().map_or(0, TxFifo::queued);
                        datagram.given_up = hop.map(|hop| (hop, written));
                    }
                }
                Carried::Sent => self.counters.tx_datagrams += 1,
                Carried::TooBig => self.counters.drop_too_big += 1,
                Carried::Nowhere => self.counters.drop_no_destination += 1,
            }
            datagram.neighbour_since = None;
            if let Some(fifo) = &mut datagram.tx {
                let before = fifo.queued();
                fifo.consume_datagram(&header);
                let taken = before - fifo.queued();
                let left = |(hop, left): (IpAddr, u64)| Some((hop, left.checked_sub(taken)?));
                datagram.given_up = datagram.given_up.and_then(left).filter(|(_, left)| *left > 0);
            }
            turn.taken += 1;
        }
        Ok(turn)
    }

    /// A library socket for a new connection, if there is memory for its buffers.
    pub(super) fn spare_socket(&mut self, options: &Options) -> Option<Tcp> {
        let (rx_bytes, tx_bytes) = (self.tcp.rx_buffer as usize, self.tcp.tx_buffer as usize);
        let memory = match self.spare.pop() {
            Some(memory) => memory,
            None => Memory::new(rx_bytes + tx_bytes).ok()?,
        };
        let mut socket = Tcp::new(memory, rx_bytes, self.congestion);
        socket.set_options(options);
        Some(socket)
    }

    /// Keeps the memory of a connection that is over for another, or gives it back.
    pub(super) fn recycle(&mut self, connection: Connection) {
        let memory = connection.into_memory();
        if (self.spare.len() + 1) * memory.bytes() <= SPARE_BYTES {
            self.spare.push(memory);
        }
    }
}

/// What a UDP socket's turn came to.
struct Turn {
    /// Datagrams taken from the FIFO, sent or dropped.
    taken: usize,
    slots_left: bool,
}
