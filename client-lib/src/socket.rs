//! A socket's core: what the thread that uses it and the thread that drains completions share.
//!
//! Held by the public handle ([`crate::TcpStream`] and its siblings) and, while the slot is in
//! use, by the slot table. A core never holds its client, so that a client ends with its handles.
//!
//! Locks, in the order in which they may nest: consumers (see [`crate::context`]), slot table,
//! then any one of a core's, then a waiter's. Nothing is submitted under a core's lock.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dmm_proto::fifo::{FifoParts, RxReader, State, Trouble, TxWriter};
use dmm_proto::info::{PART_WORDS, PARTS, TcpInfo};
use dmm_proto::op::{Opening, Socket, SocketOption};
use nix::errno::Errno;

use crate::error::{from_daemon, os};
use crate::poll::Watch;
use crate::waiter::{Waiters, lock};

/// What a socket is.
pub(crate) enum Role {
    /// A TCP connection, and what to ask again if the connect is redirected.
    Stream { local: SocketAddr, remote: SocketAddr, opening: Opening },
    /// A TCP listener.
    Listener(Mutex<Backlog>),
    /// A UDP socket, and where to bind it again if that is redirected.
    Datagram { local: SocketAddr, shares: bool },
}

/// A listener's connections that nobody took yet, and its credits.
#[derive(Default)]
pub(crate) struct Backlog {
    pub(crate) accepted: VecDeque<Accepted>,
    /// Credits that each instance holds, by index among the stack's.
    pub(crate) credits: Vec<u32>,
    /// Connections that were taken and whose credit is not renewed yet.
    pub(crate) owed: u32,
}

/// A connection that waits to be taken.
pub(crate) struct Accepted {
    pub(crate) core: Arc<Core>,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
}

/// How far the opening of a socket has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Phase {
    Opening,
    Open,
    Failed,
    /// The SYN waits for what is written first.
    Deferred,
}

/// What answered the operation under way: an errno (0 for success) and this end's address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) errno: u32,
    pub(crate) local: Option<SocketAddr>,
}

/// A question of what a socket knows of itself, and as much of the answer as came.
struct Question {
    number: u32,
    parts: [[u64; PART_WORDS]; PARTS],
    errno: u16,
    answered: bool,
}

pub struct Core {
    pub(crate) slot: u32,
    generation: AtomicU32,
    instance: AtomicU32,
    phase: AtomicU32,
    pub(crate) role: Role,
    pub(crate) parts: FifoParts,
    /// To be used only while the phase is `Open`: before, the daemon's line is an earlier socket's.
    pub(crate) rx: Mutex<RxReader>,
    pub(crate) tx: Mutex<TxWriter>,
    pub(crate) answer: Mutex<Option<Answer>>,
    pub(crate) waiters: Waiters,
    pub(crate) watches: Mutex<Vec<Arc<Watch>>>,
    pub(crate) options: Options,
    /// Options set while the socket was opening: told to the instance that opens it in the end.
    early: Mutex<Vec<(SocketOption, u32)>>,
    pub(crate) rx_shut: AtomicBool,
    pub(crate) tx_shut: AtomicBool,
    /// The error that ended the socket was told: it is told once.
    error_told: AtomicBool,
    /// The errno of an option that the stack refused later.
    refused: AtomicU32,
    /// One for each thread that asks.
    questions: Mutex<Vec<Question>>,
    /// The last error that did not end the socket and was told.
    trouble_told: AtomicU32,
}

/// What the program chose for the socket; clones of a handle share it.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) nonblocking: AtomicBool,
    read_timeout_ns: AtomicU64,
    write_timeout_ns: AtomicU64,
    pub(crate) nodelay: AtomicBool,
    pub(crate) hop_limit: AtomicU32,
    pub(crate) keepalive_s: AtomicU32,
    pub(crate) reset_on_close: AtomicBool,
    pub(crate) cork: AtomicBool,
    pub(crate) traffic_class: AtomicU32,
    pub(crate) broadcast: AtomicBool,
    /// One more than the hops of packets to groups that were chosen, 0 for the default.
    pub(crate) group_hops: AtomicU32,
    pub(crate) group_silent: AtomicBool,
    /// The IPv4 address that datagrams to groups come from, 0 for the stack's choice.
    pub(crate) group_source: AtomicU32,
}

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    /// It never waits.
    None,
    /// Until then.
    Until(Instant),
    /// As long as it takes.
    Endless,
}

impl Patience {
    /// From a timeout; one too long to be added to the clock is endless.
    pub(crate) fn from_timeout(timeout: Option<Duration>) -> Self {
        match timeout {
            None => Self::Endless,
            Some(Duration::ZERO) => Self::None,
            Some(span) => Instant::now().checked_add(span).map_or(Self::Endless, Self::Until),
        }
    }
}

