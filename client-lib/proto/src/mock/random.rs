//! Numbers from a seed, the same on every machine.

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `bound`, which is not 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A value of the kind that breaks checks: small, near a power of two, near the top, or any.
    pub const fn lie(&mut self) -> u64 {
        match self.below(5) {
            0 => self.below(16),
            1 => (1_u64 << self.below(64)).wrapping_add(self.below(5)).wrapping_sub(2),
            2 => u64::MAX - self.below(16),
            3 => self.below(1 << 17),
            _ => self.next(),
        }
    }
}
