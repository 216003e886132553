//! Bytes that look random, the same for the same seed.

/// A source of bytes: xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift
/// generators, scrambled").
pub struct Generator {
    state: u64,
}

impl Generator {
    /// A source that starts at `seed`.
    pub const fn new(seed: u64) -> Self {
        // The state must not be zero.
        Self { state: seed.wrapping_mul(2).wrapping_add(1) }
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            let next = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            word.copy_from_slice(&next[..word.len()]);
        }
    }
}
