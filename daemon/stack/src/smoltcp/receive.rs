//! Frames in: each is led to the one socket that it is for.
//!
//! Owns: the demultiplexing, and what a segment does to a connection's life. Called once per
//! burst. Must never: answer with more frames than there are slots, or create a connection beyond
//! its listener's backlog.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ::smoltcp::socket::tcp;
use ::smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpListenEndpoint, IpProtocol, Ipv4Packet, Ipv6Packet,
    TcpPacket,
};
use dmm_port::flow::{self, Flow, Traffic};
use dmm_port::{Instant, RxChecksum, RxFrame, TxBurst};
use dmm_proto::fifo::datagram::Header;
use nix::errno::Errno;

use super::SmoltcpStack;
use super::challenge;
use super::checksum::{self, Fault};
use super::connection::{Connection, Owner, Phase};
use super::sequence::{REPETITIONS, Verdict};
use crate::Event;
use crate::slots::{Slot, SlotIndex};

impl SmoltcpStack {
    /// Takes one frame.
    pub(super) fn receive_frame(
        &mut self,
        now: Instant,
        frame: &RxFrame<'_>,
        tx: &mut TxBurst<'_>,
    ) {
        if frame.checksum == RxChecksum::Bad {
            self.counters.drop_checksum += 1;
            return;
        }
        let bytes = frame.bytes;
        if !self.admits(frame) {
            return;
        }
        match flow::parse(bytes) {
            Traffic::Tcp(flow) => self.receive_segment(now, frame, flow, tx),
            Traffic::Udp(flow) => {
                if self.receive_datagram(now, bytes, flow.local, tx).is_err() {
                    self.counters.drop_bad_datagram += 1;
                }
            }
            Traffic::Fragment { .. } => self.receive_fragment(now, bytes, tx),
            Traffic::Arp { .. } | Traffic::Ndp { .. } => self.receive_neighbour(now, bytes, tx),
            Traffic::IcmpError { .. } => self.counters.drop_icmp_error += 1,
            Traffic::Malformed => self.counters.drop_malformed += 1,
            Traffic::IcmpEchoReply => match self.echoes.hear(now, bytes) {
                Some(ponged) => self.events.push(ponged),
                None => self.counters.drop_echo_reply += 1,
            },
            Traffic::IcmpEchoRequest => {
                self.link.feed(now, bytes, Some(tx), None, &mut self.counters);
            }
            Traffic::Other => {
                // The library answers IP packets of unknown protocols (RFC 1122 section 3.2.2.1).
                self.counters.drop_unknown += 1;
                self.link.feed(now, bytes, Some(tx), None, &mut self.counters);
            }
        }
        self.link.flush_fragments(now, tx, &mut self.counters);
    }

    /// Whether a frame is for this stack and undamaged. Counts it if not.
    fn admits(&mut self, frame: &RxFrame<'_>) -> bool {
        let bytes = frame.bytes;
        let counters = &mut self.counters;
        // The port accepts all addresses. Of group addresses the lowest bit of the first byte is 1.
        let to_us = bytes.first_chunk().is_some_and(|&to: &[u8; 6]| to == self.mac);
        let to_group = bytes.first().is_some_and(|first| first & 1 != 0);
        let fault = match bytes.get(12..14) {
            _ if !to_us && !to_group => &mut counters.drop_other_mac,
            None => &mut counters.drop_unknown,
            // IEEE 802 clause 8: a group sends nothing. An answer would go to all of it.
            Some(_) if bytes[6] & 1 != 0 => &mut counters.drop_malformed,
            // IEEE 802.1Q tags: this kind has none.
            Some([0x81, 0x00] | [0x88, 0xa8]) => &mut counters.drop_vlan,
            Some([0x08, 0x00]) if !checksum::of_ipv4_header(bytes) => &mut counters.drop_checksum,
            Some([0x08, 0x00] | [0x86, 0xdd])
                if destination(bytes).is_some_and(|to| !self.net.takes(to)) =>
            {
                &mut counters.drop_not_ours
            }
            Some(_) => match checksum::fault(frame) {
                None => return true,
                Some(Fault::Wrong) => &mut counters.drop_checksum,
                Some(Fault::Partial) => &mut counters.drop_checksum_partial,
            },
        };
        *fault += 1;
        false
    }

