//! A connection of the test kind: both halves and its life.
//!
//! Owns: the states below, and what the owner is told. Called for each segment and on each poll.
//! Must never: tell an owner that closed it anything but that it is gone.
//!
//! ```text
//!  Opening ─┐                       ┌─ both ends ─▶ Lingering ─ time ─▶ (gone)
//!           ├─ acknowledged ─▶ Open ┤
//!  Answering┘                       └─ reset, time out, abort ─▶ Over ─ close ─▶ (gone)
//! ```
#![forbid(unsafe_code)]

use std::time::Duration;

use dmm_port::{Instant, TxBurst};
use dmm_proto::Breach;
use nix::errno::Errno;

use super::receive::Receiver;
use super::segment::{ACK, END, Ends, HEADER_BYTES, OPEN, PROBE, RESET, Segment};
use super::send::Sender;
use crate::sockets::room::Room;
use crate::{Event, Fifos, SocketId, SocketReport};

/// How often an opening is repeated.
const OPENING_INTERVAL: Duration = Duration::from_millis(100);
/// How long the last acknowledgement can be repeated: longer than two of the longest timeouts.
const LINGER: Duration = Duration::from_secs(5);
/// How soon an exhausted quota is asked again.
const QUOTA_RETRY: Duration = Duration::from_millis(10);
/// An Ethernet header, which the MTU does not count.
const ETHERNET_BYTES: usize = 14;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// We opened it and have no answer.
    Opening,
    /// The peer opened it and has not confirmed our answer.
    Answering,
    /// Established.
    Open,
    /// Both directions have ended; the peer may not know.
    Lingering,
    /// Nothing more will be sent.
    Over,
}

/// What all connections of a stack share.
pub(super) struct Context {
    pub(super) mac: [u8; 6],
    pub(super) mtu: usize,
    pub(super) user_timeout: Duration,
}

/// A connection.
pub(super) struct Connection {
    pub(super) ends: Ends,
    pub(super) opening: u32,
    pub(super) state: State,
    /// Whose it is; `None` while it waits in a backlog.
    pub(super) owner: Option<SocketId>,
    /// The listener, if a peer opened it.
    pub(super) listener: Option<SocketId>,
    /// The owner closed it.
    pub(super) orphan: bool,
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    ended: bool,
    room: Room,
    /// Bytes moved since the last trim.
    active: bool,
    acknowledge: bool,
    /// The owner asked for something.
    stirred: bool,
    /// The peer is to hear that it is over.
    reset: bool,
    /// When its state or its sender got on last, if anything has to.
    progress_at: Instant,
    busy: bool,
    /// When to repeat an opening, end the lingering, or look at a FIFO again.
    timer: Option<Instant>,
}

impl Connection {
    /// A connection in its first state.
    pub(super) fn new(now: Instant, ends: Ends, opening: u32, state: State) -> Self {
        Self {
            ends,
            opening,
            state,
            owner: None,
            listener: None,
            orphan: false,
            sender: Sender::new(None),
            receiver: Receiver::new(None),
            ended: false,
            room: Room::default(),
            active: true,
            acknowledge: false,
            stirred: false,
            reset: false,
            progress_at: now,
            busy: false,
            timer: Some(now),
        }
    }

    /// Gives it an owner and FIFOs.
    pub(super) fn adopt(&mut self, owner: SocketId, fifos: Fifos) {
        self.owner = Some(owner);
        self.sender.fifo = Some(fifos.tx);
        self.receiver.fifo = Some(fifos.rx);
    }

    /// Grants first room, and tells the peer of ours.
    pub(super) fn established(&mut self, now: Instant) {
        (self.state, self.progress_at, self.acknowledge) = (State::Open, now, true);
        self.timer = None;
        if let Some(fifo) = &mut self.sender.fifo {
            fifo.grant();
        }
    }

    /// Takes a segment of this connection. What broke the contract is told by the caller.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        segment: &Segment,
        payload: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<(), Breach> {
        if segment.has(RESET) {
            self.tell(now, events)?;
            self.end(Errno::ECONNREFUSED, Errno::ECONNRESET, events);
            return Ok(());
        }
        // The peer repeats what we thought answered.
        match self.state {
            State::Answering if segment.has(OPEN) => self.timer = Some(now),
            State::Open if segment.has(OPEN) => self.acknowledge = true,
            _ => {}
        }
        if !segment.has(ACK) || matches!(self.state, State::Answering | State::Over) {
            return Ok(());
        }
        self.sender.refresh()?;
        if self.sender.acknowledged(now, segment.acknowledged, segment.window) {
            self.progress_at = now;
            (self.room.hungry, self.stirred) = (true, true);
        }
        if self.orphan && !payload.is_empty() && self.receiver.fifo.is_none() {
            self.abort();
            return Ok(());
        }
        self.receiver.take(segment.position, payload, segment.has(END))?;
        self.acknowledge |= !payload.is_empty() || segment.has(END) || segment.has(PROBE);
        let both = self.sender.is_done() && self.receiver.has_ended();
        if self.state == State::Open && both {
            self.state = State::Lingering;
            self.timer = Some(now + LINGER);
        }
        Ok(())
    }

