//! A TCP connection (RFC 9293).
//!
//! Owns: [`Connection`], which joins a [`Sender`] and a [`Receiver`] and knows the state between them. Called
//! for each segment, request and timer of one connection. Must never: look at another, or at a clock.
//!
//! ```text
//!   segment ─▶ input ─┬─▶ receiver ─▶ rx FIFO
//!                     └─▶ sender ◀── tx FIFO
//!   output ◀── what is lost, what is new, what is to be acknowledged
//! ```
#![forbid(unsafe_code)]

mod acks;
mod cookie;
mod ecn;
mod fast;
mod info;
mod input;
mod output;
mod owner;
mod position;
mod receiver;
mod rtt;
mod saved;
mod scoreboard;
mod sender;
mod stamps;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use std::hash::Hasher;
use std::net::IpAddr;
use std::time::Duration;

use dmm_port::Instant;
use dmm_port::flow::Flow;
use dmm_proto::Breach;
use siphasher::sip::SipHasher13;

use super::congestion::Algorithm;
use super::segment::{Segment, flag};
use crate::Fifos;
use crate::config::{self, Congestion, Features, StackConfig};
use crate::ip::neighbours::Purpose;
use crate::ip::packet::ip_bytes;
use crate::sockets::backoff::Backoff;
use crate::sockets::options::Options;
use crate::sockets::room::Room;
use crate::sockets::{HALF_OPEN_LIFE, Moved, NEIGHBOUR_PATIENCE, Owner};
use acks::Acks;
pub(super) use cookie::Cookies;
use ecn::Ecn;
use fast::Fast;
pub(super) use input::{Arrival, Trouble};
pub(super) use output::{Burst, answer_to_stray, write_segment};
use receiver::Receiver;
pub(super) use sender::Repairs;
use sender::Sender;
use stamps::Stamps;

/// How long the end that closed first keeps its place, so that nothing old reaches a successor. RFC 9293
/// has two maximum segment lifetimes of 2 minutes, Linux 60 s.
const TIME_WAIT: Duration = Duration::from_secs(10);
/// Bytes of a timestamps option with its padding.
const STAMPS_BYTES: u64 = 12;
/// By how many bits windows are shifted at least: they are told before a connection has its FIFO, whose
/// capacity is the owner's to choose; up to 8 MiB.
const SHIFT_MIN: u8 = 7;

/// The payload of a segment to a peer that does not say what it takes (RFC 9293 section 3.7.1).
pub(super) const fn mss_default(remote: IpAddr) -> u16 {
    if remote.is_ipv4() { 536 } else { 1220 }
}

/// The state of a connection (RFC 9293 section 3.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

impl State {
    /// As `ss` writes it.
    const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "SYN-SENT",
            Self::SynReceived => "SYN-RECV",
            Self::Established => "ESTAB",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::CloseWait => "CLOSE-WAIT",
            Self::Closing => "CLOSING",
            Self::LastAck => "LAST-ACK",
            Self::TimeWait => "TIME-WAIT",
            Self::Closed => "UNCONN",
        }
    }
}

/// Why a connection is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GivingUp {
    /// The peer does not answer.
    Silence,
    /// The neighbour does not answer.
    Neighbour,
}

/// What a stack's connections have in common.
#[derive(Clone, Debug)]
pub(super) struct Parameters {
    congestion: Congestion,
    features: Features,
    /// Segments of a train at least.
    train_min: usize,
    ecn: config::Ecn,
    mtu: u16,
    shift: u8,
    seed: u64,
}

impl Parameters {
    /// Those of a configuration.
    pub(super) fn new(config: &StackConfig) -> Self {
        // RFC 7323 section 2.2: as many bits as the buffer has beyond the 16 of a header's window.
        let beyond = config.tcp.rx_buffer.saturating_sub(1) >> 16;
        let shift = (u32::BITS - beyond.leading_zeros()) as u8;
        Self {
            congestion: config.tcp.congestion,
            features: config.tcp.features,
            train_min: usize::from(config.tcp.train_min).clamp(1, sender::TRAIN_MAX),
            ecn: config.tcp.ecn,
            mtu: config.mtu,
            shift: shift.max(SHIFT_MIN),
            seed: config.seed,
        }
    }

