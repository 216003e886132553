//! The wire between two TAP interfaces, in real time: an impaired cable for kernels and processes.
//!
//! Owns: two TAP ports and a wire between them. Called by the `dmm-wire` program, which owns the
//! clock. Must never: spin; it sleeps until a frame arrives or one in flight is due.
//!
//! ```text
//! kernel ◀─▶ left TAP ◀─▶ wire's left end ··· wire's right end ◀─▶ right TAP ◀─▶ kernel
//! ```

#![forbid(unsafe_code)]

mod tap;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

pub use tap::{TapError, TapPort};

use crate::wire::{WireConfig, WirePort, WireStats};
use crate::{Instant, Port, RxQueue, TxQueue};

/// Bursts forwarded in one turn at most before the stop descriptor is looked at.
const BURSTS_PER_TURN: usize = 8;

/// A running relay.
pub struct Relay {
    left: Side,
    right: Side,
}

/// A TAP and the end of the wire plugged into it.
struct Side {
    tap: TapPort,
    tap_fd: OwnedFd,
    tap_rx: Box<dyn RxQueue>,
    tap_tx: Box<dyn TxQueue>,
    wire: WirePort,
    wire_rx: Box<dyn RxQueue>,
    wire_tx: Box<dyn TxQueue>,
    /// Frames too long for where they go, because somebody raised an MTU meanwhile.
    oversize: u64,
}

/// What became of the frames that one TAP's kernel side sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayStats {
    /// What the wire did with them.
    pub wire: WireStats,
    /// Frames that were too long for the wire or the other TAP.
    pub oversize: u64,
    /// Frames that the other TAP did not take, being down or full.
    pub refused: u64,
}

impl Relay {
    /// Joins two TAPs by a wire. Its MTU is that of the TAPs, the larger of the two, and it has one
    /// queue, whatever `config` says.
    ///
    /// # Errors
    /// What the wire or a descriptor gives.
    pub fn new(left: TapPort, right: TapPort, config: &WireConfig) -> io::Result<Self> {
        let mtu = left.info().mtu.max(right.info().mtu);
        let config = WireConfig { mtu, queues: 1, rss: false, ..config.clone() };
        let (wire_left, wire_right) = WirePort::pair(&config)?;
        Ok(Self { left: Side::new(left, wire_left)?, right: Side::new(right, wire_right)? })
    }

    /// Forwards frames until `stop` becomes readable. `clock` says what time it is.
    ///
    /// # Errors
    /// If a TAP disappears, or `ppoll` fails.
    pub fn run(&mut self, stop: BorrowedFd<'_>, clock: impl Fn() -> Instant) -> io::Result<()> {
        loop {
            let busy = self.turn(&clock);
            let timeout = if busy { Some(Duration::ZERO) } else { self.idle_for(clock()) };
            if self.sleep(stop, timeout)? {
                return Ok(());
            }
        }
    }

    /// The counters of the frames from the left TAP's side, and of those from the right's.
    #[must_use]
    pub fn stats(&self) -> [RelayStats; 2] {
        let one = |from: &Side, to: &Side| RelayStats {
            wire: from.wire.tx_wire_stats(),
            oversize: from.oversize + from.tap.stats().rx_errors,
            refused: to.tap_tx.dropped(),
        };
        [one(&self.left, &self.right), one(&self.right, &self.left)]
    }

    /// Forwards a bounded number of bursts. Returns whether there may be more.
    fn turn(&mut self, clock: &impl Fn() -> Instant) -> bool {
        for _ in 0..BURSTS_PER_TURN {
            let now = clock();
            let moved = self.left.tap_to_wire(now)
                + self.right.tap_to_wire(now)
                + self.left.wire_to_tap(now)
                + self.right.wire_to_tap(now);
            if moved == 0 {
                return false;
            }
        }
        true
    }

    /// How long until a frame in flight is due.
    fn idle_for(&self, now: Instant) -> Option<Duration> {
        let deadlines = [self.left.wire_rx.deadline(), self.right.wire_rx.deadline()];
        deadlines.into_iter().flatten().min().map(|due| due.since(now))
    }

    /// Sleeps until a TAP has a frame or the time is over. Returns whether `stop` is readable.
    fn sleep(&self, stop: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [
            readable(stop),
            readable(self.left.tap_fd.as_fd()),
            readable(self.right.tap_fd.as_fd()),
        ];
        match ppoll(&mut fds, timeout.map(TimeSpec::from_duration), None) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
        let [stop, taps @ ..] = &fds;
        for (fd, side) in taps.iter().zip([&self.left, &self.right]) {
            // A deleted interface reports this for ever: waiting for it would spin.
            if fd.revents().is_some_and(|events| events.contains(PollFlags::POLLERR)) {
                return Err(TapError::Gone(side.tap.info().name.clone()).into());
            }
        }
        Ok(stop.any().unwrap_or(true))
    }
}

impl Side {
    fn new(mut tap: TapPort, mut wire: WirePort) -> io::Result<Self> {
        let tap_fd = tap.descriptor()?;
        let (tap_rx, tap_tx) = tap.queue_pair(0)?;
        let (wire_rx, wire_tx) = wire.queue_pair(0)?;
        Ok(Self { tap, tap_fd, tap_rx, tap_tx, wire, wire_rx, wire_tx, oversize: 0 })
    }

    fn tap_to_wire(&mut self, now: Instant) -> usize {
        forward(&mut *self.tap_rx, &mut *self.wire_tx, &mut self.oversize, now)
    }

    fn wire_to_tap(&mut self, now: Instant) -> usize {
        forward(&mut *self.wire_rx, &mut *self.tap_tx, &mut self.oversize, now)
    }
}

/// Moves one burst. A whole burst fits into the free slots, so only length can be in the way.
fn forward(rx: &mut dyn RxQueue, tx: &mut dyn TxQueue, oversize: &mut u64, now: Instant) -> usize {
    let frames = rx.burst(now);
    if frames.is_empty() {
        return 0;
    }
    let mut burst = tx.burst();
    for frame in frames {
        match burst.next(frame.bytes.len()) {
            Some(room) => room.copy_from_slice(frame.bytes),
            None => *oversize += 1,
        }
    }
    tx.flush(now);
    frames.len()
}
