//! Waiting for many sockets, and for descriptors of the kernel beside them.
//!
//! Owns: instances that are shaped like epoll(7)'s. This library's sockets are in a [`Poll`], the
//! kernel's descriptors in an epoll instance of the kernel, which the same wait looks after. Must
//! never: report what was not asked for, which a caller's loop would spin on.
#![allow(unsafe_code, reason = "C passes events by pointers")]

use std::collections::HashMap;
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use dmm::{Event, Events, Interest, Poll, Token};
use libc::epoll_event;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll as KernelEpoll, EpollCreateFlags};

use crate::errors::{call, done, os};
use crate::handles::{self, Handle};
use crate::socket::{Socket, State};

const IN: u32 = libc::EPOLLIN as u32;
const OUT: u32 = libc::EPOLLOUT as u32;
const RDHUP: u32 = libc::EPOLLRDHUP as u32;
const HUP: u32 = libc::EPOLLHUP as u32;
const ERR: u32 = libc::EPOLLERR as u32;
const ONESHOT: u32 = libc::EPOLLONESHOT as u32;
/// What can be asked of this library's sockets.
const KNOWN: u32 = IN | OUT | RDHUP | HUP | ERR | ONESHOT | libc::EPOLLPRI as u32;

/// An instance.
pub(crate) struct Epoll {
    poll: Poll,
    kernel: KernelEpoll,
    sockets: Mutex<HashMap<c_int, Entry>>,
}

/// A socket of this library in an instance, under the number by which it was added.
struct Entry {
    socket: Weak<Socket>,
    wanted: u32,
    data: u64,
    /// The socket as the poll watches it; nothing while it is fresh, or had its one shot.
    watched: Option<State>,
}

/// As epoll_create1(2): an instance for this library's sockets and the kernel's descriptors. Its
/// number is this library's. `flags` may hold `EPOLL_CLOEXEC`, without effect.
///
/// Errors: `EINVAL` for other flags, `EMFILE`.
#[unsafe(no_mangle)]
pub extern "C" fn dmm_epoll_create1(flags: c_int) -> c_int {
    call(|| {
        if flags & !libc::EPOLL_CLOEXEC != 0 {
            return Err(os(Errno::EINVAL));
        }
        let kernel = KernelEpoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let epoll = Epoll { poll: Poll::new(), kernel, sockets: Mutex::default() };
        handles::open(Handle::Epoll(Arc::new(epoll)))
    })
}

/// As epoll_ctl(2). `target` is a socket of this library, for which `EPOLLIN`, `EPOLLOUT`,
/// `EPOLLRDHUP` and `EPOLLONESHOT` may be asked, level-triggered; or a descriptor of the kernel, for
/// which all that epoll_ctl(2) knows. A socket of this library leaves the instance when the number is
/// closed by which it was added, or the socket with its last number.
///
/// Errors: those of epoll_ctl(2); `EINVAL` for `EPOLLET` and `EPOLLEXCLUSIVE` with a socket of this
/// library, `EXDEV` for one of an ended daemon beside one of another.
///
/// # Safety
/// `event` must be null or point to an event.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_epoll_ctl(
    epoll: c_int,
    operation: c_int,
    target: c_int,
    event: *mut epoll_event,
) -> c_int {
    call(AssertUnwindSafe(|| {
        let epoll = instance(epoll)?;
        if !handles::is_ours(target) {
            let raw = epoll.kernel.0.as_raw_fd();
            // SAFETY: the instance is open, and the kernel looks after the rest.
            let result = unsafe { libc::epoll_ctl(raw, operation, target, event) };
            return Errno::result(result).map_err(io::Error::from);
        }
        let socket = handles::socket(target).map_err(|error| match dmm::errno(&error) {
            // An instance in an instance.
            libc::ENOTSOCK => os(Errno::EPERM),
            _ => error,
        })?;
        let event = || match event.is_null() {
            true => Err(os(Errno::EFAULT)),
            // SAFETY: as the caller promised.
            false => Ok(unsafe { event.read_unaligned() }),
        };
        done(match operation {
            libc::EPOLL_CTL_ADD => Epoll::add(&epoll, target, &socket, event()?),
            libc::EPOLL_CTL_MOD => epoll.modify(target, event()?),
            libc::EPOLL_CTL_DEL => epoll.remove(target),
            _ => Err(os(Errno::EINVAL)),
        })
    }))
}

