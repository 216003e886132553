//! A log-linear histogram of latencies.
//!
//! Values below [`STEPS`] have a bucket each; above, each power of two is cut into `STEPS / 2`
//! buckets of equal width, so that a reported value is at most 1/64 above the one that was recorded.
//! Recording neither allocates nor branches on the values seen before.

/// Buckets that the first powers of two share.
const STEPS: u64 = 128;

/// Half of [`STEPS`]: buckets of each further power of two.
const HALF: u64 = STEPS / 2;

/// Buckets for every value of 64 bits: the first [`STEPS`], and [`HALF`] for each of the 57 further
/// powers of two.
const BUCKETS: usize = (STEPS + HALF * 57) as usize;

/// Counts of values in nanoseconds.
#[derive(Clone)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: u128,
    min: u64,
    max: u64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, sum: 0, min: u64::MAX, max: 0 }
    }

    pub(super) fn record(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.sum += u128::from(nanos);
        self.min = self.min.min(nanos);
        self.max = self.max.max(nanos);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (ours, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *ours += theirs;
        }
        self.total += other.total;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    pub(super) const fn min(&self) -> u64 {
        self.min
    }

    pub(super) const fn max(&self) -> u64 {
        self.max
    }

    /// The arithmetic mean, 0 of no values.
    pub(super) fn mean(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.sum as f64 / self.total as f64 }
    }

    /// The smallest value that at least `share` (0 to 1) of the values do not exceed, rounded up to
    /// its bucket's end. 0 of no values.
    pub(super) fn quantile(&self, share: f64) -> u64 {
        let rank = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return bucket_end(index).clamp(self.min, self.max);
            }
        }
        0
    }
}

const fn bucket(nanos: u64) -> usize {
    if nanos < STEPS {
        return nanos as usize;
    }
    // The seven leading bits choose the bucket; at least one bit is dropped.
    let dropped = (STEPS.leading_zeros() - nanos.leading_zeros()) as u64 + 1;
    ((nanos >> dropped) + dropped * HALF) as usize
}

/// The largest value of a bucket.
const fn bucket_end(index: usize) -> u64 {
    let index = index as u64;
    if index < STEPS {
        return index;
    }
    let dropped = index / HALF - 1;
    let leading = index - dropped * HALF;
    (leading << dropped) + ((1 << dropped) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_narrow() {
        let mut last = 0;
        for power in 0..64 {
            let bit = 1_u64 << power;
            for value in [bit, bit + bit / 64, bit + bit / 2] {
                let index = bucket(value);
                let end = bucket_end(index);
                assert!(end >= value && end - value <= value / HALF, "{value} -> {end}");
                assert!(index >= last || power < 2, "{value}");
                last = index.max(last);
                if let Some(next) = end.checked_add(1) {
                    assert_eq!(bucket(next), index + 1, "{value}");
                }
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket_end(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let mut histogram = Histogram::new();
        for value in 1..=1000 {
            histogram.record(value * 1000);
        }
        for (share, exact) in [(0.5, 500_000), (0.9, 900_000), (0.99, 990_000), (1.0, 1_000_000)] {
            let found = histogram.quantile(share);
            assert!(found >= exact && found - exact <= exact / HALF, "{share}: {found}");
        }
        assert_eq!((histogram.min(), histogram.max()), (1000, 1_000_000));
        assert!((histogram.mean() - 500_500.0).abs() < 1e-6);
    }

    #[test]
    fn merging_is_recording_in_one() {
        let (mut left, mut right, mut both) =
            (Histogram::new(), Histogram::new(), Histogram::new());
        for value in [3, 70_000, 12, 999_999_999] {
            left.record(value);
            both.record(value);
        }
        for value in [1, 70_001] {
            right.record(value);
            both.record(value);
        }
        left.merge(&right);
        assert_eq!(left.counts, both.counts);
        assert_eq!((left.total(), left.min(), left.max()), (6, 1, 999_999_999));
    }

    #[test]
    fn no_values_have_no_quantile() {
        assert_eq!(Histogram::new().quantile(0.5), 0);
    }
}
