//! What a worker does when there is nothing to do.
//!
//! `busy` never sleeps. `interrupt` sleeps at once. `adaptive` looks around for a while after the last
//! work, since the next often follows soon, and then sleeps. A sleeping worker is woken by
//! descriptors: ports that have one, clients' doorbells, its own eventfd. Where a port has none,
//! sleeps are naps that grow from 50 us to 1 ms.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use dmm_admin::config::Idle;
use dmm_port::Instant;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;

/// First nap on a port that cannot wake.
const NAP_MIN: Duration = Duration::from_micros(50);
/// Longest nap on a port that cannot wake: what idling may add to a frame's latency.
const NAP_MAX: Duration = Duration::from_millis(1);
/// Longest sleep: keeps the heartbeat going.
const SLEEP_MAX: Duration = Duration::from_millis(500);
/// Descriptors looked at after a sleep; more are found after the next.
const EVENTS_MAX: usize = 64;

/// Decides when to sleep, and sleeps.
pub struct Idler {
    mode: Idle,
    spin: Duration,
    epoll: Epoll,
    /// Some port cannot wake us.
    must_nap: bool,
    nap: Duration,
    idle_since: Option<Instant>,
}

/// What ended a sleep.
pub struct Woken {
    /// Tokens of the descriptors that are ready.
    pub tokens: Vec<u64>,
}

impl Idler {
    /// An idler that looks around for `spin` before it sleeps.
    pub fn new(mode: Idle, spin: Duration) -> io::Result<Self> {
        Ok(Self {
            mode,
            spin,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            must_nap: false,
            nap: NAP_MIN,
            idle_since: None,
        })
    }

    /// Lets `fd` end sleeps while it is readable, under `token`.
    pub fn watch(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?)
    }

    /// Lets each signal on `fd` end a sleep, under `token`, though nobody takes it: for a descriptor
    /// that somebody else holds as well, who could make a read of it block.
    pub fn watch_edges(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let edges = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        Ok(self.epoll.add(fd, EpollEvent::new(edges, token))?)
    }

    /// Lets `fd` no longer end sleeps.
    pub fn unwatch(&self, fd: impl AsFd) {
        // It was not watched, or is closed already: either way it is no longer watched.
        let _ = self.epoll.delete(fd);
    }

    /// A port cannot wake us: sleeps become naps.
    pub fn nap_from_now_on(&mut self) {
        self.must_nap = true;
    }

    /// Takes note of a turn. Returns whether it is time to sleep.
    pub fn wants_sleep(&mut self, now: Instant, worked: bool) -> bool {
        if worked {
            self.idle_since = None;
            self.nap = NAP_MIN;
            return false;
        }
        let since = *self.idle_since.get_or_insert(now);
        match self.mode {
            Idle::Busy => false,
            Idle::Interrupt => true,
            Idle::Adaptive => now.since(since) >= self.spin,
        }
    }

    /// Sleeps until a descriptor is ready or `deadline` comes.
    pub fn sleep(&mut self, now: Instant, deadline: Option<Instant>) -> Woken {
        let mut span = deadline.map_or(SLEEP_MAX, |at| at.since(now)).min(SLEEP_MAX);
        if self.must_nap {
            span = span.min(self.nap);
            self.nap = (self.nap * 2).min(NAP_MAX);
        }
        let mut fds = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut fds, Some(TimeSpec::from_duration(span)), None) {
            // A signal (net_tap's among them) ends a sleep like a descriptor does.
            Ok(0) | Err(Errno::EINTR) => Woken { tokens: Vec::new() },
            _ => Woken { tokens: self.ready() },
        }
    }

    fn ready(&self) -> Vec<u64> {
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        events[..count].iter().map(EpollEvent::data).collect()
    }
}
