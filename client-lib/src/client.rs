//! The client: a process's session with the daemon.
//!
//! Owns everything that attaching brings: the mapped regions, the channels, the slot table, the
//! context. Every socket holds its client; the global one is attached when the first socket is
//! opened, and anew after the daemon ended. Must never outlive a fork: a child that touches its
//! parent's session gets [`Error::Inherited`].

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dmm_proto::doorbell;
use dmm_proto::hello::{self, AttachError, Hello, WELCOME_FDS};
use dmm_proto::info::TcpInfo;
use dmm_proto::layout::Geometry;
use dmm_proto::op::Submission;
use dmm_proto::region::Region;
use dmm_proto::session::{Beacon, Memory, StackInfo};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::channel::Channels;
use crate::config::Config;
use crate::context::{Context, Ended};
use crate::error::{Error, os};
use crate::slots::{Slots, reset_on_close};
use crate::socket::{Accepted, Core, Patience, Role};
use crate::waiter::lock;

/// How long a daemon may take to answer a hello before it counts as unreachable.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);

/// How long closing a port waits for the daemon: far longer than it takes, if it runs.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

static GLOBAL: Mutex<Option<Client>> = Mutex::new(None);

/// Held while the global client attaches, so that threads which start together share one session.
static ATTACHING: Mutex<()> = Mutex::new(());
/// The process that [`ATTACHING`] belongs to: a child forked meanwhile inherits it locked for ever.
static ATTACHING_OWNER: AtomicU32 = AtomicU32::new(0);

/// A session with a daemon. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Client {
    pub(crate) session: Arc<Session>,
}

pub(crate) struct Session {
    pub(crate) socket: OwnedFd,
    pub(crate) channels: Channels,
    pub(crate) slots: Mutex<Slots>,
    pub(crate) context: Context,
    stacks: Vec<StackInfo>,
    /// Spreads new sockets over a stack's instances.
    next_instance: AtomicU32,
    /// The process that attached.
    owner: u32,
}

impl Client {
    /// The process's client: attached at the first call, and anew if the daemon ended since or the
    /// process is a fork of the one that attached.
    ///
    /// # Errors
    /// [`Error::Unreachable`] without a daemon, [`Error::Forbidden`] if its socket does not admit
    /// this user, [`Error::Timeout`] (`ETIMEDOUT`) if it has not answered within 10 s,
    /// [`Error::Attach`] if it refuses, [`Error::Environment`] if a variable does not parse.
    pub fn global() -> Result<Self, Error> {
        if let Some(client) = Self::living_global() {
            return Ok(client);
        }
        let _attaching = attaching();
        if let Some(client) = Self::living_global() {
            return Ok(client);
        }
        // Not under the lock of `GLOBAL`: this may take as long as the daemon does.
        let client = Self::attach_with(&Config::from_env()?)?;
        *lock(&GLOBAL) = Some(client.clone());
        Ok(client)
    }

    fn living_global() -> Option<Self> {
        let client = lock(&GLOBAL).clone()?;
        (!client.session.is_inherited() && client.session.look_alive()).then_some(client)
    }

    /// Attaches to the daemon at `path`: a session of its own beside others of this process.
    ///
    /// # Errors
    /// As [`Client::global`].
    pub fn attach(path: impl AsRef<Path>) -> Result<Self, Error> {
        let config = Config { socket: path.as_ref().to_owned(), ..Config::from_env()? };
        Self::attach_with(&config)
    }

    /// Attaches as `config` says.
    ///
    /// # Errors
    /// As [`Client::global`], but for the environment, which is not asked.
    pub fn attach_with(config: &Config) -> Result<Self, Error> {
        Self::attach_within(config, HELLO_PATIENCE)
    }

