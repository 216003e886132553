//! TCP's header (RFC 9293 section 3.1) and the options that this stack knows.
//!
//! Owns: their reading and writing. Called for each segment. Must never: trust a length, or read
//! what stands behind a broken option.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// Bytes of a header without options.
pub(super) const HEADER_BYTES: usize = 20;
/// Bytes of a header at most: its length is counted in 15 words of four.
pub(super) const HEADER_BYTES_MAX: usize = 60;
/// Ranges that a SACK option holds at most (RFC 2018 section 3).
pub(super) const SACKS_MAX: usize = 4;
/// Window shifts above this mean this (RFC 7323 section 2.3).
const SHIFT_MAX: u8 = 14;

/// Bits of the header's flags.
pub(super) mod flag {
    pub(in super::super) const FIN: u8 = 0x01;
    pub(in super::super) const SYN: u8 = 0x02;
    pub(in super::super) const RST: u8 = 0x04;
    pub(in super::super) const PSH: u8 = 0x08;
    pub(in super::super) const ACK: u8 = 0x10;
    /// The peer's packets met congestion (RFC 3168).
    pub(in super::super) const ECE: u8 = 0x40;
    /// The window was made smaller for it.
    pub(in super::super) const CWR: u8 = 0x80;
}

/// Ranges of sequence numbers: the first, and the one behind the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sacks {
    ranges: [(u32, u32); SACKS_MAX],
    count: u8,
}

impl Sacks {
    /// Adds a range if there is room.
    pub(super) fn push(&mut self, range: (u32, u32)) {
        if let Some(place) = self.ranges.get_mut(usize::from(self.count)) {
            *place = range;
            self.count += 1;
        }
    }

    /// The ranges, in order.
    pub(super) fn as_slice(&self) -> &[(u32, u32)] {
        &self.ranges[..usize::from(self.count)]
    }

    /// Keeps the first `count`.
    pub(super) fn truncate(&mut self, count: usize) {
        self.count = self.count.min(u8::try_from(count).unwrap_or(u8::MAX));
    }
}

/// Bytes of a Fast Open cookie (RFC 7413 section 4.1.1).
const COOKIE_BYTES: std::ops::RangeInclusive<usize> = 4..=16;
/// What marks the option under the number for experiments (RFC 6994), which old peers use.
const FAST_OPEN_MAGIC: [u8; 2] = [0xf9, 0x89];

/// The Fast Open option: a cookie, or without bytes the request for one (RFC 7413 section 4.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cookie {
    bytes: [u8; *COOKIE_BYTES.end()],
    len: u8,
    /// It stands under the number for experiments.
    pub(super) experimental: bool,
}

impl Cookie {
    /// A request.
    pub(super) const REQUEST: Self = Self { bytes: [0; 16], len: 0, experimental: false };

    /// The cookie of 8 bytes, as they are sent.
    pub(super) fn of(bytes: [u8; 8]) -> Self {
        let mut cookie = Self { len: 8, ..Self::REQUEST };
        cookie.bytes[..8].copy_from_slice(&bytes);
        cookie
    }

    fn read(value: &[u8], experimental: bool) -> Option<Self> {
        let fits = COOKIE_BYTES.contains(&value.len()) && value.len().is_multiple_of(2);
        if !fits && !value.is_empty() {
            return None;
        }
        let mut cookie = Self { experimental, ..Self::REQUEST };
        cookie.bytes[..value.len()].copy_from_slice(value);
        cookie.len = u8::try_from(value.len()).ok()?;
        Some(cookie)
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Whether it is the request for one.
    pub(super) const fn is_request(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the option.
    fn option_len(&self) -> usize {
        2 + if self.experimental { FAST_OPEN_MAGIC.len() } else { 0 } + usize::from(self.len)
    }
}

/// TCP's options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// The most payload that the sender wants to get in one segment, in bytes (RFC 9293 section
    /// 3.7.1).
    pub(super) mss: Option<u16>,
    /// By how many bits its windows are shifted: 14 at most (RFC 7323 section 2).
    pub(super) shift: Option<u8>,
    /// It understands SACK (RFC 2018 section 2).
    pub(super) sack_permitted: bool,
    /// The sender's clock, and what it last saw of the receiver's (RFC 7323 section 3).
    pub(super) timestamps: Option<(u32, u32)>,
    /// What was received out of order or twice (RFC 2018, RFC 2883).
    pub(super) sacks: Sacks,
    /// A Fast Open cookie, or the request for one.
    pub(super) fast_open: Option<Cookie>,
}

/// A header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Segment {
    /// The sender's port.
    pub(super) source: u16,
    /// The receiver's port.
    pub(super) destination: u16,
    /// The number of the first byte, or of the SYN.
    pub(super) sequence: u32,
    /// The next number that the sender expects; of meaning with [`flag::ACK`] alone.
    pub(super) acknowledgement: u32,
    /// Bits of [`flag`].
    pub(super) flags: u8,
    /// The window as it stands in the header.
    pub(super) window: u16,
    /// Options.
    pub(super) options: Options,
}

