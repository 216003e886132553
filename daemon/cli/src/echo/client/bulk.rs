//! One stream in one direction: the pattern, for as long as the plan says, then the server's count.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use super::super::STALL;
use super::super::flow::{Flow, Turn};
use super::super::message::Pattern;
use super::super::server::TRAILER_BYTES;
use super::super::sockets::{Stream, is_idle};
use super::Measured;
use super::plan::Plan;
use super::tally::Tally;

pub(super) struct Bulk {
    stream: Stream,
    plan: Arc<Plan>,
    pattern: Arc<Pattern>,
    /// Bytes written.
    position: u64,
    /// Bytes of them that count.
    measured: u64,
    /// What came of the server's count, once everything is written.
    trailer: Option<Vec<u8>>,
    last_progress: Instant,
    tally: Tally,
}

impl Bulk {
    pub(super) fn new(stream: Stream, plan: Arc<Plan>, pattern: Arc<Pattern>) -> io::Result<Self> {
        stream.bound_reads()?;
        Ok(Self {
            stream,
            plan,
            pattern,
            position: 0,
            measured: 0,
            trailer: None,
            last_progress: Instant::now(),
            tally: Tally::new(),
        })
    }

    /// Writes once more, or ends the stream.
    fn write(&mut self, now: Instant) -> io::Result<bool> {
        let left = self.plan.bytes.map_or(u64::MAX, |bytes| bytes - self.measured);
        if left == 0 || self.plan.is_over(now, 0) {
            self.stream.finish()?;
            self.trailer = Some(Vec::with_capacity(TRAILER_BYTES));
            return Ok(true);
        }
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(self.plan.size);
        match self.stream.write(self.pattern.at(self.position, len)) {
            Ok(len) => {
                self.position += len as u64;
                if self.plan.counts(now) {
                    self.measured += len as u64;
                }
                Ok(len > 0)
            }
            Err(error) if is_idle(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads on the server's count.
    fn read(&mut self) -> io::Result<bool> {
        let Some(trailer) = &mut self.trailer else { return Ok(false) };
        let mut bytes = [0; TRAILER_BYTES];
        match self.stream.read(&mut bytes[trailer.len()..]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => {
                let start = trailer.len();
                trailer.extend_from_slice(&bytes[start..start + len]);
                Ok(true)
            }
            Err(error) if is_idle(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Compares the server's count with ours.
    fn check(&mut self) -> bool {
        let Some(trailer) = &self.trailer else { return false };
        let (Some(taken), Some(wrong)) = (trailer.first_chunk(), trailer.last_chunk()) else {
            return false;
        };
        if trailer.len() < TRAILER_BYTES {
            return false;
        }
        let (taken, wrong) = (u64::from_le_bytes(*taken), u64::from_le_bytes(*wrong));
        self.tally.confirm(self.measured, Instant::now());
        self.tally.errors += wrong + u64::from(taken != self.position);
        true
    }
}

impl Flow for Bulk {
    fn turn(&mut self) -> io::Result<Turn> {
        let now = Instant::now();
        let progress = if self.trailer.is_some() { self.read()? } else { self.write(now)? };
        if self.check() {
            return Ok(Turn::Done);
        }
        if progress {
            self.last_progress = now;
            return Ok(Turn::Progress);
        }
        if now.duration_since(self.last_progress) > STALL {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(Turn::Idle)
    }
}

impl Measured for Bulk {
    fn tally(&self) -> &Tally {
        &self.tally
    }
}