    /// As [`Client::attach_with`], giving the daemon this long to answer.
    fn attach_within(config: &Config, patience: Duration) -> Result<Self, Error> {
        let path = || config.socket.clone();
        // SO_SNDTIMEO and SO_RCVTIMEO in socket(7): what takes longer fails with EAGAIN.
        let timed_out = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        let socket = reach(&config.socket, patience).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => Error::Forbidden { path: path(), source },
            _ if timed_out(&source) => Error::Timeout { path: path(), patience },
            _ => Error::Unreachable { path: path(), source },
        })?;
        let session = Session::open(socket, config).map_err(|source| match source {
            AttachError::Io(source) if timed_out(&source) => {
                Error::Timeout { path: path(), patience }
            }
            source => Error::Attach { path: path(), source },
        })?;
        Ok(Self { session: Arc::new(session) })
    }

    /// The names of the daemon's stacks; the first is the one that serves sockets which name none.
    #[must_use]
    pub fn stacks(&self) -> Vec<String> {
        self.session.stacks.iter().map(|stack| stack.name.clone()).collect()
    }

    /// Whether the daemon is gone: after this was true, every call on this client's sockets fails with
    /// `ECONNRESET`.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        !self.session.look_alive()
    }

    /// With `true`, waiting threads never sleep: lowest latency for a core each.
    pub fn set_polling(&self, polling: bool) {
        self.session.context.set_polling(polling);
    }

    /// The stack of that name, or the first.
    pub(crate) fn stack(&self, name: Option<&str>) -> io::Result<&StackInfo> {
        let stacks = &self.session.stacks;
        let found = match name {
            None => stacks.first(),
            Some(name) => stacks.iter().find(|stack| stack.name == name),
        };
        let unknown = || Error::UnknownStack {
            name: name.unwrap_or_default().to_owned(),
            known: self.stacks(),
        };
        found.ok_or_else(|| unknown().into())
    }

    /// The next of the stack's instances in turn.
    pub(crate) fn next_instance(&self, stack: &StackInfo) -> u32 {
        let turn = self.session.next_instance.fetch_add(1, Ordering::Relaxed);
        stack.first_instance + turn % stack.instances
    }

    /// Whether both are handles to the same session.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.session, &other.session)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("stacks", &self.stacks()).finish_non_exhaustive()
    }
}

impl Session {
    /// Says hello and maps what comes back.
    fn open(socket: OwnedFd, config: &Config) -> Result<Self, AttachError> {
        Hello { name: program_name() }.send(socket.as_fd())?;
        let (geometry, fds) = hello::receive_welcome(socket.as_fd())?;
        if fds.len() != WELCOME_FDS + geometry.workers as usize {
            return Err(AttachError::Malformed);
        }
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or(AttachError::Malformed);
        let beacon = Beacon::open(Region::open(next()?, Geometry::beacon_bytes(), false)?);
        let daemon = Region::open(next()?, geometry.daemon_bytes(), false)?;
        let client = Region::open(next()?, geometry.client_bytes(), true)?;
        let arena = Region::open(next()?, geometry.arena_bytes(), true)?;
        let doorbell = doorbell::Listener::from_fd(next()?);
        let memory = Memory::assemble(geometry, daemon, client, arena);
        let stacks = memory.read_stacks();
        let fits = |stack: &StackInfo| {
            stack
                .first_instance
                .checked_add(stack.instances)
                .is_some_and(|n| n <= geometry.instances)
        };
        if !stacks.iter().all(fits) {
            return Err(AttachError::Malformed);
        }
        let channels =
            Channels::new(&memory, &beacon, fds.collect()).ok_or(AttachError::Malformed)?;
        let context = Context::new(&memory, doorbell, config.spin).map_err(io::Error::from)?;
        Ok(Self {
            socket,
            channels,
            slots: Mutex::new(Slots::new(memory)),
            context,
            stacks,
            next_instance: AtomicU32::new(0),
            owner: std::process::id(),
        })
    }

    /// Whether this process is a fork of the one that attached. A system call of some 50 ns, so
    /// asked where a ring would be touched, not where bytes are copied: a child that reads what had
    /// already arrived is not noticed.
    pub(crate) fn is_inherited(&self) -> bool {
        std::process::id() != self.owner
    }

    /// What a wait that ended without result means to the caller of a socket.
    pub(crate) fn failure(&self, ended: Ended, timed_out: Errno) -> io::Error {
        match ended {
            Ended::TimedOut => os(timed_out),
            Ended::Dead => os(Errno::ECONNRESET),
            Ended::Inherited => Error::Inherited { owner: self.owner }.into(),
        }
    }

    /// Submits; `ECONNRESET` if the daemon is gone.
    pub(crate) fn ask(&self, instance: u32, submission: Submission) -> io::Result<()> {
        self.submit(instance, submission).map_err(|ended| self.failure(ended, Errno::EAGAIN))
    }