impl Options {
    /// Takes over what a connection inherits from its listener.
    pub(crate) fn inherit(&self, listener: &Self) {
        for (ours, theirs) in
            [(&self.hop_limit, &listener.hop_limit), (&self.traffic_class, &listener.traffic_class)]
        {
            ours.store(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    pub(crate) fn read_timeout(&self) -> Option<Duration> {
        stored_timeout(&self.read_timeout_ns)
    }

    pub(crate) fn write_timeout(&self) -> Option<Duration> {
        stored_timeout(&self.write_timeout_ns)
    }

    pub(crate) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        store_timeout(&self.read_timeout_ns, timeout)
    }

    pub(crate) fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        store_timeout(&self.write_timeout_ns, timeout)
    }

    pub(crate) fn read_patience(&self) -> Patience {
        self.patience(&self.read_timeout_ns)
    }

    pub(crate) fn write_patience(&self) -> Patience {
        self.patience(&self.write_timeout_ns)
    }

    fn patience(&self, timeout_ns: &AtomicU64) -> Patience {
        if self.nonblocking.load(Ordering::Relaxed) {
            return Patience::None;
        }
        Patience::from_timeout(stored_timeout(timeout_ns))
    }
}

/// Zero nanoseconds stand for no timeout, as in `struct timeval` of socket(7).
fn stored_timeout(nanos: &AtomicU64) -> Option<Duration> {
    match nanos.load(Ordering::Relaxed) {
        0 => None,
        nanos => Some(Duration::from_nanos(nanos)),
    }
}

fn store_timeout(nanos: &AtomicU64, timeout: Option<Duration>) -> io::Result<()> {
    let value = match timeout {
        None => 0,
        Some(Duration::ZERO) => return Err(os(Errno::EINVAL)),
        Some(timeout) => u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX),
    };
    nanos.store(value, Ordering::Relaxed);
    Ok(())
}

impl Core {
    pub(crate) fn new(socket: Socket, instance: u32, role: Role, parts: FifoParts) -> Arc<Self> {
        let (rx, tx) = (RxReader::new(&parts), TxWriter::new(&parts));
        Arc::new(Self {
            slot: socket.slot,
            generation: AtomicU32::new(socket.generation),
            instance: AtomicU32::new(instance),
            phase: AtomicU32::new(Phase::Opening as u32),
            role,
            parts,
            rx: Mutex::new(rx),
            tx: Mutex::new(tx),
            answer: Mutex::new(None),
            waiters: Waiters::default(),
            watches: Mutex::default(),
            options: Options::default(),
            early: Mutex::default(),
            rx_shut: AtomicBool::new(false),
            tx_shut: AtomicBool::new(false),
            error_told: AtomicBool::new(false),
            refused: AtomicU32::new(0),
            questions: Mutex::default(),
            trouble_told: AtomicU32::new(0),
        })
    }

    /// The socket's name in the rings.
    pub(crate) fn socket(&self) -> Socket {
        Socket { slot: self.slot, generation: self.generation.load(Ordering::Acquire) }
    }

    /// The instance that has it: for a listener, the stack's first.
    pub(crate) fn instance(&self) -> u32 {
        self.instance.load(Ordering::Acquire)
    }

