//! ICMP and ICMPv6 (RFC 792, RFC 4443): answers to echo requests, and errors.
//!
//! Owns: what is answered, and how often. Called for what no socket takes. Must never: answer an error
//! with an error, or what went to many.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::time::Duration;

use dmm_port::{Instant, TxBurst, flow};

use super::NativeStack;
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
        frame: &[u8],
        why: Unreachable,
        tx: &mut TxBurst<'_>,
    ) {
        let Some(message) = flow::message(frame) else { return };
        let (from, to) = (message.destination, message.source);
        // RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e).
        if !self.sockets.net.is_own(from) || !is_unicast(to) || !self.allowance.take(now) {
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
