//! What a sender tells of itself.
#![forbid(unsafe_code)]

use dmm_port::Instant;
use serde::{Deserialize, Serialize};

use super::Sender;
use super::repair::Phase;
use crate::TcpInfo;

/// Linux's numbers (`tcp_ca_state`).
const OPEN: u8 = 0;
const DISORDER: u8 = 1;
const RECOVERY: u8 = 3;
const LOSS: u8 = 4;

/// What a sender with something to send waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Waits {
    /// An acknowledgement, or its turn.
    Us,
    /// The peer's window.
    Peer,
}

impl Sender {
    /// Adds up how long it has waited, and for what.
    pub(in crate::native::tcp) fn account(&mut self, now: Instant) {
        if let Some((waits, since)) = self.waits {
            self.busy += now.since(since);
            if waits == Waits::Peer {
                self.peer_limited += now.since(since);
            }
        }
        let unsent = self.written().saturating_sub(self.next.max(1));
        let window = self.right.saturating_sub(self.next);
        let peer = unsent > 0
            && window < unsent.min(self.mss)
            && self.flying() + self.mss <= self.window.size;
        let busy = self.una > 0 && (self.una < self.next || unsent > 0);
        self.waits = busy.then_some((if peer { Waits::Peer } else { Waits::Us }, now));
    }

    /// Adds what it knows to `info`.
    pub(in crate::native::tcp) fn inform(&mut self, now: Instant, info: &mut TcpInfo) {
        self.account(now);
        let segments = |bytes: u64| u32::try_from(bytes / self.mss).unwrap_or(u32::MAX);
        let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let counts = self.board.counts();
        info.ca_state = match self.phase {
            Phase::Open if counts.sacked > 0 || self.duplicates > 0 => DISORDER,
            Phase::Open => OPEN,
            Phase::Recovery(_) => RECOVERY,
            Phase::Timeout(_) => LOSS,
        };
        info.retransmits = u8::try_from(self.rtt.doubled()).unwrap_or(u8::MAX);
        info.rto = self.rtt.timeout();
        info.rtt = self.rtt.estimate();
        info.min_rtt = self.rtt.least().unwrap_or_default();
        info.snd_mss = u32::try_from(self.mss).unwrap_or(u32::MAX);
        info.unacked = small(self.board.len());
        info.sacked = small(counts.sacked).max(if self.sack { 0 } else { self.duplicates });
        info.lost = small(counts.lost);
        info.retrans = small(counts.again);
        info.snd_cwnd = segments(self.window.size).max(1);
        info.snd_ssthresh = match self.window.threshold {
            u64::MAX => i32::MAX.unsigned_abs(),
            threshold => segments(threshold),
        };
        info.congestion = self.control.number();
        info.reordering = self.board.reordering();
        info.last.0 = now.since(self.sent_at);
        info.busy = (self.busy, self.peer_limited);
        info.total_retrans = u32::try_from(self.sent_again).unwrap_or(u32::MAX);
        info.delivered = u32::try_from(self.delivered).unwrap_or(u32::MAX);
        info.segs_out = u32::try_from(self.sent).unwrap_or(u32::MAX);
        let unsent = self.written().saturating_sub(self.next.max(1));
        info.notsent_bytes = u32::try_from(unsent).unwrap_or(u32::MAX);
        info.window_max = u32::try_from(self.window_max).unwrap_or(u32::MAX);
        info.bytes_acked = self.una.min(self.written()).saturating_sub(1);
    }
}
