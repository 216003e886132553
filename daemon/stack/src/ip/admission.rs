//! Whether a frame is for this stack, and undamaged.
//!
//! Called for each frame before anything else looks at it. Must never: let a frame go uncounted that it
//! refuses.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use dmm_port::flow::{self, Message, Traffic};
use dmm_port::{RxChecksum, RxFrame};

use super::Counters;
use super::checksum::{self, Fault};
use super::discovery::Mac;
use super::net::Net;

/// A frame that is for this stack, read.
pub(crate) struct Admitted<'a> {
    /// What it is about.
    pub(crate) traffic: Traffic,
    /// What its IP packet carries, if that is whole.
    pub(crate) message: Option<Message<'a>>,
}

/// Reads a frame, if it is for this stack and undamaged. Counts it if not.
pub(crate) fn admit<'a>(
    frame: &RxFrame<'a>,
    mac: Mac,
    net: &Net,
    counters: &mut Counters,
) -> Option<Admitted<'a>> {
    let bytes = frame.bytes;
    // The port accepts all addresses. Of group addresses the lowest bit of the first byte is 1.
    let to_us = bytes.first_chunk().is_some_and(|to: &Mac| *to == mac);
    let to_group = bytes.first().is_some_and(|first| first & 1 != 0);
    let fault = match bytes.get(12..14) {
        _ if frame.checksum == RxChecksum::Bad => &mut counters.drop_checksum,
        _ if !to_us && !to_group => &mut counters.drop_other_mac,
        None => &mut counters.drop_unknown,
        // IEEE 802 clause 8: a group sends nothing. An answer would go to all of it.
        Some(_) if bytes[6] & 1 != 0 => &mut counters.drop_malformed,
        // IEEE 802.1Q tags: no stack has any.
        Some([0x81, 0x00] | [0x88, 0xa8]) => &mut counters.drop_vlan,
        Some([0x08, 0x00]) if !checksum::of_ipv4_header(bytes) => &mut counters.drop_checksum,
        Some([0x08, 0x00] | [0x86, 0xdd])
            if destination(bytes).is_some_and(|to| !net.takes(to)) =>
        {
            &mut counters.drop_not_ours
        }
        Some(_) => {
            let (traffic, message) = flow::read(bytes);
            // The port may have verified it. Of a fragment nothing can be said yet.
            let verified = frame.checksum == RxChecksum::Good;
            let fault = message.as_ref().filter(|_| !verified).and_then(checksum::fault);
            match fault {
                None => return Some(Admitted { traffic, message }),
                Some(Fault::Wrong) => &mut counters.drop_checksum,
                Some(Fault::Partial) => &mut counters.drop_checksum_partial,
            }
        }
    };
    *fault += 1;
    None
}

/// Where an IP packet goes, if its header says.
fn destination(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x00] => Some(IpAddr::from(*frame.get(30..)?.first_chunk::<4>()?)),
        [0x86, 0xdd] => Some(IpAddr::from(*frame.get(38..)?.first_chunk::<16>()?)),
        _ => None,
    }
}
