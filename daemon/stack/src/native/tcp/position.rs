//! Positions in a stream, and the sequence numbers that stand for them (RFC 9293 section 3.4).
//!
//! A position counts from the SYN, which is number 0, in 64 bits, so it never wraps; the first byte
//! is number 1. A sequence number is the initial one plus the position, in 32 bits.
#![forbid(unsafe_code)]

/// The number of a position.
pub(super) const fn number(initial: u32, position: u64) -> u32 {
    initial.wrapping_add(position as u32)
}

/// The position nearest to `near` that has this number; none if it would be before the SYN.
pub(super) fn position(initial: u32, near: u64, sequence: u32) -> Option<u64> {
    let distance = sequence.wrapping_sub(number(initial, near)).cast_signed();
    near.checked_add_signed(distance.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn positions_near_by_are_found(initial: u32, near in 0_u64..1 << 40, off in -(1_i64 << 30)..1 << 30) {
            let there = near.checked_add_signed(off);
            let sequence = number(initial, near).wrapping_add_signed(off as i32);
            prop_assert_eq!(position(initial, near, sequence), there);
        }
    }
}
