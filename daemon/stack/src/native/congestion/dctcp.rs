//! DCTCP (RFC 8257): the window shrinks by as much as there are marks.
#![forbid(unsafe_code)]

use dmm_port::Instant;
use serde::{Deserialize, Serialize};

use super::reno::Reno;
use super::{Ack, Cause, Control, Sample, Window};

/// RFC 8257 section 3.3: how much a window's marks count (g).
const GAIN: f64 = 1.0 / 16.0;

/// The state of DCTCP.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in super::super) struct Dctcp {
    /// The estimated fraction of bytes that are marked.
    alpha: f64,
    /// Bytes acknowledged in this window, and those among them that were marked.
    acknowledged: u64,
    marked: u64,
    /// The window ends when this is acknowledged.
    until: u64,
}

impl Default for Dctcp {
    fn default() -> Self {
        // RFC 8257 section 3.3: the first marks count as if all were marked.
        Self { alpha: 1.0, acknowledged: 0, marked: 0, until: 0 }
    }
}

impl Control for Dctcp {
    fn acknowledged(&mut self, window: &mut Window, ack: &Ack) {
        Reno.acknowledged(window, ack);
    }

    fn sampled(&mut self, _window: &mut Window, sample: &Sample) {
        self.acknowledged += sample.acked;
        self.marked += if sample.marked { sample.acked } else { 0 };
        if sample.una <= self.until || self.acknowledged == 0 {
            return;
        }
        let fraction = self.marked as f64 / self.acknowledged as f64;
        self.alpha += GAIN * (fraction - self.alpha);
        (self.acknowledged, self.marked, self.until) = (0, 0, sample.next);
    }

    fn congested(&mut self, now: Instant, window: &Window, cause: Cause) -> Option<u64> {
        match cause {
            // Section 3.5: a loss is one, marks or not.
            Cause::Loss => Reno.congested(now, window, cause),
            Cause::Mark => {
                let size = window.size as f64 * (1.0 - self.alpha / 2.0);
                Some((size as u64).max(window.least()))
            }
        }
    }

    fn timed_out(&mut self, window: &Window) -> Option<u64> {
        Reno.timed_out(window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { size: 100_000, threshold: 50_000, mss: 1000 };

    /// Windows of which a fraction of the acknowledgements is marked.
    fn run(dctcp: &mut Dctcp, windows: u64, marked_of_ten: u64) {
        let mut window = WINDOW;
        for round in 0..windows {
            for ack in 1..=100 {
                let una = dctcp.until.max(round * 100_000) + ack * 1000;
                let sample = Sample {
                    acked: 1000,
                    una,
                    next: una + 99_000,
                    marked: ack % 10 < marked_of_ten,
                    ..Sample::default()
                };
                dctcp.sampled(&mut window, &sample);
            }
        }
    }

    #[test]
    fn the_window_shrinks_by_half_of_what_is_marked() {
        let mut dctcp = Dctcp::default();
        let congested = |dctcp: &mut Dctcp, cause| {
            dctcp.congested(Instant::ZERO, &WINDOW, cause).expect("a threshold")
        };
        assert_eq!(congested(&mut dctcp, Cause::Mark), 50_000);
        run(&mut dctcp, 200, 2);
        assert!((0.18..0.22).contains(&dctcp.alpha), "{}", dctcp.alpha);
        assert!((88_000..92_000).contains(&congested(&mut dctcp, Cause::Mark)));
        // What is lost is another matter.
        assert_eq!(congested(&mut dctcp, Cause::Loss), 50_000);
        run(&mut dctcp, 200, 0);
        assert!(congested(&mut dctcp, Cause::Mark) > 99_000, "{}", dctcp.alpha);
    }
}
