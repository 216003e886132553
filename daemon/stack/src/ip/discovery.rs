//! The messages of ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861).
//!
//! Owns: their reading and writing. Called by the table of neighbours. Must never: remember
//! anything, or take a message from beyond the link for one of a neighbour.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ::smoltcp::phy::ChecksumCapabilities;
use ::smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags,
    NdiscRepr, RawHardwareAddress,
};

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

const ETHERNET_HEADER_BYTES: usize = 14;

/// The longest message: an IPv6 header, and a solicitation or advertisement with an option (RFC
/// 4861 sections 4.3, 4.4 and 4.6.1). One of ARP has 28 bytes.
const FRAME_BYTES_MAX: usize = ETHERNET_HEADER_BYTES + 40 + 24 + 8;

const BROADCAST: Mac = [0xff; 6];

/// All stations of the link (RFC 4291 section 2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A frame of ours.
pub(crate) struct Frame {
    bytes: [u8; FRAME_BYTES_MAX],
    len: usize,
}

impl Frame {
    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What a frame of ARP or neighbour discovery says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A station of the link says something about itself, or asks, or both.
    Neighbour(Message),
    /// A router solicitation or advertisement, or a redirect.
    Router,
    /// Nothing that a station may say (RFC 4861 sections 7.1.1 and 7.1.2).
    Unsound,
}

/// A message of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// The address that it speaks for; none if it first looks whether that is free (RFC 5227, RFC
    /// 4862 section 5.4).
    pub(crate) speaker: Option<IpAddr>,
    /// The Ethernet address that it says to have.
    pub(crate) mac: Option<Mac>,
    /// What it asks.
    pub(crate) question: Option<Question>,
    /// It answers a question of ours.
    pub(crate) solicited: bool,
    /// It is to replace what was known.
    pub(crate) overrides: bool,
}

/// "Who has this address?"
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The address asked for.
    pub(crate) target: IpAddr,
    /// Where the answer goes.
    pub(crate) reply_to: Mac,
}

/// Reads a frame.
pub(crate) fn read(frame: &[u8]) -> Heard {
    let message =
        EthernetFrame::new_checked(frame).ok().and_then(|frame| match frame.ethertype() {
            EthernetProtocol::Arp => read_arp(frame.payload()),
            EthernetProtocol::Ipv6 => read_ndp(frame.src_addr().0, frame.payload()),
            _ => None,
        });
    message.unwrap_or(Heard::Unsound)
}

fn read_arp(packet: &[u8]) -> Option<Heard> {
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(mac),
        source_protocol_addr: speaker,
        target_protocol_addr: target,
        ..
    } = ArpRepr::parse(&ArpPacket::new_checked(packet).ok()?).ok()?
    else {
        return None;
    };
    let asks = match operation {
        ArpOperation::Request => true,
        ArpOperation::Reply => false,
        ArpOperation::Unknown(_) => return None,
    };
    if !is_station(mac) {
        return None;
    }
    Some(Heard::Neighbour(Message {
        speaker: (!speaker.is_unspecified()).then_some(speaker.into()),
        mac: Some(mac),
        question: asks.then_some(Question { target: target.into(), reply_to: mac }),
        solicited: !asks,
        overrides: true,
    }))
}

fn read_ndp(from: Mac, packet: &[u8]) -> Option<Heard> {
    let ip = Ipv6Packet::new_checked(packet).ok()?;
    // Any other hop limit came from off the link. What stands behind extension headers, and may
    // have come in pieces, is no neighbour's either (RFC 6980).
    if ip.hop_limit() != 255 || ip.next_header() != IpProtocol::Icmpv6 {
        return None;
    }
    let (source, to) = (ip.src_addr(), ip.dst_addr());
    let message = Icmpv6Packet::new_checked(ip.payload()).ok()?;
    if message.msg_code() != 0 {
        return None;
    }
    match NdiscRepr::parse(&message).ok()? {
        NdiscRepr::NeighborSolicit { target_addr: target, lladdr } => {
            let (probes, mac) = (source.is_unspecified(), station(lladdr)?);
            if target.is_multicast() || probes && (to != solicited_node(target) || mac.is_some()) {
                return None;
            }
            let question = Question { target: target.into(), reply_to: mac.unwrap_or(from) };
            Some(Heard::Neighbour(Message {
                speaker: (!probes).then_some(source.into()),
                mac,
                question: Some(question).filter(|question| is_station(question.reply_to)),
                solicited: false,
                overrides: true,
            }))
        }
        NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr } => {
            let solicited = flags.contains(NdiscNeighborFlags::SOLICITED);
            if target.is_multicast() || to.is_multicast() && solicited {
                return None;
            }
            Some(Heard::Neighbour(Message {
                speaker: Some(target.into()),
                mac: station(lladdr)?,
                question: None,
                solicited,
                overrides: flags.contains(NdiscNeighborFlags::OVERRIDE),
            }))
        }
        _ => Some(Heard::Router),
    }
}

