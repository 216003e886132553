//! What is counted of sockets, whatever the kind of stack.
#![forbid(unsafe_code)]

use crate::counters::counters;

counters! {
    /// UDP datagrams delivered.
    rx_datagrams = "rx.udp_datagrams",
    /// UDP datagrams sent.
    tx_datagrams = "tx.udp_datagrams",
    /// ICMP errors about datagrams that connected UDP sockets were told of.
    troubles = "udp.errors_told",
    /// Connections opened actively that were established.
    connected = "tcp.connected",
    /// Connections accepted into a backlog or by a credit.
    accepted = "tcp.accepted",
    /// Connections that a reset of the peer ended.
    resets = "tcp.reset_by_peer",
    /// Connections given up because the peer did not answer.
    timeouts = "tcp.timed_out",
    /// Connection attempts that the peer refused, or that somebody on the way said to be in vain.
    refused = "tcp.refused",
    /// SYNs for a listener whose backlog is full.
    drop_backlog = "drop.tcp_backlog_full",
    /// SYNs for which there is no socket left.
    drop_sockets = "drop.tcp_sockets_max",
    /// Half-open connections that made way for newer ones in a full backlog.
    drop_half_open_evicted = "drop.tcp_half_open_evicted",
    /// Half-open connections that were not completed in time.
    drop_half_open = "drop.tcp_half_open_expired",
    /// UDP datagrams for a port that nobody is bound to.
    drop_no_socket = "drop.udp_no_socket",
    /// UDP datagrams from somebody other than the connected peer.
    drop_not_peer = "drop.udp_not_peer",
    /// UDP datagrams whose header does not fit what came.
    drop_bad_datagram = "drop.udp_malformed",
    /// UDP datagrams that found no room in their socket's FIFO.
    drop_rx_full = "drop.udp_rx_full",
    /// UDP datagrams that are too large for the path.
    drop_too_big = "drop.udp_tx_too_big",
    /// UDP datagrams to nowhere: no peer, no route, or an impossible address.
    drop_no_destination = "drop.udp_tx_no_destination",
    /// UDP datagrams to a broadcast address of sockets that did not ask for that (`SO_BROADCAST`).
    drop_broadcast = "drop.udp_tx_broadcast_forbidden",
    /// UDP datagrams whose neighbour did not answer in time.
    drop_no_neighbour = "drop.udp_tx_no_neighbour",
    /// TCP segments of known connections.
    rx_segments = "rx.tcp_segments",
    /// Challenges sent to peers that may have wanted to end a connection (RFC 5961).
    challenges = "tcp.challenges",
    /// TCP segments for which there is no connection; most are answered with a reset.
    drop_no_connection = "drop.tcp_no_connection",
    /// Resets and SYNs on a connection that did not prove to be the peer's (RFC 5961).
    drop_challenged = "drop.tcp_challenged",
    /// Segments with numbers that the peer would not use, or behind IPv6 extension headers.
    drop_implausible = "drop.tcp_implausible",
    /// SYNs that made no connection: flags that do not belong together, or a broken header.
    drop_bad_syn = "drop.tcp_bad_syn",
}
