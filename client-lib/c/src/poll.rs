//! `dmm_poll`: waiting for a few sockets, set up anew by each call.
#![allow(unsafe_code, reason = "C passes descriptors by pointers")]

use std::collections::HashMap;
use std::ffi::{c_int, c_short};
use std::io;
use std::os::fd::AsFd;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use dmm::{Events, Interest, Poll, Token};
use libc::{nfds_t, pollfd};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll as KernelEpoll, EpollCreateFlags};

use crate::epoll;
use crate::errors::{call, os};
use crate::handles::{self, Handle};
use crate::socket::State;

/// Descriptors in one call at most.
const DESCRIPTORS_MAX: usize = 1 << 20;

/// As poll(2), of this library's sockets and the kernel's descriptors; `POLLIN`, `POLLOUT` and
/// `POLLRDHUP` may be asked of the former. Each call makes its preparations anew: for many sockets, or
/// often, use dmm_epoll_wait. A signal does not end the wait.
///
/// Errors: those of poll(2), but for `EINTR`.
///
/// # Safety
/// `descriptors` must point to `count` of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_poll(
    descriptors: *mut pollfd,
    count: nfds_t,
    timeout_ms: c_int,
) -> c_int {
    call(AssertUnwindSafe(|| {
        let count = usize::try_from(count).ok().filter(|count| *count <= DESCRIPTORS_MAX);
        let count = count.ok_or_else(|| os(Errno::EINVAL))?;
        if count > 0 && descriptors.is_null() {
            return Err(os(Errno::EFAULT));
        }
        let descriptors = match count {
            0 => &mut [],
            // SAFETY: as the caller promised.
            _ => unsafe { std::slice::from_raw_parts_mut(descriptors, count) },
        };
        poll(descriptors, timeout_ms)
    }))
}

/// What a call waits for.
struct Wait {
    poll: Poll,
    /// The kernel's descriptors.
    kernel: KernelEpoll,
    /// One that the kernel's epoll does not take: an ordinary file, which is always ready.
    always: bool,
    /// What is known before any wait, by number.
    known: HashMap<c_int, u32>,
}

fn poll(descriptors: &mut [pollfd], timeout_ms: c_int) -> io::Result<c_int> {
    let mut wait = Wait {
        poll: Poll::new(),
        kernel: KernelEpoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        always: false,
        known: HashMap::new(),
    };
    let mut wanted = HashMap::<c_int, u32>::new();
    for descriptor in descriptors.iter().filter(|descriptor| descriptor.fd >= 0) {
        *wanted.entry(descriptor.fd).or_default() |= u32::from(descriptor.events.cast_unsigned());
    }
    for (number, wanted) in &wanted {
        wait.prepare(*number, *wanted)?;
    }
    let timeout = epoll::timeout(timeout_ms);
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut events = Events::with_capacity(wanted.len());
    loop {
        let ready = !wait.known.is_empty() || wait.always;
        let left = match (ready, deadline) {
            (true, _) => Some(std::time::Duration::ZERO),
            (false, Some(at)) => Some(at.saturating_duration_since(Instant::now())),
            (false, None) => None,
        };
        wait.poll.wait_with(&mut events, left, wait.kernel.0.as_fd())?;
        let mut found = wait.known.clone();
        for event in &events {
            *found.entry(event.token().0 as c_int).or_default() |= epoll::flags(event);
        }
        let count = report(descriptors, &found)?;
        let over = deadline.is_some_and(|at| Instant::now() >= at);
        if count > 0 || over || ready {
            return Ok(count);
        }
    }
}

impl Wait {
    fn prepare(&mut self, number: c_int, wanted: u32) -> io::Result<()> {
        if !handles::is_ours(number) {
            return self.prepare_kernel(number, wanted);
        }
        let socket = match handles::get(number) {
            Ok(Handle::Socket(socket)) => socket,
            // An instance of dmm_epoll_create1 cannot be waited for so.
            Ok(Handle::Epoll(_)) | Err(_) => {
                self.known.insert(number, libc::POLLNVAL as u32);
                return Ok(());
            }
        };
        if !socket.kind.stream {
            drop(socket.datagram()?);
        }
        let state = socket.state()?;
        if let State::Fresh(_) = state {
            // tcp_poll(): a socket that is nothing yet is over both ways.
            self.known.insert(number, (libc::POLLHUP | libc::POLLOUT) as u32);
            return Ok(());
        }
        let interest: Interest = epoll::interest(wanted);
        epoll::register(&self.poll, &state, Token(number as usize), interest)
    }

    fn prepare_kernel(&mut self, number: c_int, wanted: u32) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let mut event = libc::epoll_event { events: wanted, u64: 0 };
        let (raw, add) = (self.kernel.0.as_raw_fd(), libc::EPOLL_CTL_ADD);
        // SAFETY: an open instance and a local; the kernel looks after the number.
        let added = unsafe { libc::epoll_ctl(raw, add, number, &raw mut event) };
        match Errno::result(added) {
            Ok(_) => Ok(()),
            Err(Errno::EPERM | Errno::EBADF) => {
                self.always = true;
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Fills in what was found, and returns of how many descriptors there is something to tell.
fn report(descriptors: &mut [pollfd], found: &HashMap<c_int, u32>) -> io::Result<c_int> {
    const ALWAYS: c_short = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
    let mut count = 0;
    for descriptor in descriptors {
        descriptor.revents = match descriptor.fd {
            fd if fd < 0 => 0,
            fd if handles::is_ours(fd) => {
                // The bits of epoll_ctl(2) are those of poll(2).
                let bits = found.get(&fd).copied().unwrap_or(0) as c_short;
                bits & (descriptor.events | ALWAYS)
            }
            _ => ask_kernel(*descriptor)?,
        };
        count += c_int::from(descriptor.revents != 0);
    }
    Ok(count)
}

fn ask_kernel(mut descriptor: pollfd) -> io::Result<c_short> {
    loop {
        // SAFETY: one local.
        match Errno::result(unsafe { libc::poll(&raw mut descriptor, 1, 0) }) {
            Ok(_) => return Ok(descriptor.revents),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
