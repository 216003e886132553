//! A TCP connection: the library's socket and the FIFOs that it is copied from and to.
//!
//! Owns: both, and what the owner has been told. Called when the connection is served. Must never:
//! touch the owner's shared lines once it has been closed, or read more than fits.
//!
//! The library keeps sent bytes in a buffer of its own until they are acknowledged, so the tx FIFO
//! is done with them when they are handed over; and received bytes wait in its buffer, closing the
//! window, while the rx FIFO has no room.
#![forbid(unsafe_code)]

use std::time::Duration;

use ::smoltcp::iface::SocketSet;
use ::smoltcp::socket::tcp;
use ::smoltcp::wire::TcpSeqNumber;
use dmm_port::Instant;
use dmm_port::flow::Flow;
use dmm_proto::Breach;
use dmm_proto::fifo::{RxFifo, TxFifo};
use dmm_proto::op::{How, SocketOption};
use nix::errno::Errno;

use super::link::Socket;
use super::memory::{Memory, Tcp};
use super::sequence::{CHALLENGE_EVERY, Sequence, Verdict};
use crate::sockets::backoff::Backoff;
use crate::sockets::options::Options;
use crate::sockets::room::Room;
use crate::sockets::{self, HALF_OPEN_LIFE, Moved, NEIGHBOUR_PATIENCE, Owner, Rest};
use crate::{Fifos, SocketReport};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its handshake is under way.
    Opening,
    /// It was established.
    Open,
    /// Nothing more will happen, but perhaps a reset to be sent.
    Over,
}

/// Why a connection is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GivingUp {
    /// The peer does not answer.
    Silence,
    /// The neighbour does not answer.
    Neighbour,
}

/// A connection.
pub(super) struct Connection {
    /// The library's socket.
    tcp: Tcp,
    /// How far it has sent.
    sequence: Sequence,
    /// Both ends.
    pub(super) flow: Flow,
    /// Whose it is.
    pub(super) owner: Owner,
    /// How far it is.
    pub(super) phase: Phase,
    /// Where received bytes go, while it has an owner that kept the contract.
    pub(super) rx: Option<RxFifo>,
    /// Where bytes to send come from, once it has had an owner.
    pub(super) tx: Option<TxFifo>,
    /// Its options.
    pub(super) options: Options,
    /// Send a FIN when everything that was written is handed over.
    pub(super) finishing: bool,
    /// Received bytes are thrown away.
    pub(super) deaf: bool,
    /// The peer's FIN was told.
    pub(super) ended: bool,
    /// The reader was asked to say when there is room.
    pub(super) stalled: bool,
    /// What the writer wants.
    pub(super) room: Room,
    /// Waits for a neighbour's address, and since when.
    pub(super) neighbour_since: Option<Instant>,
    /// Bytes moved since the last trim.
    pub(super) active: bool,
    /// When to look again at a FIFO that found no chunk.
    backoff: Backoff,
    opened_at: Instant,
    /// How long the peer took to answer our first segment, retransmissions included.
    round_trip: Duration,
    heard_at: Instant,
    /// Since when something waits for the peer's acknowledgement.
    busy_since: Option<Instant>,
    /// When the peer was last asked whether it meant to end the connection.
    challenged_at: Option<Instant>,
    /// The last sign that an orphan gets on, and what it looked like then.
    progress_at: Instant,
    progress: (u64, tcp::State),
}

/// What a connection has received in order at a moment.
pub(super) struct Intake {
    pub(super) state: tcp::State,
    queued: usize,
    next: Option<TcpSeqNumber>,
}

impl Connection {
    /// A connection whose handshake begins.
    pub(super) fn new(
        now: Instant,
        tcp: Tcp,
        flow: Flow,
        owner: Owner,
        fifos: Option<Fifos>,
        options: Options,
    ) -> Self {
        let (rx, tx) = fifos.map_or((None, None), |Fifos { rx, tx }| (Some(rx), Some(tx)));
        Self {
            tcp,
            sequence: Sequence::default(),
            flow,
            owner,
            phase: Phase::Opening,
            rx,
            tx,
            options,
            finishing: false,
            deaf: false,
            ended: false,
            stalled: false,
            room: Room::default(),
            neighbour_since: None,
            active: true,
            backoff: Backoff::default(),
            opened_at: now,
            round_trip: Duration::ZERO,
            heard_at: now,
            busy_since: None,
            challenged_at: None,
            progress_at: now,
            progress: (0, tcp::State::Closed),
        }
    }

