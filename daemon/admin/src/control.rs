//! How `dmm` asks and `dmmd` answers, over the daemon's SOCK_SEQPACKET socket.
//!
//! ```text
//!   dmm  ---- {"request":"status"} ------------------------------>  dmmd
//!        <--- {"ok":true}  + a sealed memfd with the document ----
//!        <--- {"error":"..."}                                 ----
//! ```
//!
//! A capture is answered with the read end of a pipe in place of the memfd.
//!
//! The same socket takes the hellos of clients, which are binary and never start with `{`: the
//! daemon tells them apart by [`is_request`]. The document travels in a memfd, so that no packet
//! limit bounds it, and sealed, so that neither side can change it under the other. Must never:
//! block the daemon, or believe what a peer sends.

mod client;
mod passing;
mod server;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use client::{Admin, AdminError};
pub use server::{ReplyError, is_request, parse_request, reply, reply_with_pipe};

/// Bytes in a request packet. The longest is about 30; the rest is room for arguments.
pub const REQUEST_BYTES_MAX: usize = 4096;

/// Bytes in a reply packet: an error message, cut to fit.
pub const REPLY_BYTES_MAX: usize = 4096;

/// Bytes in a document: a million sockets at 250 bytes each, four times over.
pub const DOCUMENT_BYTES_MAX: u64 = 1 << 30;

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// A [`crate::report::Status`].
    Status {},
    /// A [`crate::report::Stats`].
    Stats {},
    /// A [`crate::report::Sockets`].
    Sockets {},
    /// A [`crate::report::Ports`].
    Ports {},
    /// A [`crate::report::Drops`].
    Drops {},
    /// A [`crate::report::Pong`], once it came or is given up.
    Ping(Ping),
    /// The read end of a pipe with pcapng of a port, which goes on until the reader closes it.
    Capture {
        /// The port's name.
        port: String,
    },
}

/// An echo request that a stack is to send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ping {
    /// The stack's name; `None`: the first that has a route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// To whom.
    pub address: IpAddr,
    /// Bytes of payload.
    pub bytes: u16,
    /// Milliseconds until it is given up, [`PING_TIMEOUT_MS_MAX`] at most.
    pub timeout_ms: u32,
}

/// Milliseconds that an operator may wait for the answer to an echo request: less than it waits for
/// an answer of the daemon.
pub const PING_TIMEOUT_MS_MAX: u32 = 9_000;

/// The packet that answers: one of the two keys.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplyPacket {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ok: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}
