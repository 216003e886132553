//! Classification of one Ethernet frame.
//!
//! Owns: the walk from the Ethernet header to the ports. Called through [`super::parse`] with bytes
//! from the network, all of them hostile. Must never: panic, or read past what a length field and
//! the frame both allow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Flow, FragmentKey, Message, Ports, Traffic, Transport};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

/// A service tag and a customer tag (IEEE 802.1Q clause 9); more are not ours.
const VLAN_TAGS_MAX: usize = 2;

/// Extension headers followed in one IPv6 packet. RFC 8200 section 4.1 recommends each of its six
/// kinds once, destination options twice; beyond that a packet only costs time.
const EXTENSION_HEADERS_MAX: usize = 8;

const ICMP: u8 = 1;
const IGMP: u8 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Says what a frame is about. `frame` starts at its destination address and has no FCS; padding
/// after the IP packet is ignored.
#[must_use]
pub fn parse(frame: &[u8]) -> Traffic {
    read(frame).0
}

/// The message that a whole IP packet carries behind all of its IP headers; `None` of a fragment, and
/// of what is no sound IP packet.
#[must_use]
pub fn message(frame: &[u8]) -> Option<Message<'_>> {
    read(frame).1
}

/// What [`parse`] and [`message`] say, in one walk.
#[must_use]
pub fn read(frame: &[u8]) -> (Traffic, Option<Message<'_>>) {
    let Some((ethertype, payload)) = untagged(frame) else { return (Traffic::Other, None) };
    let packet = match ethertype {
        ETHERTYPE_IPV4 => ipv4(payload, Extent::Whole),
        ETHERTYPE_IPV6 => ipv6(payload, Extent::Whole),
        ETHERTYPE_ARP => return (arp(payload).unwrap_or(Traffic::Other), None),
        _ => return (Traffic::Other, None),
    };
    let Some(packet) = packet else { return (Traffic::Malformed, None) };
    let traffic = ip(&packet).unwrap_or(Traffic::Other);
    let Packet { destination, source, protocol, fragment, payload } = packet;
    let message = Message { destination, source, protocol, bytes: payload };
    (traffic, fragment.is_none().then_some(message))
}

/// The type of what follows the Ethernet header and its tags, and that itself.
fn untagged(frame: &[u8]) -> Option<(u16, &[u8])> {
    let mut ethertype = be16(frame, 12)?;
    let mut payload = frame.get(14..)?;
    for _ in 0..VLAN_TAGS_MAX {
        if !matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN) {
            break;
        }
        ethertype = be16(payload, 2)?;
        payload = payload.get(4..)?;
    }
    Some((ethertype, payload))
}

fn arp(packet: &[u8]) -> Option<Traffic> {
    // RFC 826: hardware type Ethernet, protocol IPv4, lengths 6 and 4, then 20 bytes of addresses.
    if packet.len() < 28 || packet[..6] != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    match be16(packet, 6)? {
        1 => Some(Traffic::Arp { request: true }),
        2 => Some(Traffic::Arp { request: false }),
        _ => None,
    }
}

/// Whether a packet must be there as a whole, or is the beginning that an ICMP error quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    Quoted,
}

/// An IP packet of either version, as far as it matters here.
struct Packet<'a> {
    destination: IpAddr,
    source: IpAddr,
    /// The protocol of `payload`.
    protocol: u8,
    fragment: Option<Piece>,
    payload: &'a [u8],
}

struct Piece {
    id: u32,
    first: bool,
    /// The protocol as the fragment header or the IPv4 header gives it.
    protocol: u8,
}

fn ipv4(bytes: &[u8], extent: Extent) -> Option<Packet<'_>> {
    let fixed: &[u8; 20] = bytes.first_chunk()?;
    let header_len = usize::from(fixed[0] & 0x0f) * 4;
    if fixed[0] >> 4 != 4 || header_len < 20 {
        return None;
    }
    let total_len = usize::from(be16(fixed, 2)?);
    let payload = match extent {
        Extent::Whole => bytes.get(header_len..total_len)?,
        Extent::Quoted => bytes.get(header_len..total_len.min(bytes.len()))?,
    };
    let protocol = fixed[9];
    // RFC 791 section 3.1: "more fragments" is bit 13, the offset the 13 bits below it.
    let fragmentation = be16(fixed, 6)?;
    let fragment = (fragmentation & 0x3fff != 0).then_some(Piece {
        id: u32::from(be16(fixed, 4)?),
        first: fragmentation & 0x1fff == 0,
        protocol,
    });
    Some(Packet {
        destination: IpAddr::V4(Ipv4Addr::from_octets(*fixed[16..].first_chunk()?)),
        source: IpAddr::V4(Ipv4Addr::from_octets(*fixed[12..].first_chunk()?)),
        protocol,
        fragment,
        payload,
    })
}

fn ipv6(bytes: &[u8], extent: Extent) -> Option<Packet<'_>> {
    if bytes.first()? >> 4 != 6 {
        return None;
    }
    let after_header = bytes.get(40..)?;
    // A length of 0 announces a jumbogram (RFC 2675), which no Ethernet frame holds.
    let payload_len = usize::from(be16(bytes, 4)?);
    let payload = match extent {
        Extent::Whole => after_header.get(..payload_len)?,
        Extent::Quoted => &after_header[..payload_len.min(after_header.len())],
    };
    let mut packet = Packet {
        destination: IpAddr::V6(Ipv6Addr::from_octets(*bytes[24..].first_chunk()?)),
        source: IpAddr::V6(Ipv6Addr::from_octets(*bytes[8..].first_chunk()?)),
        protocol: bytes[6],
        fragment: None,
        payload,
    };
    skip_extensions(&mut packet)?;
    Some(packet)
}

