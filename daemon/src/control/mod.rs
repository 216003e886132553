//! The control thread: everything that happens seldom.
//!
//! It owns the unix socket, the clients' sessions, the ports, and the workers' lives. It waits in one
//! epoll and never touches the data path: what concerns a worker goes there as a message.
#![forbid(unsafe_code)]

mod access;
mod graveyard;
mod listener;
mod operators;
mod report;
mod requests;
mod reserve;
mod sessions;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use anyhow::Context;
use dmm_admin::config::Config;
use dmm_admin::control::{is_request, reply};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{getsockopt, sockopt};
use serde_json::Value;
use tracing::{info, warn};

use crate::assembly::{self, Machine};
use crate::session::SessionId;
use crate::worker::message::{FromWorker, ToWorker};
use access::Access;
use graveyard::{Graveyard, Waiting};
use listener::Listener;
use operators::{OPERATORS_MAX, Operator, Operators};
use reserve::Reserve;
use sessions::Sessions;

/// Connections that have not said who they are at most; one more closes the oldest.
const STRANGERS_MAX: usize = 64;
/// Descriptors that are no client's but come and go: connections, what a hello takes until its welcome
/// is out, what the graveyard's threads close, reports.
const DESCRIPTORS_APART: usize = STRANGERS_MAX + OPERATORS_MAX + 128;
/// Descriptors handled in one round.
const EVENTS_MAX: usize = 64;

const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
const ANSWERS: u64 = 2;
/// Tokens from here on: twice an id, plus one for the pidfd of a session.
const FIRST: u64 = 16;

/// How the daemon is started, beside its configuration.
#[derive(Default)]
pub struct Options {
    /// The socket's path, in place of the configuration's.
    pub socket: Option<PathBuf>,
    /// DPDK's file prefix; none keeps DPDK in memory.
    pub file_prefix: Option<String>,
}

/// The control thread's state.
pub struct Control {
    config: Config,
    started: Clock,
    machine: Machine,
    epoll: Epoll,
    listener: Listener,
    signals: SignalFd,
    access: Access,
    sessions: Sessions,
    /// Connections before their first packet, by number, oldest first.
    strangers: Vec<(u64, OwnedFd)>,
    /// Numbers of connections; sessions get a token of their own.
    next_stranger: u64,
    /// Operators' connections, which may ask again.
    operators: Operators,
    /// Each capture under way holds it too.
    captures: Arc<()>,
    /// Closes what clients made.
    graveyard: Graveyard,
    /// For connections that cannot be taken.
    reserve: Reserve,
}

/// Runs the daemon until a signal ends it.
pub fn run(config: Config, options: &Options) -> anyhow::Result<()> {
    // Signals are taken as descriptors; workers and DPDK's threads inherit the mask.
    let mut set = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    if !is_ignored(Signal::SIGHUP) {
        // Its terminal is closed.
        set.add(Signal::SIGHUP);
    }
    set.thread_block().context("cannot block signals")?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("cannot make a signalfd")?;
    crate::fault::install().context("cannot handle SIGBUS")?;
    let socket_path = options.socket.as_ref().unwrap_or(&config.socket);
    let access = Access::new(&config.clients)?;
    let listener = Listener::bind(socket_path, config.clients.mode.0)?;
    let machine = assembly::start(&config, options.file_prefix.as_deref())?;
    let control = Control {
        sessions: Sessions::new(config.clients.clone(), descriptors_left()),
        config,
        started: Clock::now(),
        machine,
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot make an epoll")?,
        listener,
        signals,
        access,
        strangers: Vec::new(),
        next_stranger: 0,
        operators: Operators::default(),
        captures: Arc::new(()),
        graveyard: Graveyard::default(),
        reserve: Reserve::new(),
    };
    control.serve()
}

/// Descriptors that clients may cost: what the limit leaves beside those that are open now.
fn descriptors_left() -> usize {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return usize::MAX };
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(open + DESCRIPTORS_APART)
}

/// Whether whoever started this process has it ignore the signal, as nohup(1) does. A descriptor
/// would tell of it all the same (signalfd(2)).
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    // proc_pid_status(5): the lowest bit is signal 1.
    mask >> (signal as u32 - 1) & 1 == 1
}

