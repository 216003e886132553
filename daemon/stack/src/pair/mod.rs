//! Two stacks joined by a wire, in virtual time: the mock of everything around a stack.
//!
//! Owns: both stacks, the wire, the clock, and what the stacks told. Used by tests and
//! measurements of every kind of stack. Must never: read a real clock; a run is a function of its
//! configuration and seed, which is printed when a scenario fails.
//!
//! ```text
//!   Client ─ FIFOs ─ stack (left) ── wire: delay, loss, ... ── stack (right) ─ FIFOs ─ Client
//! ```
#![forbid(unsafe_code)]

mod client;
mod flood;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use dmm_port::wire::{WireConfig, WirePort};
use dmm_port::{Instant, Port, RxQueue, TxQueue};
use dmm_proto::Breach;
use nix::errno::Errno;

pub use client::{Client, Quota, byte_at};
pub use flood::{Flood, Known};

use crate::config::{
    Congestion, Ecn, Features, Prefix, StackConfig, TRAIN_MIN, TcpConfig, UdpConfig,
};
use crate::{Event, Pong, Request, SocketId, SocketReport, Stack};

/// Turns that both stacks may take at one point in time before the run is taken for a busy loop.
const TURNS_AT_ONCE: u32 = 100_000;

/// Sockets of each end that a failure shows at most.
const SOCKETS_SHOWN: usize = 8;

/// One of the two stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The first.
    Left,
    /// The second.
    Right,
}

/// What a stack told of a socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How a connection attempt ended.
    pub connected: Option<Result<(), Errno>>,
    /// Its SYN waits for what is written.
    pub deferred: bool,
    /// Both ends of an accepted connection, the local one first.
    pub accepted: Option<(SocketAddr, SocketAddr)>,
    /// How often new bytes were announced.
    pub readable: u32,
    /// How often room was announced.
    pub writable: u32,
    /// The peer's FIN came.
    pub ended: bool,
    /// The connection broke.
    pub broken: Option<Errno>,
    /// What was said of a datagram, the last word, and how often.
    pub troubled: Option<(Errno, u32)>,
    /// The client broke the contract.
    pub breach: Option<Breach>,
    /// Nothing is left.
    pub gone: bool,
}

struct Side {
    stack: Box<dyn Stack>,
    port: WirePort,
    rx: Box<dyn RxQueue>,
    tx: Box<dyn TxQueue>,
    seen: HashMap<SocketId, Seen>,
    pongs: Vec<(u64, Result<Pong, Errno>)>,
    /// Frames sent, if they are kept.
    sent: Option<Vec<Vec<u8>>>,
}

/// Two stacks and the wire between them.
pub struct Pair {
    /// The time.
    pub now: Instant,
    seed: u64,
    left: Side,
    right: Side,
    events: Vec<Event>,
}

/// The configuration of a simulated stack: addresses `10.0.0.<station>/24` and
/// `fd00::<station>/64`, 64 KiB of buffer each way.
#[must_use]
pub fn config(station: u8) -> StackConfig {
    StackConfig {
        mac: [0x02, 0, 0, 0, 0, station],
        mtu: 1500,
        vlan: None,
        rx_checksum: false,
        addresses: vec![
            Prefix { address: address_v4(station), len: 24 },
            Prefix { address: address_v6(station), len: 64 },
        ],
        routes: Vec::new(),
        neighbours: Vec::new(),
        tcp: TcpConfig {
            rx_buffer: 1 << 16,
            tx_buffer: 1 << 16,
            congestion: Congestion::Cubic,
            user_timeout_s: 30,
            keepalive_s: None,
            features: Features::ALL,
            ecn: Ecn::default(),
            train_min: TRAIN_MIN,
            fast_open_key: None,
        },
        udp: UdpConfig { rx_buffer: 1 << 18, tx_buffer: 1 << 18 },
        sockets_max: 4096,
        seed: u64::from(station),
    }
}

/// The IPv4 address of a simulated station.
#[must_use]
pub const fn address_v4(station: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, station))
}

/// The IPv6 address of a simulated station.
#[must_use]
pub const fn address_v6(station: u8) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, station as u16))
}

impl Pair {
    /// Two stacks of `kind`, stations 1 and 2, on a wire.
    #[must_use]
    pub fn new(kind: &str, wire: &WireConfig) -> Self {
        Self::with(kind, wire, &config(1), &config(2))
    }

