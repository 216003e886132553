//! Static neighbours, and the guard over them.
//!
//! Owns: the list as configured. Called when the time to renew them has come, and for each ARP and
//! neighbour discovery message. Must never: let a message from the network replace a static entry.
//!
//! The library's table of neighbours is private and forgets an entry after a minute. So each static
//! neighbour is presented to it as the message that the neighbour itself would have sent: an ARP
//! reply (RFC 826) or a neighbour advertisement (RFC 4861 section 4.4), at the start and again
//! before each minute is over.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ::smoltcp::phy::ChecksumCapabilities;
use ::smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags,
    NdiscRepr, RawHardwareAddress,
};
use dmm_port::Instant;

use super::net::Net;
use crate::config::{Neighbour, StackConfig};

/// Half of the minute that the library remembers an entry.
const RENEW_AFTER: Duration = Duration::from_secs(30);

const ETHERNET_HEADER_BYTES: usize = 14;

/// The static neighbours of a stack.
pub(super) struct Neighbours {
    list: Vec<Neighbour>,
    frames: Vec<Vec<u8>>,
    renew_at: Option<Instant>,
}

impl Neighbours {
    /// The neighbours of `config`, each on a link of `net`; due at once.
    pub(super) fn new(config: &StackConfig, net: &Net) -> Self {
        let frames = config.neighbours.iter().filter_map(|neighbour| {
            let own = net.source_for(neighbour.address)?;
            match (neighbour.address, own) {
                (IpAddr::V4(theirs), IpAddr::V4(own)) => {
                    Some(arp_reply(config.mac, own, neighbour.mac, theirs))
                }
                (IpAddr::V6(theirs), IpAddr::V6(own)) => {
                    Some(advertisement(config.mac, own, neighbour.mac, theirs))
                }
                _ => None,
            }
        });
        let frames: Vec<_> = frames.collect();
        let renew_at = (!frames.is_empty()).then_some(Instant::ZERO);
        Self { list: config.neighbours.clone(), frames, renew_at }
    }

    /// When the library must be reminded.
    pub(super) const fn renew_at(&self) -> Option<Instant> {
        self.renew_at
    }

    /// The messages to remind it with, if that is due or to be done `at_once`.
    pub(super) fn renew(&mut self, now: Instant, at_once: bool) -> &[Vec<u8>] {
        match self.renew_at {
            Some(at) if at <= now || at_once => {
                self.renew_at = Some(now + RENEW_AFTER);
                &self.frames
            }
            _ => &[],
        }
    }

    /// Whether an ARP or neighbour discovery frame speaks for a static neighbour. It has nothing
    /// to say that is not known.
    pub(super) fn is_spoken_for(&self, frame: &[u8]) -> bool {
        // The sender's protocol address of ARP for IPv4 over Ethernet, the source of IPv6.
        let sender = match frame.get(12..14) {
            Some([0x08, 0x06]) => frame
                .get(28..)
                .and_then(|rest| rest.first_chunk())
                .map(|b| Ipv4Addr::from(*b).into()),
            _ => frame
                .get(22..)
                .and_then(|rest| rest.first_chunk())
                .map(|b: &[u8; 16]| IpAddr::from(Ipv6Addr::from(*b))),
        };
        sender.is_some_and(|sender| self.list.iter().any(|known| known.address == sender))
    }
}

fn ethernet(own: [u8; 6], theirs: [u8; 6], ethertype: EthernetProtocol, len: usize) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET_HEADER_BYTES + len];
    let header = EthernetRepr {
        src_addr: EthernetAddress(theirs),
        dst_addr: EthernetAddress(own),
        ethertype,
    };
    header.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    frame
}

fn arp_reply(own_mac: [u8; 6], own: Ipv4Addr, mac: [u8; 6], theirs: Ipv4Addr) -> Vec<u8> {
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(mac),
        source_protocol_addr: theirs,
        target_hardware_addr: EthernetAddress(own_mac),
        target_protocol_addr: own,
    };
    let mut frame = ethernet(own_mac, mac, EthernetProtocol::Arp, reply.buffer_len());
    reply.emit(&mut ArpPacket::new_unchecked(&mut frame[ETHERNET_HEADER_BYTES..]));
    frame
}

fn advertisement(own_mac: [u8; 6], own: Ipv6Addr, mac: [u8; 6], theirs: Ipv6Addr) -> Vec<u8> {
    let advert = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE,
        target_addr: theirs,
        lladdr: Some(RawHardwareAddress::from_bytes(&mac)),
    });
    let header = Ipv6Repr {
        src_addr: theirs,
        dst_addr: own,
        next_header: IpProtocol::Icmpv6,
        payload_len: advert.buffer_len(),
        // RFC 4861 section 7.1.2: any other hop limit came from off the link.
        hop_limit: 255,
    };
    let len = header.buffer_len() + advert.buffer_len();
    let mut frame = ethernet(own_mac, mac, EthernetProtocol::Ipv6, len);
    let mut packet = Ipv6Packet::new_unchecked(&mut frame[ETHERNET_HEADER_BYTES..]);
    header.emit(&mut packet);
    let mut message = Icmpv6Packet::new_unchecked(packet.payload_mut());
    advert.emit(&theirs, &own, &mut message, &ChecksumCapabilities::default());
    frame
}
