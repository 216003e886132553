//! Two ports of one process, joined by DPDK's rings (`rte_eth_from_rings`).
//!
//! ```text
//!   left   tx queue i ─▶ ring ─▶ rx queue i   right
//!          rx queue i ◀─ ring ◀─ tx queue i
//! ```
//!
//! Called by `port` at start. A ring hands over mbufs, not copies: those that are in one when its ports
//! end are freed by it, and a pool whose mbufs are elsewhere stays (`pool`). Must never: be freed while
//! a port could still burst.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dpdk_sys as dpdk;

use super::eal::Eal;
use super::error::{Errno, Error};

/// The rings of both directions.
#[derive(Debug)]
pub(super) struct Rings {
    /// By direction, then by queue.
    rings: [Vec<Ring>; 2],
    /// Last: the environment outlives the rings.
    _eal: Eal,
}

#[derive(Debug)]
struct Ring(NonNull<dpdk::rte_ring>);

// SAFETY: a ring is made for threads to share, one producer and one consumer each.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Left,
    Right,
}

impl Rings {
    /// Rings of `entries` mbufs, a power of two, for `queues` queue pairs.
    pub(super) fn new(
        eal: &Eal,
        device: &str,
        queues: u16,
        entries: u32,
    ) -> Result<Arc<Self>, Error> {
        let direction =
            || (0..queues).map(|_| Ring::new(device, entries)).collect::<Result<Vec<_>, _>>();
        let rings = [direction()?, direction()?];
        Ok(Arc::new(Self { rings, _eal: eal.clone() }))
    }

    /// Makes an ethdev called `name` of one end, and returns DPDK's number for it.
    pub(super) fn port(&self, end: End, device: &str, name: &CString) -> Result<u16, Error> {
        let pointers =
            |rings: &[Ring]| -> Vec<_> { rings.iter().map(|ring| ring.0.as_ptr()).collect() };
        let [there, back] = self.rings.each_ref().map(|rings| pointers(rings));
        let (mut rx, mut tx) = if end == End::Left { (back, there) } else { (there, back) };
        let queues = rx.len() as u32;
        // SAFETY: a string that ends in NUL, and two arrays of `queues` rings, all of which are copied;
        // the rings live until both ports are closed.
        let port = unsafe {
            dpdk::rte_eth_from_rings(
                name.as_ptr(),
                rx.as_mut_ptr(),
                queues,
                tx.as_mut_ptr(),
                queues,
                0,
            )
        };
        u16::try_from(port)
            .map_err(|_| Error::Attach { device: device.to_owned(), reason: Errno::last() })
    }
}

impl Ring {
    fn new(device: &str, entries: u32) -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);

        let name = format!("dmm_ring_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let name = CString::new(name).unwrap_or_default();
        let flags = dpdk::RING_F_SP_ENQ | dpdk::RING_F_SC_DEQ;
        // SAFETY: the name ends in NUL and is copied; the rest are numbers.
        let ring = unsafe { dpdk::rte_ring_create(name.as_ptr(), entries, 0, flags) };
        let failed = || Error::Attach { device: device.to_owned(), reason: Errno::last() };
        NonNull::new(ring).map(Self).ok_or_else(failed)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: no port uses it any more, and it holds mbufs alone.
        unsafe { dpdk::dpdk_sys_ring_free(self.0.as_ptr()) };
    }
}