/// Moves `packet` past its extension headers (RFC 8200 section 4), up to the first header that is
/// none. In a fragment that is not the first, what follows the fragment header is left alone.
fn skip_extensions(packet: &mut Packet<'_>) -> Option<()> {
    for position in 0..EXTENSION_HEADERS_MAX {
        let rest = packet.payload;
        let header_len = match packet.protocol {
            // RFC 8200 section 4.1: hop-by-hop options stand right after the IPv6 header only.
            0 if position > 0 => return None,
            // Hop-by-hop, routing, destination, mobility, HIP, shim6: counted in 8 octets beyond
            // the first 8.
            0 | 43 | 60 | 135 | 139 | 140 => (usize::from(*rest.get(1)?) + 1) * 8,
            // RFC 4302 section 2.2: the authentication header counts 4 octets, less 2.
            51 => (usize::from(*rest.get(1)?) + 2) * 4,
            44 => {
                let protocol = *rest.first()?;
                let position = be16(rest, 2)?;
                let id = u32::from_be_bytes(*rest.get(4..)?.first_chunk()?);
                // RFC 6946 section 4: no offset and no more to come is a whole packet.
                if position & !0x0006 != 0 {
                    let first = position >> 3 == 0;
                    packet.fragment = Some(Piece { id, first, protocol });
                    if !first {
                        packet.payload = rest.get(8..)?;
                        return Some(());
                    }
                }
                8
            }
            _ => return Some(()),
        };
        packet.protocol = *rest.first()?;
        packet.payload = rest.get(header_len..)?;
    }
    None
}

fn ip(packet: &Packet<'_>) -> Option<Traffic> {
    if let Some(piece) = &packet.fragment {
        let ports = if piece.first { ports(packet) } else { None };
        let key = FragmentKey {
            local: packet.destination,
            remote: packet.source,
            id: piece.id,
            protocol: piece.protocol,
        };
        return Some(Traffic::Fragment { key, first: piece.first, ports });
    }
    match (packet.protocol, packet.destination) {
        // The least header of each: RFC 9293 section 3.1, RFC 768.
        (TCP, _) if packet.payload.len() >= 20 => Some(Traffic::Tcp(flow(packet)?)),
        (UDP, _) if packet.payload.len() >= 8 => Some(Traffic::Udp(flow(packet)?)),
        (IGMP, IpAddr::V4(_)) => Some(Traffic::Membership),
        (ICMP, IpAddr::V4(_)) => icmpv4(packet.payload),
        (ICMPV6, IpAddr::V6(_)) => icmpv6(packet.payload),
        _ => None,
    }
}

fn icmpv4(message: &[u8]) -> Option<Traffic> {
    let quoted = message.get(8..)?;
    match message[0] {
        0 => Some(Traffic::IcmpEchoReply),
        8 => Some(Traffic::IcmpEchoRequest),
        // RFC 1122 section 3.2.2: unreachable, source quench, redirect, time exceeded, parameter.
        3 | 4 | 5 | 11 | 12 => {
            let embedded = ipv4(quoted, Extent::Quoted).and_then(|packet| embedded(&packet));
            Some(Traffic::IcmpError { embedded })
        }
        _ => None,
    }
}

fn icmpv6(message: &[u8]) -> Option<Traffic> {
    let quoted = message.get(8..)?;
    match message[0] {
        128 => Some(Traffic::IcmpEchoRequest),
        129 => Some(Traffic::IcmpEchoReply),
        // RFC 4861 section 4: router and neighbour solicitation; their advertisements, redirect.
        133 | 135 => Some(Traffic::Ndp { solicitation: true }),
        134 | 136 | 137 => Some(Traffic::Ndp { solicitation: false }),
        // RFC 3810 section 5: queries, reports, those of version 1, and its "done".
        130..=132 | 143 => Some(Traffic::Membership),
        // RFC 4443 section 2.1: types below 128 are errors; 1 to 4 are defined.
        1..=4 => {
            let embedded = ipv6(quoted, Extent::Quoted).and_then(|packet| embedded(&packet));
            Some(Traffic::IcmpError { embedded })
        }
        _ => None,
    }
}

/// The flow of a quoted packet, turned round: who sent it is who receives the error.
fn embedded(packet: &Packet<'_>) -> Option<(Transport, Flow)> {
    if packet.fragment.as_ref().is_some_and(|piece| !piece.first) {
        return None;
    }
    let transport = match packet.protocol {
        TCP => Transport::Tcp,
        UDP => Transport::Udp,
        _ => return None,
    };
    Some((transport, flow(packet)?.reversed()))
}

fn flow(packet: &Packet<'_>) -> Option<Flow> {
    let ports = ports(packet)?;
    Some(Flow {
        local: SocketAddr::new(packet.destination, ports.local),
        remote: SocketAddr::new(packet.source, ports.remote),
    })
}

fn ports(packet: &Packet<'_>) -> Option<Ports> {
    if !matches!(packet.protocol, TCP | UDP) {
        return None;
    }
    Some(Ports { remote: be16(packet.payload, 0)?, local: be16(packet.payload, 2)? })
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;