/// As epoll_wait(2). A signal does not end the wait.
///
/// Errors: those of epoll_wait(2), but for `EINTR`.
///
/// # Safety
/// `events` must point to room for `max` events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_epoll_wait(
    epoll: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout_ms: c_int,
) -> c_int {
    call(AssertUnwindSafe(|| {
        let epoll = instance(epoll)?;
        let room = usize::try_from(max).ok().filter(|room| *room > 0);
        let room = room.ok_or_else(|| os(Errno::EINVAL))?;
        if events.is_null() {
            return Err(os(Errno::EFAULT));
        }
        let found = epoll.wait(room, timeout(timeout_ms))?;
        for (at, event) in found.iter().enumerate() {
            // SAFETY: within the room that the caller promised.
            let place = unsafe { events.add(at) };
            // SAFETY: as above; the kind is packed on some machines.
            unsafe { place.write_unaligned(*event) };
        }
        Ok(found.len() as c_int)
    }))
}

/// Events of the kernel's descriptors that one call reports at most.
const KERNEL_EVENTS: usize = 1024;

fn instance(number: c_int) -> io::Result<Arc<Epoll>> {
    match handles::get(number)? {
        Handle::Epoll(epoll) => Ok(epoll),
        Handle::Socket(_) => Err(os(Errno::EINVAL)),
    }
}

/// Milliseconds as poll(2) takes them: below 0 without end.
pub(crate) fn timeout(milliseconds: c_int) -> Option<Duration> {
    u64::try_from(milliseconds).ok().map(Duration::from_millis)
}

impl Epoll {
    fn lock(&self) -> MutexGuard<'_, HashMap<c_int, Entry>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(
        this: &Arc<Self>,
        number: c_int,
        socket: &Arc<Socket>,
        event: epoll_event,
    ) -> io::Result<()> {
        check(event)?;
        {
            let mut sockets = this.lock();
            // The number may have been another socket's, which is gone.
            let same = |entry: &Entry| std::ptr::eq(entry.socket.as_ptr(), Arc::as_ptr(socket));
            match sockets.get(&number) {
                Some(entry) if same(entry) => return Err(os(Errno::EEXIST)),
                Some(_) => unwatch(&this.poll, sockets.remove(&number)),
                None => {}
            }
            let (wanted, data) = (event.events, event.u64);
            let socket = Arc::downgrade(socket);
            sockets.insert(number, Entry { socket, wanted, data, watched: None });
        }
        socket.tell(Arc::downgrade(this), number);
        this.watch(number).inspect_err(|_| {
            this.lock().remove(&number);
        })?;
        // Closed in between, it told nobody: what is watched would live for ever.
        let lives = handles::socket(number).is_ok_and(|now| Arc::ptr_eq(&now, socket));
        if !lives {
            this.forget(number);
            return Err(os(Errno::EBADF));
        }
        Ok(())
    }

    /// Watches a socket, if it is anything yet.
    pub(crate) fn watch(&self, number: c_int) -> io::Result<()> {
        let mut sockets = self.lock();
        let Some(entry) = sockets.get_mut(&number) else { return Ok(()) };
        let Some(socket) = entry.socket.upgrade() else { return Ok(()) };
        if entry.watched.is_some() {
            return Ok(());
        }
        let state = socket.state()?;
        if let State::Fresh(_) = state {
            return Ok(());
        }
        register(&self.poll, &state, Token(number as usize), interest(entry.wanted))?;
        entry.watched = Some(state);
        Ok(())
    }

    fn modify(&self, number: c_int, event: epoll_event) -> io::Result<()> {
        check(event)?;
        {
            let mut sockets = self.lock();
            let entry = sockets.get_mut(&number).ok_or_else(|| os(Errno::ENOENT))?;
            (entry.wanted, entry.data) = (event.events, event.u64);
            if let Some(state) = &entry.watched {
                return modify(&self.poll, state, Token(number as usize), interest(entry.wanted));
            }
        }
        self.watch(number)
    }

    fn remove(&self, number: c_int) -> io::Result<()> {
        let entry = self.lock().remove(&number).ok_or_else(|| os(Errno::ENOENT))?;
        unwatch(&self.poll, Some(entry));
        Ok(())
    }

    /// The socket is nothing again.
    pub(crate) fn unwatch(&self, number: c_int) {
        let watched = self.lock().get_mut(&number).and_then(|entry| entry.watched.take());
        if let Some(state) = watched {
            let _ = deregister(&self.poll, &state);
        }
    }

    /// The number is closed.
    pub(crate) fn forget(&self, number: c_int) {
        let _ = self.remove(number);
    }

    fn wait(&self, room: usize, timeout: Option<Duration>) -> io::Result<Vec<epoll_event>> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut events = Events::with_capacity(room);
        loop {
            let left = match (timeout, deadline) {
                (Some(_), Some(deadline)) => {
                    Some(deadline.saturating_duration_since(Instant::now()))
                }
                _ => None,
            };
            let outside = self.poll.wait_with(&mut events, left, self.kernel.0.as_fd())?;
            let mut found: Vec<_> = events.iter().filter_map(|event| self.report(event)).collect();
            if outside && found.len() < room {
                self.ask_kernel(&mut found, room)?;
            }
            let over = left.is_some_and(|_| deadline.is_some_and(|at| Instant::now() >= at));
            if !found.is_empty() || over {
                return Ok(found);
            }
        }
    }

    /// An event as the caller knows it.
    fn report(&self, event: &Event) -> Option<epoll_event> {
        let number = c_int::try_from(event.token().0).ok()?;
        let mut sockets = self.lock();
        let entry = sockets.get_mut(&number)?;
        let always = HUP | ERR;
        let events = flags(event) & (entry.wanted | always);
        if events == 0 {
            return None;
        }
        if entry.wanted & ONESHOT != 0 {
            // Until it is modified.
            let state = entry.watched.take()?;
            let _ = deregister(&self.poll, &state);
        }
        Some(epoll_event { events, u64: entry.data })
    }

    fn ask_kernel(&self, found: &mut Vec<epoll_event>, room: usize) -> io::Result<()> {
        // What does not fit is there at the next call.
        let free = (room - found.len()).min(KERNEL_EVENTS);
        let mut events = vec![epoll_event { events: 0, u64: 0 }; free];
        let max = c_int::try_from(free).unwrap_or(c_int::MAX);
        // SAFETY: room for `max` events.
        let count =
            unsafe { libc::epoll_wait(self.kernel.0.as_raw_fd(), events.as_mut_ptr(), max, 0) };
        match Errno::result(count) {
            Ok(count) => events.truncate(count as usize),
            Err(Errno::EINTR) => events.clear(),
            Err(errno) => return Err(errno.into()),
        }
        found.append(&mut events);
        Ok(())
    }
}

