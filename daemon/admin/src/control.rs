//! How `dmm` asks and `dmmd` answers, over the daemon's SOCK_SEQPACKET socket.
//!
//! ```text
//!   dmm  ---- {"request":"status"} ------------------------------>  dmmd
//!        <--- {"ok":true}  + a sealed memfd with the document ----
//!        <--- {"error":"..."}                                 ----
//! ```
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

use serde::{Deserialize, Serialize};

pub use client::{Admin, AdminError};
pub use server::{ReplyError, is_request, parse_request, reply};

/// Bytes in a request packet. The longest is about 30; the rest is room for arguments.
pub const REQUEST_BYTES_MAX: usize = 4096;

/// Bytes in a reply packet: an error message, cut to fit.
pub const REPLY_BYTES_MAX: usize = 4096;

/// Bytes in a document: a million sockets at 250 bytes each, four times over.
pub const DOCUMENT_BYTES_MAX: u64 = 1 << 30;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A [`crate::report::Status`].
    Status,
    /// A [`crate::report::Stats`].
    Stats,
    /// A [`crate::report::Sockets`].
    Sockets,
}

impl Request {
    /// Every request.
    pub const ALL: [Self; 3] = [Self::Status, Self::Stats, Self::Sockets];

    /// The request as the packet names it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Stats => "stats",
            Self::Sockets => "sockets",
        }
    }
}

/// The packet that asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestPacket {
    request: String,
}

/// The packet that answers: one of the two keys.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplyPacket {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ok: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}