    /// Two stacks of `kind` on a wire.
    ///
    /// # Panics
    /// If a configuration is refused.
    #[must_use]
    pub fn with(kind: &str, wire: &WireConfig, left: &StackConfig, right: &StackConfig) -> Self {
        Self::mixed([kind, kind], wire, left, right)
    }

    /// A stack of each of two kinds, the left one first, on a wire.
    ///
    /// # Panics
    /// If a configuration is refused.
    #[must_use]
    pub fn mixed(
        kinds: [&str; 2],
        wire: &WireConfig,
        left: &StackConfig,
        right: &StackConfig,
    ) -> Self {
        let (left_port, right_port) = WirePort::pair(wire).expect("a sound wire");
        let side = |mut port: WirePort, kind: &str, config: &StackConfig| {
            let (rx, tx) = port.queue_pair(0).expect("the first queue");
            let stack = crate::build(kind, config).expect("a sound configuration");
            Side { stack, port, rx, tx, seen: HashMap::new(), pongs: Vec::new(), sent: None }
        };
        Self {
            now: Instant::ZERO,
            seed: wire.seed,
            left: side(left_port, kinds[0], left),
            right: side(right_port, kinds[1], right),
            events: Vec::new(),
        }
    }

    /// The stack of one end.
    pub fn stack(&mut self, end: End) -> &mut dyn Stack {
        &mut *self.side(end).stack
    }

    /// Replaces the stack of one end, and moves connections to the new one.
    ///
    /// # Panics
    /// If one of them cannot be moved.
    pub fn replace(&mut self, end: End, mut stack: Box<dyn Stack>, sockets: &[SocketId]) {
        let now = self.now;
        for socket in sockets {
            let Some(saved) = self.side(end).stack.save(*socket) else {
                self.fail(&format!("{socket:?} cannot be saved"))
            };
            if let Err((errno, _)) = stack.restore(now, *socket, saved) {
                self.fail(&format!("{socket:?} cannot be restored: {errno}"));
            }
        }
        self.side(end).stack = stack;
    }

    /// The wire as one end sees it.
    #[must_use]
    pub const fn port(&self, end: End) -> &WirePort {
        match end {
            End::Left => &self.left.port,
            End::Right => &self.right.port,
        }
    }

    /// Asks a stack for something that it must accept.
    ///
    /// # Panics
    /// If it does not.
    pub fn submit(&mut self, end: End, request: Request) {
        self.try_submit(end, request).unwrap_or_else(|errno| self.fail(&format!("errno {errno}")));
    }

    /// Asks a stack for something.
    ///
    /// # Errors
    /// What the stack answers.
    pub fn try_submit(&mut self, end: End, request: Request) -> Result<(), Errno> {
        let now = self.now;
        self.side(end).stack.submit(now, request)
    }

    /// What was told of a socket.
    pub fn seen(&mut self, end: End, socket: SocketId) -> Seen {
        self.side(end).seen.get(&socket).cloned().unwrap_or_default()
    }

    /// Forgets what was told of a socket, whose id is to be used again.
    pub fn forget(&mut self, end: End, socket: SocketId) {
        self.side(end).seen.remove(&socket);
    }

    /// What came of echo requests since the last call, by their tokens.
    pub fn take_pongs(&mut self, end: End) -> Vec<(u64, Result<Pong, Errno>)> {
        std::mem::take(&mut self.side(end).pongs)
    }

    /// Keeps the frames that an end sends, from now on.
    pub fn keep_frames(&mut self, end: End) {
        self.side(end).sent = Some(Vec::new());
    }

    /// The frames kept since the last call.
    pub fn take_frames(&mut self, end: End) -> Vec<Vec<u8>> {
        self.side(end).sent.replace(Vec::new()).unwrap_or_default()
    }

    /// All sockets of an end.
    pub fn sockets(&mut self, end: End) -> Vec<SocketReport> {
        let mut reports = Vec::new();
        self.side(end).stack.sockets(&mut |report| reports.push(report));
        reports
    }

    /// A counter of an end's stack.
    ///
    /// # Panics
    /// If there is no counter of this name.
    pub fn counter(&mut self, end: End, name: &str) -> u64 {
        let mut found = None;
        self.side(end).stack.counters(&mut |counter, count| {
            if counter == name {
                found = Some(count);
            }
        });
        found.unwrap_or_else(|| self.fail(&format!("no counter {name}")))
    }

