//! What a received frame is about, and which shard owns it.
//!
//! Owns: the classification of Ethernet frames into [`Traffic`], the definition of a [`Flow`] and
//! its hash ([`toeplitz`], [`shard_of`]). Called by ports that spread flows in software, by the
//! daemon when it routes what no hash can place (fragments, ICMP errors, ARP), and by stacks that
//! pick a local port. Must never: verify checksums, keep state, or trust a length it did not check.

#![forbid(unsafe_code)]

mod parse;
mod rss;

use serde::{Deserialize, Serialize};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

pub use parse::{message, parse, read};
pub use rss::{
    INDIRECTION_ENTRIES, RSS_KEY, lands_on, shard_of, toeplitz, toeplitz_addresses, toeplitz_with,
};

/// The two ends of a TCP or UDP exchange, as the receiver of a frame sees them.
///
/// Both ends are of one address family; `parse` makes no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The receiver's end: the frame's destination.
    pub local: SocketAddr,
    /// The sender's end: the frame's source.
    pub remote: SocketAddr,
}

/// In few and long words, as each segment's flow is looked for.
impl Hash for Flow {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match (self.local.ip(), self.remote.ip()) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                state.write_u64(u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits()));
            }
            (local, remote) => {
                for ip in [local, remote] {
                    match ip {
                        IpAddr::V4(ip) => state.write_u32(ip.to_bits()),
                        IpAddr::V6(ip) => state.write_u128(ip.to_bits()),
                    }
                }
            }
        }
        state.write_u64(u64::from(self.local.port()) << 16 | u64::from(self.remote.port()));
    }
}

impl Flow {
    /// The same exchange as the other end sees it.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { local: self.remote, remote: self.local }
    }
}

/// Which fragments belong to one packet (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// The packet's destination address.
    pub local: IpAddr,
    /// The packet's source address.
    pub remote: IpAddr,
    /// The identification: 16 bits in IPv4, 32 bits in IPv6.
    pub id: u32,
    /// The protocol of the fragmented payload; in IPv6 the fragment header's "next header", which
    /// may be another extension header.
    pub protocol: u8,
}

/// What an IP packet carries, such as a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The packet's destination address.
    pub destination: IpAddr,
    /// The packet's source address.
    pub source: IpAddr,
    /// Its protocol number.
    pub protocol: u8,
    /// Itself, without the padding of the frame.
    pub bytes: &'a [u8],
}

/// Port numbers as the receiver sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    /// The destination port.
    pub local: u16,
    /// The source port.
    pub remote: u16,
}

/// The transports that have flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP, protocol number 6.
    Tcp,
    /// UDP, protocol number 17.
    Udp,
}

/// What a frame is about, as far as needed to find its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// A whole TCP segment.
    Tcp(Flow),
    /// A whole UDP datagram.
    Udp(Flow),
    /// A piece of an IP packet. IPv6 atomic fragments are whole packets (RFC 6946) and not here.
    Fragment {
        /// The packet that it is a piece of.
        key: FragmentKey,
        /// Whether it is the packet's beginning.
        first: bool,
        /// The ports, if it is the beginning of a TCP segment or UDP datagram and holds them.
        ports: Option<Ports>,
    },
    /// ARP for IPv4 over Ethernet (RFC 826): a request, else a reply.
    Arp {
        /// Whether it wants an answer.
        request: bool,
    },
    /// IPv6 neighbour discovery (RFC 4861).
    Ndp {
        /// Whether it wants an answer: a router or neighbour solicitation. Advertisements and
        /// redirects are news that every shard needs.
        solicitation: bool,
    },
    /// IGMP, or multicast listener discovery (RFC 3376, RFC 3810): who is a member of which group.
    Membership,
    /// An ICMP or ICMPv6 echo request.
    IcmpEchoRequest,
    /// An ICMP or ICMPv6 echo reply.
    IcmpEchoReply,
    /// An ICMP or ICMPv6 message about a packet that the receiver is said to have sent.
    IcmpError {
        /// The flow of that packet as the receiver of *this* frame sees it (`local` is the quoted
        /// source), if the quotation holds a TCP or UDP header's ports.
        embedded: Option<(Transport, Flow)>,
    },
    /// An IP packet whose IP headers are inconsistent, or announce more bytes than came.
    Malformed,
    /// Anything else: other protocols, and whatever else is too short or inconsistent to be read.
    Other,
}
