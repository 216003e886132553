//! The context: how the threads of a process wait for completions together.
//!
//! Whoever waits drains all channels and marks what it finds for the others. A thread first spins;
//! then one thread, the *leader*, raises the sleep flag and sleeps in poll(2) on the doorbell while
//! the others park. A leader that leaves hands its part to a parked thread.
//!
//! ```text
//!        spin ──▶ is there a leader? ──no──▶ lead: raise, drain, poll(2), lower, drain ─┐
//!                       │ yes                  ▲ until woken itself ◀───────────────────┤
//!                       ▼                      │                                        ▼
//!                     park ────────────────────┘ promoted                           hand over
//! ```
//!
//! No wake-up is lost: a thread joins the list of waiters of what it waits for, looks once more, and
//! only then sleeps; and the leader drains, taking the lock rather than trying, between raising the
//! flag and sleeping. Called by every socket operation. Must never sleep with a lock held.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use dmm_proto::Breach;
use dmm_proto::doorbell;
use dmm_proto::layout::{ContextLine, RING_ENTRIES};
use dmm_proto::op::{Completion, Submission};
use dmm_proto::ring::Consumer;
use dmm_proto::session::Memory;
use dmm_proto::shared::Shared;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

use crate::channel::CONTEXT;
use crate::client::Session;
use crate::socket::Patience;
use crate::waiter::{Outside, Unparked, Waiter, Waiters, lock};

/// How often a thread that never sleeps asks whether the daemon still lives.
const ALIVE_CHECK: Duration = Duration::from_micros(50);

/// How long a leader sleeps at most while submissions are deferred, and how long a submitter that
/// found the ring full does: nothing rings when a ring has room again, and a worker that is this
/// far behind takes longer to catch up.
const FULL_RING_NAP: Duration = Duration::from_micros(200);

/// How long a worker's heart may stand still, which beats twice a second even asleep, before nobody
/// spins for its daemon any more.
const HEART_PATIENCE: Duration = Duration::from_secs(2);

/// Why a wait ended without what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The patience was used up.
    TimedOut,
    /// The daemon is gone.
    Dead,
    /// The session belongs to the parent process.
    Inherited,
}

pub(crate) struct Context {
    doorbell: doorbell::Listener,
    line: Shared<ContextLine>,
    nudge: Arc<EventFd>,
    /// The completion ring of each instance.
    consumers: Mutex<Vec<Consumer>>,
    sleepers: Mutex<Sleepers>,
    dead: AtomicBool,
    polling: AtomicBool,
    spin: Duration,
    start: Instant,
    /// When somebody last asked whether the daemon lives, since `start`.
    alive_ns: AtomicU64,
    /// Each worker's heartbeat, and when it was last seen to move.
    hearts: Mutex<Vec<(u64, Instant)>>,
    /// One of them stands still: the daemon was stopped, or hangs.
    hung: AtomicBool,
}

#[derive(Default)]
struct Sleepers {
    leader: Option<Arc<Waiter>>,
    parked: Vec<Arc<Waiter>>,
}

impl Context {
    pub(crate) fn new(
        memory: &Memory,
        doorbell: doorbell::Listener,
        spin: Duration,
    ) -> nix::Result<Self> {
        let geometry = &memory.geometry;
        let consumer =
            |instance| Consumer::new(memory.completions(geometry.channel(CONTEXT, instance)));
        Ok(Self {
            doorbell,
            line: memory.context(CONTEXT),
            nudge: Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?),
            consumers: Mutex::new((0..geometry.instances).map(consumer).collect()),
            sleepers: Mutex::default(),
            dead: AtomicBool::new(false),
            polling: AtomicBool::new(false),
            spin,
            start: Instant::now(),
            alive_ns: AtomicU64::new(0),
            hearts: Mutex::default(),
            hung: AtomicBool::new(false),
        })
    }

    pub(crate) fn set_polling(&self, polling: bool) {
        self.polling.store(polling, Ordering::Relaxed);
    }
}

