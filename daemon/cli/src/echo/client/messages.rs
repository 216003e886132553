//! Messages over a connection: K in flight, each compared with what was sent.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use super::super::STALL;
use super::super::flow::{Flow, Turn};
use super::super::message::Pattern;
use super::super::sockets::{Stream, is_idle};
use super::Measured;
use super::plan::Plan;
use super::tally::Tally;

/// Bytes that one read takes at least, so that a deep pipeline costs few calls.
const READ_BYTES: usize = 64 << 10;

pub(super) struct Messages {
    stream: Stream,
    plan: Arc<Plan>,
    pattern: Arc<Pattern>,
    /// What is to be written, from `written` on.
    output: Vec<u8>,
    written: usize,
    /// What was read, up to `filled`: less than a message between turns.
    input: Vec<u8>,
    filled: usize,
    /// When each message in flight was sent, oldest first; they end before message `sent`.
    in_flight: VecDeque<Instant>,
    sent: u64,
    sent_measured: u64,
    last_progress: Instant,
    tally: Tally,
}

impl Messages {
    pub(super) fn new(stream: Stream, plan: Arc<Plan>, pattern: Arc<Pattern>) -> io::Result<Self> {
        stream.bound_reads()?;
        let input = vec![0; READ_BYTES.max(plan.size)];
        Ok(Self {
            stream,
            plan,
            pattern,
            output: Vec::new(),
            written: 0,
            input,
            filled: 0,
            in_flight: VecDeque::new(),
            sent: 0,
            sent_measured: 0,
            last_progress: Instant::now(),
            tally: Tally::new(),
        })
    }

    /// Lays out as many messages as may be in flight, all of the same moment.
    fn lay_out(&mut self, now: Instant) {
        while self.in_flight.len() < self.plan.depth && !self.plan.is_over(now, self.sent_measured)
        {
            self.pattern.write(&mut self.output, self.sent, self.plan.size);
            self.in_flight.push_back(now);
            self.sent += 1;
            self.sent_measured += u64::from(self.plan.counts(now));
        }
    }

    /// Writes what was laid out. Returns whether anything could be.
    fn write(&mut self) -> io::Result<bool> {
        let mut progress = false;
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(len) => {
                    self.written += len;
                    progress |= len > 0;
                }
                Err(error) if is_idle(&error) => return Ok(progress),
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(progress)
    }

    /// Reads and checks what came back. Returns whether anything did.
    fn read(&mut self) -> io::Result<bool> {
        let len = match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => len,
            Err(error) if is_idle(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        self.filled += len;
        let whole = self.filled - self.filled % self.plan.size;
        for message in self.input[..whole].chunks_exact(self.plan.size) {
            let number = self.sent - self.in_flight.len() as u64;
            let Some(sent) = self.in_flight.pop_front() else {
                return Err(io::Error::other("more came back than was sent"));
            };
            self.tally.received += 1;
            self.tally.errors += u64::from(!self.pattern.is(message, number));
            if self.plan.counts(sent) {
                self.tally.record(sent, now, message.len());
            }
        }
        self.input.copy_within(whole..self.filled, 0);
        self.filled -= whole;
        Ok(true)
    }
}

impl Flow for Messages {
    fn turn(&mut self) -> io::Result<Turn> {
        if self.in_flight.is_empty() {
            self.plan.pause();
        }
        let now = Instant::now();
        self.lay_out(now);
        if self.in_flight.is_empty() || self.plan.is_interrupted() {
            return Ok(Turn::Done);
        }
        let wrote = self.write()?;
        if self.read()? || wrote {
            self.last_progress = now;
            return Ok(Turn::Progress);
        }
        if now.duration_since(self.last_progress) > STALL {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(Turn::Idle)
    }
}

impl Measured for Messages {
    fn tally(&self) -> &Tally {
        &self.tally
    }
}