    fn receive_segment(
        &mut self,
        now: Instant,
        frame: &RxFrame<'_>,
        flow: Flow,
        tx: &mut TxBurst<'_>,
    ) {
        let bytes = frame.bytes;
        if !self.net.is_own(flow.local.ip()) {
            // RFC 1122 section 4.2.3.10: TCP has no groups.
            self.counters.drop_not_ours += 1;
            return;
        }
        if let Some(&index) = self.flows.get(&flow) {
            let verdict = self.slots.connection(index).map(|connection| connection.judge(bytes));
            let verdict = verdict.unwrap_or(Verdict::Refuse);
            match verdict {
                Verdict::Pass { plausible } => {
                    return self.feed_connection(now, index, frame, plausible, tx);
                }
                Verdict::Refuse => {
                    self.counters.drop_implausible += 1;
                    return;
                }
                Verdict::Reopen if self.may_reopen(index, flow.local) => self.remove(index),
                Verdict::Reopen | Verdict::Challenge => {
                    return self.challenge(now, index, frame, tx);
                }
            }
        }
        if let Some(listener) = self.listener_for(flow.local)
            && is_first_syn(bytes)
        {
            self.receive_syn(now, frame, flow, listener, tx);
        } else {
            // RFC 9293 section 3.10.7.1: the library answers with a reset.
            self.counters.drop_no_connection += 1;
            self.link.feed(now, bytes, Some(tx), None, &mut self.counters);
        }
    }

    /// Whether a connection in TIME-WAIT may make way for a new one: nobody has it any more, who
    /// might not have read all of it, and the new one will be taken.
    fn may_reopen(&mut self, index: SlotIndex, local: SocketAddr) -> bool {
        let is_owned = |connection: &mut Connection| matches!(connection.owner, Owner::Socket(_));
        let owned = self.slots.connection(index).is_none_or(is_owned);
        let listener = self.listener_for(local);
        let listener = listener.and_then(|listener| self.slots.listener(listener));
        !owned && listener.is_some_and(|listener| listener.has_room())
    }

    /// Asks the peer whether it meant to end a connection (RFC 5961 sections 3 and 4).
    fn challenge(
        &mut self,
        now: Instant,
        index: SlotIndex,
        frame: &RxFrame<'_>,
        tx: &mut TxBurst<'_>,
    ) {
        self.counters.drop_challenged += 1;
        let connection = self.slots.connection(index);
        let numbers = connection.and_then(|connection| connection.challenge(now));
        let mut answer = [0; challenge::BYTES_MAX];
        let len = numbers.and_then(|numbers| challenge::write(frame.bytes, numbers, &mut answer));
        let Some(len) = len else { return };
        match tx.next(len) {
            Some(slot) => {
                slot.copy_from_slice(&answer[..len]);
                self.counters.challenges += 1;
                self.counters.tx_frames += 1;
            }
            None => self.counters.drop_tx_full += 1,
        }
    }

    /// Gives a connection a segment, which is a sign of life if it is plausible.
    fn feed_connection(
        &mut self,
        now: Instant,
        index: SlotIndex,
        frame: &RxFrame<'_>,
        plausible: bool,
        tx: &mut TxBurst<'_>,
    ) {
        let bytes = frame.bytes;
        let Some(connection) = self.slots.connection(index) else { return };
        self.counters.rx_segments += 1;
        let before = connection.intake();
        self.link.feed(now, bytes, Some(tx), Some(connection.turn()), &mut self.counters);
        let Some(connection) = self.slots.connection(index) else { return };
        let took = connection.received(&before);
        let after = connection.state();
        // What is nobody's words but a guess is no sign of life.
        let Some(connection) = self.slots.connection(index) else { return };
        if plausible && connection.heard(now, bytes) {
            self.counters.recoveries += 1;
            for _ in 0..REPETITIONS {
                self.link.feed(now, bytes, None, Some(connection.turn()), &mut self.counters);
            }
        }
        if !plausible && !took {
            self.counters.drop_implausible += 1;
        }
        if before.state != after {
            self.state_changed(now, index, before.state, after);
        }
        self.slots.mark(index);
    }