impl Session {
    /// Waits until `check` gives something, and gives that. `waiters` is the list that is woken
    /// when it might. `check` may take a socket's locks and submit, but not wait.
    pub(crate) fn wait<T>(
        &self,
        waiters: &Waiters,
        patience: Patience,
        check: impl FnMut() -> Option<T>,
    ) -> Result<T, Ended> {
        self.wait_outside(waiters, patience, None, check)
    }

    /// As [`Session::wait`]; `check` is also asked when the descriptor of `outside` is ready.
    pub(crate) fn wait_outside<T>(
        &self,
        waiters: &Waiters,
        patience: Patience,
        outside: Option<&Outside<'_>>,
        mut check: impl FnMut() -> Option<T>,
    ) -> Result<T, Ended> {
        if let Some(found) = check() {
            return Ok(found);
        }
        if let Some(outcome) = self.spin(patience, &mut check) {
            return outcome;
        }
        let deadline = match patience {
            Patience::None => return Err(Ended::TimedOut),
            Patience::Until(deadline) => Some(deadline),
            Patience::Endless => None,
        };
        let nudge = outside.map_or(&self.context.nudge, |outside| &outside.nudge);
        let waiter = Waiter::new(Some(Arc::clone(nudge)));
        let descriptor = outside.map(|outside| outside.descriptor);
        let _joined = waiters.join(&waiter);
        loop {
            waiter.reset();
            if let Some(found) = check() {
                return Ok(found);
            }
            if self.is_dead() {
                return Err(Ended::Dead);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(Ended::TimedOut);
            }
            self.sleep(&waiter, deadline, descriptor);
        }
    }

    /// Drains and checks for a short while; in polling mode, for as long as it takes. `None` means
    /// that it is time to sleep.
    fn spin<T>(
        &self,
        patience: Patience,
        check: &mut impl FnMut() -> Option<T>,
    ) -> Option<Result<T, Ended>> {
        if self.is_inherited() {
            return Some(Err(Ended::Inherited));
        }
        let start = Instant::now();
        loop {
            self.drain();
            if let Some(found) = check() {
                return Some(Ok(found));
            }
            let now = Instant::now();
            if self.is_dead() || !self.is_alive(now) {
                // What arrived before the end is still handed out.
                return Some(check().ok_or(Ended::Dead));
            }
            match patience {
                Patience::None => return Some(Err(Ended::TimedOut)),
                Patience::Until(deadline) if now >= deadline => return Some(Err(Ended::TimedOut)),
                _ => {}
            }
            // For a daemon that hangs it sleeps until there is news, as for one that does not.
            let polling = self.context.polling.load(Ordering::Relaxed)
                && !self.context.hung.load(Ordering::Relaxed);
            if !polling && now.duration_since(start) >= self.context.spin {
                return None;
            }
            std::hint::spin_loop();
        }
    }

    /// Sleeps until `waiter` is woken, the deadline passes, `outside` is ready, or the daemon dies.
    fn sleep(
        &self,
        waiter: &Arc<Waiter>,
        deadline: Option<Instant>,
        outside: Option<BorrowedFd<'_>>,
    ) {
        let leads = {
            let mut sleepers = lock(&self.context.sleepers);
            let leads = sleepers.leader.is_none();
            if leads {
                sleepers.leader = Some(Arc::clone(waiter));
            } else {
                sleepers.parked.push(Arc::clone(waiter));
            }
            leads
        };
        if leads || self.park(waiter, deadline, outside) {
            let _leadership = Leadership(self);
            self.lead(waiter, deadline, outside);
        }
    }

    /// Sleeps while another thread leads. Returns whether this one leads now.
    fn park(
        &self,
        waiter: &Arc<Waiter>,
        deadline: Option<Instant>,
        outside: Option<BorrowedFd<'_>>,
    ) -> bool {
        let unparked = match outside {
            None => waiter.park(deadline),
            Some(descriptor) => waiter.park_outside(deadline, descriptor),
        };
        let promoted = {
            let mut sleepers = lock(&self.context.sleepers);
            sleepers.parked.retain(|other| !Arc::ptr_eq(other, waiter));
            waiter.take_promotion()
        };
        if promoted && unparked != Unparked::Promoted {
            // Promoted while it was leaving: passes that on.
            drop(Leadership(self));
            return false;
        }
        promoted
    }