    /// Ends it: an attempt fails with the first error, a connection with the second.
    pub(super) fn end(&mut self, refused: Errno, broken: Errno, events: &mut Vec<Event>) {
        let event = match (self.owner, self.state) {
            (Some(socket), State::Opening) => {
                Some(Event::Connected { socket, result: Err(refused) })
            }
            (Some(socket), State::Open) => Some(Event::Broken { socket, errno: broken }),
            _ => None,
        };
        events.extend(event.filter(|_| !self.orphan));
        self.state = State::Over;
        self.timer = None;
    }

    /// Ends it without a word to the owner, but one to the peer.
    pub(super) fn abort(&mut self) {
        self.reset = self.state != State::Opening && self.state != State::Over;
        (self.state, self.timer) = (State::Over, None);
        (self.sender.fifo, self.receiver.fifo) = (None, None);
    }

    /// Does what is due. Returns false if slots have run out.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        context: &Context,
        tx: &mut TxBurst<'_>,
        events: &mut Vec<Event>,
    ) -> Result<bool, Breach> {
        if self.reset {
            self.reset = self.segment(RESET, 0, 0).emit(context.mac, 0, tx).is_none();
            return Ok(!self.reset);
        }
        self.stirred = false;
        let due = self.timer.is_some_and(|at| at <= now);
        let opening = matches!(self.state, State::Opening | State::Answering);
        let busy = opening || self.sender.is_busy() || self.orphan;
        if !std::mem::replace(&mut self.busy, busy) {
            self.progress_at = now;
        } else if self.state != State::Over && self.progress_at + context.user_timeout <= now {
            self.end(Errno::ETIMEDOUT, Errno::ETIMEDOUT, events);
        }
        match self.state {
            State::Opening | State::Answering if due => {
                self.timer = Some(now + OPENING_INTERVAL);
                let flags = if self.state == State::Opening { OPEN } else { OPEN | ACK };
                return Ok(self.segment(flags, 0, 0).emit(context.mac, 0, tx).is_some());
            }
            State::Open | State::Lingering => {}
            _ => return Ok(true),
        }
        if due && self.state == State::Open {
            self.timer = None;
        }
        self.tell(now, events)?;
        self.sender.expire(now);
        self.send(now, context, tx)
    }

    /// Tells the owner of bytes, room and the end.
    fn tell(&mut self, now: Instant, events: &mut Vec<Event>) -> Result<(), Breach> {
        let Some(socket) = self.owner.filter(|_| !self.orphan) else { return Ok(()) };
        if self.receiver.fifo.as_mut().is_some_and(|fifo| fifo.publish()) {
            self.active = true;
            events.push(Event::Readable { socket });
        }
        if self.receiver.has_ended() && !std::mem::replace(&mut self.ended, true) {
            events.push(Event::Ended { socket });
        }
        self.sender.refresh()?;
        let Some(fifo) = &mut self.sender.fifo else { return Ok(()) };
        if self.room.hungry || fifo.queued() > 0 {
            let offer = self.room.offer(fifo)?;
            if offer.writable {
                self.active = true;
                events.push(Event::Writable { socket });
            }
            if offer.starved {
                self.timer = Some(now + QUOTA_RETRY);
            }
        }
        Ok(())
    }

    fn send(
        &mut self,
        now: Instant,
        context: &Context,
        tx: &mut TxBurst<'_>,
    ) -> Result<bool, Breach> {
        let most = context.mtu + ETHERNET_BYTES - HEADER_BYTES;
        while let Some(piece) = self.sender.next_piece(most) {
            if tx.free() == 0 {
                return Ok(false);
            }
            let mut flags = ACK;
            flags |= if piece.end { END } else { 0 };
            flags |= if piece.probe { PROBE } else { 0 };
            let window = self.receiver.window()?;
            let segment = self.segment(flags, piece.position, window);
            let Some(payload) = segment.emit(context.mac, piece.len, tx) else { return Ok(false) };
            self.sender.copy(&piece, payload);
            self.sender.sent(now, &piece);
            self.acknowledge = false;
        }
        self.sender.watch(now);
        if self.acknowledge || self.receiver.has_news()? {
            let window = self.receiver.window()?;
            let segment = self.segment(ACK, 0, window);
            if segment.emit(context.mac, 0, tx).is_none() {
                return Ok(false);
            }
            self.acknowledge = false;
        }
        Ok(true)
    }

    /// A segment of this connection.
    pub(super) fn segment(&self, flags: u16, position: u64, window: u32) -> Segment {
        let (ends, opening) = (self.ends, self.opening);
        Segment {
            flags,
            window,
            opening,
            position,
            acknowledged: self.receiver.acknowledged(),
            ends,
        }
    }

    /// The writer asked for room or wrote something.
    pub(super) fn hear(&mut self) -> Result<(), Breach> {
        (self.room.hungry, self.stirred) = (true, true);
        self.sender.fifo.as_mut().map_or(Ok(()), |fifo| fifo.hear())
    }

    /// Something is to be done at the next poll.
    pub(super) const fn stir(&mut self) {
        self.stirred = true;
    }

    /// The owner is done with it: what was written is still sent, unless bytes are unread (RFC 2525
    /// section 2.17).
    pub(super) fn close(&mut self, now: Instant, abort: bool) {
        self.orphan = true;
        self.progress_at = now;
        let unread = self
            .receiver
            .fifo
            .take()
            .is_some_and(|mut fifo| fifo.refresh().is_err() || fifo.unread() > 0);
        let sealed = self.sender.fifo.as_mut().is_none_or(|fifo| fifo.seal().is_ok());
        self.sender.finishing = true;
        if abort || unread || !sealed || self.state == State::Opening {
            self.abort();
        }
    }

    /// Gives chunks back if nothing moved since the last call.
    pub(super) fn trim(&mut self) -> Result<(), Breach> {
        if std::mem::take(&mut self.active) {
            return Ok(());
        }
        if let Some(fifo) = &mut self.receiver.fifo
            && self.receiver.ranges.is_empty()
        {
            fifo.let_go()?;
        }
        // A writer that is owed room would not ask again.
        if let Some(fifo) = &mut self.sender.fifo
            && !self.room.hungry
        {
            fifo.let_go()?;
        }
        Ok(())
    }

    /// Whether it can be forgotten.
    pub(super) fn is_gone(&self, now: Instant) -> bool {
        let unowned = self.orphan || self.owner.is_none();
        let lingered = self.state == State::Lingering && self.timer.is_some_and(|at| at <= now);
        unowned && !self.reset && (self.state == State::Over || lingered)
    }

    /// When to poll it.
    pub(super) fn deadline(&self, context: &Context) -> Option<Instant> {
        let patience = match self.state {
            State::Over => {
                let unowned = self.orphan || self.owner.is_none();
                return (self.reset || unowned).then_some(Instant::ZERO);
            }
            State::Opening | State::Answering => Some(self.progress_at + context.user_timeout),
            State::Open if self.sender.is_busy() || self.orphan => {
                Some(self.progress_at + context.user_timeout)
            }
            _ => None,
        };
        let most = context.mtu;
        let due = self.state == State::Open
            && (self.stirred || self.acknowledge || self.sender.next_piece(most).is_some());
        // An acknowledgement of the peer's end is repeated while lingering.
        let due = due || (self.state == State::Lingering && self.acknowledge);
        let due = due.then_some(Instant::ZERO);
        // A connection that its owner has not closed lingers for nobody.
        let timer = self.timer.filter(|_| self.state != State::Lingering || self.orphan);
        [patience, due, timer, self.sender.timer].into_iter().flatten().min()
    }

    /// As `ss` would show it.
    pub(super) fn report(&self) -> SocketReport {
        SocketReport {
            socket: self.owner,
            protocol: "tcp",
            state: match self.state {
                State::Opening => "SYN-SENT",
                State::Answering => "SYN-RECV",
                State::Open if self.sender.finishing => "FIN-WAIT-1",
                State::Open if self.ended => "CLOSE-WAIT",
                State::Open => "ESTAB",
                State::Lingering => "TIME-WAIT",
                State::Over => "UNCONN",
            },
            local: self.ends.local,
            remote: Some(self.ends.remote),
            rx_queued: self.receiver.fifo.as_ref().map_or(0, |fifo| fifo.unread()),
            tx_queued: self.sender.queued(),
        }
    }
}
