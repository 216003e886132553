//! The messages of IGMP (RFC 3376, RFC 2236, RFC 1112) and MLD (RFC 3810, RFC 2710).
//!
//! Owns: their reading and writing. Called by the table of groups. Must never: take a message from beyond the
//! link for one of a router of it.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use dmm_port::checksum::{fold, sum};
use dmm_port::flow::Message;

use crate::ip::discovery::Mac;
use crate::ip::net::is_link_local;
use crate::ip::packet::{
    ETHERNET_BYTES, Extent, Headers, checksum, headers_bytes, protocol, pseudo_sum,
};

/// Protocol numbers of IGMP, and of what goes before MLD.
const IGMP: u8 = 2;
const HOP_BY_HOP: u8 = 0;

/// Sources of a question that are kept; one with more asks for all (RFC 3376 section 5.2, where memory is
/// short).
pub(super) const SOURCES_MAX: usize = 64;

/// All stations of the link.
const ALL_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const ALL_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// All routers of the link.
const ROUTERS_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
const ROUTERS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Those that understand reports of the newest version (RFC 3376 section 4.2.14, RFC 3810 section 5.2.14).
const REPORTS_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
const REPORTS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

/// Both are padded to what they are told apart by (RFC 2113, RFC 2711).
const ALERT_V4: [u8; 4] = [0x94, 4, 0, 0];
const ALERT_V6: [u8; 8] = [protocol::ICMPV6, 0, 5, 2, 0, 0, 1, 0];

/// Which version a querier speaks: the newest (IGMPv3, MLDv2) is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    /// IGMPv1 (RFC 1112).
    First,
    /// IGMPv2 and MLDv1.
    Second,
    /// IGMPv3 and MLDv2.
    Newest,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A router asks.
    Query(Query),
    /// Another station is a member, in an older version.
    Report(IpAddr),
    /// It is for routers.
    Other,
    /// Nothing that a router or station of the link may send.
    Unsound,
}

/// "Who is a member?"
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) version: Version,
    /// Of this group, or of any.
    pub(super) group: Option<IpAddr>,
    /// With these sources, or any.
    pub(super) sources: Vec<IpAddr>,
    /// An answer may take this long.
    pub(super) within: Duration,
    /// How often what changed is said, and between two general questions, if it says so.
    pub(super) robustness: Option<u8>,
    pub(super) interval: Option<Duration>,
}

/// What a report says of a group (RFC 3376 section 4.2.12, RFC 3810 section 5.2.12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: u8,
    pub(super) group: IpAddr,
    pub(super) sources: Vec<IpAddr>,
}

/// Kinds of record.
pub(super) mod kind {
    /// These sources are wanted, as an answer.
    pub(crate) const IS_INCLUDE: u8 = 1;
    /// All are, as an answer.
    pub(crate) const IS_EXCLUDE: u8 = 2;
    /// None is any more.
    pub(crate) const TO_INCLUDE: u8 = 3;
    /// All are from now on.
    pub(crate) const TO_EXCLUDE: u8 = 4;
}

/// What we say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// Records, in the newest version.
    Records(Vec<Record>),
    /// Member of a group, in an older version.
    Member(Version, IpAddr),
    /// No member any more, in the second version.
    Left(IpAddr),
}

/// Whether a group is never spoken of: all stations, and what stays within a station (RFC 3376 section 5,
/// RFC 3810 section 6).
pub(super) fn is_silent(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group == ALL_V4,
        IpAddr::V6(group) => group == ALL_V6 || group.octets()[1] & 0x0f < 2,
    }
}

/// Reads the message of a frame.
pub(super) fn read(frame: &[u8], message: &Message<'_>) -> Heard {
    let heard = match message.protocol {
        IGMP => read_igmp(frame, message),
        protocol::ICMPV6 => read_mld(frame, message),
        _ => None,
    };
    heard.unwrap_or(Heard::Unsound)
}

