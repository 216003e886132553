//! ICMP and ICMPv6 (RFC 792, RFC 4443): answers to echo requests, and errors.
//!
//! Owns: what is answered, and how often. Called for what no socket takes. Must never: answer an error
//! with an error, or what went to many.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::time::Duration;

use dmm_port::flow::{self, Flow, Message};
use dmm_port::{Instant, TxBurst};
use nix::errno::Errno;

use super::NativeStack;
use super::tcp::Trouble;
use crate::ip::fragment::Packet;
use crate::ip::neighbours::Purpose;
use crate::ip::net::is_unicast;
use crate::ip::packet::{ETHERNET_BYTES, checksum, protocol, pseudo_sum};
use crate::sockets::udp::Carried;

/// Bytes of a header (RFC 792, RFC 4443 section 2.1).
const HEADER_BYTES: usize = 8;
/// Bytes of a packet with an error at most: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c).
const ERROR_BYTES_V4: usize = 576;
const ERROR_BYTES_V6: usize = 1280;
/// Errors that may follow each other at once, and how often another may be sent, as Linux has it
/// (`icmp_msgs_burst`, `icmp_msgs_per_sec`).
const BURST: u32 = 50;
const EVERY: Duration = Duration::from_millis(1);

/// Why a packet is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreachable {
    /// Nobody is bound to the port.
    Port,
    /// Nobody knows the protocol.
    Protocol,
}

/// How many errors may be sent.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    since: Instant,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { left: BURST, since: Instant::ZERO }
    }
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        let earned = now.since(self.since).as_nanos() / EVERY.as_nanos();
        if earned > 0 {
            self.left = BURST.min(self.left.saturating_add(u32::try_from(earned).unwrap_or(BURST)));
            self.since = now;
        }
        let one = self.left > 0;
        self.left -= u32::from(one);
        one
    }
}

/// What an error says, and the number of the segment that it is about.
fn trouble(message: &Message<'_>) -> Option<(u32, Trouble)> {
    let (head, quoted) = message.bytes.split_at_checked(HEADER_BYTES)?;
    let trouble = match (message.source, head[0], head[1]) {
        // RFC 1191 section 4: a router that does not say is older than that.
        (IpAddr::V4(_), 3, 4) => match u16::from_be_bytes([head[6], head[7]]) {
            0 => return None,
            mtu => Trouble::TooBig(mtu),
        },
        (IpAddr::V6(_), 2, 0) => {
            let mtu = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
            Trouble::TooBig(u16::try_from(mtu).unwrap_or(u16::MAX))
        }
        // As Linux has it (`icmp_err_convert`, `icmpv6_err_convert`).
        (IpAddr::V4(_), 3, 0 | 6 | 9 | 11) | (IpAddr::V6(_), 1, 0) => {
            Trouble::Unreachable(Errno::ENETUNREACH)
        }
        (IpAddr::V4(_), 3, 2) => Trouble::Unreachable(Errno::ENOPROTOOPT),
        (IpAddr::V4(_), 3, 3) | (IpAddr::V6(_), 1, 4) => Trouble::Unreachable(Errno::ECONNREFUSED),
        (IpAddr::V6(_), 1, 1 | 5 | 6) => Trouble::Unreachable(Errno::EACCES),
        (_, 3, _) | (IpAddr::V6(_), 1, _) => Trouble::Unreachable(Errno::EHOSTUNREACH),
        (IpAddr::V4(_), 11, _) => Trouble::Unreachable(Errno::EHOSTUNREACH),
        _ => return None,
    };
    let header = match message.source {
        IpAddr::V4(_) => usize::from(quoted.first()? & 0x0f) * 4,
        IpAddr::V6(_) => 40,
    };
    // Both ports, then the number (RFC 9293 section 3.1).
    let sequence = quoted.get(header + 4..)?.first_chunk()?;
    Some((u32::from_be_bytes(*sequence), trouble))
}