    /// Sleeps in poll(2), draining for everybody, until `waiter` itself is woken or `outside` ready.
    fn lead(
        &self,
        waiter: &Arc<Waiter>,
        deadline: Option<Instant>,
        outside: Option<BorrowedFd<'_>>,
    ) {
        let context = &self.context;
        loop {
            context.line.asleep.raise();
            self.drain_surely();
            let deferred = self.flush();
            if !waiter.enter_poll() || self.is_dead() {
                waiter.leave_poll();
                context.line.asleep.lower();
                return;
            }
            let mut timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if deferred {
                timeout = Some(timeout.map_or(FULL_RING_NAP, |left| left.min(FULL_RING_NAP)));
            }
            let Polled { ended, ready } = self.poll_as_leader(waiter, timeout, outside);
            waiter.leave_poll();
            context.line.asleep.lower();
            if context.doorbell.drain() == doorbell::Heard::Ended || ended {
                self.drain_surely();
                self.die();
            }
            self.drain_surely();
            let expired = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if waiter.is_woken() || ready || expired || self.is_dead() {
                return;
            }
        }
    }

    /// Sleeps on the doorbell, the session socket, the waiter's nudge and `outside`.
    fn poll_as_leader(
        &self,
        waiter: &Waiter,
        timeout: Option<Duration>,
        outside: Option<BorrowedFd<'_>>,
    ) -> Polled {
        let nudge = waiter.nudge().unwrap_or(self.context.nudge.as_fd());
        let mut fds = [
            PollFd::new(self.context.doorbell.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.socket.as_fd(), PollFlags::empty()),
            PollFd::new(nudge, PollFlags::POLLIN),
            PollFd::new(outside.unwrap_or(nudge), PollFlags::POLLIN),
        ];
        let polled = if outside.is_some() { &mut fds[..] } else { &mut fds[..3] };
        // A signal ends the sleep like a wake-up for somebody else: the callers look again.
        if ppoll(polled, timeout.map(TimeSpec::from), None).is_err() {
            return Polled::default();
        }
        let ready = outside.is_some() && fds[3].any() == Some(true);
        Polled { ended: fds[..2].iter().any(has_ended), ready }
    }

    /// Sleeps on the doorbell and the session socket. Returns whether one of them ended.
    fn poll_for_end(&self, timeout: Duration) -> bool {
        let mut fds = [
            PollFd::new(self.context.doorbell.as_fd(), PollFlags::empty()),
            PollFd::new(self.socket.as_fd(), PollFlags::empty()),
        ];
        // As above.
        ppoll(&mut fds, Some(TimeSpec::from(timeout)), None).is_ok() && fds.iter().any(has_ended)
    }

