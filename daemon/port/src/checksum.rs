//! The internet checksum (RFC 1071), in its two steps: add up any number of parts, then fold.
//!
//! Called by ports and stacks that verify or write checksums of IP, TCP, UDP and ICMP. A sum that
//! holds its own checksum folds to `0xffff`; the checksum to be written is the complement.
#![forbid(unsafe_code)]

/// The 16-bit words of `bytes` added up, or what folds to the same; an odd byte at the end counts as the
/// high one. Words are added by the pair: carries from the lower into the higher are taken back by
/// [`fold`], as 2^16 is 1 in ones' complement.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    let mut sum = 0;
    let (eights, rest) = bytes.as_chunks::<8>();
    for eight in eights {
        let both = u64::from_be_bytes(*eight);
        sum += (both >> 32) + (both & 0xffff_ffff);
    }
    let (words, odd) = rest.as_chunks::<2>();
    for word in words {
        sum += u64::from(u16::from_be_bytes(*word));
    }
    sum + odd.first().map_or(0, |&byte| u64::from(byte) << 8)
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
}