impl NativeStack {
    /// Answers an echo request with its own payload.
    pub(super) fn answer_echo(&mut self, now: Instant, frame: &[u8], tx: &mut TxBurst<'_>) {
        let Some(message) = flow::message(frame) else { return };
        // RFC 1122 section 3.2.2.6 leaves open to answer what went to many; we do not.
        if !self.sockets.net.is_own(message.destination) {
            self.link.counters.drop_not_ours += 1;
            return;
        }
        let (from, to) = (message.destination, message.source);
        let mut reply = std::mem::take(&mut self.scratch);
        reply.clear();
        reply.extend_from_slice(message.bytes);
        reply[0] = if from.is_ipv4() { 0 } else { 129 };
        self.send_icmp(now, tx, (from, to), &mut reply);
        self.scratch = reply;
    }

    /// Returns a packet to its sender.
    pub(super) fn return_packet(
        &mut self,
        now: Instant,
        (frame, to_group): (&[u8], bool),
        why: Unreachable,
        tx: &mut TxBurst<'_>,
    ) {
        let Some(message) = flow::message(frame) else { return };
        let (from, to) = (message.destination, message.source);
        // RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e).
        let many = to_group || !self.sockets.net.is_own(from);
        if many || !is_unicast(to) || !self.allowance.take(now) {
            self.counters.drop_icmp += 1;
            return;
        }
        let end = message.bytes.as_ptr_range().end as usize - frame.as_ptr() as usize;
        let quoted = &frame[ETHERNET_BYTES..end.min(frame.len())];
        let (kind, most) = match (from, why) {
            (IpAddr::V4(_), Unreachable::Port) => ([3, 3], ERROR_BYTES_V4 - 20),
            (IpAddr::V4(_), Unreachable::Protocol) => ([3, 2], ERROR_BYTES_V4 - 20),
            (IpAddr::V6(_), Unreachable::Port) => ([1, 4], ERROR_BYTES_V6 - 40),
            (IpAddr::V6(_), Unreachable::Protocol) => ([4, 1], ERROR_BYTES_V6 - 40),
        };
        let mut error = std::mem::take(&mut self.scratch);
        error.clear();
        error.extend_from_slice(&kind);
        error.extend_from_slice(&[0; HEADER_BYTES - 2]);
        if kind == [4, 1] {
            // RFC 4443 section 3.4: where the unknown next header stands.
            error[7] = 6;
        }
        error.extend_from_slice(&quoted[..quoted.len().min(most - HEADER_BYTES)]);
        self.send_icmp(now, tx, (from, to), &mut error);
        self.scratch = error;
    }

    /// Takes an error about a segment of ours.
    pub(super) fn receive_trouble(&mut self, frame: &[u8], flow: Flow) {
        let trouble = flow::message(frame).and_then(|message| trouble(&message));
        let index = self.sockets.of_flow(&flow);
        let (Some((sequence, trouble)), Some(index)) = (trouble, index) else {
            self.link.counters.drop_icmp_error += 1;
            return;
        };
        let Some(connection) = self.sockets.slots.connection(index) else { return };
        if let Some(errno) = connection.told(sequence, trouble) {
            self.sockets.failed(index, errno);
        }
        self.sockets.slots.mark(index);
    }

    /// Sends a message, whose checksum is written here.
    fn send_icmp(
        &mut self,
        now: Instant,
        tx: &mut TxBurst<'_>,
        (from, to): (IpAddr, IpAddr),
        message: &mut [u8],
    ) {
        let protocol = if from.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
        message[2..4].fill(0);
        let pseudo = match from {
            IpAddr::V4(_) => 0,
            IpAddr::V6(_) => pseudo_sum(from, to, protocol, message.len()),
        };
        let sum = checksum(pseudo, message);
        message[2..4].copy_from_slice(&sum);
        let packet = Packet { from, to, protocol, hop_limit: None, class: 0, payload: message };
        if self.link.send_packet(now, tx, &packet, Purpose::Answer) == Carried::NoSlot {
            self.link.counters.drop_tx_full += 1;
        }
    }
}