impl Control {
    fn serve(mut self) -> anyhow::Result<()> {
        self.watch(&self.listener, LISTENER)?;
        self.watch(&self.signals, SIGNALS)?;
        self.watch(self.machine.answered.as_ref(), ANSWERS)?;
        for warning in &self.machine.warnings {
            warn!("{warning}");
        }
        info!(
            socket = %self.listener.path().display(),
            stacks = self.machine.stacks.len(),
            workers = self.machine.workers.len(),
            "ready"
        );
        // Without a service manager there is nobody to notify.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        loop {
            let now = Clock::now();
            if self.reserve.wakes(now) {
                self.reserve.refill();
                if self.watch(&self.listener, LISTENER).is_err() {
                    self.reserve.rest(now);
                }
            }
            // Rounded up, so that it is not woken a moment too early.
            let patience = self.reserve.patience(now).map_or(EpollTimeout::NONE, |patience| {
                EpollTimeout::try_from(patience + Duration::from_millis(1))
                    .unwrap_or(EpollTimeout::ZERO)
            });
            let count = match self.epoll.wait(&mut events, patience) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno).context("cannot wait for events"),
            };
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.accept(),
                    SIGNALS => {
                        if let Ok(Some(signal)) = self.signals.read_signal() {
                            info!(signal = signal.ssi_signo, "ending");
                            return self.end();
                        }
                    }
                    ANSWERS => self.hear_workers(),
                    token => self.hear(token),
                }
            }
        }
    }

    fn watch(&self, fd: impl AsFd, token: u64) -> anyhow::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
        self.epoll.add(fd, event).context("cannot watch a descriptor")
    }

    fn accept(&mut self) {
        let connection = match self.listener.accept() {
            Ok(connection) => connection,
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => return,
            Err(errno) => return self.turn_away(errno),
        };
        if self.strangers.len() == STRANGERS_MAX {
            let oldest = self.strangers.remove(0).1;
            self.hang_up(oldest);
        }
        let number = self.next_stranger;
        self.next_stranger += 1;
        if self.watch(&connection, stranger_token(number)).is_ok() {
            self.strangers.push((number, connection));
        } else {
            self.graveyard.bury(connection);
        }
    }

    /// Hangs up on a connection for which there is no descriptor, with the one in reserve; without
    /// that, looks at no connection for a while.
    fn turn_away(&mut self, errno: Errno) {
        let now = Clock::now();
        if self.reserve.may_tell(now) {
            warn!(%errno, "cannot take connections: raise LimitNOFILE of the service");
        }
        if self.reserve.spend()
            && let Ok(connection) = self.listener.accept()
        {
            self.sessions.count_refusal("connections");
            self.graveyard.bury(connection);
        }
        if !self.reserve.refill() && self.epoll.delete(&self.listener).is_ok() {
            self.reserve.rest(now);
        }
    }

    fn hear(&mut self, token: u64) {
        match Token::of(token) {
            Token::Stranger(number) => self.hear_stranger(number),
            Token::Socket(id) => {
                if !self.sessions.hear(id) {
                    self.end_session(id);
                }
            }
            Token::Process(id) => self.end_session(id),
        }
    }

    /// Reads a connection's first packet, or an operator's next.
    fn hear_stranger(&mut self, number: u64) {
        let Some(at) = self.strangers.iter().position(|(n, _)| *n == number) else {
            return self.hear_operator(number);
        };
        let connection = self.strangers.remove(at).1;
        let mut bytes = [0; 4096];
        let (waiting, len) = match graveyard::look(&connection, &mut bytes) {
            Ok(found) => found,
            Err(Errno::EAGAIN | Errno::EINTR) => {
                self.strangers.insert(at, (number, connection));
                return;
            }
            Err(_) => (Waiting::Nothing, 0),
        };
        let Ok(peer) = getsockopt(&connection, sockopt::PeerCredentials) else {
            return self.hang_up(connection);
        };
        let (pid, uid, gid) = (u32::try_from(peer.pid()).unwrap_or(0), peer.uid(), peer.gid());
        if waiting == Waiting::Descriptors {
            self.sessions.refuse_descriptors(&connection, (pid, uid));
        }
        if waiting != Waiting::Plain || graveyard::discard(&connection).is_err() {
            return self.hang_up(connection);
        }
        let packet = &bytes[..len];
        let allowed = self.access.allows(uid, gid);
        if is_request(packet) {
            if !allowed {
                let words = "this user may not ask: list it in clients.users, or one of its \
                             groups in clients.groups, of the configuration";
                // The operator may be gone already.
                let _ = reply(connection.as_fd(), Err::<&Value, _>(words.to_owned()));
                self.hang_up(connection);
            } else if self.make_room(uid) {
                self.answer(number, Operator { connection, uid, awaits: None }, packet);
            } else {
                self.sessions.count_refusal("operators");
                self.hang_up(connection);
            }
            return;
        }
        // The session's own tokens take over from the stranger's.
        let _ = self.epoll.delete(&connection);
        let who = (pid, uid, gid);
        let attached = match self.sessions.attach(&self.machine, connection, packet, who, allowed) {
            Ok(attached) => attached,
            Err(connection) => return self.hang_up(connection),
        };
        let id = attached.session.id;
        let event = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
        let watched = self
            .epoll
            .add(&attached.socket, event(session_token(id)))
            .and_then(|()| self.epoll.add(&attached.pidfd, event(session_token(id) + 1)));
        if let Err(errno) = watched {
            warn!(%errno, "cannot watch a client");
            self.end_session(id);
        }
    }

    /// Reads an operator's next request.
    fn hear_operator(&mut self, number: u64) {
        let Some(operator) = self.operators.take(number) else { return };
        let mut bytes = [0; 4096];
        let (waiting, len) = match graveyard::look(&operator.connection, &mut bytes) {
            Ok(found) => found,
            Err(Errno::EAGAIN | Errno::EINTR) => return self.operators.keep(number, operator),
            Err(_) => (Waiting::Nothing, 0),
        };
        let packet = &bytes[..len];
        let asks = waiting == Waiting::Plain && is_request(packet);
        if asks && !operator.owes() && graveyard::discard(&operator.connection).is_ok() {
            return self.answer(number, operator, packet);
        }
        if waiting != Waiting::Nothing {
            self.sessions.count_refusal("operators");
        }
        self.hang_up_on_operator(operator);
    }

    /// Makes room for another operator of `uid`. Returns false if there is none.
    fn make_room(&mut self, uid: u32) -> bool {
        let (room, closed) = self.operators.make_room(uid);
        closed.into_iter().for_each(|connection| self.hang_up(connection));
        room
    }

    fn hang_up_on_operator(&mut self, operator: Operator) {
        let _ = self.epoll.delete(&operator.connection);
        if let Some(connection) = self.operators.hang_up(operator) {
            self.graveyard.bury(connection);
        }
    }

    /// Closes a connection, which may take a while: what is not watched wakes nobody meanwhile.
    fn hang_up(&self, connection: OwnedFd) {
        let _ = self.epoll.delete(&connection);
        self.graveyard.bury(connection);
    }

    fn end_session(&mut self, id: SessionId) {
        if let Some(attached) = self.sessions.end(&self.machine, id) {
            let _ = self.epoll.delete(&attached.pidfd);
            self.hang_up(attached.socket);
        }
    }

    fn hear_workers(&mut self) {
        let _ = self.machine.answered.read();
        while let Ok(answer) = self.machine.answers.try_recv() {
            match answer {
                FromWorker::Condemned(id, breach) => {
                    warn!(session = id.0, %breach, "client broke the contract: session closed");
                    self.sessions.count_refusal(breach.name());
                    self.end_session(id);
                }
                FromWorker::Detached(id) => self.sessions.detached(id),
                FromWorker::Ponged(number, result) => self.ponged(number, result),
                FromWorker::Ended => {}
            }
        }
    }

    /// Closes connections properly, then ends the workers and the ports.
    fn end(mut self) -> anyhow::Result<()> {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        // Whoever comes now finds no daemon, or the next one.
        // Its queue may hold connections with anything in theirs.
        if let Ok(socket) = self.listener.retire() {
            self.graveyard.hand_over(socket);
        }
        for worker in &self.machine.workers {
            worker.tell(ToWorker::Close);
        }
        for thread in self.machine.threads.drain(..) {
            if thread.join().is_err() {
                warn!("a worker had panicked");
            }
        }
        let strangers = self.strangers.into_iter().map(|(_, connection)| connection);
        let others = self.operators.into_connections().chain(self.sessions.into_sockets());
        strangers.chain(others).for_each(|socket| self.graveyard.bury(socket));
        Ok(())
    }
}

enum Token {
    Stranger(u64),
    Socket(SessionId),
    Process(SessionId),
}

/// Strangers have the upper half of the tokens, so that numbers never meet.
const STRANGERS: u64 = 1 << 63;

const fn stranger_token(number: u64) -> u64 {
    STRANGERS | number
}

const fn session_token(id: SessionId) -> u64 {
    FIRST + 2 * id.0
}

impl Token {
    const fn of(token: u64) -> Self {
        if token & STRANGERS != 0 {
            return Self::Stranger(token & !STRANGERS);
        }
        let id = SessionId((token - FIRST) / 2);
        if (token - FIRST).is_multiple_of(2) { Self::Socket(id) } else { Self::Process(id) }
    }
}
