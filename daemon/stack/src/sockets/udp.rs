//! The work of UDP sockets: to deliver what came, and to send what was written.
//!
//! Owns: a UDP socket's turn. A kind brings a way to carry one datagram ([`Carry`]). Called for each
//! datagram and when a socket is served. Must never: serve a socket without bound.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dmm_port::Instant;
use dmm_port::flow::Flow;
use dmm_proto::Breach;
use dmm_proto::fifo::TxFifo;
use dmm_proto::fifo::datagram::Header;
use nix::errno::Errno;

use super::datagram::{Datagram, NEIGHBOUR_PATIENCE};
use super::slots::SlotIndex;
use super::{Connection, Sockets};
use crate::Event;

/// Datagrams that a UDP socket sends in one turn: a quarter of a port's burst, so that a row of slots
/// (64) is shared by eight busy sockets.
const DATAGRAMS_PER_TURN: usize = 8;

/// When to look again at a socket whose neighbour is asked for: an answer wakes it, and a neighbour
/// that was given up is asked for again.
pub(crate) const QUESTION_INTERVAL: Duration = Duration::from_secs(1);

/// What became of a datagram to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carried {
    /// It is on its way, as a whole or as fragments.
    Sent,
    /// There is no transmit slot.
    NoSlot,
    /// The neighbour's Ethernet address is not known yet.
    NoNeighbour,
    /// It would take more fragments than a row of transmit slots holds.
    TooBig,
    /// There is no way to its destination.
    Nowhere,
    /// It would go to all of a subnet, which its socket may not (`SO_BROADCAST` in socket(7)).
    Forbidden,
}

/// A way to send datagrams.
pub(crate) trait Carry {
    /// Sends the next datagram of a socket, from and to the addresses given.
    fn carry(
        &mut self,
        datagram: &Datagram,
        header: &Header,
        ends: (IpAddr, SocketAddr),
    ) -> Carried;
}

/// What a UDP socket's turn came to.
struct Turn {
    /// Datagrams taken from the FIFO, sent or dropped.
    taken: usize,
    slots_left: bool,
}

impl<C: Connection> Sockets<C> {
    /// Delivers a datagram to the socket that is bound to its destination.
    pub(crate) fn deliver(
        &mut self,
        index: SlotIndex,
        payload: &[u8],
        (local, peer): (SocketAddr, SocketAddr),
    ) {
        let Some(datagram) = self.slots.datagram(index) else { return };
        if datagram.peer.is_some_and(|only| only != peer) {
            self.counters.drop_not_peer += 1;
            return;
        }
        let Some(rx) = &mut datagram.rx else { return };
        let header =
            Header { len: payload.len(), peer: Some(peer.into()), local: Some(local.into()) };
        // A breach found here is found again, and told, when the socket is served.
        let room = rx.refresh().is_ok() && rx.write_datagram(&header, payload);
        if room {
            self.counters.rx_datagrams += 1;
            datagram.delivered = true;
        } else {
            self.counters.drop_rx_full += 1;
        }
        self.slots.mark(index);
    }

    /// Delivers a datagram that went to many to each socket that receives there (RFC 1122 section 4.1.3.5).
    pub(crate) fn deliver_to_all(&mut self, payload: &[u8], flow: Flow) {
        let mut indices = std::mem::take(&mut self.scratch);
        indices.extend(self.datagrams_at(flow.local));
        // RFC 3376 section 3.1: others' memberships are nothing to a socket.
        if flow.local.ip().is_multicast() && self.groups.is_some() {
            indices.retain(|index| {
                let datagram = self.slots.datagram(*index);
                datagram.is_some_and(|datagram| datagram.groups.contains(&flow.local.ip()))
            });
        }
        // RFC 1122 section 3.2.2: nobody answers what went to many.
        self.counters.drop_no_socket += u64::from(indices.is_empty());
        for index in indices.drain(..) {
            self.deliver(index, payload, (flow.local, flow.remote));
        }
        self.scratch = indices;
    }

    /// Takes an error about a datagram that we sent with these ends, which the connected socket is told
    /// that may have sent it (RFC 1122 section 4.1.3.3). Returns whether there is one.
    pub(crate) fn take_trouble(&mut self, flow: &Flow, errno: Errno) -> bool {
        // Who is on the way saw the address that we came from; a socket on any address has no other.
        if !self.net.is_own(flow.local.ip()) {
            return false;
        }
        let Some(index) = self.datagram_for(flow) else { return false };
        let Some(datagram) = self.slots.datagram(index) else { return false };
        let could_be = datagram.sent_to_peer && datagram.peer == Some(flow.remote);
        if could_be {
            datagram.trouble = Some(errno);
            self.counters.troubles += 1;
            self.slots.mark(index);
        }
        could_be
    }

    /// Serves a UDP socket. Returns false if slots have run out.
    pub(crate) fn serve_datagram(
        &mut self,
        now: Instant,
        index: SlotIndex,
        carry: &mut impl Carry,
    ) -> bool {
        match self.try_datagram(now, index, carry) {
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
        carry: &mut impl Carry,
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
        if let Some(errno) = datagram.trouble.take() {
            self.events.push(Event::Troubled { socket, errno });
        }
        let turn = self.send_datagrams(now, index, carry)?;
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

    fn send_datagrams(
        &mut self,
        now: Instant,
        index: SlotIndex,
        carry: &mut impl Carry,
    ) -> Result<Turn, Breach> {
        let mut turn = Turn { taken: 0, slots_left: true };
        if let Some(fifo) = self.slots.datagram(index).and_then(|datagram| datagram.tx.as_mut()) {
            fifo.refresh()?;
        }
        for _ in 0..DATAGRAMS_PER_TURN {
            let Some(datagram) = self.slots.datagram(index) else { break };
            let Some(fifo) = &datagram.tx else { break };
            let Some(header) = fifo.next_datagram()? else { break };
            let route = datagram.route(&header, &self.net);
            let hop = route.and_then(|(_, to)| self.net.next_hop(to.ip()));
            let carried = match route {
                None => Carried::Nowhere,
                Some((_, to)) if !datagram.options.broadcast && self.net.is_broadcast(to.ip()) => {
                    Carried::Forbidden
                }
                Some(ends) => carry.carry(datagram, &header, ends),
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
                        self.wait_for_neighbour(index);
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
                Carried::Forbidden => self.counters.drop_broadcast += 1,
            }
            let Some(datagram) = self.slots.datagram(index) else { break };
            datagram.neighbour_since = None;
            let to = route.map(|(_, to)| to);
            datagram.sent_to_peer |= carried == Carried::Sent && to == datagram.peer;
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
}