    /// Refuses to start anything in a session that is over or another process's.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.is_inherited() {
            return Err(self.failure(Ended::Inherited, Errno::EAGAIN));
        }
        if self.is_dead() { Err(os(Errno::ECONNRESET)) } else { Ok(()) }
    }

    /// Puts a new socket into a slot.
    pub(crate) fn open_slot(&self, instance: u32, role: Role) -> io::Result<Arc<Core>> {
        self.check()?;
        // A program that only opens and closes never waits: closes confirmed meanwhile free slots.
        self.drain();
        lock(&self.slots).open(instance, role)
    }

    /// Asks an instance what a socket knows of itself, and waits for the answer: what was asked of it before is
    /// done then.
    pub(crate) fn inform(&self, core: &Core, instance: u32) -> io::Result<TcpInfo> {
        let number = core.ask();
        let told = self.ask(instance, Submission::Inform { socket: core.socket(), number });
        let told = told.and_then(|()| {
            let told = self.wait(&core.waiters, Patience::Endless, || core.answer_to(number));
            told.unwrap_or_else(|ended| Err(self.failure(ended, Errno::EAGAIN)))
        });
        core.forget(number);
        told
    }

    /// Gives an instance one more free slot to put a connection into, now or when there is one.
    pub(crate) fn credit(&self, listener: &Arc<Core>, instance: u32) -> io::Result<()> {
        self.check()?;
        let credited = lock(&self.slots).credit(listener, instance, &self.channels);
        credited.map_err(|_| {
            self.die();
            os(Errno::ECONNRESET)
        })
    }

    /// Is done with a listener, and resets the connections that nobody took. One that arrives while
    /// this is under way is reset by whoever drains next, which may be the program's next call.
    pub(crate) fn close_listener(&self, core: &Arc<Core>, instances: Range<u32>) {
        self.close(core, instances);
        let Role::Listener(backlog) = &core.role else { return };
        let untaken = std::mem::take(&mut lock(backlog).accepted);
        for Accepted { core, .. } in untaken {
            if !self.is_inherited() {
                // Noticed by the close if it fails.
                let _ = self.channels.defer(core.instance(), reset_on_close(core.socket()));
            }
            self.close(&core, std::iter::once_with(|| core.instance()));
        }
        self.wait_until_closed(core);
    }

    /// Waits until the daemon has given the port of a closed socket back, as close(2) does: who
    /// binds to it next must not find it taken. For a second at most: the daemon may be stopped.
    pub(crate) fn wait_until_closed(&self, core: &Core) {
        if self.is_inherited() {
            return;
        }
        let patience = Patience::from_timeout(Some(CLOSE_PATIENCE));
        // That it ended, or takes long, makes no difference to a closed socket.
        let _ =
            self.wait(&core.waiters, patience, || lock(&self.slots).is_closed(core).then_some(()));
    }

    /// Is done with a socket, which its handle's `Drop` calls: never waits. `holders` are the
    /// instances that have it.
    pub(crate) fn close(&self, core: &Arc<Core>, holders: impl Iterator<Item = u32>) {
        for watch in lock(&core.watches).drain(..) {
            watch.close();
        }
        if self.is_inherited() {
            return;
        }
        // A redirection or refusal may have come, which leaves nothing to close there; connections
        // to a listener may have come, which are to be closed as well.
        self.drain();
        // Under the table's lock: nothing that the table brings about comes behind the close.
        let mut slots = lock(&self.slots);
        if !slots.holds(core) {
            return;
        }
        let mut due = 0;
        for instance in holders {
            due += 1;
            if self.channels.defer(instance, Submission::Close { socket: core.socket() }).is_err() {
                // Noticed again, and acted on, by whoever submits or drains next.
                break;
            }
        }
        slots.close(core, due);
    }
}

/// Lets one thread attach at a time. A fork of the process that this belongs to goes without.
fn attaching() -> Option<MutexGuard<'static, ()>> {
    let process = std::process::id();
    let owner = ATTACHING_OWNER.compare_exchange(0, process, Ordering::Relaxed, Ordering::Relaxed);
    (owner == Ok(0) || owner == Err(process)).then(|| lock(&ATTACHING))
}

/// Connects to the daemon's socket, where every step may take as long as `patience`.
fn reach(path: &Path, patience: Duration) -> io::Result<OwnedFd> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    // Also bounds connect(2) while the daemon's backlog is full.
    let timeout = TimeVal::microseconds(i64::try_from(patience.as_micros()).unwrap_or(i64::MAX));
    setsockopt(&socket, sockopt::SendTimeout, &timeout)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)?;
    loop {
        match connect(socket.as_raw_fd(), &address) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    }
    Ok(socket)
}

/// The program's name, for the daemon's reports.
fn program_name() -> String {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Backlog, bind, listen};

    /// As a daemon that is stopped: the kernel takes connections for it until the backlog is full.
    #[test]
    fn a_daemon_that_does_not_answer_is_a_timeout_with_a_remedy() {
        const PATIENCE: Duration = Duration::from_millis(50);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dmmd.sock");
        let flags = SockFlag::SOCK_CLOEXEC;
        let door = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        bind(door.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&door, Backlog::new(1).unwrap()).unwrap();
        let config = Config { socket: path.clone(), ..Config::default() };
        // Two find room in a backlog of 1 and miss the answer; the third is not even connected.
        for _ in 0..3 {
            let error = Client::attach_within(&config, PATIENCE).unwrap_err();
            assert!(matches!(error, Error::Timeout { .. }), "{error}");
            let error = io::Error::from(error);
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(error.to_string().contains("see its log, restart it"), "{error}");
        }
        assert_eq!(reach(&path, PATIENCE).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
