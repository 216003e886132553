//! Congestion control: how much may be in flight.
//!
//! Owns: the window, the algorithms that move it, and the rate at which it is sent. Called for each
//! acknowledgement of new data and once for each congestion event. Must never: look at a socket; what an algorithm is told is all that
//! it knows.
#![forbid(unsafe_code)]

mod bbr;
mod cubic;
mod dctcp;
mod hystart;
mod rate;
mod reno;

use serde::{Deserialize, Serialize};
use std::time::Duration;

use dmm_port::Instant;
use dmm_proto::congestion::CongestionControl;

use bbr::Bbr;
pub(super) use bbr::quantum;
use cubic::Cubic;
use dctcp::Dctcp;
pub(super) use rate::Rate;
pub(super) use rate::{Sampler, Snapshot};
use reno::Reno;
pub(super) use reno::slow_start;

use crate::config::Congestion;

/// The window and its threshold, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// An acknowledgement of new data, in recovery or not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    /// When.
    pub(super) now: Instant,
    /// Bytes that it is the first to report.
    pub(super) acked: u64,
    /// The round trip that it showed, and the smoothed one.
    pub(super) rtt: Option<Duration>,
    pub(super) smoothed: Option<Duration>,
    /// How fast the path carried them.
    pub(super) rate: Option<Rate>,
    /// Bytes delivered ever, and in flight now.
    pub(super) delivered: u64,
    pub(super) in_flight: u64,
    /// The first position not acknowledged, and the next to be sent.
    pub(super) una: u64,
    pub(super) next: u64,
    /// Something was found to be lost.
    pub(super) lost: bool,
    /// The window was what held the sender back.
    pub(super) limited: bool,
    /// It says that what it answers met congestion (ECE).
    pub(super) marked: bool,
    /// Losses are being repaired.
    pub(super) recovering: bool,
    /// The peer tells what it received out of order.
    pub(super) sack: bool,
}

/// A segment that is taken for lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loss {
    /// When.
    pub(super) now: Instant,
    /// Its bytes.
    pub(super) bytes: u64,
    /// What became of what was in flight with it.
    pub(super) rate: Rate,
    /// The peer tells what it received out of order.
    pub(super) sack: bool,
}

/// What shows congestion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Something was lost.
    Loss,
    /// Packets were marked (RFC 3168).
    Mark,
}

/// An algorithm.
pub(super) trait Control {
    /// Data was acknowledged while the window was what held the sender back.
    fn acknowledged(&mut self, window: &mut Window, ack: &Ack);

    /// There is congestion. Returns the threshold from now on, to which the window shrinks; `None` if the
    /// window follows a model instead.
    fn congested(&mut self, now: Instant, window: &Window, cause: Cause) -> Option<u64>;

    /// The retransmission timer went off: the window is one segment. Returns the threshold.
    fn timed_out(&mut self, window: &Window) -> Option<u64>;

    /// What was taken for a loss was none.
    fn undone(&mut self, _window: &mut Window) {}

    /// Nothing was sent for a while.
    fn idle(&mut self) {}

    /// Data was acknowledged. A model moves the window here, and only here.
    fn sampled(&mut self, _window: &mut Window, _sample: &Sample) {}

    /// A segment is taken for lost.
    fn lost(&mut self, _window: &Window, _loss: &Loss) {}

    /// What was lost is repaired.
    fn recovered(&mut self, _window: &mut Window) {}

    /// Something is sent while nothing is in flight, the writer having been what held the sender back.
    fn resumed(&mut self, _now: Instant, _window: &mut Window) {}
}

/// One of the algorithms, as plain data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Algorithm {
    /// The peer's window alone.
    None(Unlimited),
    /// RFC 5681 and RFC 6582.
    Reno(Reno),
    /// RFC 9438.
    Cubic(Cubic),
    /// RFC 8257.
    Dctcp(Dctcp),
    /// draft-ietf-ccwg-bbr, of which there is much to remember.
    Bbr(Box<Bbr>),
}

impl Algorithm {
    /// The algorithm of a configuration; `seed` makes its choices a connection's own.
    pub(super) fn new(congestion: Congestion, seed: u32) -> Self {
        match congestion {
            Congestion::None => Self::None(Unlimited),
            Congestion::Reno => Self::Reno(Reno),
            Congestion::Cubic => Self::Cubic(Cubic::default()),
            Congestion::Dctcp => Self::Dctcp(Dctcp::default()),
            Congestion::Bbr => Self::Bbr(Box::new(Bbr::new(seed))),
        }
    }

    /// Whether it follows a model of the path, which sets the window in recovery as well.
    pub(super) const fn is_model(&self) -> bool {
        matches!(self, Self::Bbr(_))
    }

    /// Its number, by which sockets ask for it; 0 for none.
    pub(super) const fn number(&self) -> u8 {
        match self {
            Self::None(_) => 0,
            Self::Reno(_) => CongestionControl::Reno as u8,
            Self::Cubic(_) => CongestionControl::Cubic as u8,
            Self::Dctcp(_) => CongestionControl::Dctcp as u8,
            Self::Bbr(_) => CongestionControl::Bbr as u8,
        }
    }

    /// Whether the peer is to be told of each mark (RFC 8257 section 3.2).
    pub(super) const fn counts_marks(&self) -> bool {
        matches!(self, Self::Dctcp(_))
    }

    /// The state of the algorithm.
    pub(super) fn control(&mut self) -> &mut dyn Control {
        match self {
            Self::None(control) => control,
            Self::Reno(control) => control,
            Self::Cubic(control) => control,
            Self::Dctcp(control) => control,
            Self::Bbr(control) => control.as_mut(),
        }
    }

    /// Bytes per second to be sent at most.
    pub(super) fn pace(&self) -> Option<f64> {
        match self {
            Self::Bbr(control) => Some(control.pace()),
            Self::None(_) | Self::Reno(_) | Self::Cubic(_) | Self::Dctcp(_) => None,
        }
    }
}

/// No congestion control: for links that lose nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Unlimited;

impl Control for Unlimited {
    fn acknowledged(&mut self, window: &mut Window, _ack: &Ack) {
        window.size = u64::MAX / 2;
    }

    fn congested(&mut self, _now: Instant, _window: &Window, _cause: Cause) -> Option<u64> {
        Some(u64::MAX / 2)
    }

    fn timed_out(&mut self, _window: &Window) -> Option<u64> {
        Some(u64::MAX / 2)
    }
}
