//! Frames in: each is led to the one socket that it is for.
//!
//! Owns: the demultiplexing, and what a segment does to a connection's life. Called once per
//! burst. Must never: answer with more frames than there are slots, or create a connection beyond
//! its listener's backlog.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use dmm_port::flow::{Flow, Traffic, Transport};
use dmm_port::{Instant, RxChecksum, RxFrame, TxBurst};

use super::NativeStack;
use super::icmp::Unreachable;
use super::segment::{Cookie, Segment, flag};
use super::tcp::{Arrival, Connection, answer_to_stray, mss_default, write_segment};
use crate::ip::neighbours::Purpose;
use crate::ip::packet::{UDP_BYTES, class_of, headers_bytes};
use crate::ip::{self, Admitted, admit, trouble};
use crate::sockets::Owner;
use crate::sockets::slots::SlotIndex;

impl NativeStack {
    /// Takes one frame, which is of the VLAN given, and may come from the link rather than from us.
    pub(super) fn receive_frame(
        &mut self,
        now: Instant,
        (frame, vlan, from_link): (&RxFrame<'_>, Option<u16>, bool),
        tx: &mut TxBurst<'_>,
    ) {
        let mac = self.link.mac();
        let place = (mac, vlan, from_link);
        let admitted = admit(frame, place, &self.sockets.net, &mut self.link.counters);
        let Some(Admitted { traffic, message, frame, to_group }) = admitted else { return };
        let bytes = &*frame;
        let payload = message.as_ref().map_or(&[][..], |message| message.bytes);
        match traffic {
            Traffic::Tcp(flow) => self.receive_tcp(now, (class_of(bytes), payload), flow, tx),
            Traffic::Udp(Flow { local, .. }) if !self.takes_group(local.ip()) => {
                self.link.counters.drop_group += 1;
            }
            Traffic::Udp(flow) => self.receive_udp(now, (bytes, to_group, payload), flow, tx),
            Traffic::Fragment { key, .. } if !self.takes_group(key.local) => {
                self.link.counters.drop_group += 1;
            }
            Traffic::Fragment { .. } => self.receive_fragment(now, bytes, tx),
            Traffic::Membership => {
                if let (Some(groups), Some(message)) = (&mut self.sockets.groups, &message) {
                    groups.hear(now, bytes, message);
                    self.link.counters.add_groups_dropped(groups.take_dropped());
                }
            }
            Traffic::Arp { .. } | Traffic::Ndp { .. } => {
                if let Some(learned) = self.link.hear_neighbour(now, bytes, tx) {
                    self.sockets.wake_waiting(learned);
                }
            }
            Traffic::IcmpError { embedded: Some((Transport::Tcp, flow)) } => {
                self.receive_trouble(bytes, flow);
            }
            Traffic::IcmpError { embedded: Some((Transport::Udp, flow)) }
                if message
                    .as_ref()
                    .and_then(trouble::fatal)
                    .is_some_and(|errno| self.sockets.take_trouble(&flow, errno)) => {}
            Traffic::IcmpError { .. } => self.link.counters.drop_icmp_error += 1,
            Traffic::Malformed => self.link.counters.drop_malformed += 1,
            Traffic::IcmpEchoReply => match self.echoes.hear(now, bytes) {
                Some(ponged) => self.sockets.events.push(ponged),
                None => self.link.counters.drop_echo_reply += 1,
            },
            Traffic::IcmpEchoRequest => self.answer_echo(now, bytes, tx),
            Traffic::Other => {
                self.link.counters.drop_unknown += 1;
                // RFC 1122 section 3.2.2.1.
                let stranger = message.is_some_and(|message| {
                    !matches!(
                        message.protocol,
                        ip::packet::protocol::ICMP | ip::packet::protocol::ICMPV6
                    )
                });
                if stranger {
                    self.return_packet(now, (bytes, to_group), Unreachable::Protocol, tx);
                }
            }
        }
    }

    /// Whether packets to an address are taken, as far as it is a group.
    fn takes_group(&self, to: IpAddr) -> bool {
        !to.is_multicast() || self.sockets.groups.as_ref().is_some_and(|groups| groups.has(to))
    }

    /// Takes the next frame that we sent to ourselves.
    pub(super) fn receive_looped(&mut self, now: Instant, tx: &mut TxBurst<'_>) {
        let Some(bytes) = self.link.take_looped() else { return };
        self.link.counters.rx_frames += 1;
        let frame = RxFrame { bytes: &bytes, checksum: RxChecksum::Good, hash: None };
        self.receive_frame(now, (&frame, None, false), tx);
    }

    /// Takes a fragment. The packet that it completes goes on as if it had come whole.
    fn receive_fragment(&mut self, now: Instant, bytes: &[u8], tx: &mut TxBurst<'_>) {
        let whole = self.reassembler.receive(now, bytes);
        self.link.counters.add_fragment_losses(self.reassembler.take_losses());
        if let Some(bytes) = whole {
            // What the port verified of the pieces says nothing about the whole, but where they came from was
            // looked at. It is no fragment again, so this goes no deeper.
            let frame = RxFrame { bytes: &bytes, checksum: RxChecksum::Unknown, hash: None };
            self.receive_frame(now, (&frame, None, false), tx);
        }
    }

    fn receive_udp(
        &mut self,
        now: Instant,
        (frame, to_group, datagram): (&[u8], bool, &[u8]),
        flow: Flow,
        tx: &mut TxBurst<'_>,
    ) {
        let len =
            datagram.get(4..6).map_or(0, |len| usize::from(len[0]) << 8 | usize::from(len[1]));
        let Some(payload) = datagram.get(UDP_BYTES..len) else {
            self.sockets.counters.drop_bad_datagram += 1;
            return;
        };
        if self.sockets.net.is_many(flow.local.ip()) {
            return self.sockets.deliver_to_all(payload, flow);
        }
        match self.sockets.datagram_for(&flow) {
            Some(index) => self.sockets.deliver(index, payload, (flow.local, flow.remote)),
            None => {
                // RFC 1122 section 4.1.3.1.
                self.sockets.counters.drop_no_socket += 1;
                self.return_packet(now, (frame, to_group), Unreachable::Port, tx);
            }
        }
    }

    fn receive_tcp(
        &mut self,
        now: Instant,
        (class, message): (u8, &[u8]),
        flow: Flow,
        tx: &mut TxBurst<'_>,
    ) {
        if !self.sockets.net.is_own(flow.local.ip()) {
            // RFC 1122 section 4.2.3.10: TCP has no groups.
            self.link.counters.drop_not_ours += 1;
            return;
        }
        let Some((segment, payload)) = Segment::read(message) else {
            self.link.counters.drop_malformed += 1;
            return;
        };
        let Some(index) = self.sockets.of_flow(&flow) else {
            return self.receive_stray(now, flow, &segment, payload, tx);
        };
        let Some(connection) = self.sockets.slots.connection(index) else { return };
        self.sockets.counters.rx_segments += 1;
        match connection.arrive(now, (&segment, class), payload) {
            Ok(Arrival::Reopen) if self.sockets.may_reopen(index, flow.local) => {
                self.sockets.remove(index);
                self.receive_stray(now, flow, &segment, payload, tx);
            }
            Ok(Arrival::Reopen) => {
                self.sockets.counters.drop_challenged += 1;
                self.challenge(now, index);
            }
            Ok(arrival) => self.arrived(now, index, arrival, (flow, &segment, payload), tx),
            Err(breach) => self.sockets.breach(index, breach),
        }
    }

    /// What a segment that was just received means for the life of a connection.
    fn arrived(
        &mut self,
        now: Instant,
        index: SlotIndex,
        arrival: Arrival,
        (flow, segment, payload): (Flow, &Segment, &[u8]),
        tx: &mut TxBurst<'_>,
    ) {
        let counters = &mut self.sockets.counters;
        match arrival {
            Arrival::Taken | Arrival::Reopen => {}
            Arrival::Established => {
                let connection = self.sockets.slots.connection(index);
                if segment.has(flag::SYN) && connection.is_some_and(|c| c.is_fast()) {
                    let options = &segment.options;
                    let (remote, mss) =
                        (flow.remote.ip(), options.mss.unwrap_or(mss_default(flow.remote.ip())));
                    self.fast_open.learn(remote, options.fast_open, mss);
                }
                self.sockets.established(now, index);
            }
            Arrival::Refused => self.sockets.refused(index),
            Arrival::Forgotten => {
                self.sockets.discard(index);
                return;
            }
            Arrival::Reset => {
                let Some(connection) = self.sockets.slots.connection(index) else { return };
                if let Owner::Socket(_) = connection.owner {
                    match connection.exchange(now) {
                        Ok(mut moved) => {
                            (moved.ended, moved.writable) = (false, false);
                            self.sockets.tell(index, moved);
                        }
                        Err(breach) => self.sockets.breach(index, breach),
                    }
                }
                self.sockets.reset(index);
                if self.sockets.slots.connection(index).is_none() {
                    return;
                }
            }
            Arrival::Duplicate => self.counters.drop_duplicate += 1,
            Arrival::Old => self.counters.drop_paws += 1,
            Arrival::Implausible => counters.drop_implausible += 1,
            Arrival::Challenged => {
                counters.drop_challenged += 1;
                return self.challenge(now, index);
            }
            Arrival::Unmatched => {
                counters.drop_challenged += 1;
                return;
            }
            Arrival::Stray => {
                counters.drop_implausible += 1;
                self.answer_stray(now, flow, segment, payload, tx);
                return;
            }
            Arrival::Over => {
                counters.drop_no_connection += 1;
                self.answer_stray(now, flow, segment, payload, tx);
                return;
            }
        }
        self.sockets.slots.mark(index);
    }

    /// Asks the peer whether it meant to end a connection (RFC 5961 sections 3 and 4).
    fn challenge(&mut self, now: Instant, index: SlotIndex) {
        let Some(connection) = self.sockets.slots.connection(index) else { return };
        if connection.challenge(now) {
            self.sockets.counters.challenges += 1;
            self.sockets.slots.mark(index);
        }
    }

    /// Takes a segment for which there is no connection.
    fn receive_stray(
        &mut self,
        now: Instant,
        flow: Flow,
        segment: &Segment,
        payload: &[u8],
        tx: &mut TxBurst<'_>,
    ) {
        let listener = self.sockets.listener_for(flow.local);
        match listener {
            Some(listener) if !segment.has(flag::ACK | flag::RST) => {
                if !segment.has(flag::SYN) || segment.has(flag::FIN) {
                    self.sockets.counters.drop_bad_syn += 1;
                    return;
                }
                if self.sockets.is_flooded(now, listener) {
                    return self.answer_with_cookie(now, flow, segment, tx);
                }
                let Some(options) = self.sockets.admit(now, listener) else { return };
                let owner = Owner::Backlog(listener);
                let (parameters, opening) = (&self.parameters, (flow, options));
                let connection = Connection::answer(now, parameters, owner, opening, segment);
                let index = self.sockets.insert_half_open(listener, connection);
                if let Some(cookie) = segment.options.fast_open {
                    self.open_fast(now, listener, index, (flow, cookie), payload);
                }
            }
            Some(listener)
                if segment.has(flag::ACK)
                    && !segment.has(flag::SYN | flag::RST)
                    && self.take_cookie(now, listener, (flow, segment, payload), tx) => {}
            _ => {
                self.sockets.counters.drop_no_connection += 1;
                self.answer_stray(now, flow, segment, payload, tx);
            }
        }
    }

    /// Takes the payload of a SYN, if its cookie is right; else our answer brings the right one (RFC 7413
    /// section 4.2.2).
    fn open_fast(
        &mut self,
        now: Instant,
        listener: SlotIndex,
        index: SlotIndex,
        (flow, cookie): (Flow, Cookie),
        payload: &[u8],
    ) {
        if !self.sockets.takes_fast(now, listener) {
            return;
        }
        let Some(connection) = self.sockets.slots.connection(index) else { return };
        if self.fast_open.is_ours(flow, &cookie) {
            self.counters.fast_open += 1;
            match connection.take_fast(now, payload) {
                Ok(()) => self.sockets.established_fast(now, index),
                Err(breach) => self.sockets.breach(index, breach),
            }
        } else {
            let mut right = self.fast_open.make(flow);
            right.experimental = cookie.experimental;
            connection.offer_cookie(right);
        }
    }

    /// Answers a SYN of which nothing can be kept.
    fn answer_with_cookie(
        &mut self,
        now: Instant,
        flow: Flow,
        syn: &Segment,
        tx: &mut TxBurst<'_>,
    ) {
        let cookie = self.cookies.make(now, flow, syn.sequence, syn.options.mss.unwrap_or(0));
        let answer = Connection::cookie_answer(&self.parameters, flow, syn, cookie);
        if self.send_stray(now, flow, &answer, tx) {
            self.counters.cookies_sent += 1;
        }
    }

    /// Takes the acknowledgement of a cookie. Returns whether it is one.
    fn take_cookie(
        &mut self,
        now: Instant,
        listener: SlotIndex,
        (flow, segment, payload): (Flow, &Segment, &[u8]),
        tx: &mut TxBurst<'_>,
    ) -> bool {
        let theirs = segment.sequence.wrapping_sub(1);
        let cookie = segment.acknowledgement.wrapping_sub(1);
        let Some(mss) = self.cookies.check(now, flow, theirs, cookie) else { return false };
        let Some(options) = self.sockets.takes_completed(listener) else {
            // The peer sends something again, and perhaps there is room then.
            self.sockets.counters.drop_backlog += 1;
            return true;
        };
        let (owner, parameters) = (Owner::Backlog(listener), &self.parameters);
        let opening = (flow, options);
        let connection = Connection::from_cookie(now, parameters, owner, opening, (segment, mss));
        let index = self.sockets.insert_half_open(listener, connection);
        self.counters.cookies_taken += 1;
        let Some(connection) = self.sockets.slots.connection(index) else { return true };
        match connection.arrive(now, (segment, 0), payload) {
            Ok(arrival) => self.arrived(now, index, arrival, (flow, segment, payload), tx),
            Err(breach) => self.sockets.breach(index, breach),
        }
        true
    }

    /// Answers a segment for which there is no connection (RFC 9293 section 3.10.7.1).
    fn answer_stray(
        &mut self,
        now: Instant,
        flow: Flow,
        segment: &Segment,
        payload: &[u8],
        tx: &mut TxBurst<'_>,
    ) {
        let Some(reset) = answer_to_stray(segment, payload.len()) else { return };
        if self.send_stray(now, flow, &reset, tx) {
            self.counters.resets_sent += 1;
        }
    }

    /// Sends a segment that belongs to no connection. Returns whether it is on its way.
    fn send_stray(
        &mut self,
        now: Instant,
        flow: Flow,
        segment: &Segment,
        tx: &mut TxBurst<'_>,
    ) -> bool {
        let len = headers_bytes(flow.remote.ip()) + segment.len();
        let write = |frame: &mut [u8], macs| {
            write_segment(segment, flow, (None, 0), macs, frame, |_| ());
        };
        let sent = self.link.send(now, tx, (flow.remote.ip(), len, Purpose::Answer), write);
        self.link.counters.drop_tx_full += u64::from(sent == ip::Sent::NoSlot);
        sent == ip::Sent::Frame
    }
}
