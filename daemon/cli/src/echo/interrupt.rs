//! SIGINT to a client: what was measured until then is reported all the same.
//!
//! Owns: the signal, which is taken as a message by a thread of its own. The flows ask whether it
//! came, between two turns. Must never: leave ctrl-C without effect: before there is anything to
//! report, and when it comes a second time, it ends the process at once.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use super::PATIENCE;

/// The exit code of an interrupted run: 128 and the number of SIGINT, as of any program that a
/// shell sees ended by it.
pub(super) const EXIT_CODE: u8 = 130;

/// Whether the run was interrupted.
#[derive(Debug, Default)]
pub(super) struct Interrupt {
    measuring: AtomicBool,
    came: AtomicBool,
}

impl Interrupt {
    /// Takes SIGINT from here on; to be called before any other thread is made, for they inherit
    /// that it is blocked.
    pub(super) fn on_sigint() -> io::Result<Arc<Self>> {
        let signals = SigSet::from_iter([Signal::SIGINT]);
        signals.thread_block()?;
        let interrupt = Arc::<Self>::default();
        let told = Arc::clone(&interrupt);
        thread::Builder::new().spawn(move || {
            while signals.wait().is_ok() {
                if !told.raise() {
                    process::exit(EXIT_CODE.into());
                }
            }
        })?;
        Ok(interrupt)
    }

    /// From here on there is something to report.
    pub(super) fn measure(&self) {
        self.measuring.store(true, Ordering::Relaxed);
    }

    /// Interrupts the run. Returns whether anybody looks, for the first time.
    pub(super) fn raise(&self) -> bool {
        !self.came.swap(true, Ordering::Relaxed) && self.measuring.load(Ordering::Relaxed)
    }

    /// Whether there is something to report.
    #[cfg(test)]
    pub(super) fn is_measuring(&self) -> bool {
        self.measuring.load(Ordering::Relaxed)
    }

    /// Whether the run is to end.
    pub(super) fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }

    /// Sleeps, until interrupted.
    pub(super) fn sleep(&self, span: Duration) {
        let mut left = span;
        while !left.is_zero() && !self.came() {
            let some = left.min(PATIENCE);
            thread::sleep(some);
            left -= some;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_interruption_of_a_measurement_is_waited_for() {
        let early = Interrupt::default();
        assert!(!early.raise(), "there is nothing to report");
        let interrupt = Interrupt::default();
        interrupt.measure();
        assert!(!interrupt.came());
        assert!(interrupt.raise() && interrupt.came());
        assert!(!interrupt.raise(), "it came before");
        interrupt.sleep(Duration::MAX);
    }
}