    /// What a segment that was just received means for the life of a connection.
    fn state_changed(
        &mut self,
        now: Instant,
        index: SlotIndex,
        before: tcp::State,
        after: tcp::State,
    ) {
        let Some(connection) = self.slots.connection(index) else { return };
        let passive = matches!(connection.owner, Owner::Backlog(_));
        match (connection.phase, after) {
            // The library turns a half-open connection that is reset into a listener.
            (Phase::Opening, tcp::State::Listen) => self.discard(index),
            (Phase::Opening, tcp::State::Closed) if passive => self.discard(index),
            (Phase::Opening, tcp::State::Closed) => {
                connection.phase = Phase::Over;
                self.counters.refused += 1;
                if let Owner::Socket(socket) = connection.owner {
                    let result = Err(Errno::ECONNREFUSED);
                    self.events.push(Event::Connected { socket, result });
                }
            }
            (Phase::Opening, tcp::State::SynSent | tcp::State::SynReceived) => {}
            (Phase::Opening, _) => self.established(now, index),
            (Phase::Open, tcp::State::Closed) => {
                connection.phase = Phase::Over;
                // The acknowledgement of our FIN is the regular end.
                if matches!(before, tcp::State::LastAck | tcp::State::TimeWait) {
                    return;
                }
                self.counters.resets += 1;
                match connection.owner {
                    Owner::Socket(socket) => {
                        self.deliver_last(now, index);
                        self.events.push(Event::Broken { socket, errno: Errno::ECONNRESET });
                    }
                    Owner::Backlog(_) => self.discard(index),
                    Owner::Orphan(_) | Owner::Nobody => {}
                }
            }
            _ => {}
        }
    }

    fn established(&mut self, now: Instant, index: SlotIndex) {
        let Some(connection) = self.slots.connection(index) else { return };
        connection.phase = Phase::Open;
        match connection.owner {
            Owner::Socket(socket) => {
                if let Some(tx) = &mut connection.tx {
                    tx.grant();
                }
                self.counters.connected += 1;
                self.events.push(Event::Connected { socket, result: Ok(()) });
            }
            Owner::Backlog(listener) => {
                self.counters.accepted += 1;
                if let Some(listener) = self.slots.listener(listener) {
                    listener.established(index);
                }
                self.hand_out(now, listener);
            }
            Owner::Orphan(_) | Owner::Nobody => {}
        }
    }

    /// The listener for a local end: one on the very address, else one on any of its family.
    fn listener_for(&self, local: SocketAddr) -> Option<SlotIndex> {
        let any = any_address(local);
        self.listeners.get(&local).or_else(|| self.listeners.get(&any)).copied()
    }

    fn receive_syn(
        &mut self,
        now: Instant,
        frame: &RxFrame<'_>,
        flow: Flow,
        index: SlotIndex,
        tx: &mut TxBurst<'_>,
    ) {
        let Some(listener) = self.slots.listener(index) else { return };
        if !listener.has_room() {
            // A handshake that had its time may be nobody's, and makes way.
            let oldest = listener.half_open.first().copied();
            let mut is_late = |index| self.slots.connection(index).is_some_and(|c| c.is_late(now));
            let Some(oldest) = oldest.filter(|&index| is_late(index)) else {
                self.counters.drop_backlog += 1;
                return;
            };
            self.counters.drop_half_open_evicted += 1;
            self.discard(oldest);
        }
        let Some(listener) = self.slots.listener(index) else { return };
        let options = listener.options;
        if !self.slots.has_room() {
            self.counters.drop_sockets += 1;
            return;
        }
        let Some(tcp) = self.spare_socket(&options) else {
            self.counters.drop_memory += 1;
            return;
        };
        let owner = Owner::Backlog(index);
        let mut connection = Connection::new(now, tcp, flow, owner, None, options);
        let local =
            IpListenEndpoint { addr: Some(flow.local.ip().into()), port: flow.local.port() };
        let listening = connection.tcp().listen(local).is_ok();
        self.link.feed(now, frame.bytes, Some(tx), Some(connection.turn()), &mut self.counters);
        if !listening || connection.state() != tcp::State::SynReceived {
            self.counters.drop_bad_syn += 1;
            self.recycle(connection);
            return;
        }
        let slot = self.slots.insert(Slot::Connection(Box::new(connection)));
        self.flows.insert(flow, slot);
        if let Some(listener) = self.slots.listener(index) {
            listener.half_open.push(slot);
        }
        self.slots.mark(slot);
    }

