//! Whether a frame is for this stack, and undamaged.
//!
//! Called for each frame before anything else looks at it. Must never: let a frame go uncounted that it
//! refuses.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::net::IpAddr;

use dmm_port::flow::{self, Message, Traffic};
use dmm_port::{RxChecksum, RxFrame};

use super::Counters;
use super::checksum::{self, Fault};
use super::discovery::Mac;
use super::net::Net;
use super::vlan;

/// A frame that is for this stack, read.
pub(crate) struct Admitted<'a> {
    /// What it is about.
    pub(crate) traffic: Traffic,
    /// What its IP packet carries, if that is whole.
    pub(crate) message: Option<Message<'a>>,
    /// Without a tag. Both Ethernet addresses are in it if it is of ARP, of neighbour discovery, or a
    /// fragment; of others, what a tag leaves of them.
    pub(crate) frame: Cow<'a, [u8]>,
    /// It went to many stations.
    pub(crate) to_group: bool,
}

/// Reads a frame, if it is for this stack, with the tag that it must have, and undamaged; and if it comes from the
/// link, from an address that another station can have. Counts it if not.
pub(crate) fn admit<'a>(
    frame: &RxFrame<'a>,
    (mac, vlan, from_link): (Mac, Option<u16>, bool),
    net: &Net,
    counters: &mut Counters,
) -> Option<Admitted<'a>> {
    let bytes = frame.bytes;
    // The port accepts all addresses. Of group addresses the lowest bit of the first byte is 1.
    let to_us = bytes.first_chunk().is_some_and(|to: &Mac| *to == mac);
    let to_group = bytes.first().is_some_and(|first| first & 1 != 0);
    let inner = vlan.map_or(Some(bytes), |vlan| vlan::without_tag(bytes, vlan));
    let fault = match inner.and_then(|inner| inner.get(12..14)) {
        _ if frame.checksum == RxChecksum::Bad => &mut counters.drop_checksum,
        _ if !to_us && !to_group => &mut counters.drop_other_mac,
        _ if inner.is_none() => &mut counters.drop_other_vlan,
        None => &mut counters.drop_unknown,
        // IEEE 802 clause 8: a group sends nothing. An answer would go to all of it.
        Some(_) if bytes[6] & 1 != 0 => &mut counters.drop_malformed,
        // IEEE 802.1Q tags, beyond the one of a stack's that has one.
        Some([0x81, 0x00] | [0x88, 0xa8]) => &mut counters.drop_vlan,
        Some([0x08, 0x00]) if inner.is_some_and(|inner| !checksum::of_ipv4_header(inner)) => {
            &mut counters.drop_checksum
        }
        Some([0x08, 0x00] | [0x86, 0xdd])
            if inner.and_then(destination).is_some_and(|to| !net.takes(to)) =>
        {
            &mut counters.drop_not_ours
        }
        Some(_) => {
            let inner = inner.unwrap_or_default();
            let (traffic, message) = flow::read(inner);
            // The port may have verified it. Of a fragment nothing can be said yet.
            let verified = frame.checksum == RxChecksum::Good;
            let fault = message.as_ref().filter(|_| !verified).and_then(checksum::fault);
            let asks =
                !matches!(traffic, Traffic::Arp { .. } | Traffic::Ndp { .. } | Traffic::Membership);
            let from = source(inner).filter(|_| from_link && asks);
            match fault {
                // RFC 1122 section 3.2.1.3, RFC 9293 section 3.9.2.3: an answer would go to ourselves, or to many.
                None if from.is_some_and(|from| !net.may_be_another(from)) => {
                    &mut counters.drop_source
                }
                None => {
                    let by_address = matches!(
                        traffic,
                        Traffic::Arp { .. } | Traffic::Ndp { .. } | Traffic::Fragment { .. }
                    );
                    let frame = match vlan {
                        Some(_) if by_address => Cow::Owned(vlan::untagged(bytes)),
                        _ => Cow::Borrowed(inner),
                    };
                    return Some(Admitted { traffic, message, frame, to_group });
                }
                Some(Fault::Wrong) => &mut counters.drop_checksum,
                Some(Fault::Partial) => &mut counters.drop_checksum_partial,
            }
        }
    };
    *fault += 1;
    None
}

/// Where an IP packet comes from, if its header says.
fn source(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x00] => Some(IpAddr::from(*frame.get(26..)?.first_chunk::<4>()?)),
        [0x86, 0xdd] => Some(IpAddr::from(*frame.get(22..)?.first_chunk::<16>()?)),
        _ => None,
    }
}

/// Where an IP packet goes, if its header says.
fn destination(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x00] => Some(IpAddr::from(*frame.get(30..)?.first_chunk::<4>()?)),
        [0x86, 0xdd] => Some(IpAddr::from(*frame.get(38..)?.first_chunk::<16>()?)),
        _ => None,
    }
}
