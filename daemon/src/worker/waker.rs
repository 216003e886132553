//! Waking a worker from inside the daemon: the same sleep flag that clients see, and an eventfd.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use dmm_proto::layout::WorkerLine;
use dmm_proto::shared::Shared;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Wakes one worker.
#[derive(Clone)]
pub struct Waker {
    line: Shared<WorkerLine>,
    event: Arc<EventFd>,
}

impl Waker {
    /// The waker of the worker whose beacon line is `line`.
    pub fn new(line: Shared<WorkerLine>) -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = Arc::new(EventFd::from_value_and_flags(0, flags)?);
        Ok(Self { line, event })
    }

    /// Wakes the worker if it sleeps; to be called after the work was made visible.
    pub fn wake_if_asleep(&self) {
        if self.line.asleep.is_up() {
            // EAGAIN means that 2^64 - 2 wake-ups wait, which is a wake-up.
            let _ = self.event.write(1);
        }
    }

    /// Takes the wake-ups that came.
    pub fn drain(&self) {
        let _ = self.event.read();
    }

    /// The worker's words in the beacon.
    pub fn line(&self) -> &WorkerLine {
        &self.line
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
