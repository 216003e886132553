//! Ctrl-C: noticed between steps, so that everything made is removed on the way out.
//!
//! The signals are blocked in every thread, and one thread waits for them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::bail;
use nix::sys::signal::{SigSet, Signal};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Blocks SIGINT and SIGTERM from here on and waits for them. To be called before any other thread is
/// made; children get an empty mask from [`std::process::Command`].
pub fn watch() -> anyhow::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    thread::spawn(move || {
        while signals.wait().is_ok() {
            ASKED.store(true, Ordering::Relaxed);
        }
    });
    Ok(())
}

/// Fails once somebody asked to end.
pub fn check() -> anyhow::Result<()> {
    if ASKED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}
