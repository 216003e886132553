//! Messages in datagrams: told apart by their numbers, since they may be lost, come twice or in
//! another order.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::flow::{Flow, Turn, pause};
use super::super::message::{Pattern, number_of};
use super::super::sockets::{Datagram, is_idle};
use super::super::{DATAGRAM_MAX, PATIENCE, STALL};
use super::Measured;
use super::plan::Plan;
use super::tally::Tally;

/// After this a datagram counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(1);

/// How often the farewell is sent; each may be lost.
const FAREWELLS: u32 = 10;

pub(super) struct Datagrams {
    socket: Datagram,
    plan: Arc<Plan>,
    pattern: Arc<Pattern>,
    output: Vec<u8>,
    input: Vec<u8>,
    /// Numbers in flight and when they were sent, oldest first.
    in_flight: VecDeque<(u64, Instant)>,
    next: u64,
    sent_measured: u64,
    last_progress: Instant,
    tally: Tally,
}

impl Datagrams {
    pub(super) fn new(
        socket: Datagram,
        plan: Arc<Plan>,
        pattern: Arc<Pattern>,
    ) -> io::Result<Self> {
        socket.set_read_timeout(PATIENCE)?;
        Ok(Self {
            socket,
            plan,
            pattern,
            output: Vec::new(),
            input: vec![0; DATAGRAM_MAX],
            in_flight: VecDeque::new(),
            next: 0,
            sent_measured: 0,
            last_progress: Instant::now(),
            tally: Tally::new(),
        })
    }

    /// Sends as many messages as may be in flight.
    fn send(&mut self, now: Instant) -> io::Result<()> {
        while self.in_flight.len() < self.plan.depth && !self.plan.is_over(now, self.sent_measured)
        {
            self.output.clear();
            self.pattern.write(&mut self.output, self.next, self.plan.size);
            match self.socket.send(&self.output) {
                Ok(_) => {}
                Err(error) if is_idle(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
            self.in_flight.push_back((self.next, now));
            self.next += 1;
            self.sent_measured += u64::from(self.plan.counts(now));
        }
        Ok(())
    }

    /// Receives and checks one datagram. Returns whether there was one.
    fn receive(&mut self) -> io::Result<bool> {
        let len = match self.socket.recv(&mut self.input) {
            Ok(len) => len,
            Err(error) if is_idle(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        let bytes = &self.input[..len];
        let found = number_of(bytes)
            .and_then(|number| self.in_flight.iter().position(|&(other, _)| other == number));
        let Some((number, sent)) = found.and_then(|at| self.in_flight.remove(at)) else {
            // One that came late or twice has a number that was sent; anything else is wrong.
            let known = number_of(bytes).is_some_and(|number| number < self.next);
            self.tally.errors += u64::from(!known);
            return Ok(true);
        };
        self.tally.received += 1;
        let right = len == self.plan.size && self.pattern.is(bytes, number);
        self.tally.errors += u64::from(!right);
        if self.plan.counts(sent) {
            self.tally.record(sent, now, len);
        }
        Ok(true)
    }

    /// Gives up datagrams that are out for too long.
    fn forget(&mut self, now: Instant) {
        while let Some(&(_, sent)) = self.in_flight.front()
            && now.duration_since(sent) > LOST_AFTER
        {
            self.in_flight.pop_front();
            self.tally.lost += u64::from(self.plan.counts(sent));
        }
    }

    /// Says goodbye with an empty datagram, by which a server with `--once` knows that this client is
    /// gone. One that does not answer is left alone.
    fn part(&mut self) -> io::Result<()> {
        for _ in 0..FAREWELLS {
            if let Err(error) = self.socket.send(&[])
                && !is_idle(&error)
            {
                return Ok(());
            }
            let deadline = Instant::now() + PATIENCE;
            while Instant::now() < deadline {
                match self.socket.recv(&mut self.input) {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) if is_idle(&error) => pause(),
                    // ECONNREFUSED: the server is gone already.
                    Err(_) => return Ok(()),
                }
            }
        }
        Ok(())
    }
}

impl Flow for Datagrams {
    fn turn(&mut self) -> io::Result<Turn> {
        if self.in_flight.is_empty() {
            self.plan.pause();
        }
        let now = Instant::now();
        self.send(now)?;
        let all_back = self.in_flight.is_empty() && self.plan.is_over(now, self.sent_measured);
        if all_back || self.plan.is_interrupted() {
            self.part()?;
            return Ok(Turn::Done);
        }
        if self.receive()? {
            self.last_progress = now;
            return Ok(Turn::Progress);
        }
        self.forget(now);
        if now.duration_since(self.last_progress) > STALL {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(Turn::Idle)
    }
}

impl Measured for Datagrams {
    fn tally(&self) -> &Tally {
        &self.tally
    }
}
