//! The wire between two ports, in real time: an impaired cable for kernels and processes.
//!
//! Owns: two ports and a wire between them. Called by the `dmm-wire` program, which owns the clock.
//! Must never: spin; it sleeps until a frame arrives or one in flight is due, or naps where a port
//! gives no notice of frames.
//!
//! ```text
//! kernel or process ◀─▶ left port ◀─▶ wire's left end ··· its right end ◀─▶ right port ◀─▶ ...
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

/// How long to sleep at most beside a port that gives no notice: some round-trip time more.
const NAP: Duration = Duration::from_micros(50);

/// Bursts forwarded in one turn at most before the stop descriptor is looked at.
const BURSTS_PER_TURN: usize = 8;

/// A running relay.
pub struct Relay {
    left: Side,
    right: Side,
}

/// A port that can be joined with another.
pub struct Plug {
    port: Box<dyn Port>,
    /// Readable while frames wait.
    notice: Option<OwnedFd>,
}

impl Plug {
    /// A TAP interface.
    ///
    /// # Errors
    /// If there is no descriptor left for it.
    pub fn tap(tap: TapPort) -> io::Result<Self> {
        Ok(Self { notice: Some(tap.descriptor()?), port: Box::new(tap) })
    }

    /// Any port, which is asked for frames again and again.
    #[must_use]
    pub fn port(port: Box<dyn Port>) -> Self {
        Self { port, notice: None }
    }
}

/// A port and the end of the wire plugged into it.
struct Side {
    port: Box<dyn Port>,
    notice: Option<OwnedFd>,
    port_rx: Box<dyn RxQueue>,
    port_tx: Box<dyn TxQueue>,
    wire: WirePort,
    wire_rx: Box<dyn RxQueue>,
    wire_tx: Box<dyn TxQueue>,
    /// Frames too long for where they go, because somebody raised an MTU meanwhile.
    oversize: u64,
}

/// What became of the frames that came by one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayStats {
    /// What the wire did with them.
    pub wire: WireStats,
    /// Frames that were too long for the wire or the other port.
    pub oversize: u64,
    /// Frames that the other port did not take, being down or full.
    pub refused: u64,
}

impl Relay {
    /// Joins two ports by a wire. Its MTU is that of the ports, the larger of the two, and it has one
    /// queue, whatever `config` says.
    ///
    /// # Errors
    /// What the wire or a port gives.
    pub fn new(left: Plug, right: Plug, config: &WireConfig) -> io::Result<Self> {
        let mtu = left.port.info().mtu.max(right.port.info().mtu);
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

    /// The counters of the frames that came by the left port, and of those by the right one.
    #[must_use]
    pub fn stats(&self) -> [RelayStats; 2] {
        let one = |from: &Side, to: &Side| RelayStats {
            wire: from.wire.tx_wire_stats(),
            oversize: from.oversize + from.port.stats().rx_errors,
            refused: to.port_tx.dropped(),
        };
        [one(&self.left, &self.right), one(&self.right, &self.left)]
    }

    /// Forwards a bounded number of bursts. Returns whether there may be more.
    fn turn(&mut self, clock: &impl Fn() -> Instant) -> bool {
        for _ in 0..BURSTS_PER_TURN {
            let now = clock();
            let moved = self.left.port_to_wire(now)
                + self.right.port_to_wire(now)
                + self.left.wire_to_port(now)
                + self.right.wire_to_port(now);
            if moved == 0 {
                return false;
            }
        }
        true
    }

    /// How long to sleep if nothing gives notice: until a frame in flight is due, or for a nap.
    fn idle_for(&self, now: Instant) -> Option<Duration> {
        let sides = [&self.left, &self.right];
        let deadlines = sides.map(|side| side.wire_rx.deadline());
        let due = deadlines.into_iter().flatten().min().map(|due| due.since(now));
        let naps = sides.iter().any(|side| side.notice.is_none());
        if naps { Some(due.map_or(NAP, |due| due.min(NAP))) } else { due }
    }

    /// Sleeps until a port has a frame or the time is over. Returns whether `stop` is readable.
    fn sleep(&self, stop: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let noticing = [&self.left, &self.right];
        let noticing = noticing.into_iter().filter_map(|side| Some((side, side.notice.as_ref()?)));
        let mut fds = vec![readable(stop)];
        fds.extend(noticing.clone().map(|(_, notice)| readable(notice.as_fd())));
        match ppoll(&mut fds, timeout.map(TimeSpec::from_duration), None) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
        for (fd, (side, _)) in fds[1..].iter().zip(noticing) {
            // A deleted interface reports this for ever: waiting for it would spin.
            if fd.revents().is_some_and(|events| events.contains(PollFlags::POLLERR)) {
                return Err(TapError::Gone(side.port.info().name.clone()).into());
            }
        }
        Ok(fds[0].any().unwrap_or(true))
    }
}

impl Side {
    fn new(plug: Plug, mut wire: WirePort) -> io::Result<Self> {
        let Plug { mut port, notice } = plug;
        let (port_rx, port_tx) = port.queue_pair(0)?;
        let (wire_rx, wire_tx) = wire.queue_pair(0)?;
        Ok(Self { port, notice, port_rx, port_tx, wire, wire_rx, wire_tx, oversize: 0 })
    }

    fn port_to_wire(&mut self, now: Instant) -> usize {
        forward(&mut *self.port_rx, &mut *self.wire_tx, &mut self.oversize, now)
    }

    fn wire_to_port(&mut self, now: Instant) -> usize {
        forward(&mut *self.wire_rx, &mut *self.port_tx, &mut self.oversize, now)
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