fn read_igmp(frame: &[u8], message: &Message<'_>) -> Option<Heard> {
    let bytes = message.bytes;
    let group = Ipv4Addr::from_octets(*bytes.get(4..)?.first_chunk()?);
    let to = match message.destination {
        IpAddr::V4(to) => to,
        IpAddr::V6(_) => return None,
    };
    // RFC 3376 section 4: a hop limit of 1 does not come from afar.
    if frame.get(ETHERNET_BYTES + 8) != Some(&1) || fold(sum(bytes)) != 0xffff {
        return None;
    }
    match bytes[0] {
        0x11 => {}
        0x12 | 0x16 => return group.is_multicast().then_some(Heard::Report(group.into())),
        _ => return Some(Heard::Other),
    }
    // RFC 3376 section 9.1: general questions go to all stations.
    let asked = (!group.is_unspecified()).then_some(group);
    if to != asked.unwrap_or(ALL_V4) && to != ALL_V4 || asked.is_some_and(|g| !g.is_multicast()) {
        return None;
    }
    let tenths = |tenths: u64| Duration::from_millis(100 * tenths);
    // RFC 3376 section 7.1.
    let (version, within) = match (bytes.len(), bytes[1]) {
        (8, 0) => (Version::First, tenths(100)),
        (8, code) => (Version::Second, tenths(code.into())),
        (12.., code) => (Version::Newest, tenths(floating(code.into(), 4))),
        _ => return None,
    };
    let mut query = Query {
        version,
        group: asked.map(IpAddr::V4),
        sources: Vec::new(),
        within,
        robustness: None,
        interval: None,
    };
    if version == Version::Newest {
        query.add_newest(&bytes[8..], 4, |bytes| {
            Some(Ipv4Addr::from_octets(*bytes.first_chunk()?).into())
        })?;
    }
    Some(Heard::Query(query))
}

fn read_mld(frame: &[u8], message: &Message<'_>) -> Option<Heard> {
    let bytes = message.bytes;
    let group = Ipv6Addr::from_octets(*bytes.get(8..)?.first_chunk()?);
    // RFC 3810 section 6.2: from the link, by a packet that says so.
    let alerts = frame.get(ETHERNET_BYTES + 6) == Some(&HOP_BY_HOP)
        && frame.get(ETHERNET_BYTES + 40 + 2..)?.starts_with(&ALERT_V6[2..6]);
    if frame.get(ETHERNET_BYTES + 7) != Some(&1) || !alerts {
        return None;
    }
    match bytes[0] {
        130 if is_link_local(message.source) => {}
        130 => return None,
        131 => return group.is_multicast().then_some(Heard::Report(group.into())),
        _ => return Some(Heard::Other),
    }
    let asked = (!group.is_unspecified()).then_some(group);
    let to = message.destination;
    if to != IpAddr::V6(asked.unwrap_or(ALL_V6)) && to != IpAddr::V6(ALL_V6)
        || asked.is_some_and(|g| !g.is_multicast())
    {
        return None;
    }
    let code = u64::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    // RFC 3810 section 8.1.
    let (version, millis) = match bytes.len() {
        24 => (Version::Second, code),
        28.. => (Version::Newest, floating(code, 12)),
        _ => return None,
    };
    let within = Duration::from_millis(millis);
    let mut query = Query {
        version,
        group: asked.map(IpAddr::V6),
        sources: Vec::new(),
        within,
        robustness: None,
        interval: None,
    };
    if version == Version::Newest {
        query.add_newest(&bytes[24..], 16, |bytes| {
            Some(Ipv6Addr::from_octets(*bytes.first_chunk()?).into())
        })?;
    }
    Some(Heard::Query(query))
}

impl Query {
    /// Adds what the newest version says beyond the older ones.
    fn add_newest(
        &mut self,
        bytes: &[u8],
        source_bytes: usize,
        source: impl Fn(&[u8]) -> Option<IpAddr>,
    ) -> Option<()> {
        let (head, rest) = bytes.split_at_checked(4)?;
        // RFC 3376 section 4.1.6: 0 is one that does not fit.
        self.robustness = Some(head[0] & 7).filter(|robustness| *robustness > 0);
        self.interval = Some(Duration::from_secs(floating(head[1].into(), 4)));
        let count = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let sources = rest.get(..count * source_bytes)?;
        if count > 0 && self.group.is_none() {
            return None;
        }
        if count <= SOURCES_MAX {
            self.sources = sources.chunks_exact(source_bytes).filter_map(source).collect();
        }
        Some(())
    }
}

/// A number of as many bits of mantissa as given and three of exponent, with a bit that says so, else
/// itself (RFC 3376 section 4.1.1, RFC 3810 section 5.1.3).
const fn floating(code: u64, mantissa_bits: u32) -> u64 {
    let flag = 1 << (mantissa_bits + 3);
    if code & flag == 0 {
        return code;
    }
    let (hidden, exponent) = (1 << mantissa_bits, code >> mantissa_bits & 7);
    (code & (hidden - 1) | hidden) << (exponent + 3)
}

/// Where a message goes.
pub(super) fn destination(say: &Say) -> Option<IpAddr> {
    Some(match say {
        Say::Records(records) => match records.first()?.group {
            IpAddr::V4(_) => REPORTS_V4.into(),
            IpAddr::V6(_) => REPORTS_V6.into(),
        },
        Say::Member(_, group) => *group,
        Say::Left(IpAddr::V4(_)) => ROUTERS_V4.into(),
        Say::Left(IpAddr::V6(_)) => ROUTERS_V6.into(),
    })
}