impl Segment {
    /// Whether one of `flags` is set.
    pub(super) const fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Reads the header of a TCP message. Returns it with the payload, or nothing if lengths do not
    /// fit.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let head: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let len = usize::from(head[12] >> 4) * 4;
        let options = bytes.get(HEADER_BYTES..len)?;
        let u16_at = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let u32_at = |at| u32::from_be_bytes(std::array::from_fn(|i| head[at + i]));
        let segment = Self {
            source: u16_at(0),
            destination: u16_at(2),
            sequence: u32_at(4),
            acknowledgement: u32_at(8),
            flags: head[13],
            window: u16_at(14),
            options: Options::read(options),
        };
        Some((segment, &bytes[len..]))
    }

    /// Bytes of the header.
    pub(super) fn len(&self) -> usize {
        HEADER_BYTES + self.options.len()
    }

    /// Writes the header, with no checksum, to the beginning of `bytes`, which has room.
    pub(super) fn write(&self, bytes: &mut [u8]) {
        let len = self.len();
        bytes[0..2].copy_from_slice(&self.source.to_be_bytes());
        bytes[2..4].copy_from_slice(&self.destination.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.acknowledgement.to_be_bytes());
        bytes[12] = u8::try_from(len / 4).unwrap_or(0) << 4;
        bytes[13] = self.flags;
        bytes[14..16].copy_from_slice(&self.window.to_be_bytes());
        bytes[16..20].fill(0);
        self.options.write(&mut bytes[HEADER_BYTES..len]);
    }
}

impl Options {
    /// Reads options up to the end, or to the first that is broken.
    fn read(mut bytes: &[u8]) -> Self {
        let mut options = Self::default();
        // The layout that RFC 7323 appendix A recommends, which most segments have.
        if let [1, 1, 8, 10, stamps @ ..] = bytes
            && let Some(stamps) = stamps.first_chunk::<8>()
            && stamps.len() + 4 == bytes.len()
        {
            options.timestamps = Some(pair(stamps));
            return options;
        }
        while let [kind, rest @ ..] = bytes {
            match kind {
                0 => break,
                1 => {
                    bytes = rest;
                    continue;
                }
                _ => {}
            }
            let Some(len) = rest.first().map(|len| usize::from(*len)) else { break };
            let Some(value) = bytes.get(2..len) else { break };
            match (kind, value) {
                (2, &[high, low]) => options.mss = Some(u16::from_be_bytes([high, low])),
                (3, &[shift]) => options.shift = Some(shift.min(SHIFT_MAX)),
                (4, &[]) => options.sack_permitted = true,
                (5, ranges) if ranges.len() % 8 == 0 => {
                    for range in ranges.chunks_exact(8).filter_map(<[u8]>::first_chunk) {
                        options.sacks.push(pair(range));
                    }
                }
                (8, stamps) => {
                    if let Ok(stamps) = <&[u8; 8]>::try_from(stamps) {
                        options.timestamps = Some(pair(stamps));
                    }
                }
                // The last of several counts, as on Linux.
                (34, cookie) => {
                    options.fast_open = Cookie::read(cookie, false).or(options.fast_open);
                }
                (254, [0xf9, 0x89, cookie @ ..]) => {
                    options.fast_open = Cookie::read(cookie, true).or(options.fast_open);
                }
                _ => {}
            }
            bytes = &bytes[len..];
        }
        options
    }

    /// Bytes as they are written: padded to words of four.
    pub(super) fn len(&self) -> usize {
        let sacks = self.sacks.as_slice().len();
        let mut len = if self.mss.is_some() { 4 } else { 0 };
        len += if self.shift.is_some() { 4 } else { 0 };
        len += match (self.timestamps, self.sack_permitted) {
            (Some(_), _) => 12,
            (None, true) => 4,
            (None, false) => 0,
        };
        len += self.fast_open.map_or(0, |cookie| cookie.option_len().next_multiple_of(4));
        len + if sacks > 0 { 4 + 8 * sacks } else { 0 }
    }

    /// Ranges that fit beside the other options.
    pub(super) fn room_for_sacks(&self) -> usize {
        (HEADER_BYTES_MAX - HEADER_BYTES).saturating_sub(self.len() + 4) / 8
    }

