//! The test kind's only packet.
//!
//! Owns: its layout. Called for each frame in and out. Must never: trust a length.
//!
//! ```text
//!  Ethernet ─┬ flags ┬ payload length ┬ window ┬ opening ┬ position ┬ acknowledged ┬ from ┬ to ┬ payload
//!   14 bytes │   2   │       2        │   4    │    4    │    8     │      8       │  18  │ 18 │
//! ```
//! All numbers are big-endian; an address is 16 bytes (IPv4 mapped) and a port.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use dmm_port::TxBurst;

/// IEEE 802 clause 9.2.2: the first EtherType for local experiments.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// Everybody on the wire hears everything.
const BROADCAST: [u8; 6] = [0xff; 6];
const ETHERNET_BYTES: usize = 14;
/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = ETHERNET_BYTES + 28 + 2 * ADDRESS_BYTES;
const ADDRESS_BYTES: usize = 18;

/// Opens a connection; its number is in `opening`.
pub(super) const OPEN: u16 = 1;
/// `acknowledged` and `window` are valid.
pub(super) const ACK: u16 = 2;
/// The stream ends behind the payload.
pub(super) const END: u16 = 4;
/// There is no such connection (any more).
pub(super) const RESET: u16 = 8;
/// Wants an acknowledgement although it may hold nothing new.
pub(super) const PROBE: u16 = 16;

/// Both ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ends {
    /// Ours.
    pub(super) local: SocketAddr,
    /// The peer's.
    pub(super) remote: SocketAddr,
}

/// A segment. `ends` are the sender's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// A set of the constants above.
    pub(super) flags: u16,
    /// Bytes that the sender has room for beyond what it acknowledges.
    pub(super) window: u32,
    /// The number that the opener gave the connection, to tell it from an earlier one.
    pub(super) opening: u32,
    /// Where in the stream the payload begins.
    pub(super) position: u64,
    /// Everything before this has arrived; an end counts as one byte.
    pub(super) acknowledged: u64,
    /// Who it is from and to.
    pub(super) ends: Ends,
}

impl Segment {
    /// Whether all of `flags` are set.
    pub(super) const fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }

    /// Reads a frame: a segment and its payload, or nothing if it is none.
    pub(super) fn parse(frame: &[u8]) -> Option<(Self, &[u8])> {
        if frame.get(12..14)? != ETHERTYPE {
            return None;
        }
        let fields = frame.get(ETHERNET_BYTES..HEADER_BYTES)?;
        let word = |at: usize| -> Option<u64> {
            Some(u64::from_be_bytes(*fields.get(at..)?.first_chunk()?))
        };
        let half = |at: usize| -> Option<u32> {
            Some(u32::from_be_bytes(*fields.get(at..)?.first_chunk()?))
        };
        let short = |at: usize| -> Option<u16> {
            Some(u16::from_be_bytes(*fields.get(at..)?.first_chunk()?))
        };
        let address = |at: usize| -> Option<SocketAddr> {
            let ip = Ipv6Addr::from(*fields.get(at..)?.first_chunk::<16>()?).to_canonical();
            Some(SocketAddr::new(ip, short(at + 16)?))
        };
        let len = usize::from(short(2)?);
        let payload = frame.get(HEADER_BYTES..HEADER_BYTES + len)?;
        let segment = Self {
            flags: short(0)?,
            window: half(4)?,
            opening: half(8)?,
            position: word(12)?,
            acknowledged: word(20)?,
            ends: Ends { local: address(28)?, remote: address(28 + ADDRESS_BYTES)? },
        };
        // Positions are added to: half of the range is far beyond any stream.
        let sound = segment.position < 1 << 63 && segment.acknowledged < 1 << 63;
        sound.then_some((segment, payload))
    }

    /// Writes it into a free slot, with room for `len` bytes of payload, which is returned. `None`
    /// if there is no slot.
    pub(super) fn emit<'t>(
        &self,
        mac: [u8; 6],
        len: usize,
        tx: &'t mut TxBurst<'_>,
    ) -> Option<&'t mut [u8]> {
        let length = u16::try_from(len).ok()?;
        let frame = tx.next(HEADER_BYTES + len)?;
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&BROADCAST);
        put(&mac);
        put(&ETHERTYPE);
        put(&self.flags.to_be_bytes());
        put(&length.to_be_bytes());
        put(&self.window.to_be_bytes());
        put(&self.opening.to_be_bytes());
        put(&self.position.to_be_bytes());
        put(&self.acknowledged.to_be_bytes());
        for address in [self.ends.local, self.ends.remote] {
            let ip = match address.ip() {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            put(&ip.octets());
            put(&address.port().to_be_bytes());
        }
        Some(&mut frame[HEADER_BYTES..])
    }
}
