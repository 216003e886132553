//! What messages and streams consist of, so that both ends can tell whether a byte is right.
//!
//! A stream is the pattern repeated. A message starts at another place of the pattern each time, and
//! begins with its number if it has room for it. The pattern's length is a prime, so that no chunk,
//! segment or page that is exchanged for another one shows the same bytes.

/// Length of the pattern in bytes.
const PERIOD: usize = 251;

/// Bytes of a message's number.
pub(super) const NUMBER_BYTES: usize = 8;

/// Pieces of the pattern, up to a fixed length.
pub(super) struct Pattern {
    bytes: Vec<u8>,
}

impl Pattern {
    /// A pattern of which pieces of up to `longest` bytes can be had.
    pub(super) fn new(longest: usize) -> Self {
        let byte = |at: usize| (at % PERIOD) as u8 ^ 0x5a;
        Self { bytes: (0..longest + PERIOD).map(byte).collect() }
    }

    /// The `len` bytes of a stream from `position` on.
    pub(super) fn at(&self, position: u64, len: usize) -> &[u8] {
        let start = (position % PERIOD as u64) as usize;
        &self.bytes[start..start + len]
    }

    /// Appends message `number` of `len` bytes.
    pub(super) fn write(&self, into: &mut Vec<u8>, number: u64, len: usize) {
        let start = into.len();
        into.extend_from_slice(self.at(place(number), len));
        if len >= NUMBER_BYTES {
            into[start..start + NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
        }
    }

    /// Whether these bytes are message `number`.
    pub(super) fn is(&self, bytes: &[u8], number: u64) -> bool {
        let expected = self.at(place(number), bytes.len());
        if bytes.len() < NUMBER_BYTES {
            return bytes == expected;
        }
        number_of(bytes) == Some(number) && bytes[NUMBER_BYTES..] == expected[NUMBER_BYTES..]
    }
}

/// Where in the pattern a message starts.
const fn place(number: u64) -> u64 {
    number.wrapping_mul(31)
}

/// The number that a message carries, if it is long enough for one.
pub(super) fn number_of(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_itself_and_no_other() {
        let pattern = Pattern::new(64);
        for len in [1, 7, 8, 9, 64] {
            for number in [0, 1, 250, u64::MAX] {
                let mut bytes = Vec::new();
                pattern.write(&mut bytes, number, len);
                assert_eq!(bytes.len(), len);
                assert!(pattern.is(&bytes, number));
                assert!(!pattern.is(&bytes, number.wrapping_add(1)), "{len} {number}");
                bytes[len - 1] ^= 1;
                assert!(!pattern.is(&bytes, number), "{len} {number}");
            }
        }
    }

    #[test]
    fn a_stream_shows_when_a_piece_is_missing() {
        let pattern = Pattern::new(4096);
        assert_ne!(pattern.at(0, 4096), pattern.at(4096, 4096));
        assert_eq!(pattern.at(1, 10), &pattern.at(0, 11)[1..]);
        assert_eq!(pattern.at(251, 10), pattern.at(0, 10));
    }
}
