//! Congestion control: how much may be in flight.
//!
//! Owns: the window and the algorithms that move it. Called for each acknowledgement of new data and
//! once for each congestion event. Must never: look at a socket; what an algorithm is told is all that
//! it knows.
#![forbid(unsafe_code)]

mod cubic;
mod hystart;
mod reno;

use std::time::Duration;

use dmm_port::Instant;

pub(super) use cubic::Cubic;
pub(super) use reno::{Reno, slow_start};

use crate::config::Congestion;

/// The window and its threshold, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// What may be in flight.
    pub(super) size: u64,
    /// Below it the window doubles each round trip.
    pub(super) threshold: u64,
    /// Payload bytes of a full segment.
    pub(super) mss: u64,
}

impl Window {
    /// The initial window: ten segments, or four of large ones (RFC 6928 section 2).
    pub(super) fn initial(mss: u64) -> Self {
        Self { size: (10 * mss).min((2 * mss).max(14_600)), threshold: u64::MAX, mss }
    }

    /// Whether it is in slow start (RFC 5681 section 3.1).
    pub(super) const fn is_slow_start(&self) -> bool {
        self.size < self.threshold
    }

    /// The least threshold after a congestion event (RFC 5681 section 3.1).
    const fn least(&self) -> u64 {
        2 * self.mss
    }
}

/// An acknowledgement of new data, outside of recovery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ack {
    /// When.
    pub(super) now: Instant,
    /// Bytes that it is the first to report.
    pub(super) bytes: u64,
    /// The round trip that it showed.
    pub(super) rtt: Option<Duration>,
    /// The smoothed round trip.
    pub(super) smoothed: Option<Duration>,
    /// The first position not acknowledged.
    pub(super) una: u64,
    /// The next to be sent.
    pub(super) next: u64,
}

/// An algorithm.
pub(super) trait Control {
    /// Data was acknowledged while the window was what held the sender back.
    fn acknowledged(&mut self, window: &mut Window, ack: &Ack);

    /// Something was lost. Returns the threshold from now on.
    fn congested(&mut self, now: Instant, window: &Window) -> u64;

    /// The retransmission timer went off: the window is one segment.
    fn timed_out(&mut self, window: &Window) -> u64;

    /// What was taken for a loss was none.
    fn undone(&mut self) {}

    /// Nothing was sent for a while.
    fn idle(&mut self) {}
}

/// One of the algorithms, as plain data.
#[derive(Clone, Debug)]
pub(super) enum Algorithm {
    /// The peer's window alone.
    None(Unlimited),
    /// RFC 5681 and RFC 6582.
    Reno(Reno),
    /// RFC 9438.
    Cubic(Cubic),
}

impl Algorithm {
    /// The algorithm of a configuration.
    pub(super) fn new(congestion: Congestion) -> Self {
        match congestion {
            Congestion::None => Self::None(Unlimited),
            Congestion::Reno => Self::Reno(Reno),
            Congestion::Cubic => Self::Cubic(Cubic::default()),
        }
    }

    fn control(&mut self) -> &mut dyn Control {
        match self {
            Self::None(control) => control,
            Self::Reno(control) => control,
            Self::Cubic(control) => control,
        }
    }
}

impl Control for Algorithm {
    fn acknowledged(&mut self, window: &mut Window, ack: &Ack) {
        self.control().acknowledged(window, ack);
    }

    fn congested(&mut self, now: Instant, window: &Window) -> u64 {
        self.control().congested(now, window)
    }

    fn timed_out(&mut self, window: &Window) -> u64 {
        self.control().timed_out(window)
    }

    fn undone(&mut self) {
        self.control().undone();
    }

    fn idle(&mut self) {
        self.control().idle();
    }
}

/// No congestion control: for links that lose nothing.
#[derive(Clone, Debug)]
pub(super) struct Unlimited;

impl Control for Unlimited {
    fn acknowledged(&mut self, window: &mut Window, _ack: &Ack) {
        window.size = u64::MAX / 2;
    }

    fn congested(&mut self, _now: Instant, _window: &Window) -> u64 {
        u64::MAX / 2
    }

    fn timed_out(&mut self, _window: &Window) -> u64 {
        u64::MAX / 2
    }
}
