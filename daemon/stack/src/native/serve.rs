//! Service: what a socket that asks for it gets.
//!
//! Owns: the order of things in a socket's turn (give up, move bytes, send, set the timer), and the
//! end of connections. Called from the poll, within its budget. Must never: serve a socket without
//! bound, or touch the FIFOs of one that broke the contract.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use dmm_port::{Instant, TxBurst};
use dmm_proto::Breach;
use dmm_proto::fifo::datagram::Header;
use nix::errno::Errno;

use super::NativeStack;
use super::link::{Link, Reach};
use super::tcp::{Burst, GivingUp, write_segment};
use crate::ip::Sent;
use crate::ip::fragment::Packet;
use crate::ip::packet::{self, HOP_LIMIT, Headers, UDP_BYTES, ecn, headers_bytes};
use crate::sockets::Owner;
use crate::sockets::datagram::Datagram;
use crate::sockets::options::Options;
use crate::sockets::slots::{Slot, SlotIndex};
use crate::sockets::udp::{Carried, Carry, QUESTION_INTERVAL};

/// Segments that a connection sends in one turn: more than the initial window's ten, and few enough that
/// a row of slots (64) is shared by four busy connections.
const SEGMENTS_PER_TURN: usize = 16;

/// What a connection's turn to send came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It has nothing more to send.
    Done,
    /// It may have.
    More,
    /// Slots have run out.
    NoSlot,
    /// It waits for its neighbour.
    NoNeighbour,
}

impl NativeStack {
    /// Serves a socket. Returns false, with the socket asking again, if slots have run out.
    pub(super) fn serve(&mut self, now: Instant, index: SlotIndex, tx: &mut TxBurst<'_>) -> bool {
        match self.sockets.slots.get_mut(index) {
            Some(Slot::Connection(_)) => match self.serve_connection(now, index, tx) {
                Ok(slots_left) => slots_left,
                Err(breach) => {
                    self.sockets.breach(index, breach);
                    true
                }
            },
            Some(Slot::Datagram(_)) => {
                let (link, scratch) = (&mut self.link, &mut self.scratch);
                self.sockets.serve_datagram(now, index, &mut Mail { now, link, tx, scratch })
            }
            Some(Slot::Listener(_)) | None => true,
        }
    }

    fn serve_connection(
        &mut self,
        now: Instant,
        index: SlotIndex,
        tx: &mut TxBurst<'_>,
    ) -> Result<bool, Breach> {
        let Some(connection) = self.sockets.slots.connection(index) else { return Ok(true) };
        if let Some((at, why)) = connection.gives_up_at()
            && at <= now
        {
            let errno = match why {
                GivingUp::Silence => Errno::ETIMEDOUT,
                GivingUp::Neighbour => Errno::EHOSTUNREACH,
            };
            let opening = connection.is_opening();
            self.sockets.give_up(index, opening, errno);
        }
        let Some(connection) = self.sockets.slots.connection(index) else { return Ok(true) };
        connection.expire(now);
        let moved = connection.exchange(now)?;
        self.sockets.tell(index, moved);
        let turn = self.send_segments(now, index, tx)?;
        let Some(connection) = self.sockets.slots.connection(index) else { return Ok(true) };
        self.counters.add_repairs(connection.sender.take_repairs());
        connection.settle(now);
        let over = connection.is_over() && turn != Turn::NoSlot;
        if over && matches!(connection.owner, Owner::Orphan(_) | Owner::Nobody) {
            self.sockets.remove(index);
            return Ok(true);
        }
        let wake = connection.wakes_at(now);
        let wake = if turn == Turn::NoNeighbour && !over {
            let asked = now + QUESTION_INTERVAL;
            Some(connection.gives_up_at().map_or(asked, |(at, _)| at.min(asked)))
        } else {
            wake
        };
        match turn {
            Turn::NoSlot => self.sockets.slots.mark_first(index),
            Turn::More => self.sockets.slots.mark(index),
            Turn::NoNeighbour if !over => self.sockets.wait_for_neighbour(index),
            Turn::NoNeighbour | Turn::Done => {}
        }
        self.sockets.slots.wake_at(index, wake);
        Ok(turn != Turn::NoSlot)
    }

