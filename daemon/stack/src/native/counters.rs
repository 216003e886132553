//! What this kind alone counts.
#![forbid(unsafe_code)]

use super::tcp::Repairs;
use crate::counters::counters;

counters! {
    /// TCP segments sent.
    tx_segments = "tx.tcp_segments",
    /// TCP segments sent again.
    again = "tcp.retransmitted",
    /// Retransmission timeouts (RFC 6298).
    timeouts = "tcp.retransmission_timeouts",
    /// Losses that acknowledgements showed (RFC 8985, RFC 6582).
    recoveries = "tcp.recoveries",
    /// Probes of the tail (RFC 8985 section 7).
    probes = "tcp.loss_probes",
    /// Losses that proved to be none (RFC 5682, RFC 3522, RFC 2883).
    undone = "tcp.undone_losses",
    /// SYNs answered with a cookie, as the backlog was full of handshakes that nobody completes.
    cookies_sent = "tcp.syn_cookies_sent",
    /// Connections that a cookie brought about.
    cookies_taken = "tcp.syn_cookies_taken",
    /// Connections that were taken with the payload of their SYN (RFC 7413).
    fast_open = "tcp.fast_open_taken",
    /// Resets sent to who has no connection.
    resets_sent = "tcp.resets_sent",
    /// Segments with nothing new.
    drop_duplicate = "drop.tcp_duplicate",
    /// Segments older than what was received after them (RFC 7323 section 5).
    drop_paws = "drop.tcp_paws",
    /// ICMP errors about nothing that was sent, or too many to send.
    drop_icmp = "drop.icmp_unanswered",
}

impl Counters {
    /// Adds what a connection did about loss.
    pub(super) fn add_repairs(&mut self, repairs: Repairs) {
        self.again += repairs.again;
        self.timeouts += repairs.timeouts;
        self.recoveries += repairs.recoveries;
        self.probes += repairs.probes;
        self.undone += repairs.undone;
    }
}
