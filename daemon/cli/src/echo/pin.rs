//! Pinning this process to a core.

use anyhow::Context;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Lets this process, and the threads that it makes from now on, run on `core` only.
pub(super) fn to(core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores
        .set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores))
        .with_context(|| format!("cannot run on core {core}: `dmm doctor` lists the usable ones"))
}
