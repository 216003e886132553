//! One sleeping thread, and the list of those that wait for the same thing.
//!
//! A [`Waiter`] sleeps in one of two ways: parked on its condition variable, or, as its context's
//! leader or because it waits for a kernel descriptor too, in poll(2); whoever wakes it need not know
//! which. Made by [`crate::context`], woken by
//! whoever drains completions. Must never be woken under a lock that a woken thread takes first.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;

/// Takes a lock even if a thread panicked while it held it: every structure under these locks is
/// kept consistent between statements that can panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread that is about to sleep or sleeps.
pub(crate) struct Waiter {
    state: Mutex<State>,
    signal: Condvar,
    /// Ends its poll(2). Shared by all waiters of a context of which only the leader sleeps there;
    /// one that never does has none.
    nudge: Option<Arc<EventFd>>,
}

/// What else ends a wait: a kernel descriptor that is readable, or whose peer hung up.
#[derive(Clone)]
pub(crate) struct Outside<'a> {
    /// The descriptor.
    pub(crate) descriptor: BorrowedFd<'a>,
    /// The waiter's own, since it sleeps in poll(2) whether it leads or not.
    pub(crate) nudge: Arc<EventFd>,
}

impl Outside<'_> {
    /// Whether the descriptor is ready now.
    pub(crate) fn is_ready(&self) -> bool {
        let mut fds = [PollFd::new(self.descriptor, PollFlags::POLLIN)];
        // What cannot be polled is for its owner to find out.
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

#[derive(Default)]
struct State {
    /// Something happened since [`Waiter::reset`].
    woken: bool,
    /// The leader's part was handed to this waiter.
    promoted: bool,
    /// It sleeps in poll(2), not on the condition variable.
    polling: bool,
}

/// Why [`Waiter::park`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unparked {
    Woken,
    Promoted,
    TimedOut,
}

impl Waiter {
    pub(crate) fn new(nudge: Option<Arc<EventFd>>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), signal: Condvar::new(), nudge })
    }

    /// Forgets earlier wake-ups: what follows is a new look at the condition.
    pub(crate) fn reset(&self) {
        lock(&self.state).woken = false;
    }

    /// Whether it was woken since [`Waiter::reset`].
    pub(crate) fn is_woken(&self) -> bool {
        lock(&self.state).woken
    }

    pub(crate) fn wake(&self) {
        let mut state = lock(&self.state);
        if !state.woken {
            state.woken = true;
            self.rouse(&state);
        }
    }

    /// Makes it the leader. The caller holds the lock on the context's sleepers.
    pub(crate) fn promote(&self) {
        let mut state = lock(&self.state);
        state.promoted = true;
        self.rouse(&state);
    }

    fn rouse(&self, state: &State) {
        if state.polling {
            // Its counter cannot overflow: who is back from poll(2) clears it.
            self.nudge.as_ref().map(|nudge| nudge.write(1));
        } else {
            self.signal.notify_one();
        }
    }

    /// Whether it was made the leader; asking clears that.
    pub(crate) fn take_promotion(&self) -> bool {
        std::mem::take(&mut lock(&self.state).promoted)
    }

    /// Sleeps until woken, promoted or `deadline`.
    pub(crate) fn park(&self, deadline: Option<Instant>) -> Unparked {
        let mut state = lock(&self.state);
        loop {
            if state.woken {
                return Unparked::Woken;
            }
            if state.promoted {
                return Unparked::Promoted;
            }
            state = match deadline {
                None => self.signal.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Unparked::TimedOut;
                    }
                    let result = self.signal.wait_timeout(state, left);
                    result.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// As [`Waiter::park`], and until `descriptor` is ready, which counts as woken.
    pub(crate) fn park_outside(
        &self,
        deadline: Option<Instant>,
        descriptor: BorrowedFd<'_>,
    ) -> Unparked {
        loop {
            {
                let mut state = lock(&self.state);
                if state.woken {
                    return Unparked::Woken;
                }
                if state.promoted {
                    return Unparked::Promoted;
                }
                state.polling = true;
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let ready = left != Some(Duration::ZERO) && self.poll(left, descriptor);
            self.leave_poll();
            if ready {
                return Unparked::Woken;
            }
            if left == Some(Duration::ZERO) {
                return Unparked::TimedOut;
            }
        }
    }

    /// Sleeps on the nudge and `descriptor`; returns whether the latter is ready.
    fn poll(&self, timeout: Option<Duration>, descriptor: BorrowedFd<'_>) -> bool {
        let nudge = self.nudge().map(|nudge| PollFd::new(nudge, PollFlags::POLLIN));
        let outside = PollFd::new(descriptor, PollFlags::POLLIN);
        let mut fds: Vec<_> = std::iter::once(outside).chain(nudge).collect();
        // A signal ends the sleep for nothing: the caller looks again.
        ppoll(&mut fds, timeout.map(TimeSpec::from), None).is_ok() && fds[0].any() == Some(true)
    }

    /// What ends its poll(2).
    pub(crate) fn nudge(&self) -> Option<BorrowedFd<'_>> {
        self.nudge.as_ref().map(|nudge| nudge.as_fd())
    }

    /// Says that it is about to sleep in poll(2). False if it was woken already.
    pub(crate) fn enter_poll(&self) -> bool {
        let mut state = lock(&self.state);
        state.polling = !state.woken;
        state.polling
    }

    /// Says that it is back from poll(2).
    pub(crate) fn leave_poll(&self) {
        lock(&self.state).polling = false;
        // Non-blocking: fails if nobody nudged, which is as well.
        self.nudge.as_ref().map(|nudge| nudge.read());
    }
}

/// The threads that wait for the same socket or poll.
#[derive(Default)]
pub(crate) struct Waiters(Mutex<Vec<Arc<Waiter>>>);

impl Waiters {
    /// Adds a waiter until the guard is dropped.
    pub(crate) fn join<'a>(&'a self, waiter: &'a Arc<Waiter>) -> Joined<'a> {
        lock(&self.0).push(Arc::clone(waiter));
        Joined { waiters: self, waiter }
    }

    /// Wakes all of them.
    pub(crate) fn wake(&self) {
        for waiter in lock(&self.0).iter() {
            waiter.wake();
        }
    }
}

/// A waiter's membership in a list.
pub(crate) struct Joined<'a> {
    waiters: &'a Waiters,
    waiter: &'a Arc<Waiter>,
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        lock(&self.waiters.0).retain(|other| !Arc::ptr_eq(other, self.waiter));
    }
}
