//! The counters of one direction of a wire.
//!
//! Owns: their names. Read by tests, and through the ports' extended statistics. Must never: count.

#![forbid(unsafe_code)]

/// What became of the frames sent in one direction. At any time
/// `sent + duplicated == delivered + lost + overflowed + in_flight`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireStats {
    /// Frames that the sender flushed.
    pub sent: u64,
    /// Frames that the receiver got.
    pub delivered: u64,
    /// Frames lost on the way, by chance or because the wire was cut.
    pub lost: u64,
    /// Frames that became two.
    pub duplicated: u64,
    /// Frames held back so that later ones could overtake them.
    pub reordered: u64,
    /// Frames of which a bit flipped.
    pub corrupted: u64,
    /// Frames whose packets were marked because the transmit queue was long.
    pub marked: u64,
    /// Frames dropped because the transmit queue or the wire was full.
    pub overflowed: u64,
    /// Frames on their way, or waiting for the receiver.
    pub in_flight: u64,
}

impl WireStats {
    /// Every counter with its name.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, u64); 9] {
        [
            ("sent", self.sent),
            ("delivered", self.delivered),
            ("lost", self.lost),
            ("duplicated", self.duplicated),
            ("reordered", self.reordered),
            ("corrupted", self.corrupted),
            ("marked", self.marked),
            ("overflowed", self.overflowed),
            ("in_flight", self.in_flight),
        ]
    }
}
