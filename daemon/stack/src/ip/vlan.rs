//! The tag of a virtual LAN in an Ethernet header (IEEE 802.1Q clause 9).
//!
//! Called for each frame of a stack that is in one. Must never: copy a payload.
//!
//! ```text
//!   to:6 from:6 8100 tag type ...      received: what follows the addresses is read four bytes further on
//!               ^^^^^^^^^              sent: the frame is written four bytes further on, and its addresses move
//! ```
#![forbid(unsafe_code)]

/// Bytes of a tag.
pub(crate) const TAG_BYTES: usize = 4;
/// Bytes of both addresses.
const ADDRESSES_BYTES: usize = 12;
const ETHERTYPE: [u8; 2] = [0x81, 0x00];

/// The frame of a tagged one, but for its first 12 bytes, which are not both addresses. `None` if it has another
/// tag or none. Priority and drop eligibility mean nothing here.
pub(crate) fn without_tag(frame: &[u8], vlan: u16) -> Option<&[u8]> {
    let &[a, b, high, low] = frame.get(ADDRESSES_BYTES..)?.first_chunk()?;
    let ours = [a, b] == ETHERTYPE && u16::from_be_bytes([high & 0x0f, low]) == vlan;
    if ours { frame.get(TAG_BYTES..) } else { None }
}

/// A copy of such a frame with its addresses.
pub(crate) fn untagged(frame: &[u8]) -> Vec<u8> {
    let (addresses, tagged) = frame.split_at(ADDRESSES_BYTES.min(frame.len()));
    [addresses, tagged.get(TAG_BYTES..).unwrap_or_default()].concat()
}

/// Puts the tag before what was written from byte [`TAG_BYTES`] on.
pub(crate) fn insert(frame: &mut [u8], vlan: u16) {
    frame.copy_within(TAG_BYTES..TAG_BYTES + ADDRESSES_BYTES, 0);
    let tag = &mut frame[ADDRESSES_BYTES..ADDRESSES_BYTES + TAG_BYTES];
    tag[..2].copy_from_slice(&ETHERTYPE);
    tag[2..].copy_from_slice(&vlan.to_be_bytes());
}
