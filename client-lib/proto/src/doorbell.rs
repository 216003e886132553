//! Sleep and wake: a flag in shared memory and a pipe.
//!
//! Whoever is about to sleep raises its [`SleepFlag`], looks for work once more, and only then
//! blocks on its [`Listener`]. Whoever publishes work asks the flag afterwards and rings only if
//! it is up. A pipe serves as the bell because only the waker holds its write end, which nobody
//! else can make blocking; because a full pipe means that it has been rung; and because its end of
//! file tells that the peer died.
//!
//! ```text
//!   sleeper                      waker
//!   flag = 1                     publish work
//!   fence(SeqCst)                fence(SeqCst)
//!   look for work ─┐  at least   read flag ─┐
//!   block          ┘  one sees   ring bell  ┘
//! ```
#![forbid(unsafe_code)]

use crate::sync::{AtomicU32, Handover, Ordering, fence_at};

#[cfg(not(loom))]
pub use bell::{Heard, Listener, Ringer, bell};

/// Up while its owner sleeps or is about to.
#[repr(C)]
#[derive(Default)]
pub struct SleepFlag(AtomicU32);

impl SleepFlag {
    /// Raises the flag. The caller looks for work once more before it blocks.
    pub fn raise(&self) {
        self.0.store(1, Ordering::Relaxed);
        fence_at(Handover::Sleep);
    }

    /// Lowers the flag: the owner is awake.
    pub fn lower(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// For the waker, after publishing: whether to ring.
    #[must_use]
    pub fn is_up(&self) -> bool {
        fence_at(Handover::Sleep);
        self.0.load(Ordering::Relaxed) != 0
    }
}

#[cfg(not(loom))]
mod bell {
    use nix::errno::Errno;
    use nix::fcntl::OFlag;
    use nix::sys::signal::{SigSet, SigmaskHow, Signal};
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    /// Bytes of one read that empties a bell.
    const DRAIN_BYTES: usize = 4096;
    /// Reads that empty a bell at most: 64 KiB, a pipe's size unless its writer made it larger,
    /// and one that finds it empty.
    const DRAIN_READS: usize = 64 * 1024 / DRAIN_BYTES + 1;

    /// The waker's end: the only write end of a pipe.
    #[derive(Debug)]
    pub struct Ringer(OwnedFd);

    /// The sleeper's end.
    #[derive(Debug)]
    pub struct Listener(OwnedFd);

    /// What a listener found.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Heard {
        /// It was rung since it was last asked.
        Rung,
        /// It was not.
        Nothing,
        /// The waker is gone.
        Ended,
    }

    /// Makes a doorbell.
    pub fn bell() -> io::Result<(Ringer, Listener)> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        Ok((Ringer(write), Listener(read)))
    }

    impl Ringer {
        /// The end that was received from the daemon.
        #[must_use]
        pub const fn from_fd(fd: OwnedFd) -> Self {
            Self(fd)
        }

        /// Rings, in a process that ignores `SIGPIPE`. Returns false if the sleeper is gone.
        pub fn ring(&self) -> bool {
            // A full pipe (EAGAIN) has been rung already.
            !matches!(nix::unistd::write(&self.0, &[1]), Err(Errno::EPIPE))
        }

        /// Rings, in a process whose `SIGPIPE` belongs to somebody else: the signal is held back
        /// and taken away if it was ours. Returns false if the sleeper is gone.
        pub fn ring_quietly(&self) -> bool {
            let mut pipe = SigSet::empty();
            pipe.add(Signal::SIGPIPE);
            let mut before = SigSet::empty();
            let held = nix::sys::signal::pthread_sigmask(
                SigmaskHow::SIG_BLOCK,
                Some(&pipe),
                Some(&mut before),
            );
            let pending_before = is_pending(Signal::SIGPIPE);
            let there = self.ring();
            if !there && !pending_before && held.is_ok() && is_pending(Signal::SIGPIPE) {
                let _ = pipe.wait();
            }
            if held.is_ok() {
                let _ = before.thread_set_mask();
            }
            there
        }
    }

    /// Whether `signal` waits for this thread (sigpending(2) has no nix wrapper; /proc would be
    /// slow, so signalfd-free `sigpending` of libc is called in the one unsafe leaf).
    fn is_pending(signal: Signal) -> bool {
        crate::region::signal_pending(signal)
    }

    impl Listener {
        /// The end that was received from the daemon.
        #[must_use]
        pub const fn from_fd(fd: OwnedFd) -> Self {
            Self(fd)
        }

        /// Empties the pipe, as far as a bounded number of reads does: who rings faster than we
        /// read must not keep us here, and what is left only makes the next sleep a short one.
        pub fn drain(&self) -> Heard {
            let mut bytes = [0; DRAIN_BYTES];
            let mut heard = Heard::Nothing;
            for _ in 0..DRAIN_READS {
                match nix::unistd::read(&self.0, &mut bytes) {
                    Ok(0) => return Heard::Ended,
                    Ok(len) if len < bytes.len() => return Heard::Rung,
                    Ok(_) => heard = Heard::Rung,
                    Err(Errno::EINTR) => {}
                    Err(_) => return heard,
                }
            }
            heard
        }
    }

    impl AsFd for Listener {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    impl AsFd for Ringer {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_full_bell_has_been_rung() -> io::Result<()> {
            let (ringer, listener) = bell()?;
            assert_eq!(listener.drain(), Heard::Nothing);
            for _ in 0..70_000 {
                assert!(ringer.ring());
            }
            assert_eq!(listener.drain(), Heard::Rung);
            assert_eq!(listener.drain(), Heard::Nothing);
            drop(ringer);
            assert_eq!(listener.drain(), Heard::Ended);
            Ok(())
        }

        #[test]
        fn whoever_rings_faster_than_we_read_does_not_keep_us() -> io::Result<()> {
            use nix::fcntl::{FcntlArg, fcntl};
            let (ringer, listener) = bell()?;
            // A hostile writer makes its pipe larger: as good as one that never stops.
            let size = fcntl(&ringer, FcntlArg::F_SETPIPE_SZ(1 << 20))?;
            let size = usize::try_from(size).unwrap();
            let mut written = 0;
            while let Ok(len) = nix::unistd::write(&ringer, &[1; 4096]) {
                written += len;
            }
            assert!(written <= size && written > DRAIN_READS * DRAIN_BYTES);
            assert_eq!(listener.drain(), Heard::Rung);
            let mut left = vec![0; size];
            let left = nix::unistd::read(&listener, &mut left).unwrap();
            assert_eq!(left, written - DRAIN_READS * DRAIN_BYTES);
            Ok(())
        }

        #[test]
        fn ringing_for_nobody_raises_no_signal() -> io::Result<()> {
            let (ringer, listener) = bell()?;
            drop(listener);
            // SAFETY is nix's: the default disposition would kill the test, were the signal ours.
            crate::region::default_sigpipe();
            assert!(!ringer.ring_quietly());
            assert!(!ringer.ring_quietly());
            Ok(())
        }
    }
}
