//! The queues of a wire's ports.
//!
//! Owns: the rows of buffers lent to one worker. Called through [`RxQueue`] and [`TxQueue`]. Must
//! never: decide anything; the direction does.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::direction::Direction;
use crate::buffer::{RxRow, TxRow};
use crate::{BURST, Instant, RxFrame, RxQueue, TxBurst, TxQueue, Wake};

pub(super) struct WireRx {
    direction: Arc<Direction>,
    lane: usize,
    row: RxRow,
}

impl WireRx {
    pub(super) fn new(direction: Arc<Direction>, lane: usize) -> Self {
        Self { direction, lane, row: RxRow::with_capacity(BURST) }
    }
}

impl RxQueue for WireRx {
    fn burst(&mut self, now: Instant) -> &[RxFrame<'_>] {
        self.direction.receive(self.lane, &mut self.row, now);
        self.row.frames()
    }

    fn wake(&self) -> Wake {
        Wake::Fd(self.direction.doorbell(self.lane))
    }

    fn arm(&mut self) -> std::io::Result<()> {
        self.direction.arm(self.lane);
        Ok(())
    }

    fn disarm(&mut self) {
        self.direction.disarm(self.lane);
    }

    fn deadline(&self) -> Option<Instant> {
        self.direction.deadline(self.lane)
    }
}

pub(super) struct WireTx {
    direction: Arc<Direction>,
    row: TxRow,
    dropped: u64,
}

impl WireTx {
    pub(super) fn new(direction: Arc<Direction>) -> Self {
        Self { direction, row: TxRow::new(), dropped: 0 }
    }
}

impl TxQueue for WireTx {
    fn burst(&mut self) -> TxBurst<'_> {
        self.direction.refill(&mut self.row);
        self.row.burst()
    }

    fn flush(&mut self, now: Instant) {
        if self.row.used() > 0 {
            self.dropped += self.direction.send(&mut self.row, now);
        }
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}