    /// In the order and alignment that Linux uses, which middleboxes are used to.
    fn write(&self, mut bytes: &mut [u8]) {
        if let Some(mss) = self.mss {
            let [high, low] = mss.to_be_bytes();
            put(&mut bytes, &[2, 4, high, low]);
        }
        match (self.timestamps, self.sack_permitted) {
            (Some((value, echo)), sack_permitted) => {
                put(&mut bytes, if sack_permitted { &[4, 2, 8, 10] } else { &[1, 1, 8, 10] });
                put(&mut bytes, &value.to_be_bytes());
                put(&mut bytes, &echo.to_be_bytes());
            }
            (None, true) => put(&mut bytes, &[1, 1, 4, 2]),
            (None, false) => {}
        }
        if let Some(shift) = self.shift {
            put(&mut bytes, &[1, 3, 3, shift]);
        }
        if let Some(cookie) = self.fast_open {
            let len = cookie.option_len();
            let kind = if cookie.experimental { 254 } else { 34 };
            put(&mut bytes, &[kind, u8::try_from(len).unwrap_or(0)]);
            if cookie.experimental {
                put(&mut bytes, &FAST_OPEN_MAGIC);
            }
            put(&mut bytes, cookie.bytes());
            put(&mut bytes, &[1; 3][..len.next_multiple_of(4) - len]);
        }
        let sacks = self.sacks.as_slice();
        if !sacks.is_empty() {
            put(&mut bytes, &[1, 1, 5, 2 + 8 * u8::try_from(sacks.len()).unwrap_or(0)]);
            for (start, end) in sacks {
                put(&mut bytes, &start.to_be_bytes());
                put(&mut bytes, &end.to_be_bytes());
            }
        }
    }
}

fn pair(bytes: &[u8; 8]) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = *bytes;
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

fn put(bytes: &mut &mut [u8], value: &[u8]) {
    let (now, later) = std::mem::take(bytes).split_at_mut(value.len());
    now.copy_from_slice(value);
    *bytes = later;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_options() -> impl Strategy<Value = Options> {
        let ranges = prop::collection::vec(any::<(u32, u32)>(), 0..=3);
        let parts = (any::<Option<u16>>(), prop::option::of(0..=14_u8), any::<bool>());
        let cookie = (prop::option::of(0..=16_usize), any::<[u8; 16]>(), any::<bool>());
        let cookie = cookie.prop_map(|(len, bytes, experimental)| {
            // One of 16 bytes has room beside all others only under its own number.
            let len = len.filter(|len| !experimental || *len <= 14);
            len.and_then(|len| Cookie::read(&bytes[..len], experimental))
        });
        (parts, any::<Option<(u32, u32)>>(), ranges, cookie).prop_map(
            |((mss, shift, sack_permitted), timestamps, ranges, cookie)| {
                let syn = mss.is_some() || shift.is_some() || sack_permitted;
                let mut sacks = Sacks::default();
                // Those of a SYN and ranges do not come together: there is no room for both.
                ranges.into_iter().filter(|_| !syn).for_each(|range| sacks.push(range));
                let fast_open = cookie.filter(|_| syn);
                Options { mss, shift, sack_permitted, timestamps, sacks, fast_open }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            options in any_options(),
            ports in any::<(u16, u16)>(),
            numbers in any::<(u32, u32)>(),
            (flags, window) in any::<(u8, u16)>(),
            payload in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let segment = Segment {
                source: ports.0,
                destination: ports.1,
                sequence: numbers.0,
                acknowledgement: numbers.1,
                flags,
                window,
                options,
            };
            let mut bytes = vec![0xff; segment.len()];
            segment.write(&mut bytes);
            bytes.extend(&payload);
            prop_assert_eq!(Segment::read(&bytes), Some((segment, &payload[..])));
        }

        #[test]
        fn anything_may_come(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Some((segment, payload)) = Segment::read(&bytes) {
                prop_assert!(payload.len() + HEADER_BYTES <= bytes.len());
                prop_assert!(segment.options.shift.is_none_or(|shift| shift <= SHIFT_MAX));
            }
        }
    }

    #[test]
    fn an_independent_parser_agrees() {
        let mut sacks = Sacks::default();
        sacks.push((5, 9));
        let timestamps = Some((1, 2));
        for options in [
            Options {
                mss: Some(1460),
                shift: Some(7),
                sack_permitted: true,
                timestamps,
                ..Options::default()
            },
            Options { timestamps, sacks, ..Options::default() },
            Options { sack_permitted: true, ..Options::default() },
        ] {
            let segment = Segment { flags: flag::SYN | flag::ACK, options, ..Segment::default() };
            let mut bytes = vec![0; segment.len()];
            segment.write(&mut bytes);
            let other = etherparse::TcpHeaderSlice::from_slice(&bytes).unwrap();
            assert!(other.syn() && other.ack() && !other.fin());
            let mut seen = Options::default();
            for element in other.options_iterator() {
                use etherparse::TcpOptionElement as Element;
                match element.unwrap() {
                    Element::Noop => {}
                    Element::MaximumSegmentSize(mss) => seen.mss = Some(mss),
                    Element::WindowScale(shift) => seen.shift = Some(shift),
                    Element::SelectiveAcknowledgementPermitted => seen.sack_permitted = true,
                    Element::Timestamp(value, echo) => seen.timestamps = Some((value, echo)),
                    Element::SelectiveAcknowledgement(first, rest) => {
                        seen.sacks.push(first);
                        rest.into_iter().flatten().for_each(|range| seen.sacks.push(range));
                    }
                }
            }
            assert_eq!(seen, options);
        }
    }

    #[test]
    fn ranges_fit_beside_timestamps() {
        let stamped = Options { timestamps: Some((1, 2)), ..Options::default() };
        assert_eq!(stamped.room_for_sacks(), 3);
        assert_eq!(Options::default().room_for_sacks(), 4);
    }
}