/// What stands behind the IP header.
pub(super) fn payload(say: &Say, from: IpAddr, to: IpAddr) -> Vec<u8> {
    let v4 = to.is_ipv4();
    let mut bytes = if v4 { Vec::new() } else { ALERT_V6.to_vec() };
    let begin = bytes.len();
    match say {
        Say::Records(records) => {
            bytes.extend([if v4 { 0x22 } else { 143 }, 0, 0, 0, 0, 0]);
            bytes.extend((records.len() as u16).to_be_bytes());
            for Record { kind, group, sources } in records {
                bytes.extend([*kind, 0]);
                bytes.extend((sources.len() as u16).to_be_bytes());
                [group].into_iter().chain(sources).for_each(|address| push(&mut bytes, *address));
            }
        }
        Say::Member(..) | Say::Left(_) => {
            let (kind, group) = match say {
                Say::Member(Version::First, group) => (0x12, *group),
                Say::Member(_, group) => (if v4 { 0x16 } else { 131 }, *group),
                Say::Left(group) => (if v4 { 0x17 } else { 132 }, *group),
                Say::Records(_) => return bytes,
            };
            bytes.extend([kind, 0, 0, 0]);
            if !v4 {
                bytes.extend([0; 4]);
            }
            push(&mut bytes, group);
        }
    }
    let message = &mut bytes[begin..];
    let pseudo = if v4 { 0 } else { pseudo_sum(from, to, protocol::ICMPV6, message.len()) };
    let sum = checksum(pseudo, message);
    message[2..4].copy_from_slice(&sum);
    bytes
}

fn push(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => bytes.extend(v4.octets()),
        IpAddr::V6(v6) => bytes.extend(v6.octets()),
    }
}

/// Bytes of the frame with this payload.
pub(super) const fn frame_bytes(to: IpAddr, payload: &[u8]) -> usize {
    headers_bytes(to) + payload.len() + if to.is_ipv4() { ALERT_V4.len() } else { 0 }
}

/// Writes the frame, which has its [`frame_bytes`].
pub(super) fn write(
    (from, to): (IpAddr, IpAddr),
    payload: &[u8],
    (from_mac, to_mac): (Mac, Mac),
    frame: &mut [u8],
) {
    let v4 = to.is_ipv4();
    let headers = Headers {
        from_mac,
        to_mac,
        from,
        to,
        protocol: if v4 { IGMP } else { HOP_BY_HOP },
        hop_limit: 1,
        // RFC 3376 section 4: Internetwork Control.
        class: if v4 { 0xc0 } else { 0 },
        extent: Extent::Whole,
    };
    headers.write(frame);
    let mut end = headers_bytes(to);
    if v4 {
        let header = &mut frame[ETHERNET_BYTES..end + ALERT_V4.len()];
        header[0] = 0x46;
        header[20..].copy_from_slice(&ALERT_V4);
        header[10..12].fill(0);
        let sum = !fold(sum(header));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        end += ALERT_V4.len();
    }
    frame[end..].copy_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_messages_do_no_harm(
            mut frame in prop::collection::vec(any::<u8>(), 0..120),
            mut bytes in prop::collection::vec(any::<u8>(), 0..400),
            kind in prop::sample::select(vec![0x11, 0x12, 0x16, 0x17, 130, 131, 132, 143]),
            v6 in any::<bool>(),
            sound in any::<bool>(),
        ) {
            let all: IpAddr = if v6 { ALL_V6.into() } else { ALL_V4.into() };
            let from = if v6 { "fe80::1" } else { "10.0.0.1" }.parse().unwrap();
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            // Past the first checks, if it is long enough.
            if sound && frame.len() > 62 {
                frame[20..24].copy_from_slice(&[0, 1, 1, 1]);
                frame[56..60].copy_from_slice(&ALERT_V6[2..6]);
                if bytes.len() > 3 {
                    bytes[2..4].fill(0);
                    let sum = checksum(0, &bytes);
                    bytes[2..4].copy_from_slice(&sum);
                }
            }
            let protocol = if v6 { protocol::ICMPV6 } else { IGMP };
            let message = Message { destination: all, source: from, protocol, bytes: &bytes };
            if let Heard::Query(query) = read(&frame, &message) {
                prop_assert!(query.sources.len() <= SOURCES_MAX);
                prop_assert!(query.group.is_none_or(|group| group.is_multicast()));
            }
        }
    }

    #[test]
    fn long_times_are_floating() {
        // RFC 3376 section 4.1.1, RFC 3810 section 5.1.3.
        assert_eq!([0, 127, 128, 255].map(|code| floating(code, 4)), [0, 127, 128, 31_744]);
        let codes = [0x7fff, 0x8000, 0xffff].map(|code| floating(code, 12));
        assert_eq!(codes, [32_767, 32_768, 8_387_584]);
    }
}
