//! Readiness: which of many sockets can be read, written or accepted from.
//!
//! A [`Poll`] keeps a list of sockets that may be ready. Completions put sockets there; a wait looks
//! at each one's cursors, reports those that are ready, and keeps them in the list, since readiness
//! is level-triggered. Owned by programs, usually one per thread. Must never hold its list's lock
//! while it looks at a socket.
//!
//! ```text
//!   Look ──▶ mark ──▶ [ maybe ready ] ──wait──▶ ready? ──yes──▶ event, back into the list
//!                                                  └───no───▶ out of the list until marked
//! ```

mod event;

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use dmm_proto::fifo::State;
use dmm_proto::fifo::datagram::frame_bytes;
use dmm_proto::op::Submission;
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::client::Client;
use crate::context::Ended;
use crate::error::{Error, os};
use crate::socket::{Core, Patience, Phase, Role};
use crate::tcp::{TcpListener, TcpStream};
use crate::udp::UdpSocket;
use crate::waiter::{Outside, Unparked, Waiter, Waiters, lock};

use event::Readiness;
pub use event::{Event, Events, Interest, Token};

/// Payload that must fit for a UDP socket to count as writable: an Ethernet frame's worth.
const WRITABLE_DATAGRAM: usize = 1472;

mod sealed {
    use super::{Arc, Client, Core};

    pub trait Sealed {
        fn parts(&self) -> (&Client, &Arc<Core>);
    }
}

/// What can be registered: this library's sockets.
pub trait Source: sealed::Sealed {}

macro_rules! source {
    ($($socket:ty),*) => {$(
        impl sealed::Sealed for $socket {
            fn parts(&self) -> (&Client, &Arc<Core>) {
                (self.client(), self.core())
            }
        }

        impl Source for $socket {}
    )*};
}

source!(TcpStream, TcpListener, UdpSocket);

/// Watches sockets of one session. Any thread may register and wait; two that wait at once may both
/// be told of the same socket.
#[derive(Default)]
pub struct Poll {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    maybe_ready: Mutex<VecDeque<Arc<Watch>>>,
    waiters: Waiters,
    /// The session of the registered sockets.
    client: Mutex<Option<Client>>,
    registered: AtomicUsize,
    /// What wakes those that wait for kernel descriptors too, while nobody does.
    nudges: Mutex<Vec<Arc<EventFd>>>,
}

/// A socket's registration with a poll.
pub(crate) struct Watch {
    token: AtomicUsize,
    interest: AtomicU8,
    /// It is in the poll's list.
    listed: AtomicBool,
    over: AtomicBool,
    core: Arc<Core>,
    poll: Weak<Shared>,
}

impl Watch {
    /// The socket may be ready.
    pub(crate) fn mark(self: &Arc<Self>) {
        if self.listed.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(poll) = self.poll.upgrade() {
            lock(&poll.maybe_ready).push_back(Arc::clone(self));
            poll.waiters.wake();
        }
    }