    /// Gives an end a frame as if from the wire.
    pub fn inject(&mut self, end: End, frame: &[u8]) {
        let now = self.now;
        let side = self.side(end);
        let received = dmm_port::RxFrame { bytes: frame, checksum: Default::default(), hash: None };
        side.stack.receive(now, &[received], &mut side.tx.burst());
    }

    /// Lets time pass.
    pub fn run(&mut self, span: Duration) {
        self.run_until(span, |_| false);
    }

    /// Lets time pass until `done`, which is asked whenever both stacks have come to rest and may
    /// act as their clients. Returns whether that came within `span`.
    pub fn run_until(&mut self, span: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + span;
        let mut turns = 0;
        loop {
            while self.turn(End::Left) | self.turn(End::Right) {
                turns += 1;
                if turns > TURNS_AT_ONCE {
                    self.fail("the stacks spin without time passing");
                }
            }
            if done(self) {
                return true;
            }
            let next = self.next_deadline().map_or(end, |next| next.max(self.now));
            if next > self.now {
                turns = 0;
            }
            if next >= end && next > self.now {
                self.now = end;
                return false;
            }
            turns += 1;
            self.now = next;
            if turns > TURNS_AT_ONCE {
                self.fail("a client spins without time passing");
            }
        }
    }

    /// As [`Pair::run_until`], for what must come about.
    ///
    /// # Panics
    /// With the seed, if it does not.
    pub fn expect(&mut self, span: Duration, what: &str, done: impl FnMut(&mut Self) -> bool) {
        if !self.run_until(span, done) {
            self.fail(&format!("{what} did not happen within {span:?}"));
        }
    }

    /// When something happens by itself.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        let now = self.now;
        let mut next = None;
        for side in [&mut self.left, &mut self.right] {
            for at in [side.stack.deadline(now), side.rx.deadline()].into_iter().flatten() {
                next = Some(next.map_or(at, |next: Instant| next.min(at)));
            }
        }
        next
    }

    /// Ends the scenario.
    ///
    /// # Panics
    /// Always, with the seed.
    pub fn fail(&mut self, why: &str) -> ! {
        let (now, seed) = (self.now, self.seed);
        let mut sockets = String::new();
        for end in [End::Left, End::Right] {
            let reports = self.sockets(end);
            for report in reports.iter().take(SOCKETS_SHOWN) {
                sockets += &format!("\n{end:?}: {report:?}");
            }
        }
        panic!("seed {seed}, time {now:?}: {why}{sockets}")
    }

    /// One turn of a worker. Returns whether there was anything to do.
    fn turn(&mut self, end: End) -> bool {
        let now = self.now;
        let mut events = std::mem::take(&mut self.events);
        let side = self.side(end);
        let frames = side.rx.burst(now);
        let received = !frames.is_empty();
        if received {
            side.stack.receive(now, frames, &mut side.tx.burst());
        }
        let due = side.stack.deadline(now).is_some_and(|at| at <= now);
        let used = side.tx.burst().used() > 0;
        if due || received {
            side.stack.poll(now, &mut side.tx.burst(), &mut events);
        }
        if let Some(sent) = &mut side.sent {
            sent.extend(side.tx.burst().frames().iter().map(|slot| slot.bytes().to_vec()));
        }
        side.tx.flush(now);
        for event in events.drain(..) {
            side.note(event);
        }
        self.events = events;
        received || due || used
    }

    fn side(&mut self, end: End) -> &mut Side {
        match end {
            End::Left => &mut self.left,
            End::Right => &mut self.right,
        }
    }
}

impl Side {
    fn note(&mut self, event: Event) {
        let Some(socket) = event.socket() else {
            if let Event::Ponged { token, result } = event {
                self.pongs.push((token, result));
            }
            return;
        };
        let seen = self.seen.entry(socket).or_default();
        match event {
            Event::Connected { result, .. } => seen.connected = Some(result),
            Event::Deferred { .. } => seen.deferred = true,
            Event::Accepted { local, peer, .. } => {
                seen.accepted = Some((local, peer));
            }
            Event::Readable { .. } => seen.readable += 1,
            Event::Writable { .. } => seen.writable += 1,
            Event::Ended { .. } => seen.ended = true,
            Event::Broken { errno, .. } => seen.broken = Some(errno),
            Event::Troubled { errno, .. } => {
                let before = seen.troubled.map_or(0, |(_, count)| count);
                seen.troubled = Some((errno, before + 1));
            }
            Event::Breach { breach, .. } => seen.breach = Some(breach),
            Event::Gone { .. } => seen.gone = true,
            Event::Ponged { .. } => {}
        }
    }
}
