//! A connection as its owner uses it.
#![forbid(unsafe_code)]

use std::time::Duration;

use dmm_port::Instant;
use dmm_port::flow::Flow;
use dmm_proto::Breach;
use dmm_proto::op::{How, SocketOption};
use nix::errno::Errno;

use super::sender::Cork;
use super::{Connection, State, TIME_WAIT};
use crate::native::congestion::Algorithm;
use crate::sockets::{self, Owner, Rest};
use crate::{Fifos, SocketReport};

/// After so long in TIME-WAIT a connection makes way for one of ours with the same ends: as on Linux
/// (`tcp_tw_reuse`), a tick of the slowest clock that RFC 7323 section 5.4 allows.
const SUCCESSION_AFTER: Duration = Duration::from_secs(1);

impl Connection {
    /// Takes the place of a connection with the same ends: its own number is beyond `first`.
    pub(in super::super) fn begin_after(&mut self, first: u32) {
        let initial = self.sender.initial;
        if initial.wrapping_sub(first).cast_signed() < 0 {
            self.sender.initial = first;
        }
    }

    /// Ends the connection, with a reset if the peer knows of it (RFC 9293 section 3.10.5).
    pub(super) fn break_off(&mut self) {
        let known = !matches!(self.state, State::SynSent | State::TimeWait | State::Closed);
        self.state = State::Closed;
        self.reset_due |= known;
        self.sender.fifo = None;
    }
}

impl sockets::Connection for Connection {
    fn flow(&self) -> Flow {
        self.flow
    }

    fn owner(&self) -> Owner {
        self.owner
    }

    fn set_owner(&mut self, owner: Owner) {
        self.owner = owner;
    }

    fn adopt(&mut self, _now: Instant, fifos: Fifos) {
        (self.receiver.fifo, self.sender.fifo) = (Some(fifos.rx), Some(fifos.tx));
    }

    fn send(&mut self) {
        self.go_fast();
        self.room.hungry = true;
        if let Some(fifo) = &mut self.sender.fifo {
            // A breach is found again, and told, when the socket is served.
            let _ = fifo.hear();
        }
    }

    fn receive(&mut self) {
        self.receiver.stalled = false;
    }

    fn shut_down(&mut self, how: How) {
        self.go_fast();
        // As on Linux, what comes can still be read.
        self.sender.finishing |= how != How::Read;
    }

    fn set_option(&mut self, option: SocketOption, value: u32) -> Result<(), Errno> {
        self.options.set(option, value)?;
        match option {
            SocketOption::NoDelay => {
                self.sender.no_delay = self.options.no_delay;
                // As on Linux, it lets go of what a cork holds.
                if self.options.no_delay {
                    self.sender.push();
                }
            }
            SocketOption::Cork => self.sender.set_cork(match value {
                0 => Cork::Off,
                1 => Cork::On,
                _ => Cork::More,
            }),
            SocketOption::FastOpen if value != 0 => self.ask_fast(),
            SocketOption::CongestionControl => {
                // The same again changes nothing: it would forget what it has learned.
                let current = self.sender.control_number();
                if let Some(chosen) = self.options.congestion
                    && chosen as u8 != current
                {
                    let control = Algorithm::new(chosen.into(), self.chance);
                    self.ecn.count_marks(control.counts_marks());
                    self.sender.set_control(control);
                }
            }
            SocketOption::PacingRate => self.sender.set_pacing_rate(self.options.pacing_rate),
            SocketOption::TrainEnd => self.sender.end_train(value != 0),
            SocketOption::RecordEnd => self.sender.end_record(value),
            SocketOption::MaxSegment if self.state == State::SynSent => {
                self.mss = self.options.max_segment.map_or(self.mss, |most| most.min(self.mss));
            }
            _ => {}
        }
        Ok(())
    }

    fn close(&mut self, now: Instant, abort: bool) -> Rest {
        self.progress_at = now;
        let mut reset = abort || self.options.reset_on_close || self.is_opening();
        // RFC 2525 section 2.17: a regular end would claim that all data was read.
        reset |= self.receiver.discard();
        // What still comes has nobody to read it.
        self.receiver.deaf = true;
        if let Some(fifo) = &mut self.sender.fifo {
            // A last breach tells nothing new about an owner that is done with the socket.
            reset |= fifo.seal().is_err();
        }
        if reset {
            self.break_off();
        } else {
            self.sender.finishing = true;
        }
        if self.is_over() { Rest::Nothing } else { Rest::Something }
    }

    fn abort(&mut self) {
        self.break_off();
    }

    fn disown(&mut self) {
        self.receiver.fifo = None;
        self.break_off();
    }

    fn succession(&self, now: Instant) -> Option<u32> {
        // RFC 6191 section 2: by timestamps, which must have moved on.
        let waited = TIME_WAIT.saturating_sub(self.over_at?.since(now));
        let safe = self.stamps.on && waited >= SUCCESSION_AFTER;
        // As on Linux: beyond all that an old segment could hold.
        let beyond = self.sender.number(self.sender.next).wrapping_add(u32::from(u16::MAX) + 2);
        (self.state == State::TimeWait && safe).then_some(beyond)
    }

    fn opening_for(&self, now: Instant) -> Option<Duration> {
        let unanswered = self.sender.una == 0 && self.state != State::Closed;
        let opens = self.is_opening() || unanswered;
        opens.then(|| now.since(self.opened_at))
    }

    fn is_deferred(&self) -> bool {
        self.waits_for_owner()
    }

    fn trim(&mut self) -> Result<(), Breach> {
        // The room was promised.
        if self.waits_for_owner() || std::mem::take(&mut self.active) {
            return Ok(());
        }
        self.receiver.trim()?;
        self.sender.trim(self.room.hungry)
    }

    fn report(&self) -> SocketReport {
        SocketReport {
            socket: match self.owner {
                Owner::Socket(id) | Owner::Orphan(id) => Some(id),
                Owner::Backlog(_) | Owner::Nobody => None,
            },
            protocol: "tcp",
            state: self.shown_state().name(),
            local: self.flow.local,
            remote: Some(self.flow.remote),
            rx_queued: self.receiver.unread(),
            tx_queued: self.sender.queued(),
        }
    }
}
