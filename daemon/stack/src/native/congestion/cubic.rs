//! CUBIC (RFC 9438), with HyStart++ (RFC 9406) in its first slow start.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::time::Duration;

use dmm_port::Instant;

use super::hystart::HyStart;
use super::{Ack, Cause, Control, Window};

/// RFC 9438 section 5.1: in segments per second cubed.
const C: f64 = 0.4;
/// RFC 9438 section 4.6: what is left of the window after a congestion event.
const BETA: f64 = 0.7;

/// The state of CUBIC, in segments and seconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in super::super) struct Cubic {
    /// The window before the last reduction, or a little less if windows shrink from loss to loss.
    w_max: f64,
    /// When growth began after that.
    epoch: Option<Epoch>,
    /// As it was before the last event.
    before: Option<(f64, Option<Epoch>)>,
    /// Until the first congestion event.
    hystart: Option<HyStart>,
    /// There was one.
    had_loss: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Epoch {
    began: Instant,
    /// Seconds until `w_max` is reached again.
    k: f64,
    /// The plateau of this epoch.
    origin: f64,
    /// What Reno would have.
    w_est: f64,
    /// Its growth a round trip.
    alpha: f64,
}

impl Cubic {
    fn avoid(&mut self, window: &mut Window, ack: &Ack) {
        let mss = window.mss as f64;
        let size = window.size as f64 / mss;
        let w_max = self.w_max;
        let epoch = self.epoch.get_or_insert_with(|| {
            // RFC 9438 section 4.2: K from the window at the epoch's beginning.
            let (k, origin) =
                if size < w_max { (((w_max - size) / C).cbrt(), w_max) } else { (0.0, size) };
            let alpha = 3.0 * (1.0 - BETA) / (1.0 + BETA);
            Epoch { began: ack.now, k, origin, w_est: size, alpha }
        });
        let rtt = ack.smoothed.unwrap_or(Duration::from_millis(1)).as_secs_f64();
        let elapsed = ack.now.since(epoch.began).as_secs_f64();
        let segments = ack.bytes as f64 / mss;
        // Section 4.3.
        epoch.w_est += epoch.alpha * segments / size;
        if epoch.w_est >= w_max {
            epoch.alpha = 1.0;
        }
        let cubic = |t: f64| C * (t - epoch.k).powi(3) + epoch.origin;
        if cubic(elapsed) < epoch.w_est {
            window.size = window.size.max((epoch.w_est * mss) as u64);
            return;
        }
        // Sections 4.4 and 4.5.
        let target = cubic(elapsed + rtt).clamp(size, 1.5 * size);
        window.size += ((target - size) / size * segments * mss) as u64;
    }

    fn reduce(&mut self, window: &Window) -> u64 {
        let size = window.size as f64 / window.mss as f64;
        self.before = Some((self.w_max, self.epoch));
        // Section 4.7, fast convergence.
        self.w_max = if size < self.w_max { size * (1.0 + BETA) / 2.0 } else { size };
        self.epoch = None;
        self.had_loss = true;
        self.hystart = None;
        ((window.size as f64 * BETA) as u64).max(window.least())
    }
}

impl Control for Cubic {
    fn acknowledged(&mut self, window: &mut Window, ack: &Ack) {
        if !window.is_slow_start() {
            return self.avoid(window, ack);
        }
        if self.had_loss {
            super::reno::slow_start(window, ack.bytes);
        } else if self.hystart.get_or_insert_default().acknowledged(window, ack) {
            window.threshold = window.size;
            self.hystart = None;
        }
    }

    fn congested(&mut self, _now: Instant, window: &Window, _cause: Cause) -> Option<u64> {
        Some(self.reduce(window))
    }

    fn timed_out(&mut self, window: &Window) -> Option<u64> {
        Some(self.reduce(window))
    }

    fn undone(&mut self, _window: &mut Window) {
        if let Some((w_max, epoch)) = self.before.take() {
            (self.w_max, self.epoch) = (w_max, epoch);
        }
    }

    fn idle(&mut self) {
        // Section 5.8: time without data does not count.
        self.epoch = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u64 = 1000;

    /// Acknowledges a window's worth of segments a round trip.
    fn run(cubic: &mut Cubic, window: &mut Window, from: Instant, span: Duration, rtt: Duration) {
        let mut now = from;
        while now < from + span {
            for _ in 0..window.size / MSS {
                let ack =
                    Ack { now, bytes: MSS, rtt: Some(rtt), smoothed: Some(rtt), una: 0, next: 0 };
                cubic.acknowledged(window, &ack);
            }
            now = now + rtt;
        }
    }

    #[test]
    fn the_window_comes_back_to_its_plateau_after_k_seconds() {
        // 1000 segments, 100 ms: K = cbrt(300 / 0.4) = 9.1 s.
        let mut window = Window { size: 1_000_000, threshold: 1_000_000, mss: MSS };
        let mut cubic = Cubic::default();
        let threshold = cubic.reduce(&window);
        assert_eq!(threshold, 700_000);
        (window.size, window.threshold) = (threshold, threshold);
        let rtt = Duration::from_millis(100);
        let half = Duration::from_millis(4_500);
        run(&mut cubic, &mut window, Instant::ZERO, half, rtt);
        // At half of K an eighth of the way is left.
        assert!((950_000..975_000).contains(&window.size), "{}", window.size);
        run(&mut cubic, &mut window, Instant::ZERO + half, half, rtt);
        assert!((990_000..1_005_000).contains(&window.size), "{}", window.size);
    }

    #[test]
    fn it_is_no_slower_than_reno_on_short_paths() {
        let mut window = Window { size: 20_000, threshold: 20_000, mss: MSS };
        let mut cubic = Cubic::default();
        let threshold = cubic.reduce(&window);
        (window.size, window.threshold) = (threshold, threshold);
        let rtt = Duration::from_millis(1);
        run(&mut cubic, &mut window, Instant::ZERO, Duration::from_millis(40), rtt);
        // Reno's mean with these reductions grows by 0.53 segments a round trip, then by 1.
        assert!(window.size >= 32_000, "{}", window.size);
    }

    #[test]
    fn a_loss_that_was_none_leaves_no_trace() {
        let mut cubic = Cubic::default();
        let window = Window { size: 50_000, threshold: 1, mss: MSS };
        cubic.reduce(&window);
        let before = cubic.w_max;
        cubic.reduce(&Window { size: 20_000, ..window });
        cubic.undone(&mut { window });
        assert_eq!(cubic.w_max, before);
    }
}