/// The address in an option, which may be missing but not be that of a group.
fn station(option: Option<RawHardwareAddress>) -> Option<Option<Mac>> {
    let Some(option) = option else { return Some(None) };
    let mac = option.as_bytes().try_into().ok()?;
    is_station(mac).then_some(Some(mac))
}

/// Whether one station can have the address (IEEE 802-2014 section 8.2).
fn is_station(mac: Mac) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

/// Asks who has `target`: everybody, or the station that had it when last heard of.
pub(crate) fn ask(own_mac: Mac, own: IpAddr, target: IpAddr, last: Option<Mac>) -> Option<Frame> {
    match (own, target) {
        (IpAddr::V4(own), IpAddr::V4(target)) => {
            let question = (ArpOperation::Request, (own_mac, own), ([0; 6], target));
            Some(arp(last.unwrap_or(BROADCAST), question))
        }
        (IpAddr::V6(own), IpAddr::V6(target)) => {
            let question = NdiscRepr::NeighborSolicit {
                target_addr: target,
                lladdr: Some(RawHardwareAddress::from_bytes(&own_mac)),
            };
            let group = solicited_node(target);
            let (to_mac, to) = last.map_or((group_mac(group), group), |mac| (mac, target));
            Some(ndp((own_mac, own), (to_mac, to), question))
        }
        _ => None,
    }
}

/// Answers a question about `question.target`, which is ours; `asker` is whose question it is.
pub(crate) fn answer(own_mac: Mac, question: Question, asker: Option<IpAddr>) -> Option<Frame> {
    match (question.target, asker) {
        (IpAddr::V4(own), None) => {
            // RFC 5227 section 2.1.1: what is probed is asked for by nobody yet.
            let asker = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            introduce((own_mac, own.into()), (question.reply_to, asker))
        }
        (own, Some(asker)) => introduce((own_mac, own), (question.reply_to, asker)),
        // RFC 4861 section 7.2.4: then everybody hears it, as an answer to nobody.
        (IpAddr::V6(own), None) => {
            let to = (group_mac(ALL_NODES), ALL_NODES);
            Some(ndp((own_mac, own), to, advertisement(own_mac, own, NdiscNeighborFlags::empty())))
        }
    }
}

/// Says to `to` that `speaker` has its Ethernet address: an ARP reply or a neighbour advertisement.
pub(crate) fn introduce(speaker: (Mac, IpAddr), to: (Mac, IpAddr)) -> Option<Frame> {
    match (speaker, to) {
        ((mac, IpAddr::V4(speaker)), (to_mac, IpAddr::V4(to))) => {
            Some(arp(to_mac, (ArpOperation::Reply, (mac, speaker), (to_mac, to))))
        }
        ((mac, IpAddr::V6(speaker)), (to_mac, IpAddr::V6(to))) => {
            let advert = advertisement(mac, speaker, NdiscNeighborFlags::SOLICITED);
            Some(ndp((mac, speaker), (to_mac, to), advert))
        }
        _ => None,
    }
}

fn advertisement<'a>(mac: Mac, target: Ipv6Addr, flags: NdiscNeighborFlags) -> NdiscRepr<'a> {
    NdiscRepr::NeighborAdvert {
        flags: flags | NdiscNeighborFlags::OVERRIDE,
        target_addr: target,
        lladdr: Some(RawHardwareAddress::from_bytes(&mac)),
    }
}

/// RFC 4291 section 2.7.1.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// RFC 2464 section 7.
pub(crate) fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