    /// The registration is over.
    pub(crate) fn close(&self) {
        if !self.over.swap(true, Ordering::AcqRel)
            && let Some(poll) = self.poll.upgrade()
        {
            poll.registered.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// What there is to report of the socket now.
    fn event(&self, client: &Client) -> Option<Event> {
        let interest = Interest(self.interest.load(Ordering::Acquire));
        let mut ready = if client.session.is_dead() {
            Readiness {
                readable: true,
                writable: true,
                read_closed: true,
                hang_up: true,
                error: true,
            }
        } else {
            self.core.readiness()
        };
        ready.readable &= interest.has(Interest::READABLE);
        if interest.has(Interest::WRITABLE) {
            ready.writable = ready.writable || self.core.wish_for_room(client);
        } else {
            ready.writable = false;
        }
        let closed = ready.read_closed && interest.has(Interest::READ_CLOSED);
        let anything = ready.readable || ready.writable || closed || ready.hang_up || ready.error;
        let token = Token(self.token.load(Ordering::Acquire));
        anything.then_some(Event { token, ready })
    }

    fn is_of(&self, poll: &Arc<Shared>) -> bool {
        std::ptr::eq(self.poll.as_ptr(), Arc::as_ptr(poll))
    }
}

impl Core {
    /// What the cursors and state say.
    fn readiness(&self) -> Readiness {
        match &self.role {
            Role::Listener(backlog) => {
                let readable = !lock(backlog).accepted.is_empty();
                Readiness { readable, ..Readiness::default() }
            }
            Role::Datagram { .. } => Readiness {
                // The next call tells it, as select(2) counts it.
                readable: self.trouble().is_some() || lock(&self.rx).available() > 0,
                writable: self.has_room(),
                error: self.trouble().is_some() || self.pending_error().is_some(),
                ..Readiness::default()
            },
            Role::Stream { .. } => self.stream_readiness(),
        }
    }

    fn stream_readiness(&self) -> Readiness {
        // The state before the cursors, as in a read.
        let (phase, state) = (self.phase(), self.state());
        let broken = phase == Phase::Failed || state.has(State::BROKEN);
        if matches!(phase, Phase::Opening | Phase::Deferred) {
            // A SYN that waits is to carry what is written.
            return Readiness { writable: phase == Phase::Deferred, ..Readiness::default() };
        }
        let tx_shut = self.tx_shut.load(Ordering::Acquire);
        let read_closed =
            broken || state.has(State::RX_ENDED) || self.rx_shut.load(Ordering::Acquire);
        Readiness {
            readable: read_closed || lock(&self.rx).available() > 0,
            writable: broken || tx_shut || self.has_room(),
            read_closed,
            hang_up: broken || (read_closed && tx_shut),
            error: broken && self.pending_error().is_some(),
        }
    }

    fn has_room(&self) -> bool {
        let wanted = match self.role {
            Role::Datagram { .. } => frame_bytes(WRITABLE_DATAGRAM),
            _ => 1,
        };
        lock(&self.tx).room(wanted) >= wanted
    }

    /// Asks the daemon to tell of room; true if there is some after all.
    fn wish_for_room(&self, client: &Client) -> bool {
        if self.phase() != Phase::Open || matches!(self.role, Role::Listener(_)) {
            return false;
        }
        let tell = {
            let tx = lock(&self.tx);
            tx.want_room();
            tx.must_tell()
        };
        // `must_tell` comes first: it orders the wish before the last look.
        let has_room = self.has_room();
        if tell && !client.session.is_dead() {
            // A failure means that the daemon is gone, which marks the socket again.
            let _ = client.session.ask(self.instance(), Submission::Send { socket: self.socket() });
        }
        has_room
    }
}

impl Poll {
    /// A poll without sockets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Watches a socket. The registration ends with the socket.
    ///
    /// # Errors
    /// `EEXIST` if it is registered here already, [`Error::OtherSession`] (`EXDEV`) if the poll
    /// watches sockets of another session (which an ended daemon's are, once another is attached).
    pub fn register(
        &self,
        source: &impl Source,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        let (client, core) = source.parts();
        self.adopt(client)?;
        let watch = {
            let mut watches = lock(&core.watches);
            if watches.iter().any(|watch| watch.is_of(&self.shared)) {
                return Err(os(Errno::EEXIST));
            }
            watches.retain(|watch| watch.poll.strong_count() > 0);
            let watch = Arc::new(Watch {
                token: AtomicUsize::new(token.0),
                interest: AtomicU8::new(interest.0),
                listed: AtomicBool::new(false),
                over: AtomicBool::new(false),
                core: Arc::clone(core),
                poll: Arc::downgrade(&self.shared),
            });
            watches.push(Arc::clone(&watch));
            self.shared.registered.fetch_add(1, Ordering::AcqRel);
            watch
        };
        // It may be ready now.
        watch.mark();
        Ok(())
    }

    /// Changes a registered socket's token and interest.
    ///
    /// # Errors
    /// `ENOENT` if it is not registered here.
    pub fn modify(&self, source: &impl Source, token: Token, interest: Interest) -> io::Result<()> {
        let (_, core) = source.parts();
        let watch = lock(&core.watches).iter().find(|w| w.is_of(&self.shared)).cloned();
        let watch = watch.ok_or_else(|| os(Errno::ENOENT))?;
        watch.token.store(token.0, Ordering::Release);
        watch.interest.store(interest.0, Ordering::Release);
        watch.mark();
        Ok(())
    }

    /// Watches a socket no longer.
    ///
    /// # Errors
    /// `ENOENT` if it is not registered here.
    pub fn deregister(&self, source: &impl Source) -> io::Result<()> {
        let (_, core) = source.parts();
        let mut watches = lock(&core.watches);
        let at = watches.iter().position(|watch| watch.is_of(&self.shared));
        watches.swap_remove(at.ok_or_else(|| os(Errno::ENOENT))?).close();
        Ok(())
    }

    /// Waits until a socket is ready or `timeout` is over, and fills `events`; none after a timeout.
    /// If more are ready than fit, the next wait begins with the others.
    ///
    /// # Errors
    /// [`Error::Inherited`] (`EBADF`) in a forked child. The end of the daemon is no error here: all
    /// sockets are then ready, with an error.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        self.wait_outside(events, timeout, None).map(|_| ())
    }

    /// As [`Poll::wait`], and until a kernel descriptor is readable or its peer hung up: that of an
    /// epoll instance, say, in which a program's pipes, timers and kernel sockets are. Returns
    /// whether it is.
    ///
    /// # Errors
    /// As [`Poll::wait`]; `EMFILE` without a descriptor left for this thread's own wake-up.
    pub fn wait_with(
        &self,
        events: &mut Events,
        timeout: Option<Duration>,
        descriptor: BorrowedFd<'_>,
    ) -> io::Result<bool> {
        let spare = lock(&self.shared.nudges).pop();
        let nudge = match spare {
            Some(nudge) => nudge,
            None => {
                let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
                Arc::new(EventFd::from_flags(flags)?)
            }
        };
        let outside = Outside { descriptor, nudge: Arc::clone(&nudge) };
        let waited = self.wait_outside(events, timeout, Some(&outside));
        // One for each thread that has ever waited at the same time. A late nudge of this wait ends
        // the next sleep once for nothing.
        lock(&self.shared.nudges).push(nudge);
        waited
    }

    fn wait_outside(
        &self,
        events: &mut Events,
        timeout: Option<Duration>,
        outside: Option<&Outside<'_>>,
    ) -> io::Result<bool> {
        let is_ready = || outside.is_some_and(Outside::is_ready);
        events.events.clear();
        let patience = Patience::from_timeout(timeout);
        loop {
            let client = lock(&self.shared.client).clone();
            let idle = || self.shared.registered.load(Ordering::Acquire) == 0;
            let Some(client) = client.filter(|client| !(client.session.is_dead() && idle())) else {
                if is_ready() {
                    return Ok(true);
                }
                if self.wait_for_sockets(patience, outside) {
                    continue;
                }
                return Ok(false);
            };
            // What nobody drained yet may be older than what the list says.
            client.session.drain();
            let waiters = &self.shared.waiters;
            let outcome = client.session.wait_outside(waiters, patience, outside, || {
                self.collect(&client, events);
                let ready = is_ready();
                (!events.is_empty() || ready || !self.is_of(&client)).then_some(ready)
            });
            match outcome {
                Ok(false) if events.is_empty() => {}
                Err(Ended::Dead) => {}
                Ok(ready) => return Ok(ready),
                Err(Ended::TimedOut) => return Ok(false),
                Err(ended) => return Err(client.session.failure(ended, Errno::EAGAIN)),
            }
        }
    }

    /// Waits without a daemon to wait for. False if the patience is used up.
    fn wait_for_sockets(&self, patience: Patience, outside: Option<&Outside<'_>>) -> bool {
        let deadline = match patience {
            Patience::None => return false,
            Patience::Until(deadline) => Some(deadline),
            Patience::Endless => None,
        };
        let waiter = Waiter::new(outside.map(|outside| Arc::clone(&outside.nudge)));
        let _joined = self.shared.waiters.join(&waiter);
        {
            let mut list = lock(&self.shared.maybe_ready);
            list.retain(|watch| !watch.over.load(Ordering::Acquire));
            if !list.is_empty() {
                return true;
            }
        }
        let unparked = match outside {
            None => waiter.park(deadline),
            Some(outside) => waiter.park_outside(deadline, outside.descriptor),
        };
        unparked != Unparked::TimedOut
    }

    /// Turns the list into events, as far as there is room for them.
    fn collect(&self, client: &Client, events: &mut Events) {
        let list = &self.shared.maybe_ready;
        let count = lock(list).len();
        for _ in 0..count {
            if events.events.len() == events.capacity {
                return;
            }
            let Some(watch) = lock(list).pop_front() else { return };
            // Before the look, and acquiring what the marker saw: what comes later marks it again.
            watch.listed.swap(false, Ordering::AcqRel);
            if watch.over.load(Ordering::Acquire) {
                continue;
            }
            let Some(event) = watch.event(client) else { continue };
            events.events.push(event);
            if !watch.listed.swap(true, Ordering::AcqRel) {
                lock(list).push_back(watch);
            }
        }
    }

    fn is_of(&self, client: &Client) -> bool {
        lock(&self.shared.client).as_ref().is_some_and(|adopted| adopted.is(client))
    }

    /// Watches sockets of `client` from now on, if there are none of another.
    fn adopt(&self, client: &Client) -> io::Result<()> {
        let mut adopted = lock(&self.shared.client);
        if adopted.as_ref().is_some_and(|adopted| adopted.is(client)) {
            return Ok(());
        }
        if self.shared.registered.load(Ordering::Acquire) > 0 {
            return Err(Error::OtherSession.into());
        }
        *adopted = Some(client.clone());
        Ok(())
    }
}