    /// The initial sequence number (RFC 6528 section 3): a clock of 4 us, and what others cannot guess.
    fn initial(&self, now: Instant, flow: Flow) -> u32 {
        ((now.as_micros() / 4) as u32).wrapping_add(self.secret(flow, 0))
    }

    /// A number that a flow alone has, for a purpose.
    fn secret(&self, flow: Flow, purpose: u64) -> u32 {
        let mut hasher = SipHasher13::new_with_keys(self.seed, purpose);
        for end in [flow.local, flow.remote] {
            match end.ip() {
                IpAddr::V4(ip) => hasher.write_u32(ip.to_bits()),
                IpAddr::V6(ip) => hasher.write_u128(ip.to_bits()),
            }
            hasher.write_u16(end.port());
        }
        hasher.finish() as u32
    }

    /// Payload of a segment to `remote` at most, without options.
    fn mss(&self, remote: IpAddr) -> u16 {
        self.mtu.saturating_sub(ip_bytes(remote) as u16 + 20)
    }
}

/// A connection.
#[derive(Serialize, Deserialize)]
pub(super) struct Connection {
    /// Both ends.
    pub(super) flow: Flow,
    /// Whose it is.
    #[serde(skip, default = "nobody")]
    pub(super) owner: Owner,
    state: State,
    /// What goes out.
    pub(super) sender: Sender,
    receiver: Receiver,
    stamps: Stamps,
    ecn: Ecn,
    acks: Acks,
    /// Its options.
    pub(super) options: Options,
    /// Payload of a segment at most, without options.
    mss: u16,
    /// What makes its choices its own.
    chance: u32,
    /// What the SYN offers or takes.
    offer: Offer,
    /// Payload on it.
    fast: Fast,
    /// What the writer wants.
    room: Room,
    /// When to look again at a FIFO that found no chunk.
    backoff: Backoff,
    /// Bytes of the tx FIFO were let go of.
    freed: bool,
    /// The peer's FIN was told.
    ended: bool,
    /// A reset is to be sent.
    reset_due: bool,
    /// The keepalive timer went off.
    keep_alive_due: bool,
    /// Bytes moved since the last trim.
    active: bool,
    /// Segments that came.
    arrived: u32,
    opened_at: Instant,
    /// When the peer's SYN came.
    synchronized_at: Instant,
    heard_at: Instant,
    /// When the peer was last asked for a sign of life.
    asked_at: Instant,
    /// When it was last asked whether it meant what it said.
    challenged_at: Option<Instant>,
    /// Since when something waits for the peer's acknowledgement.
    busy_since: Option<Instant>,
    /// Waits for a neighbour's address, and since when.
    neighbour_since: Option<Instant>,
    /// When TIME-WAIT is over.
    over_at: Option<Instant>,
    /// The last sign that an orphan gets on, and what it looked like then.
    progress_at: Instant,
    progress: (u64, State),
}

/// Whose a connection is that was just read.
const fn nobody() -> Owner {
    Owner::Nobody
}

/// Options of a SYN.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Offer {
    stamps: bool,
    sack: bool,
    scale: bool,
    /// The peer's windows are shifted by so many bits once both SYNs are through.
    shift: u8,
}

impl Connection {
    fn new(
        now: Instant,
        parameters: &Parameters,
        owner: Owner,
        flow: Flow,
        fifos: Option<Fifos>,
        options: Options,
    ) -> Self {
        let (rx, tx) = fifos.map_or((None, None), |Fifos { rx, tx }| (Some(rx), Some(tx)));
        let link = parameters.mss(flow.remote.ip());
        let mss = options.max_segment.map_or(link, |most| most.min(link));
        let initial = parameters.initial(now, flow);
        let congestion = options.congestion.map_or(parameters.congestion, Congestion::from);
        let chance = parameters.secret(flow, 2);
        let algorithm = Algorithm::new(congestion, chance);
        let mut ecn = Ecn::new(parameters.ecn);
        ecn.count_marks(algorithm.counts_marks());
        let mut sender = Sender::new(now, initial, tx, mss.into(), algorithm);
        sender.no_delay = options.no_delay;
        sender.features = parameters.features;
        sender.set_pacing_rate(options.pacing_rate);
        sender.train_min = parameters.train_min;
        Self {
            flow,
            owner,
            state: State::SynSent,
            sender,
            receiver: Receiver::new(rx, parameters.shift),
            stamps: Stamps::new(parameters.secret(flow, 1), parameters.features.paws),
            ecn,
            acks: Acks::new(mss.into()),
            options,
            mss,
            chance,
            offer: Offer {
                stamps: parameters.features.stamps,
                sack: parameters.features.sack,
                scale: true,
                shift: 0,
            },
            fast: Fast::Off,
            room: Room::default(),
            backoff: Backoff::default(),
            freed: false,
            ended: false,
            reset_due: false,
            keep_alive_due: false,
            active: true,
            arrived: 0,
            opened_at: now,
            synchronized_at: now,
            heard_at: now,
            asked_at: now,
            challenged_at: None,
            busy_since: Some(now),
            neighbour_since: None,
            over_at: None,
            progress_at: now,
            progress: (0, State::SynSent),
        }
    }

