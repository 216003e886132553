//! The machine of states, fed with what a path would show.

use super::*;

const MSS: u64 = 1000;
const ROUND: Duration = Duration::from_millis(20);

/// A path of a bandwidth, and the connection on it.
struct Path {
    bbr: Bbr,
    window: Window,
    now: Instant,
    delivered: u64,
    /// Bytes per second.
    bandwidth: f64,
    app_limited: bool,
    rtt: Duration,
}

impl Path {
    fn new(bandwidth: f64) -> Self {
        Self {
            bbr: Bbr::new(7),
            window: Window::initial(MSS),
            now: Instant::ZERO,
            delivered: 0,
            bandwidth,
            app_limited: false,
            rtt: ROUND,
        }
    }

    /// A round trip in which the window is sent, as fast as the path takes it.
    fn round(&mut self) {
        let before = self.delivered;
        let acks = 10;
        let sent = self.window.size.min((self.bbr.pace() * self.rtt.as_secs_f64()) as u64);
        let carried = sent.min((self.bandwidth * self.rtt.as_secs_f64()) as u64).max(acks * MSS);
        for ack in 1..=acks {
            self.now = self.now + self.rtt / acks as u32;
            self.delivered = before + carried * ack / acks;
            let sample = Sample {
                now: self.now,
                acked: carried / acks,
                rtt: Some(self.rtt),
                smoothed: Some(self.rtt),
                rate: Some(Rate {
                    rate: carried as f64 / self.rtt.as_secs_f64(),
                    delivered: carried,
                    delivered_before: before,
                    lost: 0,
                    in_flight: sent,
                    app_limited: self.app_limited,
                }),
                delivered: self.delivered,
                in_flight: sent.min(self.window.size),
                sack: true,
                ..Sample::default()
            };
            self.bbr.sampled(&mut self.window, &sample);
        }
    }

    /// Rounds until the state is one of some, which must come.
    fn until(&mut self, is_it: impl Fn(State) -> bool) -> u32 {
        for rounds in 0..2000 {
            if is_it(self.bbr.state) {
                return rounds;
            }
            self.round();
        }
        panic!("still {:?}", self.bbr.state)
    }
}

/// Section 5.3.1.2: three rounds without growth.
#[test]
fn startup_ends_when_the_bandwidth_does_not_grow() {
    let mut path = Path::new(5e6);
    path.until(|state| state != State::Startup);
    assert!((4.9e6..5.1e6).contains(&path.bbr.model.bandwidth), "{}", path.bbr.model.bandwidth);
    path.until(State::is_cycle);
}

/// A writer that is slow says nothing of the path.
#[test]
fn startup_goes_on_while_the_writer_is_slow() {
    let mut path = Path::new(5e6);
    path.app_limited = true;
    (0..100).for_each(|_| path.round());
    assert_eq!(path.bbr.state, State::Startup);
}

/// Section 5.3.3: Down, Cruise, Refill, Up, and again.
#[test]
fn the_cycle_goes_round() {
    let mut path = Path::new(5e6);
    for state in [State::Cruise, State::Refill, State::Up, State::Cruise, State::Refill] {
        path.until(|now| now == state);
    }
}

/// More bandwidth is found by a probe; less is believed when the old was not seen for two cycles.
#[test]
fn bandwidth_is_followed_up_and_down() {
    let mut path = Path::new(2e6);
    path.until(|state| state == State::Cruise);
    path.bandwidth = 8e6;
    (0..1500).for_each(|_| path.round());
    assert!(path.bbr.model.bandwidth > 7e6, "{}", path.bbr.model.bandwidth);
    path.bandwidth = 1e6;
    (0..1500).for_each(|_| path.round());
    assert!(path.bbr.model.bandwidth < 1.1e6, "{}", path.bbr.model.bandwidth);
}

/// Section 5.3.4: after 5 s without a smaller round trip, half of the window is taken away for 200 ms.
#[test]
fn the_least_round_trip_is_looked_for() {
    let mut path = Path::new(5e6);
    path.until(|state| state == State::Cruise);
    // A queue that never drains.
    path.rtt = ROUND + Duration::from_millis(10);
    let before = path.window.size;
    path.until(|state| matches!(state, State::ProbeRtt { .. }));
    assert!(path.window.size <= before / 2, "{} of {before}", path.window.size);
    let began = path.now;
    path.rtt = ROUND;
    path.until(|state| !matches!(state, State::ProbeRtt { .. }));
    assert!(path.now.since(began) >= PROBE_RTT_SPAN - ROUND);
    assert!(path.window.size > before * 9 / 10, "{} of {before}", path.window.size);
}

/// Section 5.5.10.3: losses beyond a probe take 30% of the rate at most, a round.
#[test]
fn losses_bound_what_is_sent_until_the_next_probe() {
    let mut path = Path::new(5e6);
    path.until(|state| state == State::Cruise);
    let before = path.bbr.model.bandwidth;
    let rate = Rate {
        rate: 0.0,
        delivered: 1000,
        delivered_before: 0,
        lost: 1000,
        in_flight: 100_000,
        app_limited: false,
    };
    path.bandwidth = 3e6;
    let window = path.window;
    path.bbr.lost(&window, &Loss { now: path.now, bytes: MSS, rate, sack: true });
    (0..3).for_each(|_| path.round());
    assert!(path.bbr.model.bandwidth < before * 0.75, "{}", path.bbr.model.bandwidth);
    assert!(path.bbr.model.bandwidth > before * 0.55, "{}", path.bbr.model.bandwidth);
    assert!(path.bbr.model.max_bandwidth() >= before);
}

/// Section 5.5.11: a loss that was none leaves no bound behind.
#[test]
fn what_was_no_loss_is_undone() {
    let mut path = Path::new(5e6);
    path.until(|state| state == State::Cruise);
    let (window, bounds) = (path.window, path.bbr.bounds.clone());
    assert_eq!(path.bbr.congested(path.now, &window, Cause::Loss), None);
    path.bbr.bounds.short_term = (1e6, 10_000);
    path.window.size = 5_000;
    path.bbr.undone(&mut path.window);
    assert_eq!(path.window.size, window.size);
    assert_eq!(path.bbr.bounds.short_term, bounds.short_term);
}
