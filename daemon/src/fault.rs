//! The guard against SIGBUS: memory that a client shares with us must not be able to kill us.
//!
//! Regions are sealed against shrinking, and a hole punched into ordinary shared memory reads as
//! zeroes; but a page may still be refused, by a memory limit for one. Touching it raises SIGBUS.
//! The handler then puts a private zero page there, so that the worker goes on, and marks the
//! region, whose session is ended as for any other [`Breach`](dmm_proto::Breach).
//!
//! ```text
//!  touch ─▶ SIGBUS ─▶ handler: address in a guarded range? ─▶ mmap a page there, mark, return
//!                                         └─ no ─▶ default disposition: the daemon's own bug
//! ```

use std::io;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Ranges guarded at a time: the client region and the arena of every session that there may be.
const RANGES_MAX: usize = 2 * dmm_admin::config::limits::SESSIONS_MAX as usize;

const PAGE: usize = 4096;

struct Guarded {
    start: AtomicUsize,
    end: AtomicUsize,
    hit: AtomicBool,
}

static GUARDED: [Guarded; RANGES_MAX] = [const {
    Guarded { start: AtomicUsize::new(0), end: AtomicUsize::new(0), hit: AtomicBool::new(false) }
}; RANGES_MAX];

static HITS: AtomicU64 = AtomicU64::new(0);

/// Installs the handler; once per process, before any session.
pub fn install() -> io::Result<()> {
    let handler = SigHandler::SigAction(on_sigbus);
    let action = SigAction::new(handler, SaFlags::SA_SIGINFO, SigSet::empty());
    // SAFETY: the handler is async-signal-safe: atomics and mmap(2) only.
    unsafe { sigaction(Signal::SIGBUS, &action) }?;
    Ok(())
}

/// Faults so far, in all ranges: a change means that some range was hit.
pub fn hits() -> u64 {
    HITS.load(Ordering::Acquire)
}

/// A guard over one mapping, for as long as it lives.
pub struct Guard(&'static Guarded);

impl Guard {
    /// Guards `range`, a mapping that must outlive the guard.
    pub fn over(range: Range<usize>) -> io::Result<Self> {
        for guarded in &GUARDED {
            let claimed =
                guarded.start.compare_exchange(0, range.start, Ordering::AcqRel, Ordering::Relaxed);
            if claimed.is_ok() {
                guarded.hit.store(false, Ordering::Relaxed);
                guarded.end.store(range.end, Ordering::Release);
                return Ok(Self(guarded));
            }
        }
        Err(io::Error::other("all guards against faults are taken"))
    }

    /// Whether the range was hit.
    pub fn was_hit(&self) -> bool {
        self.0.hit.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.end.store(0, Ordering::Release);
        self.0.start.store(0, Ordering::Release);
    }
}

extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO.
    let info = unsafe { &*info };
    // SAFETY: for SIGBUS the kernel fills in the address (sigaction(2)).
    let address = unsafe { info.si_addr() } as usize;
    for guarded in &GUARDED {
        let end = guarded.end.load(Ordering::Acquire);
        if address < end && address >= guarded.start.load(Ordering::Acquire) && cover(address) {
            guarded.hit.store(true, Ordering::Release);
            HITS.fetch_add(1, Ordering::AcqRel);
            return;
        }
    }
    // Not a client's doing: let the fault happen again and end the process with a core.
    // SAFETY: restores the default disposition, which runs no code of ours.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}

/// Puts a private zero page under `address`.
fn cover(address: usize) -> bool {
    let page = ptr::without_provenance_mut(address & !(PAGE - 1));
    // SAFETY: the page lies in a guarded mapping, which nothing but shared-memory accessors reach;
    // replacing it leaves every pointer into it valid.
    let mapped = unsafe {
        libc::mmap(
            page,
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    mapped != libc::MAP_FAILED
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_page_that_was_taken_away_becomes_private_and_marks_its_range() {
        install().unwrap();
        let file = tempfile_of(2 * PAGE);
        let len = std::num::NonZero::new(2 * PAGE).unwrap();
        // SAFETY: a fresh mapping of a file of that length, at a place that the kernel chooses.
        let base = unsafe {
            nix::sys::mman::mmap(
                None,
                len,
                nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_WRITE,
                nix::sys::mman::MapFlags::MAP_SHARED,
                &file,
                0,
            )
        }
        .unwrap();
        let start = base.as_ptr() as usize;
        let guard = Guard::over(start..start + 2 * PAGE).unwrap();
        let before = hits();
        nix::unistd::ftruncate(&file, 0).unwrap();
        // SAFETY: the mapping still exists; the access faults and the handler covers it.
        let value = unsafe { base.cast::<u64>().read_volatile() };
        assert_eq!(value, 0);
        assert!(guard.was_hit());
        assert_eq!(hits(), before + 1);
        assert!(file.as_raw_fd() >= 0);
    }

    fn tempfile_of(bytes: usize) -> std::os::fd::OwnedFd {
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let fd = nix::sys::memfd::memfd_create("dmm-test", flags).unwrap();
        nix::unistd::ftruncate(&fd, i64::try_from(bytes).unwrap()).unwrap();
        fd
    }
}
