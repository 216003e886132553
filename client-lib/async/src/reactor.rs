//! From readiness to wakers: one thread that waits for all sockets somebody awaits.
//!
//! Readiness is level-triggered and wakers are not: so a socket is watched only while a task waits for
//! it, for what it waits for, and each event ends that. Must never: call a waker under a lock, or
//! watch a socket for nobody.
//!
//! ```text
//!   task ── EAGAIN ──▶ Watched: waker, interest ── register ──▶ dmm::Poll
//!    ▲                                                              │ event
//!    └───────────── wake ◀── thread: take wakers, deregister ◀──────┘
//! ```
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use dmm::{Event, Events, Interest, Source, Token};

/// Events taken at once.
const EVENTS: usize = 256;

/// Waits for the sockets of one session.
struct Reactor {
    poll: dmm::Poll,
    watched: Mutex<HashMap<usize, Weak<dyn Deliver>>>,
    next: AtomicUsize,
}

/// The process's, for the session of the sockets opened last. It ends with its sockets, and so does
/// the session, of which it holds a handle.
static REACTOR: Mutex<Weak<Reactor>> = Mutex::new(Weak::new());

/// Which direction a task waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To read or accept.
    In,
    /// To write, or for the end of a connect.
    Out,
}

/// A socket that tasks may wait for.
pub(crate) struct Watched<S: Source> {
    socket: S,
    token: usize,
    reactor: Arc<Reactor>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    reader: Option<Waker>,
    writer: Option<Waker>,
    registered: bool,
}

trait Deliver: Send + Sync {
    fn deliver(&self, event: Event);
}

impl Reactor {
    fn start() -> io::Result<Arc<Self>> {
        let reactor = Arc::new(Self {
            poll: dmm::Poll::new(),
            watched: Mutex::default(),
            next: AtomicUsize::new(0),
        });
        // It ends with the last socket that belongs to it.
        let held = Arc::downgrade(&reactor);
        std::thread::Builder::new().name("dmm-reactor".to_owned()).spawn(move || run(&held))?;
        Ok(reactor)
    }
}

fn run(reactor: &Weak<Reactor>) {
    /// How long a reactor without sockets lives on.
    const PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);

    let mut events = Events::with_capacity(EVENTS);
    while let Some(reactor) = reactor.upgrade() {
        // Only a forked child is refused, and that has no thread but its own.
        if reactor.poll.wait(&mut events, Some(PATIENCE)).is_err() {
            return;
        }
        for event in &events {
            let watched = lock(&reactor.watched).get(&event.token().0).and_then(Weak::upgrade);
            if let Some(watched) = watched {
                watched.deliver(*event);
            }
        }
    }
}

impl<S: Source + Send + Sync + 'static> Watched<S> {
    /// A socket that nobody waits for yet. It must be non-blocking.
    pub(crate) fn new(socket: S) -> io::Result<Arc<Self>> {
        let mut global = lock(&REACTOR);
        let mut reactor = match global.upgrade() {
            Some(reactor) => reactor,
            None => Reactor::start()?,
        };
        match try_out(&reactor, &socket) {
            // Of another session than the others, it needs another one: theirs goes on for them.
            Err(error) if dmm::errno(&error) == EXDEV => {
                reactor = Reactor::start()?;
                try_out(&reactor, &socket)?;
            }
            tried => tried?,
        }
        *global = Arc::downgrade(&reactor);
        drop(global);
        let token = reactor.next.fetch_add(1, Ordering::Relaxed);
        let watched = Arc::new(Self { socket, token, reactor, waiting: Mutex::default() });
        let deliver: Weak<dyn Deliver> =
            Arc::downgrade(&(Arc::clone(&watched) as Arc<dyn Deliver>));
        lock(&watched.reactor.watched).insert(token, deliver);
        Ok(watched)
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &S {
        &self.socket
    }

    /// Tries; if that would wait, has the task woken when it need not.
    pub(crate) fn poll_io<T>(
        &self,
        way: Way,
        context: &Context<'_>,
        mut attempt: impl FnMut(&S) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        match attempt(&self.socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result),
        }
        // Registering looks at the socket anew: what came meanwhile wakes.
        match self.wait_for(way, context.waker()) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn wait_for(&self, way: Way, waker: &Waker) -> io::Result<()> {
        let mut waiting = lock(&self.waiting);
        match way {
            Way::In => waiting.reader = Some(waker.clone()),
            Way::Out => waiting.writer = Some(waker.clone()),
        }
        self.watch(&mut waiting)
    }

    /// Watches for what is waited for, if anything is.
    fn watch(&self, waiting: &mut Waiting) -> io::Result<()> {
        let mut interest = Interest::NONE;
        if waiting.reader.is_some() {
            interest = interest | Interest::READABLE;
        }
        if waiting.writer.is_some() {
            interest = interest | Interest::WRITABLE;
        }
        let (poll, token) = (&self.reactor.poll, Token(self.token));
        match (interest != Interest::NONE, waiting.registered) {
            (false, false) => Ok(()),
            (false, true) => {
                waiting.registered = false;
                poll.deregister(&self.socket)
            }
            (true, true) => poll.modify(&self.socket, token, interest),
            (true, false) => {
                poll.register(&self.socket, token, interest)?;
                waiting.registered = true;
                Ok(())
            }
        }
    }
}

impl<S: Source + Send + Sync + 'static> Deliver for Watched<S> {
    fn deliver(&self, event: Event) {
        let over = event.is_hang_up() || event.is_error();
        let (reader, writer) = {
            let mut waiting = lock(&self.waiting);
            let readable = over || event.is_readable() || event.is_read_closed();
            let reader = if readable { waiting.reader.take() } else { None };
            let writer = if over || event.is_writable() { waiting.writer.take() } else { None };
            // That it is not registered any more is what was wanted.
            let _ = self.watch(&mut waiting);
            (reader, writer)
        };
        for waker in [reader, writer].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl<S: Source> Drop for Watched<S> {
    fn drop(&mut self) {
        lock(&self.reactor.watched).remove(&self.token);
    }
}

/// `EXDEV` of errno(3).
const EXDEV: i32 = 18;

/// Whether the reactor may watch the socket.
fn try_out(reactor: &Reactor, socket: &impl Source) -> io::Result<()> {
    reactor.poll.register(socket, Token(usize::MAX), Interest::NONE)?;
    reactor.poll.deregister(socket)
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
