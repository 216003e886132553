//! Echo requests of ours, and their answers (RFC 792, RFC 4443 section 4).
//!
//! Owns: the requests under way. Called with each request, each answer, and on each poll. Must never:
//! take for an answer what differs from its request by a byte.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use ::smoltcp::phy::ChecksumCapabilities;
use ::smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv4Packet, Icmpv4Repr,
    Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol, IpRepr,
};
use dmm_port::Instant;
use dmm_port::flow;
use nix::errno::Errno;

use super::{Sent, Write};
use crate::ip::discovery::Mac;
use crate::ip::net::Net;
use crate::{Event, Ping, Pong};

/// Requests under way at most: an operator's few, and each answer is looked for among them.
const PINGS_MAX: usize = 64;

const ETHERNET_BYTES: usize = 14;
/// As Linux sends (`ip_default_ttl`).
const HOP_LIMIT: u8 = 64;

/// The requests under way.
pub(crate) struct Echoes {
    requests: Vec<Request>,
    /// What sets our requests apart from those of an earlier daemon.
    identifier: u16,
    sequence: u16,
    mtu: usize,
    /// One can perhaps be sent at once.
    is_due: bool,
}

struct Request {
    ping: Ping,
    from: IpAddr,
    sequence: u16,
    /// When it was sent; until then it waits for its neighbour.
    sent_at: Option<Instant>,
}

impl Echoes {
    /// None under way, on a link of `mtu` bytes.
    pub(crate) fn new(mtu: u16, seed: u64) -> Self {
        let identifier = (seed ^ seed >> 32) as u16;
        Self { requests: Vec::new(), identifier, sequence: 0, mtu: usize::from(mtu), is_due: false }
    }

    /// Takes a request, which the next polls send.
    pub(crate) fn add(&mut self, ping: &Ping, net: &Net) -> Result<(), Errno> {
        let from = net.source_for(ping.to).ok_or(Errno::ENETUNREACH)?;
        // To a group it would have many answers; to ourselves it would not come back.
        if net.next_hop(ping.to).is_none() || net.is_own(ping.to) {
            return Err(Errno::ENETUNREACH);
        }
        if self.requests.len() == PINGS_MAX {
            return Err(Errno::EAGAIN);
        }
        let request = Request { ping: *ping, from, sequence: self.sequence, sent_at: None };
        if request.frame_bytes() - ETHERNET_BYTES > self.mtu {
            return Err(Errno::EMSGSIZE);
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.requests.push(request);
        self.is_due = true;
        Ok(())
    }

    /// Sends what waits and can go, and gives up what is late. `send` sends a packet to an address in
    /// a frame of so many bytes, which is written given our and the neighbour's Ethernet address.
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        events: &mut Vec<Event>,
        mut send: impl FnMut((IpAddr, usize), Write<'_>) -> Sent,
    ) {
        self.requests.retain(|request| {
            let late = request.ping.until <= now;
            if late {
                let errno = request.sent_at.map_or(Errno::EHOSTUNREACH, |_| Errno::ETIMEDOUT);
                events.push(Event::Ponged { token: request.ping.token, result: Err(errno) });
            }
            !late
        });
        self.is_due = false;
        let identifier = self.identifier;
        for request in self.requests.iter_mut().filter(|request| request.sent_at.is_none()) {
            let (to, len) = (request.ping.to, request.frame_bytes());
            let write = |frame: &mut [u8], macs| request.write(identifier, macs, frame);
            match send((to, len), &write) {
                Sent::Frame => request.sent_at = Some(now),
                Sent::NoSlot => self.is_due = true,
                // The neighbour's answer makes a poll.
                Sent::NoNeighbour | Sent::Nothing => {}
            }
        }
    }

    /// Whether a poll has nothing to do.
    pub(crate) const fn is_idle(&self) -> bool {
        self.requests.is_empty() && !self.is_due
    }

    /// Whether a poll could send one.
    pub(crate) const fn is_due(&self) -> bool {
        self.is_due
    }

    /// When the next one is given up.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.requests.iter().map(|request| request.ping.until).min()
    }

    /// Takes an echo reply. Returns what it answers, if it answers anything.
    pub(crate) fn hear(&mut self, now: Instant, frame: &[u8]) -> Option<Event> {
        let message = flow::message(frame)?;
        // Type, code, checksum, identifier, sequence number, payload: the same in both versions.
        let (head, payload) = message.bytes.split_at_checked(8)?;
        if head[4..6] != self.identifier.to_be_bytes() {
            return None;
        }
        let answers = |request: &Request| {
            request.sent_at.is_some()
                && head[6..8] == request.sequence.to_be_bytes()
                && (message.source, message.destination) == (request.ping.to, request.from)
                && payload.iter().copied().eq(request.payload())
        };
        let at = self.requests.iter().position(answers)?;
        let request = self.requests.swap_remove(at);
        let round_trip = now.since(request.sent_at?);
        // RFC 791 section 3.1, RFC 8200 section 3.
        let at = if message.source.is_ipv4() { 8 } else { 7 };
        let hop_limit = frame.get(ETHERNET_BYTES + at).copied().unwrap_or(0);
        let result = Ok(Pong { round_trip, hop_limit });
        Some(Event::Ponged { token: request.ping.token, result })
    }
}

impl Request {
    fn frame_bytes(&self) -> usize {
        let header = if self.from.is_ipv4() { 20 } else { 40 };
        ETHERNET_BYTES + header + 8 + usize::from(self.ping.bytes)
    }

    /// Bytes that differ from their neighbours, and from request to request.
    fn payload(&self) -> impl Iterator<Item = u8> {
        (0..self.ping.bytes).map(|at| (at ^ self.sequence) as u8)
    }

    fn write(&self, identifier: u16, (ours, theirs): (Mac, Mac), frame: &mut [u8]) {
        let checksums = ChecksumCapabilities::default();
        let payload: Vec<u8> = self.payload().collect();
        let ethertype = match self.from {
            IpAddr::V4(_) => EthernetProtocol::Ipv4,
            IpAddr::V6(_) => EthernetProtocol::Ipv6,
        };
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress(ours),
            dst_addr: EthernetAddress(theirs),
            ethertype,
        };
        // A slot holds what an earlier frame left there.
        frame.fill(0);
        let mut frame = EthernetFrame::new_unchecked(frame);
        ethernet.emit(&mut frame);
        let (from, to) = (IpAddress::from(self.from), IpAddress::from(self.ping.to));
        let packet = frame.payload_mut();
        let protocol = match self.from {
            IpAddr::V4(_) => IpProtocol::Icmp,
            IpAddr::V6(_) => IpProtocol::Icmpv6,
        };
        let ip = IpRepr::new(from, to, protocol, 8 + payload.len(), HOP_LIMIT);
        ip.emit(&mut *packet, &checksums);
        let message = &mut packet[ip.header_len()..];
        let (ident, seq_no, data) = (identifier, self.sequence, payload.as_slice());
        match (self.from, self.ping.to) {
            (IpAddr::V6(from), IpAddr::V6(to)) => Icmpv6Repr::EchoRequest { ident, seq_no, data }
                .emit(&from, &to, &mut Icmpv6Packet::new_unchecked(message), &checksums),
            _ => Icmpv4Repr::EchoRequest { ident, seq_no, data }
                .emit(&mut Icmpv4Packet::new_unchecked(message), &checksums),
        }
    }
}