fn ethernet(from: Mac, to: Mac, ethertype: EthernetProtocol, len: usize) -> Frame {
    let mut frame = Frame { bytes: [0; FRAME_BYTES_MAX], len: ETHERNET_HEADER_BYTES + len };
    let (src_addr, dst_addr) = (EthernetAddress(from), EthernetAddress(to));
    let header = EthernetRepr { src_addr, dst_addr, ethertype };
    header.emit(&mut EthernetFrame::new_unchecked(&mut frame.bytes[..]));
    frame
}

type ArpEnd = (Mac, Ipv4Addr);

fn arp(to: Mac, (operation, source, target): (ArpOperation, ArpEnd, ArpEnd)) -> Frame {
    let message = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(source.0),
        source_protocol_addr: source.1,
        target_hardware_addr: EthernetAddress(target.0),
        target_protocol_addr: target.1,
    };
    let mut frame = ethernet(source.0, to, EthernetProtocol::Arp, message.buffer_len());
    message.emit(&mut ArpPacket::new_unchecked(&mut frame.bytes[ETHERNET_HEADER_BYTES..]));
    frame
}

fn ndp(from: (Mac, Ipv6Addr), to: (Mac, Ipv6Addr), message: NdiscRepr<'_>) -> Frame {
    let message = Icmpv6Repr::Ndisc(message);
    let header = Ipv6Repr {
        src_addr: from.1,
        dst_addr: to.1,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit: 255,
    };
    let len = header.buffer_len() + message.buffer_len();
    let mut frame = ethernet(from.0, to.0, EthernetProtocol::Ipv6, len);
    let end = frame.len;
    let mut packet = Ipv6Packet::new_unchecked(&mut frame.bytes[ETHERNET_HEADER_BYTES..end]);
    header.emit(&mut packet);
    let mut payload = Icmpv6Packet::new_unchecked(packet.payload_mut());
    message.emit(&from.1, &to.1, &mut payload, &ChecksumCapabilities::default());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const THEIRS: Mac = [2, 0, 0, 0, 0, 2];

    fn ends() -> [(IpAddr, IpAddr); 2] {
        [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fe80::2")]
            .map(|(own, theirs)| (own.parse().unwrap(), theirs.parse().unwrap()))
    }

    fn said(frame: Option<Frame>) -> Message {
        match read(frame.expect("both ends of one family").bytes()) {
            Heard::Neighbour(message) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        for (own, theirs) in ends() {
            for last in [None, Some(THEIRS)] {
                let question = said(ask(OWN, own, theirs, last));
                assert_eq!((question.speaker, question.mac), (Some(own), Some(OWN)));
                let expected = Question { target: theirs, reply_to: OWN };
                assert_eq!(question.question, Some(expected));
                let answered = said(answer(THEIRS, expected, question.speaker));
                assert_eq!((answered.speaker, answered.mac), (Some(theirs), Some(THEIRS)));
                assert_eq!(answered.question, None);
                assert!(answered.solicited && answered.overrides);
            }
        }
    }

    #[test]
    fn what_comes_from_off_the_link_is_unsound() {
        let [_, (own, theirs)] = ends();
        let mut frame = introduce((THEIRS, theirs), (OWN, own)).unwrap();
        frame.bytes[21] = 254;
        assert_eq!(read(frame.bytes()), Heard::Unsound);
    }

    #[test]
    fn addresses_of_groups_are_nobodys() {
        for (own, theirs) in ends() {
            let group = introduce(([3, 0, 0, 0, 0, 2], theirs), (OWN, own)).unwrap();
            assert_eq!(read(group.bytes()), Heard::Unsound);
        }
    }

    proptest! {
        #[test]
        fn damaged_messages_do_no_harm(
            which in 0..4_usize,
            damage in prop::collection::vec((12..FRAME_BYTES_MAX, any::<u8>()), 0..6),
            cut in 0..=FRAME_BYTES_MAX,
        ) {
            let (own, theirs) = ends()[which % 2];
            let frame = match which {
                0 | 1 => ask(OWN, own, theirs, None),
                _ => introduce((THEIRS, theirs), (OWN, own)),
            };
            let mut frame = frame.unwrap();
            for (at, byte) in damage {
                frame.bytes[at] = byte;
            }
            let bytes = frame.bytes();
            if let Heard::Neighbour(message) = read(&bytes[..cut.min(bytes.len())]) {
                prop_assert!(message.mac.is_none_or(is_station));
                let question = message.question;
                prop_assert!(question.is_none_or(|question| is_station(question.reply_to)));
            }
        }
    }
}
