//! Keeps the TAP driver from using signals.
//!
//! `net_tap` asks the kernel for a real-time signal per received frame, delivered to the process,
//! and skips its read as long as a global counter that the handler bumps has not moved. In a
//! process with several threads that is wrong three ways. Handlers that run on two threads at once
//! can set the counter back, and a queue then sleeps on a frame until the next one comes. Every
//! frame interrupts some thread's system call, mostly the control thread's. And when signals queue
//! beyond `RLIMIT_SIGPENDING`, the kernel sends SIGIO instead, whose default action ends the
//! process (`fcntl(2)`, `F_SETSIG`). The driver takes the first real-time signal that has the
//! default action; finding none, it does without and reads at every burst. So none is what it
//! finds: its descriptors then are plain, level-triggered ones.

use std::mem::MaybeUninit;

/// While this lives, no real-time signal has the default action.
#[derive(Debug)]
pub(super) struct OccupiedSignals(Vec<libc::c_int>);

impl OccupiedSignals {
    pub(super) fn new() -> Self {
        let free = |signal: &libc::c_int| handler(*signal) == Some(libc::SIG_DFL);
        let signals: Vec<_> = (libc::SIGRTMIN()..=libc::SIGRTMAX()).filter(free).collect();
        for signal in &signals {
            set_handler(*signal, libc::SIG_IGN);
        }
        Self(signals)
    }
}

impl Drop for OccupiedSignals {
    fn drop(&mut self) {
        for signal in &self.0 {
            set_handler(*signal, libc::SIG_DFL);
        }
    }
}

fn handler(signal: libc::c_int) -> Option<libc::sighandler_t> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: only reads the current action, into a local.
    let returned = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: written by the kernel if it returned 0.
    (returned == 0).then(|| unsafe { action.assume_init() }.sa_sigaction)
}

fn set_handler(signal: libc::c_int, handler: libc::sighandler_t) {
    // SAFETY: an all-zero sigaction is a valid one: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler;
    // SAFETY: ignoring and default are dispositions that run no code of ours.
    unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_free_signal_is_occupied_and_given_back() {
        let last = libc::SIGRTMAX();
        assert_eq!(handler(last), Some(libc::SIG_DFL));
        let occupied = OccupiedSignals::new();
        for signal in libc::SIGRTMIN()..=last {
            assert_ne!(handler(signal), Some(libc::SIG_DFL), "signal {signal}");
        }
        drop(occupied);
        assert_eq!(handler(last), Some(libc::SIG_DFL));
    }
}