    /// A connection whose SYN is to be sent.
    pub(super) fn open(
        now: Instant,
        parameters: &Parameters,
        owner: Owner,
        flow: Flow,
        fifos: Fifos,
        options: Options,
    ) -> Self {
        Self::new(now, parameters, owner, flow, Some(fifos), options)
    }

    /// A connection that a peer's SYN asks for.
    pub(super) fn answer(
        now: Instant,
        parameters: &Parameters,
        owner: Owner,
        (flow, options): (Flow, Options),
        syn: &Segment,
    ) -> Self {
        let mut connection = Self::new(now, parameters, owner, flow, None, options);
        connection.take_syn(now, syn);
        connection.state = State::SynReceived;
        connection
    }

    /// A connection of which nothing was kept but a cookie, which a peer that takes `mss` bytes in a segment
    /// acknowledges by `segment`. The caller lets that arrive.
    pub(super) fn from_cookie(
        now: Instant,
        parameters: &Parameters,
        owner: Owner,
        opening: (Flow, Options),
        (segment, mss): (&Segment, u16),
    ) -> Self {
        let mut syn = Segment {
            sequence: segment.sequence.wrapping_sub(1),
            window: segment.window,
            ..Segment::default()
        };
        syn.options.mss = Some(mss);
        let mut connection = Self::answer(now, parameters, owner, opening, &syn);
        connection.sender.opened_by(segment.acknowledgement.wrapping_sub(1));
        // What an ordinary SYN-ACK says, it said.
        let _ = connection.receiver.advertise(mss.into(), true);
        connection
    }

    /// Our answer to a SYN that nothing is kept of.
    pub(super) fn cookie_answer(
        parameters: &Parameters,
        flow: Flow,
        syn: &Segment,
        cookie: u32,
    ) -> Segment {
        let mut answer = Segment {
            source: syn.destination,
            destination: syn.source,
            sequence: cookie,
            acknowledgement: syn.sequence.wrapping_add(1),
            flags: flag::SYN | flag::ACK,
            window: receiver::EARLY_MAX as u16,
            ..Segment::default()
        };
        answer.options.mss = Some(parameters.mss(flow.remote.ip()));
        answer
    }

    /// The state as others know it: one whose SYN-ACK is not acknowledged.
    fn shown_state(&self) -> State {
        let received = self.state == State::Established && self.sender.una == 0;
        if received { State::SynReceived } else { self.state }
    }

    /// Whether its handshake is under way.
    pub(super) const fn is_opening(&self) -> bool {
        matches!(self.state, State::SynSent | State::SynReceived)
    }