    /// Another instance will have it, as another socket of the same slot.
    pub(crate) fn redirect(&self, instance: u32, generation: u32) {
        self.instance.store(instance, Ordering::Release);
        self.generation.store(generation, Ordering::Release);
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Opening,
            1 => Phase::Open,
            3 => Phase::Deferred,
            _ => Phase::Failed,
        }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u32, Ordering::Release);
    }

    /// Whether the attempt to open it has not ended.
    fn is_opening(&self) -> bool {
        matches!(self.phase(), Phase::Opening | Phase::Deferred)
    }

    /// The SYN waits for what is written first.
    pub(crate) fn defer(&self) {
        self.step(Phase::Opening, Phase::Deferred);
        self.notify();
    }

    /// The SYN goes. Returns whether it had waited for that.
    pub(crate) fn go_on(&self) -> bool {
        self.step(Phase::Deferred, Phase::Opening)
    }

    fn step(&self, from: Phase, to: Phase) -> bool {
        let (from, to) = (from as u32, to as u32);
        self.phase.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Notes a question of what the socket knows of itself, and returns its number.
    pub(crate) fn ask(&self) -> u32 {
        let mut questions = lock(&self.questions);
        let numbers = || questions.iter().map(|question| question.number);
        let number = numbers().max().map_or(0, |last| last.wrapping_add(1));
        let parts = Default::default();
        questions.push(Question { number, parts, errno: 0, answered: false });
        number
    }

    /// Keeps a part of an answer.
    pub(crate) fn told(&self, number: u32, errno: u16, part: u32, words: [u64; PART_WORDS]) {
        let mut questions = lock(&self.questions);
        let asked = questions.iter_mut().find(|question| question.number == number);
        // Who asked may have given up.
        let Some(question) = asked else { return };
        question.parts[part as usize] = words;
        question.errno = errno;
        question.answered = errno != 0 || part as usize + 1 == PARTS;
        let answered = question.answered;
        drop(questions);
        if answered {
            self.notify();
        }
    }

    /// The answer to a question, once it is complete.
    pub(crate) fn answer_to(&self, number: u32) -> Option<io::Result<TcpInfo>> {
        let questions = lock(&self.questions);
        let question = questions.iter().find(|question| question.number == number)?;
        question.answered.then(|| match question.errno {
            0 => Ok(TcpInfo::decode(&question.parts)),
            errno => Err(from_daemon(errno.into())),
        })
    }

    /// Forgets a question.
    pub(crate) fn forget(&self, number: u32) {
        lock(&self.questions).retain(|question| question.number != number);
    }

    /// Keeps an answer for the thread that asked.
    pub(crate) fn answer(&self, errno: u32, local: Option<SocketAddr>) {
        *lock(&self.answer) = Some(Answer { errno, local });
        if self.is_opening() {
            self.set_phase(if errno == 0 { Phase::Open } else { Phase::Failed });
        }
        self.notify();
    }

    /// Keeps an option for later if the socket is still opening. Returns whether it is.
    pub(crate) fn keep_early(&self, option: SocketOption, value: u32) -> bool {
        let mut early = lock(&self.early);
        let opening = self.is_opening();
        if opening {
            early.retain(|(other, _)| *other != option);
            early.push((option, value));
        }
        opening
    }

    /// The options that were set before the socket was open. Asked when it is.
    pub(crate) fn take_early(&self) -> Vec<(SocketOption, u32)> {
        std::mem::take(&mut lock(&self.early))
    }

    /// Something changed: wakes whoever waits and marks it in every poll.
    pub(crate) fn notify(&self) {
        self.waiters.wake();
        for watch in lock(&self.watches).iter() {
            watch.mark();
        }
    }

    /// The daemon's state bits; none before the socket is open.
    pub(crate) fn state(&self) -> State {
        match self.phase() {
            Phase::Open => State(self.parts.daemon.state.load(Ordering::Acquire)),
            Phase::Opening | Phase::Failed | Phase::Deferred => State(0),
        }
    }

    /// Whether nothing can be sent any more, or never could.
    pub(crate) fn is_broken(&self) -> bool {
        self.phase() == Phase::Failed || self.state().has(State::BROKEN)
    }

    /// Whether a stream is established and not over. After a FIN each way it is over as soon as the
    /// stack is done with what was written: the daemon does not tell of the FIN's acknowledgement.
    pub(crate) fn is_connected(&self) -> bool {
        let state = self.state();
        let closed = || {
            let (daemon, client) = (&self.parts.daemon, &self.parts.client);
            state.has(State::RX_ENDED)
                && self.tx_shut.load(Ordering::Acquire)
                && daemon.tx_head.load(Ordering::Acquire) == client.tx_tail.load(Ordering::Acquire)
        };
        self.phase() == Phase::Open && !state.has(State::BROKEN) && !closed()
    }

    /// The error that ended the socket, if it was not told yet.
    pub(crate) fn pending_error(&self) -> Option<io::Error> {
        if self.error_told.load(Ordering::Acquire) {
            return None;
        }
        let errno = match self.phase() {
            Phase::Failed => lock(&self.answer).map_or(0, |answer| answer.errno),
            _ if self.is_broken() => self.breaking_errno(),
            _ => 0,
        };
        (errno != 0).then(|| from_daemon(errno))
    }

    /// What broke the connection. tcp_reset(): in CLOSE-WAIT a reset means that nobody reads any
    /// more, in any other state that something was lost.
    fn breaking_errno(&self) -> u32 {
        let errno = self.parts.daemon.error.load(Ordering::Acquire);
        let close_wait = self.state().has(State::RX_ENDED) && !self.tx_shut.load(Ordering::Acquire);
        if close_wait && errno == Errno::ECONNRESET as u32 { Errno::EPIPE as u32 } else { errno }
    }

    /// As [`Core::pending_error`], telling it (`SO_ERROR` in socket(7)).
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        let refused = self.refused.swap(0, Ordering::AcqRel);
        if refused != 0 {
            return Some(from_daemon(refused));
        }
        self.tell_trouble().or_else(|| self.tell_error())
    }

    /// The error that ended the socket, once.
    pub(crate) fn tell_error(&self) -> Option<io::Error> {
        let error = self.pending_error()?;
        (!self.error_told.swap(true, Ordering::AcqRel)).then_some(error)
    }

    /// An error that did not end the socket, if it was not told yet.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        if self.phase() != Phase::Open {
            return None;
        }
        let trouble = Trouble(self.parts.daemon.trouble.load(Ordering::Acquire));
        let news = trouble.0 != self.trouble_told.load(Ordering::Acquire);
        (news && trouble.errno() != 0).then_some(trouble)
    }

    /// As [`Core::trouble`], telling it.
    pub(crate) fn tell_trouble(&self) -> Option<io::Error> {
        let trouble = self.trouble()?;
        let first = self.trouble_told.swap(trouble.0, Ordering::AcqRel) != trouble.0;
        first.then(|| from_daemon(trouble.errno()))
    }

    /// Keeps the errno of an option that the stack refused.
    pub(crate) fn refuse(&self, errno: u32) {
        self.refused.store(errno, Ordering::Release);
    }
}