fn check(event: epoll_event) -> io::Result<()> {
    if event.events & !KNOWN == 0 { Ok(()) } else { Err(os(Errno::EINVAL)) }
}

/// What to watch for.
pub(crate) fn interest(wanted: u32) -> Interest {
    let mut interest = Interest::NONE;
    if wanted & IN != 0 {
        interest = interest | Interest::READABLE;
    }
    if wanted & RDHUP != 0 {
        interest = interest | Interest::READ_CLOSED;
    }
    if wanted & OUT != 0 {
        interest = interest | Interest::WRITABLE;
    }
    interest
}

/// What an event says, in the words of epoll(7).
pub(crate) fn flags(event: &Event) -> u32 {
    [
        (event.is_readable(), IN),
        (event.is_writable(), OUT),
        (event.is_read_closed(), RDHUP),
        (event.is_hang_up(), HUP),
        (event.is_error(), ERR),
    ]
    .into_iter()
    .filter(|(is, _)| *is)
    .fold(0, |flags, (_, flag)| flags | flag)
}

/// Watches what a socket is.
pub(crate) fn register(
    poll: &Poll,
    state: &State,
    token: Token,
    interest: Interest,
) -> io::Result<()> {
    match state {
        State::Fresh(_) => Ok(()),
        State::Listener(listener) => poll.register(listener, token, interest),
        State::Stream(stream) => poll.register(stream, token, interest),
        State::Datagram(socket) => poll.register(socket, token, interest),
    }
}

fn modify(poll: &Poll, state: &State, token: Token, interest: Interest) -> io::Result<()> {
    match state {
        State::Fresh(_) => Ok(()),
        State::Listener(listener) => poll.modify(listener, token, interest),
        State::Stream(stream) => poll.modify(stream, token, interest),
        State::Datagram(socket) => poll.modify(socket, token, interest),
    }
}

fn deregister(poll: &Poll, state: &State) -> io::Result<()> {
    match state {
        State::Fresh(_) => Ok(()),
        State::Listener(listener) => poll.deregister(listener),
        State::Stream(stream) => poll.deregister(stream),
        State::Datagram(socket) => poll.deregister(socket),
    }
}

/// An entry is gone.
fn unwatch(poll: &Poll, entry: Option<Entry>) {
    if let Some(state) = entry.and_then(|entry| entry.watched) {
        let _ = deregister(poll, &state);
    }
}
