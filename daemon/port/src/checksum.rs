//! The internet checksum (RFC 1071), in its two steps: add up any number of parts, then fold.
//!
//! Called by ports and stacks that verify or write checksums of IP, TCP, UDP and ICMP. A sum that
//! holds its own checksum folds to `0xffff`; the checksum to be written is the complement.
#![forbid(unsafe_code)]

/// The 16-bit words of `bytes` added up and folded; an odd byte at the end counts as the high one. Four
/// words are added at a time, as carries may be taken back later, and in this machine's byte order, as the
/// sum of swapped words is the swapped sum (RFC 1071 section 2).
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    let (eights, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let mut sum = u128::from(u64::from_ne_bytes(last));
    for eight in eights {
        sum += u128::from(u64::from_ne_bytes(*eight));
    }
    let halves = (sum & 0xffff_ffff) + (sum >> 32 & 0xffff_ffff) + (sum >> 64);
    u64::from(u16::from_be(fold(halves as u64)))
}

/// A sum in ones' complement of 16 bits: what is carried out is added in again.
#[must_use]
pub const fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_comes_out() {
        // RFC 1071 section 3.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), fold(0x2_ddf0));
        assert_eq!(fold(sum(&bytes)), 0xddf2);
        assert_eq!(sum(&[0xab]), 0xab00);
        assert_eq!(fold(u64::MAX), 0xffff);
    }

    #[test]
    fn any_length_comes_out_as_word_by_word() {
        let bytes: Vec<u8> = (0..200_u8).map(|at| at.wrapping_mul(37) ^ 0xa5).collect();
        for len in 0..bytes.len() {
            let word =
                |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
            let plain: u64 = bytes[..len].chunks(2).map(word).sum();
            assert_eq!(fold(sum(&bytes[..len])), fold(plain), "{len}");
        }
        assert_eq!(fold(sum(&[0xff; 64])), 0xffff);
    }
}
