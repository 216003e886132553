//! The list of sockets, in the words of ss(8).

#![forbid(unsafe_code)]

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// All sockets of all stacks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sockets {
    /// One row each.
    pub rows: Vec<SocketRow>,
}

/// One socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketRow {
    /// The stack's name.
    pub stack: String,
    /// The instance's index.
    pub instance: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its state.
    pub state: SocketState,
    /// Its own address, if bound.
    pub local: Option<SocketAddr>,
    /// Its peer's address, if connected.
    pub remote: Option<SocketAddr>,
    /// Bytes received and unread; of a listener, connections to be accepted.
    pub rx_queued: u64,
    /// Bytes written and not acknowledged; of a listener, its backlog.
    pub tx_queued: u64,
    /// The client's process; none if the socket outlived it.
    pub pid: Option<u32>,
    /// The client's program.
    pub program: Option<String>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The state of a socket: those of TCP (RFC 9293 section 3.3.2), named as ss(8) names them, which
/// uses `UNCONN` for a closed or unconnected socket and `ESTAB` for a connected one of any protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SocketState {
    /// Closed, or a datagram socket without a peer.
    #[serde(rename = "UNCONN")]
    Unconnected,
    /// LISTEN.
    #[serde(rename = "LISTEN")]
    Listen,
    /// SYN-SENT.
    #[serde(rename = "SYN-SENT")]
    SynSent,
    /// SYN-RECEIVED.
    #[serde(rename = "SYN-RECV")]
    SynReceived,
    /// ESTABLISHED, or a datagram socket with a peer.
    #[serde(rename = "ESTAB")]
    Established,
    /// FIN-WAIT-1.
    #[serde(rename = "FIN-WAIT-1")]
    FinWait1,
    /// FIN-WAIT-2.
    #[serde(rename = "FIN-WAIT-2")]
    FinWait2,
    /// CLOSE-WAIT.
    #[serde(rename = "CLOSE-WAIT")]
    CloseWait,
    /// CLOSING.
    #[serde(rename = "CLOSING")]
    Closing,
    /// LAST-ACK.
    #[serde(rename = "LAST-ACK")]
    LastAck,
    /// TIME-WAIT.
    #[serde(rename = "TIME-WAIT")]
    TimeWait,
}

impl Protocol {
    /// The protocol as ss(8) writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl SocketState {
    /// The state as ss(8) writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unconnected => "UNCONN",
            Self::Listen => "LISTEN",
            Self::SynSent => "SYN-SENT",
            Self::SynReceived => "SYN-RECV",
            Self::Established => "ESTAB",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::CloseWait => "CLOSE-WAIT",
            Self::Closing => "CLOSING",
            Self::LastAck => "LAST-ACK",
            Self::TimeWait => "TIME-WAIT",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for SocketState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
