//! DPDK's interrupt thread at the end of the environment.
//!
//! `rte_eal_cleanup` of 22.11 unmaps DPDK's memory while that thread still runs. Some drivers
//! (net_memif) unregister their descriptors only with the next event on them, which never comes after
//! a close, so that the thread goes on reading a handle in memory that is gone. It is therefore held
//! before: a descriptor of ours, which the cleanup knows nothing of, calls it into a function that
//! does not return.
//!
//! Called by `eal`, once. Must never: be called while a port is open, whose events would be lost.

use std::ffi::c_void;
use std::os::fd::IntoRawFd;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use dpdk_sys as dpdk;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// How long the thread may take to come: far longer than a driver's callback runs.
const PATIENCE: Duration = Duration::from_secs(1);

/// Holds the thread for the rest of the process's life. Without memory or descriptors for that, it goes
/// on.
pub(super) fn hold_thread() {
    // Readable from the start, and for good.
    let Ok(bell) = EventFd::from_value_and_flags(1, EfdFlags::EFD_CLOEXEC) else { return };
    // SAFETY: takes flags alone; memory of the C library's, which outlives DPDK's own.
    let handle = unsafe { dpdk::rte_intr_instance_alloc(dpdk::RTE_INTR_INSTANCE_F_PRIVATE) };
    if handle.is_null() {
        return;
    }
    // SAFETY: a new handle. From here the descriptor is the thread's, for good.
    unsafe { dpdk::rte_intr_fd_set(handle, std::os::fd::OwnedFd::from(bell).into_raw_fd()) };
    // SAFETY: a new handle. Of this type the thread reads nothing.
    unsafe { dpdk::rte_intr_type_set(handle, dpdk::RTE_INTR_HANDLE_EXT) };
    let (here, comes) = channel::<()>();
    let argument = Box::into_raw(Box::new(here)).cast();
    // SAFETY: the handle is never freed, and the callback, called once at most, takes the box.
    let registered = unsafe { dpdk::rte_intr_callback_register(handle, Some(hold), argument) };
    if registered == 0 {
        let _ = comes.recv_timeout(PATIENCE);
    }
}

unsafe extern "C" fn hold(argument: *mut c_void) {
    // SAFETY: what `hold_thread` made. This is the only call, since it does not return.
    let here = unsafe { Box::from_raw(argument.cast::<Sender<()>>()) };
    let _ = here.send(());
    loop {
        std::thread::park();
    }
}
