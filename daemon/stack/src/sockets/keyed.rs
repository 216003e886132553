//! Hashes of what peers choose, with a key that they do not know: they cannot choose what collides.
#![forbid(unsafe_code)]

use std::hash::BuildHasher;

use siphasher::sip::SipHasher13;

/// The key: a stack's seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keyed(pub(super) u64);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, !self.0)
    }
}
