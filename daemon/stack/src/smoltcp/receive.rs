//! Frames in: each is led to the one socket that it is for.
//!
//! Owns: the demultiplexing, and what a segment does to a connection's life. Called once per
//! burst. Must never: answer with more frames than there are slots, or create a connection beyond
//! its listener's backlog.
#![forbid(unsafe_code)]

use ::smoltcp::socket::tcp;
use ::smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpListenEndpoint, IpProtocol, Ipv4Packet, Ipv6Packet,
    TcpPacket,
};
use dmm_port::flow::{Flow, Traffic, Transport};
use dmm_port::{Instant, RxChecksum, RxFrame, TxBurst};

use super::SmoltcpStack;
use super::challenge;
use super::connection::{Connection, Phase};
use super::sequence::{REPETITIONS, Verdict};
use crate::ip::{admit, trouble};
use crate::sockets::Owner;
use crate::sockets::slots::SlotIndex;

impl SmoltcpStack {
    /// Takes one frame.
    pub(super) fn receive_frame(
        &mut self,
        now: Instant,
        frame: &RxFrame<'_>,
        tx: &mut TxBurst<'_>,
    ) {
        let bytes = frame.bytes;
        let admitted = admit(frame, (self.mac, None, true), &self.sockets.net, &mut self.counters);
        let Some(admitted) = admitted else { return };
        match admitted.traffic {
            Traffic::Tcp(flow) => self.receive_segment(now, frame, flow, tx),
            Traffic::Udp(flow) => {
                if self.receive_datagram(now, bytes, flow, tx).is_err() {
                    self.sockets.counters.drop_bad_datagram += 1;
                }
            }
            Traffic::Fragment { .. } => self.receive_fragment(now, bytes, tx),
            Traffic::Arp { .. } | Traffic::Ndp { .. } => self.receive_neighbour(now, bytes, tx),
            Traffic::IcmpError { embedded: Some((Transport::Udp, flow)) }
                if admitted
                    .message
                    .as_ref()
                    .and_then(trouble::fatal)
                    .is_some_and(|errno| self.sockets.take_trouble(&flow, errno)) => {}
            Traffic::IcmpError { .. } => self.counters.drop_icmp_error += 1,
            Traffic::Malformed => self.counters.drop_malformed += 1,
            Traffic::IcmpEchoReply => match self.echoes.hear(now, bytes) {
                Some(ponged) => self.sockets.events.push(ponged),
                None => self.counters.drop_echo_reply += 1,
            },
            // The library has groups of its own, of which nobody here is a member.
            Traffic::Membership => self.counters.drop_group_other += 1,
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

    fn receive_segment(
        &mut self,
        now: Instant,
        frame: &RxFrame<'_>,
        flow: Flow,
        tx: &mut TxBurst<'_>,
    ) {
        let bytes = frame.bytes;
        if !self.sockets.net.is_own(flow.local.ip()) {
            // RFC 1122 section 4.2.3.10: TCP has no groups.
            self.counters.drop_not_ours += 1;
            return;
        }
        if let Some(index) = self.sockets.of_flow(&flow) {
            let verdict =
                self.sockets.slots.connection(index).map(|connection| connection.judge(bytes));
            let verdict = verdict.unwrap_or(Verdict::Refuse);
            match verdict {
                Verdict::Pass { plausible } => {
                    return self.feed_connection(now, index, frame, plausible, tx);
                }
                Verdict::Refuse => {
                    self.sockets.counters.drop_implausible += 1;
                    return;
                }
                Verdict::Reopen if self.sockets.may_reopen(index, flow.local) => self.remove(index),
                Verdict::Reopen | Verdict::Challenge => {
                    return self.challenge(now, index, frame, tx);
                }
            }
        }
        if let Some(listener) = self.sockets.listener_for(flow.local)
            && is_first_syn(bytes)
        {
            self.receive_syn(now, frame, flow, listener, tx);
        } else {
            // RFC 9293 section 3.10.7.1: the library answers with a reset.
            self.sockets.counters.drop_no_connection += 1;
            self.link.feed(now, bytes, Some(tx), None, &mut self.counters);
        }
    }

    /// Asks the peer whether it meant to end a connection (RFC 5961 sections 3 and 4).
    fn challenge(
        &mut self,
        now: Instant,
        index: SlotIndex,
        frame: &RxFrame<'_>,
        tx: &mut TxBurst<'_>,
    ) {
        self.sockets.counters.drop_challenged += 1;
        let connection = self.sockets.slots.connection(index);
        let numbers = connection.and_then(|connection| connection.challenge(now));
        let mut answer = [0; challenge::BYTES_MAX];
        let len = numbers.and_then(|numbers| challenge::write(frame.bytes, numbers, &mut answer));
        let Some(len) = len else { return };
        match tx.next(len) {
            Some(slot) => {
                slot.copy_from_slice(&answer[..len]);
                self.sockets.counters.challenges += 1;
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
        let Some(connection) = self.sockets.slots.connection(index) else { return };
        self.sockets.counters.rx_segments += 1;
        let before = connection.intake();
        self.link.feed(now, bytes, Some(tx), Some(connection.turn()), &mut self.counters);
        let Some(connection) = self.sockets.slots.connection(index) else { return };
        let took = connection.received(&before);
        let after = connection.state();
        // What is nobody's words but a guess is no sign of life.
        let Some(connection) = self.sockets.slots.connection(index) else { return };
        if plausible && connection.heard(now, bytes) {
            self.own.recoveries += 1;
            for _ in 0..REPETITIONS {
                self.link.feed(now, bytes, None, Some(connection.turn()), &mut self.counters);
            }
        }
        if !plausible && !took {
            self.sockets.counters.drop_implausible += 1;
        }
        if before.state != after {
            self.state_changed(now, index, before.state, after);
        }
        self.sockets.slots.mark(index);
    }

    /// What a segment that was just received means for the life of a connection.
    fn state_changed(
        &mut self,
        now: Instant,
        index: SlotIndex,
        before: tcp::State,
        after: tcp::State,
    ) {
        let Some(connection) = self.sockets.slots.connection(index) else { return };
        let passive = matches!(connection.owner, Owner::Backlog(_));
        match (connection.phase, after) {
            // The library turns a half-open connection that is reset into a listener.
            (Phase::Opening, tcp::State::Listen) => self.discard(index),
            (Phase::Opening, tcp::State::Closed) if passive => self.discard(index),
            (Phase::Opening, tcp::State::Closed) => {
                connection.phase = Phase::Over;
                self.sockets.refused(index);
            }
            (Phase::Opening, tcp::State::SynSent | tcp::State::SynReceived) => {}
            (Phase::Opening, _) => {
                connection.phase = Phase::Open;
                if let (Owner::Socket(_), Some(tx)) = (connection.owner, &mut connection.tx) {
                    tx.grant();
                }
                self.sockets.established(now, index);
            }
            (Phase::Open, tcp::State::Closed) => {
                connection.phase = Phase::Over;
                // The acknowledgement of our FIN is the regular end.
                if matches!(before, tcp::State::LastAck | tcp::State::TimeWait) {
                    return;
                }
                if matches!(connection.owner, Owner::Socket(_)) {
                    self.deliver_last(now, index);
                }
                self.sockets.reset(index);
            }
            _ => {}
        }
    }

    fn receive_syn(
        &mut self,
        now: Instant,
        frame: &RxFrame<'_>,
        flow: Flow,
        index: SlotIndex,
        tx: &mut TxBurst<'_>,
    ) {
        let Some(options) = self.sockets.admit(now, index) else { return };
        let Some(tcp) = self.buffers.take(&options) else {
            self.own.drop_memory += 1;
            return;
        };
        let owner = Owner::Backlog(index);
        let mut connection = Connection::new(now, tcp, flow, owner, None, options);
        let local =
            IpListenEndpoint { addr: Some(flow.local.ip().into()), port: flow.local.port() };
        let listening = connection.tcp().listen(local).is_ok();
        self.link.feed(now, frame.bytes, Some(tx), Some(connection.turn()), &mut self.counters);
        if !listening || connection.state() != tcp::State::SynReceived {
            self.sockets.counters.drop_bad_syn += 1;
            self.buffers.give(connection);
            return;
        }
        self.sockets.insert_half_open(index, connection);
    }

    /// Takes a datagram for the local end given. An error if the library made no datagram of it.
    fn receive_datagram(
        &mut self,
        now: Instant,
        bytes: &[u8],
        flow: Flow,
        tx: &mut TxBurst<'_>,
    ) -> Result<(), Refused> {
        let local = flow.local;
        let many = self.sockets.net.is_many(local.ip());
        let index = match many {
            true => self.sockets.datagrams_at(local).next(),
            false => self.sockets.datagram_for(&flow),
        };
        let Some(index) = index else {
            // RFC 1122 section 4.1.3.1: the library answers "port unreachable".
            self.sockets.counters.drop_no_socket += 1;
            self.link.feed(now, bytes, Some(tx), None, &mut self.counters);
            return Ok(());
        };
        let port = local.port();
        let received = self.carrier.receive(now, &mut self.link, bytes, port, &mut self.counters);
        let Some((payload, local, peer)) = received else { return Err(Refused) };
        if many {
            self.sockets.deliver_to_all(payload, Flow { local, remote: peer });
        } else {
            self.sockets.deliver(index, payload, (local, peer));
        }
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
        if let Some(learned) = learned {
            self.sockets.wake_waiting(learned);
        }
    }
}

/// The library made no datagram of a packet.
struct Refused;

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