    /// Whether the daemon lives, asked at most every [`ALIVE_CHECK`]; tells everybody if not. Does
    /// not read from the doorbell: what was rung may be for the leader.
    fn is_alive(&self, now: Instant) -> bool {
        let context = &self.context;
        let since_start = now.duration_since(context.start);
        let last = Duration::from_nanos(context.alive_ns.load(Ordering::Relaxed));
        if since_start < last + ALIVE_CHECK {
            return true;
        }
        let nanos = u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX);
        context.alive_ns.store(nanos, Ordering::Relaxed);
        self.feel_pulse(now);
        self.look_alive()
    }

    /// Notes whether the hearts of all workers beat.
    fn feel_pulse(&self, now: Instant) {
        let mut hearts = lock(&self.context.hearts);
        let mut hung = false;
        for (index, beat) in self.channels.heartbeats().enumerate() {
            match hearts.get_mut(index) {
                Some((seen, moved_at)) if *seen == beat => {
                    hung |= now.saturating_duration_since(*moved_at) >= HEART_PATIENCE;
                }
                Some(heart) => *heart = (beat, now),
                None => hearts.push((beat, now)),
            }
        }
        self.context.hung.store(hung, Ordering::Relaxed);
    }

    /// Whether the daemon lives, asked now.
    pub(crate) fn look_alive(&self) -> bool {
        if !self.is_dead() && self.poll_for_end(Duration::ZERO) {
            self.drain_surely();
            self.die();
        }
        !self.is_dead()
    }

    /// Whether the daemon is known to be gone.
    pub(crate) fn is_dead(&self) -> bool {
        self.context.dead.load(Ordering::Acquire)
    }

    /// The daemon is gone, or breaks the contract: wakes everybody.
    pub(crate) fn die(&self) {
        if self.context.dead.swap(true, Ordering::AcqRel) {
            return;
        }
        let cores = lock(&self.slots).cores();
        for core in cores {
            core.notify();
        }
        let sleepers = lock(&self.context.sleepers);
        for waiter in sleepers.leader.iter().chain(&sleepers.parked) {
            waiter.wake();
        }
    }

    /// Brings the completions that are there to whom they concern, unless somebody does so already.
    pub(crate) fn drain(&self) {
        match self.context.consumers.try_lock() {
            Ok(consumers) => self.drain_locked(consumers),
            Err(TryLockError::Poisoned(poisoned)) => self.drain_locked(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    /// As [`Session::drain`]; who drains already may have passed the channel that matters.
    fn drain_surely(&self) {
        let consumers = &self.context.consumers;
        self.drain_locked(consumers.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn drain_locked(&self, mut consumers: MutexGuard<'_, Vec<Consumer>>) {
        let drained = consumers.iter_mut().try_for_each(|consumer| self.drain_ring(consumer));
        drop(consumers);
        if drained.is_err() {
            self.die();
        }
    }

    fn drain_ring(&self, consumer: &mut Consumer) -> Result<(), Breach> {
        if !consumer.look()? || self.is_inherited() {
            return Ok(());
        }
        let mut slots = lock(&self.slots);
        for _ in 0..RING_ENTRIES {
            let Some(entry) = consumer.pop()? else { break };
            slots.complete(Completion::decode(&entry)?, &self.channels)?;
        }
        consumer.release();
        Ok(())
    }

    /// Submits what was deferred. Returns whether some of it is still left.
    fn flush(&self) -> bool {
        self.channels.flush().unwrap_or_else(|_| {
            self.die();
            false
        })
    }

    /// Submits, waiting for room in the ring if it must.
    pub(crate) fn submit(&self, instance: u32, submission: Submission) -> Result<(), Ended> {
        let start = Instant::now();
        loop {
            if self.is_inherited() {
                return Err(Ended::Inherited);
            }
            if self.is_dead() {
                return Err(Ended::Dead);
            }
            match self.channels.submit(instance, &submission) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(_) => self.die(),
            }
            // The worker may be held up by a full completion ring.
            self.drain();
            let now = Instant::now();
            if self.is_alive(now) && now.duration_since(start) > self.context.spin {
                self.poll_for_end(FULL_RING_NAP);
            }
        }
    }
}

/// What ended a leader's sleep, besides its nudge and the doorbell's ring.
#[derive(Default)]
struct Polled {
    /// The daemon is gone.
    ended: bool,
    /// The descriptor outside is ready.
    ready: bool,
}

fn has_ended(fd: &PollFd<'_>) -> bool {
    let end = PollFlags::POLLHUP | PollFlags::POLLERR;
    fd.revents().is_some_and(|events| events.intersects(end))
}

/// The leader's part, handed over when dropped.
struct Leadership<'a>(&'a Session);

impl Drop for Leadership<'_> {
    fn drop(&mut self) {
        let mut sleepers = lock(&self.0.context.sleepers);
        sleepers.leader = sleepers.parked.pop();
        if let Some(next) = &sleepers.leader {
            next.promote();
        }
    }
}