    /// Takes a datagram for the local end given. An error if the library made no datagram of it.
    fn receive_datagram(
        &mut self,
        now: Instant,
        bytes: &[u8],
        local: SocketAddr,
        tx: &mut TxBurst<'_>,
    ) -> Result<(), Refused> {
        let bound = self.datagrams.get(&local).or_else(|| self.datagrams.get(&any_address(local)));
        let Some(&index) = bound else {
            // RFC 1122 section 4.1.3.1: the library answers "port unreachable".
            self.counters.drop_no_socket += 1;
            self.link.feed(now, bytes, Some(tx), None, &mut self.counters);
            return Ok(());
        };
        let port = local.port();
        let received = self.carrier.receive(now, &mut self.link, bytes, port, &mut self.counters);
        let Some((payload, local, peer)) = received else { return Err(Refused) };
        let Some(datagram) = self.slots.datagram(index) else { return Ok(()) };
        if datagram.peer.is_some_and(|only| only != peer) {
            self.counters.drop_not_peer += 1;
            return Ok(());
        }
        let Some(rx) = &mut datagram.rx else { return Ok(()) };
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
        Ok(())
    }

    /// Takes a fragment. The packet that it completes goes on as if it had come whole.
    fn receive_fragment(&mut self, now: Instant, bytes: &[u8], tx: &mut TxBurst<'_>) {
        let whole = self.reassembler.receive(now, bytes);
        self.counters.add_fragment_losses(self.reassembler.take_losses());
        if let Some(bytes) = whole {
            // What the port verified of the pieces says nothing about the whole. It is no fragment
            // again, so this goes no deeper.
            let frame = RxFrame { bytes: &bytes, checksum: RxChecksum::Unknown, hash: None };
            self.receive_frame(now, &frame, tx);
        }
    }

    fn receive_neighbour(&mut self, now: Instant, bytes: &[u8], tx: &mut TxBurst<'_>) {
        let learned = self.link.hear_neighbour(now, bytes, tx, &mut self.counters);
        let Some(learned) = learned else { return };
        for index in std::mem::take(&mut self.waiting) {
            // What a UDP socket waits for is in its FIFO; it looks itself.
            let hop = |flow: Flow| self.net.next_hop(flow.remote.ip());
            match self.slots.connection(index).map(|connection| hop(connection.flow)) {
                Some(hop) if hop != Some(learned) => self.waiting.push(index),
                _ => self.slots.mark(index),
            }
        }
    }
}

/// Where an IP packet goes, if its header says.
fn destination(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x00] => Some(IpAddr::from(*frame.get(30..)?.first_chunk::<4>()?)),
        [0x86, 0xdd] => Some(IpAddr::from(*frame.get(38..)?.first_chunk::<16>()?)),
        _ => None,
    }
}

/// The library made no datagram of a packet.
struct Refused;

/// The unspecified address of the same family, with the same port.
pub(super) fn any_address(local: SocketAddr) -> SocketAddr {
    let any = match local {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(any, local.port())
}

/// Whether a frame holds a SYN that begins a connection: no ACK, no RST, no FIN.
fn is_first_syn(frame: &[u8]) -> bool {
    let first_syn = |segment: &[u8]| {
        TcpPacket::new_checked(segment)
            .is_ok_and(|tcp| tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin())
    };
    let Ok(frame) = EthernetFrame::new_checked(frame) else { return false };
    match frame.ethertype() {
        EthernetProtocol::Ipv4 => {
            Ipv4Packet::new_checked(frame.payload()).is_ok_and(|ip| first_syn(ip.payload()))
        }
        // A SYN behind extension headers is refused, as RFC 7872 shows the network does anyway.
        EthernetProtocol::Ipv6 => Ipv6Packet::new_checked(frame.payload())
            .is_ok_and(|ip| ip.next_header() == IpProtocol::Tcp && first_syn(ip.payload())),
        _ => false,
    }
}