    /// The library's socket.
    pub(super) const fn tcp(&mut self) -> &mut Tcp {
        &mut self.tcp
    }

    /// The set with the library's socket in it, to be looked at.
    pub(super) const fn sockets(&self) -> &SocketSet<'static> {
        self.tcp.sockets()
    }

    /// Its turn to receive or to send.
    pub(super) fn turn(&mut self) -> Socket<'_> {
        Socket { sockets: self.tcp.lend(), sequence: Some(&mut self.sequence) }
    }

    /// The protocol's state.
    pub(super) fn state(&self) -> tcp::State {
        self.tcp.state()
    }

    /// The memory of the library's socket, to be used again.
    pub(super) fn into_memory(self) -> Memory {
        self.tcp.into_memory()
    }

    /// What is to become of a segment for it.
    pub(super) fn judge(&self, frame: &[u8]) -> Verdict {
        self.sequence.judge(frame, self.state())
    }

    /// What is to be said to a peer that may want to end the connection, if it was not just said.
    pub(super) fn challenge(&mut self, now: Instant) -> Option<(TcpSeqNumber, TcpSeqNumber, u16)> {
        if self.challenged_at.is_some_and(|at| now.since(at) < CHALLENGE_EVERY) {
            return None;
        }
        let numbers = self.sequence.acknowledgement()?;
        self.challenged_at = Some(now);
        Some(numbers)
    }

    /// What it has received in order, to be compared by [`Connection::received`].
    pub(super) fn intake(&self) -> Intake {
        let state = self.state();
        Intake { state, queued: self.tcp.recv_queue(), next: self.sequence.next() }
    }

    /// Notes what the library took since `before`. Returns whether it took anything: a segment
    /// that changed nothing is a duplicate, early, or damaged.
    pub(super) fn received(&mut self, before: &Intake) -> bool {
        let (state, queued) = (self.state(), self.tcp.recv_queue());
        // The peer's FIN takes a number of its own, and these are the states that it leads to.
        let ended = [tcp::State::CloseWait, tcp::State::Closing, tcp::State::TimeWait];
        let fin = ended.contains(&state) && !ended.contains(&before.state);
        let len = queued.saturating_sub(before.queued);
        self.sequence.accepted(before.next, len + usize::from(fin));
        state != before.state || len > 0
    }

    /// The peer said something. Returns whether the library is to be shown it again, see
    /// [`Sequence::received`].
    pub(super) fn heard(&mut self, now: Instant, frame: &[u8]) -> bool {
        if self.phase == Phase::Opening {
            self.round_trip = now.since(self.opened_at);
        }
        self.heard_at = now;
        self.neighbour_since = None;
        self.sequence.received(frame) && self.tcp.send_queue() > 0
    }

    /// The library is to be shown the peer's latest acknowledgement again, if that is due.
    pub(super) fn probe(&mut self, now: Instant) -> Option<Vec<u8>> {
        let due = self.probe_at().is_some_and(|at| at <= now);
        due.then(|| self.sequence.probe().to_vec())
    }

    /// When that will be due.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        let since = self.busy_since?.max(self.heard_at);
        // With a FIN alone under way the library would find nothing to send again, and forget its timer.
        let open = self.phase == Phase::Open && self.tcp.send_queue() > 0;
        open.then(|| self.sequence.probe_at(since, self.round_trip)).flatten()
    }

    /// Moves bytes between the FIFOs and the library's buffers as far as both sides allow.
    pub(super) fn exchange(&mut self, now: Instant) -> Result<Moved, Breach> {
        let mut moved = Moved::default();
        let mut starved = self.deliver(&mut moved)?;
        starved |= self.collect(&mut moved)?;
        if moved.readable || moved.writable || !starved {
            self.backoff.fed();
        }
        if starved {
            self.backoff.starved(now);
        }
        Ok(moved)
    }

    /// Library to rx FIFO. Returns whether it wants for chunks.
    fn deliver(&mut self, moved: &mut Moved) -> Result<bool, Breach> {
        let mut starved = false;
        let socket = &mut self.tcp;
        if self.deaf {
            while socket.recv(|bytes| (bytes.len(), bytes.len())).is_ok_and(|len| len > 0) {}
        } else if let Some(rx) = &mut self.rx {
            rx.refresh()?;
            // The library's buffer is a ring: its contents are two slices at most. A third turn
            // looks for room that the reader made while it was asked to say so.
            for _ in 0..3 {
                let _ = socket.recv(|bytes| (rx.write(bytes), ()));
                if !socket.can_recv() {
                    break;
                }
                if rx.room() == 0 && !self.stalled {
                    self.stalled = true;
                    rx.stall();
                    rx.refresh()?;
                }
            }
            moved.readable = rx.publish();
            self.active |= moved.readable;
            starved = socket.can_recv() && rx.room() > 0;
        }
        if !self.ended && matches!(self.owner, Owner::Socket(_)) {
            let finished = socket.recv(|_| (0, ())) == Err(tcp::RecvError::Finished);
            self.ended = finished;
            moved.ended = finished;
        }
        Ok(starved)
    }

    /// Tx FIFO to library. Returns whether it wants for chunks.
    fn collect(&mut self, moved: &mut Moved) -> Result<bool, Breach> {
        let socket = &mut self.tcp;
        let Some(tx) = &mut self.tx else { return Ok(false) };
        tx.refresh()?;
        let (mut taken, mut starved) = (0, false);
        // As above: the free part of a ring is two slices at most.
        for _ in 0..2 {
            if tx.queued() == 0 || !socket.can_send() {
                break;
            }
            let copied = socket.send(|room| {
                let len = tx.copy_out(0, room);
                (len, len)
            });
            let len = copied.unwrap_or(0);
            tx.consume(len);
            taken += len;
        }
        if self.finishing && tx.queued() == 0 {
            socket.close();
        }
        self.active |= taken > 0;
        let written_to = matches!(self.owner, Owner::Socket(_));
        if written_to && (taken > 0 || self.room.hungry) {
            let offer = self.room.offer(tx)?;
            moved.writable = offer.writable;
            self.active |= offer.writable;
            starved = offer.starved;
        }
        Ok(starved)
    }

    /// Notes what the service that ends now has come to.
    pub(super) fn settle(&mut self, now: Instant) {
        let socket = &self.tcp;
        let state = socket.state();
        // In these states a SYN or FIN of ours waits for its acknowledgement (RFC 9293 3.3.2).
        let control = matches!(
            state,
            tcp::State::SynSent
                | tcp::State::SynReceived
                | tcp::State::FinWait1
                | tcp::State::Closing
                | tcp::State::LastAck
        );
        if control || socket.send_queue() > 0 {
            self.busy_since.get_or_insert(now);
        } else {
            self.busy_since = None;
        }
        let progress = (self.unsent() + self.tcp.send_queue() as u64, state);
        if progress != self.progress {
            self.progress = progress;
            self.progress_at = now;
        }
    }

    fn unsent(&self) -> u64 {
        self.tx.as_ref().map_or(0, TxFifo::queued)
    }

    /// When to give the connection up if nothing changes, and why.
    pub(super) fn gives_up_at(&self) -> Option<(Instant, GivingUp)> {
        let patience = self.options.user_timeout;
        if self.phase == Phase::Over || self.state() == tcp::State::TimeWait {
            return None;
        }
        if let (Phase::Opening, Some(since)) = (self.phase, self.neighbour_since) {
            return Some((since + NEIGHBOUR_PATIENCE, GivingUp::Neighbour));
        }
        let at = match (self.phase, self.owner) {
            (Phase::Opening, Owner::Backlog(_)) => self.opened_at + HALF_OPEN_LIFE,
            (Phase::Opening, _) => self.opened_at + patience,
            (_, Owner::Orphan(_) | Owner::Nobody) => self.progress_at + patience,
            _ => match (self.busy_since, self.options.keep_alive) {
                (Some(since), _) => since.max(self.heard_at) + patience,
                (None, Some(interval)) => self.heard_at + interval + patience,
                (None, None) => return None,
            },
        };
        Some((at, GivingUp::Silence))
    }

    /// When to look again at a FIFO that found no chunk.
    pub(super) const fn retry_at(&self) -> Option<Instant> {
        self.backoff.at()
    }

    /// Whether nothing is left to be done for a connection without owner.
    pub(super) fn is_finished(&self) -> bool {
        let socket = &self.tcp;
        // The library forgets the other end once a reset is sent.
        socket.state() == tcp::State::Closed && socket.remote_endpoint().is_none()
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

    fn adopt(&mut self, now: Instant, fifos: Fifos) {
        (self.rx, self.tx) = (Some(fifos.rx), Some(fifos.tx));
        self.settle(now);
    }

    fn send(&mut self) {
        self.room.hungry = true;
        if let Some(tx) = &mut self.tx {
            // A breach is found again, and told, when the socket is served.
            let _ = tx.hear();
        }
    }

    fn receive(&mut self) {
        self.stalled = false;
    }

    fn shut_down(&mut self, how: How) {
        self.deaf |= how != How::Write;
        self.finishing |= how != How::Read;
    }

    fn set_option(&mut self, option: SocketOption, value: u32) -> Result<(), Errno> {
        match option {
            // As Linux has it for one that it does not have.
            SocketOption::CongestionControl => return Err(Errno::ENOENT),
            SocketOption::PacingRate => return Err(Errno::ENOPROTOOPT),
            _ => self.options.set(option, value)?,
        }
        self.tcp.set_options(&self.options);
        Ok(())
    }

    fn close(&mut self, now: Instant, abort: bool) -> Rest {
        self.progress_at = now;
        let mut reset = abort || self.options.reset_on_close;
        reset |= self.phase == Phase::Opening;
        // RFC 2525 section 2.17: a regular end would claim that all data was read.
        reset |= self.tcp.can_recv() && !self.deaf;
        if let Some(mut rx) = self.rx.take() {
            reset |= rx.refresh().is_err() || (rx.unread() > 0 && !self.deaf);
        }
        if let Some(tx) = &mut self.tx {
            // A last breach tells nothing new about an owner that is done with the socket.
            reset |= tx.seal().is_err();
        }
        if !reset {
            self.finishing = true;
            return Rest::Something;
        }
        self.tx = None;
        // RFC 9293 section 3.10.4: a SYN that was not answered needs no reset.
        if self.state() == tcp::State::SynSent {
            return Rest::Nothing;
        }
        sockets::Connection::abort(self);
        Rest::Something
    }

    fn abort(&mut self) {
        self.phase = Phase::Over;
        self.tcp.abort();
    }

    fn disown(&mut self) {
        (self.rx, self.tx) = (None, None);
        sockets::Connection::abort(self);
    }

    fn opening_for(&self, now: Instant) -> Option<Duration> {
        (self.phase == Phase::Opening).then(|| now.since(self.opened_at))
    }

    fn trim(&mut self) -> Result<(), Breach> {
        let idle = !std::mem::take(&mut self.active);
        if let (true, Some(rx)) = (idle, &mut self.rx) {
            rx.let_go()?;
        }
        // A writer that is owed room would not ask again.
        if let (true, false, Some(tx)) = (idle, self.room.hungry, &mut self.tx) {
            tx.let_go()?;
        }
        Ok(())
    }

    fn report(&self) -> SocketReport {
        let socket = &self.tcp;
        let unread = self.rx.as_ref().map_or(0, RxFifo::unread);
        SocketReport {
            socket: match self.owner {
                Owner::Socket(id) | Owner::Orphan(id) => Some(id),
                Owner::Backlog(_) | Owner::Nobody => None,
            },
            protocol: "tcp",
            state: state_name(socket.state()),
            local: self.flow.local,
            remote: Some(self.flow.remote),
            rx_queued: unread + socket.recv_queue() as u64,
            tx_queued: self.unsent() + socket.send_queue() as u64,
        }
    }
}

const fn state_name(state: tcp::State) -> &'static str {
    match state {
        tcp::State::Closed => "UNCONN",
        tcp::State::Listen => "LISTEN",
        tcp::State::SynSent => "SYN-SENT",
        tcp::State::SynReceived => "SYN-RECV",
        tcp::State::Established => "ESTAB",
        tcp::State::FinWait1 => "FIN-WAIT-1",
        tcp::State::FinWait2 => "FIN-WAIT-2",
        tcp::State::CloseWait => "CLOSE-WAIT",
        tcp::State::Closing => "CLOSING",
        tcp::State::LastAck => "LAST-ACK",
        tcp::State::TimeWait => "TIME-WAIT",
    }
}
