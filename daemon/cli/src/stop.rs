//! SIGINT and SIGTERM to a command that goes on until it is told to stop: it then ends as if it were
//! done, with what it has.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;

/// Tells, for good, whether a signal came.
pub(crate) struct Stop(SignalFd);

impl Stop {
    /// Takes the signals from here on; to be called before any thread is made.
    pub(crate) fn on_signals() -> io::Result<Self> {
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        signals.thread_block()?;
        Ok(Self(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?))
    }

    /// Whether one came.
    pub(crate) fn came(&self) -> bool {
        self.wait(Duration::ZERO)
    }

    /// Waits until one comes or the span is over. Returns whether one came.
    pub(crate) fn wait(&self, span: Duration) -> bool {
        // The signal is never read, so it stays.
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        loop {
            match ppoll(&mut polled, Some(TimeSpec::from_duration(span)), None) {
                Ok(count) => return count > 0,
                Err(Errno::EINTR) => {}
                Err(_) => return true,
            }
        }
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
