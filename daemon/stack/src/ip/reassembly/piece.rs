//! One fragment, as a checked view of its frame.
//!
//! Owns: the walk to the fragment's payload, and the header of the packet that it is a piece of.
//! Called with bytes from the network. Must never: panic, or accept a piece that no packet has.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dmm_port::checksum::{fold, sum};
use dmm_port::flow::FragmentKey;

use super::LEN_MAX;

/// Bytes of an Ethernet header without tags (IEEE 802.3 clause 3.1), and of a tag (802.1Q clause 9).
const ETHERNET_BYTES: usize = 14;
const TAG_BYTES: usize = 4;
/// A service tag and a customer tag.
const TAGS_MAX: usize = 2;
/// Bytes of an IPv6 header and of a fragment header (RFC 8200 sections 3 and 4.5).
const IPV6_BYTES: usize = 40;
const FRAGMENT_BYTES: usize = 8;
/// Extension headers that may stand before the fragment header (RFC 8200 section 4.1): hop-by-hop
/// options, destination options, routing.
const EXTENSIONS_MAX: usize = 3;

/// A fragment.
pub(super) struct Piece<'a> {
    /// The packet that it is of.
    pub(super) key: FragmentKey,
    /// Where its payload stands in the packet's, in bytes.
    pub(super) offset: usize,
    /// Whether others follow it.
    pub(super) more: bool,
    /// The frame up to the payload, without a fragment header.
    headers: &'a [u8],
    /// Where the IP header begins.
    ip_at: usize,
    /// Where the headers give the payload's protocol, and which that is.
    protocol: (usize, u8),
    /// Its payload, never empty.
    pub(super) data: &'a [u8],
}

impl<'a> Piece<'a> {
    /// The fragment that a frame holds, if it is one that a packet can have.
    pub(super) fn parse(frame: &'a [u8]) -> Option<Self> {
        let mut ip_at = ETHERNET_BYTES;
        for _ in 0..TAGS_MAX {
            if !matches!(be16(frame, ip_at - 2)?, 0x8100 | 0x88a8) {
                break;
            }
            ip_at += TAG_BYTES;
        }
        let piece = match be16(frame, ip_at - 2)? {
            0x0800 => ipv4(frame, ip_at)?,
            0x86dd => ipv6(frame, ip_at)?,
            _ => return None,
        };
        // RFC 791 section 3.2, RFC 8200 section 4.5: all pieces but the last are of whole units.
        let ragged = piece.more && !piece.data.len().is_multiple_of(8);
        let whole = piece.offset == 0 && !piece.more;
        if ragged || whole || piece.data.is_empty() {
            return None;
        }
        let counted_len = counted_len(piece.headers, piece.ip_at, piece.end());
        (counted_len <= LEN_MAX).then_some(piece)
    }

    /// The headers of its packet, as this piece has them.
    pub(super) fn head(&self) -> Head {
        let (at, protocol) = self.protocol;
        let mut bytes = self.headers.to_vec();
        bytes[at] = protocol;
        Head { bytes, ip_at: self.ip_at }
    }

    /// Where its payload ends.
    pub(super) const fn end(&self) -> usize {
        self.offset + self.data.len()
    }
}

fn ipv4(frame: &[u8], ip_at: usize) -> Option<Piece<'_>> {
    let ip = &frame[ip_at..];
    let header_len = usize::from(ip.first()? & 0x0f) * 4;
    if ip[0] >> 4 != 4 || header_len < 20 {
        return None;
    }
    let header = ip.get(..header_len)?;
    // RFC 1122 section 3.2.1.2: a header with a wrong checksum says nothing.
    if checksum(header) != 0 {
        return None;
    }
    let data = ip.get(header_len..usize::from(be16(ip, 2)?))?;
    // RFC 791 section 3.1: "more fragments" is bit 13, the offset the 13 bits below it.
    let word = be16(ip, 6)?;
    Some(Piece {
        key: FragmentKey {
            local: IpAddr::V4(Ipv4Addr::from_octets(*ip[16..].first_chunk()?)),
            remote: IpAddr::V4(Ipv4Addr::from_octets(*ip[12..].first_chunk()?)),
            id: u32::from(be16(ip, 4)?),
            protocol: ip[9],
        },
        offset: usize::from(word & 0x1fff) * 8,
        more: word & 0x2000 != 0,
        headers: &frame[..ip_at + header_len],
        ip_at,
        protocol: (ip_at + 9, ip[9]),
        data,
    })
}

fn ipv6(frame: &[u8], ip_at: usize) -> Option<Piece<'_>> {
    let ip = &frame[ip_at..];
    if ip.first()? >> 4 != 6 {
        return None;
    }
    let ip = ip.get(..IPV6_BYTES + usize::from(be16(ip, 4)?))?;
    let (mut protocol_at, mut at) = (6, IPV6_BYTES);
    for _ in 0..EXTENSIONS_MAX {
        if !matches!(ip[protocol_at], 0 | 43 | 60) {
            break;
        }
        (protocol_at, at) = (at, at + (usize::from(*ip.get(at + 1)?) + 1) * 8);
    }
    let fragment = ip.get(at..at + FRAGMENT_BYTES)?;
    if ip[protocol_at] != 44 {
        return None;
    }
    let word = be16(fragment, 2)?;
    Some(Piece {
        key: FragmentKey {
            local: IpAddr::V6(Ipv6Addr::from_octets(*ip[24..].first_chunk()?)),
            remote: IpAddr::V6(Ipv6Addr::from_octets(*ip[8..].first_chunk()?)),
            id: u32::from_be_bytes(*fragment[4..].first_chunk()?),
            // RFC 8200 section 4.5: pieces may disagree about it; the first's counts.
            protocol: 0,
        },
        offset: usize::from(word & 0xfff8),
        more: word & 1 != 0,
        headers: &frame[..ip_at + at],
        ip_at,
        // What came before the fragment header leads to what comes after it.
        protocol: (ip_at + protocol_at, fragment[0]),
        data: &ip[at + FRAGMENT_BYTES..],
    })
}

/// The headers of a frame up to the IP payload, without a fragment header.
pub(super) struct Head {
    bytes: Vec<u8>,
    ip_at: usize,
}

impl Head {
    /// The headers of a whole packet of so many bytes of payload, unless they are too many.
    pub(super) fn of_whole(self, payload_bytes: usize) -> Option<Vec<u8>> {
        let Self { mut bytes, ip_at } = self;
        let len = u16::try_from(counted_len(&bytes, ip_at, payload_bytes)).ok()?.to_be_bytes();
        let ip = &mut bytes[ip_at..];
        if ip[0] >> 4 == 4 {
            ip[2..4].copy_from_slice(&len);
            ip[6..8].fill(0);
            ip[10..12].fill(0);
            let sum = checksum(ip).to_be_bytes();
            ip[10..12].copy_from_slice(&sum);
        } else {
            ip[4..6].copy_from_slice(&len);
        }
        Some(bytes)
    }
}

/// What a packet's length field counts: all of IPv4, what follows the header in IPv6.
fn counted_len(headers: &[u8], ip_at: usize, payload_bytes: usize) -> usize {
    let uncounted = if headers[ip_at] >> 4 == 4 { 0 } else { IPV6_BYTES };
    headers.len() - ip_at - uncounted + payload_bytes
}

/// The internet checksum (RFC 1071) of an IPv4 header, which is a multiple of 4 bytes; 0 of one that
/// holds its own.
fn checksum(header: &[u8]) -> u16 {
    !fold(sum(header))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
