//! Datagrams in a FIFO: each one a header, its payload and padding to eight bytes.
//!
//! The byte FIFOs carry frames unchanged; only whole frames are written, so a reader that finds a
//! header finds the rest. On the daemon's side a header is foreign and checked.
//!
//! ```text
//!  ├─ length, flags ─┬─ peer address ─┬─ local address ─┬─ payload ─┬─ 0..7 padding ─┤
//! ```
#![forbid(unsafe_code)]

use super::client::{RxReader, TxWriter};
use super::daemon::{RxFifo, TxFifo};
use crate::breach::Breach;
use crate::op::Address;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 56;

/// Payload bytes of a datagram at most (RFC 768 over RFC 791: 65,535 - 20 - 8).
pub const PAYLOAD_MAX: usize = 65_507;

/// Bytes of a FIFO that one datagram of `payload` bytes takes.
#[must_use]
pub const fn frame_bytes(payload: usize) -> usize {
    HEADER_BYTES + payload.next_multiple_of(8)
}

/// What goes before a datagram's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Payload bytes.
    pub len: usize,
    /// The other end: sender on receive, destination on send; `None` on send means the connected
    /// peer.
    pub peer: Option<Address>,
    /// This end's address: where it arrived, or where to send from.
    pub local: Option<Address>,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&(self.len as u64).to_le_bytes());
        for (at, address) in [(8, self.peer), (32, self.local)] {
            for (i, word) in Address::encode_option(address).into_iter().enumerate() {
                bytes[at + 8 * i..at + 8 * i + 8].copy_from_slice(&word.to_le_bytes());
            }
        }
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Breach> {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let address = |at| Address::decode_option([word(at), word(at + 8), word(at + 16)]);
        let len = usize::try_from(word(0)).map_err(|_| Breach::Datagram)?;
        if len > PAYLOAD_MAX {
            return Err(Breach::Datagram);
        }
        Ok(Self { len, peer: address(8)?, local: address(32)? })
    }
}

impl TxWriter {
    /// Writes one datagram, or nothing if there is no room for all of it.
    pub fn write_datagram(&mut self, header: &Header, payload: &[u8]) -> bool {
        let frame = frame_bytes(payload.len());
        let padding = [0; 8];
        let pad = frame - HEADER_BYTES - payload.len();
        self.write(&[&header.encode(), payload, &padding[..pad]], true) == frame
    }
}

impl RxReader {
    /// Copies the next datagram out, cut to `bytes.len()`, and consumes it unless `peek`. Returns
    /// its header (with the whole length), or `None` if there is none.
    pub fn read_datagram(&mut self, bytes: &mut [u8], peek: bool) -> Option<Header> {
        let mut head = [0; HEADER_BYTES];
        if self.peek(&mut head) < HEADER_BYTES {
            return None;
        }
        // The daemon writes whole frames; a header that does not decode ends the reading.
        let header = Header::decode(&head).ok()?;
        let len = header.len.min(bytes.len());
        self.peek_at(HEADER_BYTES, &mut bytes[..len]);
        if !peek {
            self.skip(frame_bytes(header.len));
        }
        Some(header)
    }
}

impl TxFifo {
    /// The header of the next datagram, or `None` if there is none.
    pub fn next_datagram(&self) -> Result<Option<Header>, Breach> {
        if self.queued() == 0 {
            return Ok(None);
        }
        let mut bytes = [0; HEADER_BYTES];
        if self.copy_out(0, &mut bytes) < HEADER_BYTES {
            return Err(Breach::Datagram);
        }
        let header = Header::decode(&bytes)?;
        if (frame_bytes(header.len) as u64) > self.queued() {
            return Err(Breach::Datagram);
        }
        Ok(Some(header))
    }

    /// Copies out the payload of the next datagram, whose header was just looked at.
    pub fn copy_payload(&self, payload: &mut [u8]) {
        self.copy_out(HEADER_BYTES, payload);
    }

    /// Is done with the next datagram, whose header was just looked at.
    pub fn consume_datagram(&mut self, header: &Header) {
        self.consume(frame_bytes(header.len));
    }
}

impl RxFifo {
    /// Delivers one datagram, or drops it and counts that if there is no room for all of it.
    pub fn write_datagram(&mut self, header: &Header, payload: &[u8]) -> bool {
        debug_assert_eq!(header.len, payload.len());
        let frame = frame_bytes(payload.len());
        if self.reserve(frame) < frame {
            self.count_dropped();
            return false;
        }
        self.write_at(0, &header.encode());
        self.write_at(HEADER_BYTES, payload);
        self.advance(frame);
        true
    }
}