    fn send_segments(
        &mut self,
        now: Instant,
        index: SlotIndex,
        tx: &mut TxBurst<'_>,
    ) -> Result<Turn, Breach> {
        let Some(connection) = self.sockets.slots.connection(index) else { return Ok(Turn::Done) };
        let flow = connection.flow;
        let to = flow.remote.ip();
        let purpose = connection.purpose();
        let mut burst = Burst::default();
        for _ in 0..SEGMENTS_PER_TURN {
            let Some(next) = connection.next(&burst) else {
                connection.sender.watch(now);
                return Ok(Turn::Done);
            };
            let opened = match self.link.open(now, tx, to, purpose) {
                Ok(opened) => opened,
                Err(Sent::NoSlot) => return Ok(Turn::NoSlot),
                Err(_) => {
                    connection.has_no_neighbour(now);
                    return Ok(Turn::NoNeighbour);
                }
            };
            let segment = connection.compose(now, &next)?;
            let len = headers_bytes(to) + segment.len() + next.len();
            // RFC 3168 section 6.1.2: the lower two bits of a connection's class are the stack's.
            let class = connection.options.class & !ecn::MASK;
            let hop_limit = connection.options.hop_limit;
            let written = self.link.put(tx, (opened, len), |frame, macs| {
                write_segment(
                    &segment,
                    flow,
                    (hop_limit, class | connection.ecn_field(&next)),
                    macs,
                    frame,
                    |payload| {
                        connection.copy(&next, payload);
                    },
                );
            });
            if written != Sent::Frame {
                return Ok(Turn::NoSlot);
            }
            self.counters.tx_segments += 1;
            connection.sent(now, &next);
            burst.add(&next);
        }
        Ok(Turn::More)
    }
}

/// The link, on a UDP socket's turn.
struct Mail<'a, 'b> {
    now: Instant,
    link: &'a mut Link,
    tx: &'a mut TxBurst<'b>,
    scratch: &'a mut Vec<u8>,
}

impl Carry for Mail<'_, '_> {
    fn carry(
        &mut self,
        datagram: &Datagram,
        header: &Header,
        (from, to): (IpAddr, SocketAddr),
    ) -> Carried {
        let Some(fifo) = &datagram.tx else { return Carried::Nowhere };
        let from = SocketAddr::new(from, datagram.local.port());
        let bytes = UDP_BYTES + header.len;
        let headers_len = headers_bytes(to.ip());
        let options = &datagram.options;
        let (hop_limit, reach) = match self.link.net().is_many(to.ip()) {
            false => (options.hop_limit, Reach::Others),
            true => to_many(options, to.ip()),
        };
        let class = options.class;
        if headers_len - packet::ETHERNET_BYTES + bytes <= self.link.mtu() {
            let opened = self.link.open_to_many(self.now, self.tx, to.ip(), reach);
            let put = |opened| {
                self.link.put(
                    self.tx,
                    (opened, headers_len + bytes),
                    |frame, (from_mac, to_mac)| {
                        let headers = Headers {
                            from_mac,
                            to_mac,
                            from: from.ip(),
                            to: to.ip(),
                            protocol: packet::protocol::UDP,
                            hop_limit: hop_limit.unwrap_or(HOP_LIMIT),
                            class,
                            extent: packet::Extent::Whole,
                        };
                        headers.write(frame);
                        let message = &mut frame[headers_len..];
                        fifo.copy_payload(&mut message[UDP_BYTES..]);
                        packet::write_udp(from, to, message);
                    },
                )
            };
            return match opened.map_or_else(|sent| sent, put) {
                Sent::Frame => Carried::Sent,
                Sent::NoSlot => Carried::NoSlot,
                Sent::NoNeighbour => Carried::NoNeighbour,
                Sent::Nothing => Carried::Nowhere,
            };
        }
        self.scratch.clear();
        self.scratch.resize(bytes, 0);
        fifo.copy_payload(&mut self.scratch[UDP_BYTES..]);
        packet::write_udp(from, to, self.scratch);
        let packet = Packet {
            from: from.ip(),
            to: to.ip(),
            protocol: packet::protocol::UDP,
            hop_limit,
            class,
            payload: self.scratch,
        };
        self.link.send_parts(self.tx, &packet, |link, tx| {
            link.open_to_many(self.now, tx, to.ip(), reach)
        })
    }
}

/// Hops and reach of a datagram to many. Broadcasts come back to us in any case, as on Linux.
fn to_many(options: &Options, to: IpAddr) -> (Option<u8>, Reach) {
    match (to.is_multicast(), options.group_hops, options.group_loop) {
        (false, ..) => (options.hop_limit, Reach::Everybody),
        // RFC 1112 section 6.1: it goes no further than its host.
        (true, 0, _) => (Some(0), Reach::Home),
        (true, hops, true) => (Some(hops), Reach::Everybody),
        (true, hops, false) => (Some(hops), Reach::Others),
    }
}
