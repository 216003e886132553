//! Seeded randomness for the wire: the same seed gives the same numbers on every machine.
//!
//! Owns: one generator per direction. Called for every frame sent. Must never: be used where an
//! adversary gains from guessing.

#![forbid(unsafe_code)]

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// 64 uniform bits.
    pub(super) const fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `bound`, 0 if that is 0; off from uniform by at most `bound` / 2^64.
    pub(super) const fn below(&mut self, bound: u64) -> u64 {
        ((self.next() as u128 * bound as u128) >> 64) as u64
    }

    /// Whether an event of this chance happens.
    pub(super) const fn hits(&mut self, chance: Chance) -> bool {
        self.next() >> 11 < chance.0
    }
}

/// A probability in units of 2^-53.
#[derive(Clone, Copy)]
pub(super) struct Chance(u64);

impl Chance {
    /// `None` unless `probability` lies in 0 to 1.
    pub(super) fn new(probability: f64) -> Option<Self> {
        const ONE: f64 = (1u64 << 53) as f64;
        (0.0..=1.0).contains(&probability).then_some(Self((probability * ONE) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_reference() {
        // The first outputs of the reference implementation (splitmix64.c) for seed 1234567.
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
        assert_eq!(random.next(), 9_817_491_932_198_370_423);
    }

    #[test]
    fn bounds_and_certainties_hold() {
        let mut random = Random::new(1);
        let (never, always) = (Chance::new(0.0).unwrap(), Chance::new(1.0).unwrap());
        for _ in 0..1000 {
            assert!(random.below(7) < 7);
            assert!(!random.hits(never));
            assert!(random.hits(always));
        }
        assert_eq!(random.below(0), 0);
        for wrong in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(Chance::new(wrong).is_none());
        }
    }
}