    /// Whether nothing is left to be done.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.state, State::Closed) && !self.reset_due
    }

    /// What a way to the peer is looked for. Whom we did not ask is not worth a search.
    pub(super) const fn purpose(&self) -> Purpose {
        match (self.owner, self.state) {
            (Owner::Backlog(_), State::SynReceived) | (_, State::Closed) => Purpose::Answer,
            _ => Purpose::Socket,
        }
    }

    /// The way to the peer is not known.
    pub(super) fn has_no_neighbour(&mut self, now: Instant) {
        self.neighbour_since.get_or_insert(now);
        // A reset is not worth waiting for it.
        self.reset_due = false;
    }

    /// Does what its timers ask for that are due.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.state == State::Closed {
            return;
        }
        self.sender.expire(now);
        self.acks.expire(now);
        if self.over_at.is_some_and(|at| at <= now) {
            self.state = State::Closed;
        }
        if self.keep_alive_at().is_some_and(|at| at <= now) {
            self.asked_at = now;
            self.keep_alive_due = true;
        }
    }

    /// When the peer is to be asked for a sign of life (RFC 9293 section 3.8.4).
    fn keep_alive_at(&self) -> Option<Instant> {
        let interval = self.options.keep_alive?;
        let idle = matches!(self.state, State::Established | State::CloseWait | State::FinWait2);
        let asks = idle && self.busy_since.is_none() && !self.keep_alive_due;
        asks.then(|| self.heard_at.max(self.asked_at) + interval)
    }

    /// Shows the reader what came and the writer what room there is.
    pub(super) fn exchange(&mut self, now: Instant) -> Result<Moved, Breach> {
        let mut moved = Moved::default();
        if self.is_opening() {
            // What the SYN is to carry.
            self.sender.refresh()?;
            return Ok(moved);
        }
        let early = self.receiver.settle()?;
        moved.readable = self.receiver.publish();
        if !self.ended && !early && self.receiver.has_ended() && self.owner_is_socket() {
            self.ended = true;
            moved.ended = true;
        }
        if self.state != State::Closed && self.receiver.has_news(self.acks.mss())? {
            self.acks.at_once();
        }
        self.sender.refresh()?;
        let mut starved = self.receiver.starved || early;
        let offers = self.freed || self.room.hungry;
        if let (true, true, Some(fifo)) = (offers, self.owner_is_socket(), &mut self.sender.fifo) {
            let offer = self.room.offer(fifo)?;
            moved.writable = offer.writable;
            starved |= offer.starved;
            self.active |= self.freed;
        }
        self.freed = false;
        self.active |= moved.readable || moved.writable;
        if moved.readable || moved.writable || !starved {
            self.backoff.fed();
        }
        if starved {
            self.backoff.starved(now);
        }
        Ok(moved)
    }

    const fn owner_is_socket(&self) -> bool {
        matches!(self.owner, Owner::Socket(_))
    }

    /// Notes what the service that ends now has come to.
    pub(super) fn settle(&mut self, now: Instant) {
        if self.sender.is_busy() || self.is_opening() {
            self.busy_since.get_or_insert(now);
        } else {
            self.busy_since = None;
        }
        let progress = (self.sender.una, self.state);
        if progress != self.progress {
            self.progress = progress;
            self.progress_at = now;
        }
    }

    /// When to give the connection up if nothing changes, and why.
    pub(super) fn gives_up_at(&self) -> Option<(Instant, GivingUp)> {
        let patience = self.options.user_timeout;
        if matches!(self.state, State::Closed | State::TimeWait) {
            return None;
        }
        if let (true, Some(since)) = (self.is_opening(), self.neighbour_since) {
            return Some((since + NEIGHBOUR_PATIENCE, GivingUp::Neighbour));
        }
        let at = match self.owner {
            Owner::Backlog(_) if self.is_opening() => self.opened_at + HALF_OPEN_LIFE,
            // Its owner takes its time, not the peer.
            _ if self.is_held() => return None,
            _ if self.is_opening() => self.opened_at + patience,
            Owner::Orphan(_) | Owner::Nobody => self.progress_at + patience,
            _ => match (self.busy_since, self.options.keep_alive) {
                (Some(since), _) => since.max(self.heard_at) + patience,
                (None, Some(interval)) => self.heard_at + interval + patience,
                (None, None) => return None,
            },
        };
        Some((at, GivingUp::Silence))
    }

    /// When to serve it if nothing happens.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        if self.state == State::Closed {
            return self.backoff.at();
        }
        let peer = Instant::earliest(self.gives_up_at().map(|(at, _)| at), self.keep_alive_at());
        let segments = Instant::earliest(self.sender.deadline(), self.acks.at());
        let rest = Instant::earliest(self.backoff.at(), self.over_at);
        Instant::earliest(Instant::earliest(peer, segments), rest).map(|at| at.max(now))
    }
}
