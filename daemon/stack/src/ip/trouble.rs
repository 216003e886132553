//! What an ICMP or ICMPv6 error says of the packet that it quotes.
//!
//! Owns: its meaning as an errno, for transports that are told of what cannot be mended. Called for each error
//! about a datagram. Must never: tell of what may pass by itself.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use dmm_port::flow::Message;
use nix::errno::Errno;

/// The errno of an error that Linux calls fatal (`icmp_err_convert`, `icmpv6_err_convert`): those alone reach
/// a UDP socket that did not ask for all (`IP_RECVERR` in ip(7)). A packet that was too big for the path is
/// one for who must not be cut, as all of ours.
pub(crate) fn fatal(message: &Message<'_>) -> Option<Errno> {
    let (&kind, &code) = (message.bytes.first()?, message.bytes.get(1)?);
    match (message.source, kind, code) {
        // RFC 792, RFC 1122 section 3.2.2.1, RFC 1812 section 5.2.7.1.
        (IpAddr::V4(_), 3, 2) => Some(Errno::ENOPROTOOPT),
        (IpAddr::V4(_), 3, 3) => Some(Errno::ECONNREFUSED),
        (IpAddr::V4(_), 3, 4) => Some(Errno::EMSGSIZE),
        (IpAddr::V4(_), 3, 6 | 9) => Some(Errno::ENETUNREACH),
        (IpAddr::V4(_), 3, 7) => Some(Errno::EHOSTDOWN),
        (IpAddr::V4(_), 3, 8) => Some(Errno::ENONET),
        (IpAddr::V4(_), 3, 10 | 13..=15) => Some(Errno::EHOSTUNREACH),
        (IpAddr::V4(_), 12, _) => Some(Errno::EPROTO),
        // RFC 4443 section 3.
        (IpAddr::V6(_), 1, 1 | 5 | 6) => Some(Errno::EACCES),
        (IpAddr::V6(_), 1, 4) => Some(Errno::ECONNREFUSED),
        (IpAddr::V6(_), 2, _) => Some(Errno::EMSGSIZE),
        (IpAddr::V6(_), 4, _) => Some(Errno::EPROTO),
        // Routes, hosts and hop limits come and go (RFC 1122 section 3.2.2.1).
        _ => None,
    }
}
