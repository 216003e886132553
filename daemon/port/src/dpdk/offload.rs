//! Checksum offload in both directions: what to ask of the device for a frame that is sent, and
//! what its verdict on a received one is worth.
//!
//! Called by the queues, per frame. Must never: trust a length in a frame.

#![forbid(unsafe_code)]

use dpdk_sys as dpdk;

use crate::RxChecksum;
use crate::checksum::{fold, sum};

/// What the device computes on transmit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TxChecksums {
    /// IPv4 header checksums.
    pub(super) ipv4: bool,
    /// TCP and UDP checksums, given the pseudo-header's.
    pub(super) transport: bool,
}

/// What an mbuf tells the device about its frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) ol_flags: u64,
    pub(super) l2_len: u8,
    pub(super) l3_len: u16,
    pub(super) l4_len: u8,
}

const ETHERTYPE_AT: usize = 12;
const ETHERNET_LEN: usize = 14;
const VLAN_LEN: usize = 4;
const IPV6_LEN: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Where the network header starts, and which it is.
enum Network {
    V4(usize),
    V6(usize),
}

/// Prepares `frame` for a device that computes checksums, and says what to ask of it.
///
/// The device adds up the segment alone, so the TCP or UDP checksum field gets the pseudo-header's
/// sum (RFC 9293 section 3.1, RFC 768, RFC 8200 section 8.1), and the IPv4 header's gets zero.
/// Frames that are not as their lengths say are sent as they are.
pub(super) fn prepare(frame: &mut [u8], device: TxChecksums) -> Request {
    match network(frame) {
        Some(Network::V4(at)) => prepare_v4(frame, at, device).unwrap_or_default(),
        Some(Network::V6(at)) => prepare_v6(frame, at).unwrap_or_default(),
        None => Request::default(),
    }
}

fn prepare_v4(frame: &mut [u8], at: usize, device: TxChecksums) -> Option<Request> {
    let packet = frame.get_mut(at..)?;
    let header_len = v4_header_len(packet)?;
    let total_len = usize::from(be16(packet, 2));
    let packet = packet.get_mut(..total_len).filter(|packet| packet.len() >= header_len)?;
    let mut request = Request {
        ol_flags: dpdk::RTE_MBUF_F_TX_IPV4,
        l2_len: u8::try_from(at).ok()?,
        l3_len: u16::try_from(header_len).ok()?,
        l4_len: 0,
    };
    packet[10..12].fill(0);
    if device.ipv4 {
        request.ol_flags |= dpdk::RTE_MBUF_F_TX_IP_CKSUM;
    } else {
        let checksum = !fold(sum(&packet[..header_len]));
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    // More fragments, or an offset: no device can sum up a segment that it sees a piece of.
    let is_fragment = be16(packet, 6) & 0x3fff != 0;
    if !is_fragment {
        let protocol = packet[9];
        let pseudo = sum(&packet[12..20]);
        request_transport(&mut packet[header_len..], protocol, pseudo, &mut request);
    }
    Some(request)
}

fn prepare_v6(frame: &mut [u8], at: usize) -> Option<Request> {
    let packet = frame.get_mut(at..)?;
    if packet.len() < IPV6_LEN {
        return None;
    }
    let payload_len = usize::from(be16(packet, 4));
    let packet = packet.get_mut(..IPV6_LEN + payload_len)?;
    let mut request = Request {
        ol_flags: dpdk::RTE_MBUF_F_TX_IPV6,
        l2_len: u8::try_from(at).ok()?,
        l3_len: IPV6_LEN as u16,
        l4_len: 0,
    };
    let protocol = packet[6];
    let pseudo = sum(&packet[8..40]);
    let asked = request_transport(&mut packet[IPV6_LEN..], protocol, pseudo, &mut request);
    asked.then_some(request)
}

/// Asks for the checksum of `segment`, if it is TCP or UDP and whole.
fn request_transport(segment: &mut [u8], protocol: u8, addresses: u64, to: &mut Request) -> bool {
    let (checksum_at, header_len, flag) = match protocol {
        TCP if segment.len() >= 20 => {
            (16, usize::from(segment[12] >> 4) * 4, dpdk::RTE_MBUF_F_TX_TCP_CKSUM)
        }
        UDP if segment.len() >= 8 => (6, 8, dpdk::RTE_MBUF_F_TX_UDP_CKSUM),
        _ => return false,
    };
    if header_len > segment.len() {
        return false;
    }
    let Ok(len) = u16::try_from(segment.len()) else { return false };
    let pseudo = fold(addresses + u64::from(protocol) + u64::from(len));
    segment[checksum_at..checksum_at + 2].copy_from_slice(&pseudo.to_be_bytes());
    to.ol_flags |= flag;
    to.l4_len = header_len as u8;
    true
}

/// The device's flags for a received frame as a verdict on all of its checksums.
///
/// `Good` needs the transport's, and for IPv4 the header's, which is summed up here where the
/// device did not look: it is 20 bytes, and net_vhost never does.
pub(super) fn verdict(ol_flags: u64, frame: &[u8]) -> RxChecksum {
    let header = ol_flags & dpdk::RTE_MBUF_F_RX_IP_CKSUM_MASK;
    let transport = ol_flags & dpdk::RTE_MBUF_F_RX_L4_CKSUM_MASK;
    if header == dpdk::RTE_MBUF_F_RX_IP_CKSUM_BAD || transport == dpdk::RTE_MBUF_F_RX_L4_CKSUM_BAD {
        return RxChecksum::Bad;
    }
    // NONE: "not correct in the packet data, but the integrity of the L4 data is verified": a
    // sender on this machine left the field to hardware that the frame never met, or UDP has none.
    let transport_good = transport == dpdk::RTE_MBUF_F_RX_L4_CKSUM_GOOD
        || transport == dpdk::RTE_MBUF_F_RX_L4_CKSUM_NONE;
    if !transport_good {
        return RxChecksum::Unknown;
    }
    match network(frame) {
        Some(Network::V6(_)) => RxChecksum::Good,
        Some(Network::V4(_)) if header == dpdk::RTE_MBUF_F_RX_IP_CKSUM_GOOD => RxChecksum::Good,
        Some(Network::V4(at)) => {
            let packet = &frame[at..];
            match v4_header_len(packet) {
                Some(len) if fold(sum(&packet[..len])) == 0xffff => RxChecksum::Good,
                _ => RxChecksum::Bad,
            }
        }
        None => RxChecksum::Unknown,
    }
}

/// The network header behind at most one VLAN tag.
fn network(frame: &[u8]) -> Option<Network> {
    let mut at = ETHERNET_LEN;
    let mut ethertype = frame.get(ETHERTYPE_AT..ETHERNET_LEN)?;
    if ethertype == [0x81, 0x00] {
        ethertype = frame.get(ETHERTYPE_AT + VLAN_LEN..ETHERNET_LEN + VLAN_LEN)?;
        at += VLAN_LEN;
    }
    match ethertype {
        [0x08, 0x00] => Some(Network::V4(at)),
        [0x86, 0xdd] => Some(Network::V6(at)),
        _ => None,
    }
}

/// The length of the IPv4 header at the start of `packet`, if it is all there.
fn v4_header_len(packet: &[u8]) -> Option<usize> {
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    (header_len >= 20 && header_len <= packet.len()).then_some(header_len)
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests;
