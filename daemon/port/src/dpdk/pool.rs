//! The mempool of one queue pair.
//!
//! Called by `configure` (creation) and the two queues. Must never: be freed while an mbuf of it
//! is out.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use dpdk_sys::rte_mempool;

use super::error::{Errno, Error};
use crate::{BURST, TX_SLOTS};

/// Mbufs that a registered thread keeps in its own cache: two bursts.
const CACHE: u32 = 2 * BURST as u32;

/// A cache holds up to one and a half times its size before it spills; the worker has one, and the
/// control thread another from setting the queues up.
const CACHED: u32 = 2 * (CACHE + CACHE / 2);

/// Ethernet header, two VLAN tags and the FCS, which some devices store.
pub(super) const L2_OVERHEAD: u32 = 14 + 2 * 4 + 4;

/// Receive buffers are not below what PCI devices have as their smallest scatter unit.
const MIN_ROOM: u32 = 2048;

/// How many mbufs a queue pair can have out at once, so that none is ever wanting: the filled
/// receive ring, the filled transmit ring, the burst on loan to the stack and the one being
/// received, the transmit slots laid out or in use, and the caches.
///
/// With 512 descriptors and an MTU of 1500: 512 + 512 + 64 + 128 + 192 = 1408 mbufs of 2368 bytes
/// (64 of pool header, 128 of mbuf, 128 of headroom, 2048 of data), 3.2 MiB.
pub(super) const fn mbufs_for(rx_descriptors: u16, tx_descriptors: u16) -> u32 {
    rx_descriptors as u32 + tx_descriptors as u32 + 2 * BURST as u32 + 2 * TX_SLOTS as u32 + CACHED
}

/// A pool of mbufs that hold one frame each.
#[derive(Debug)]
pub(super) struct Pool(NonNull<rte_mempool>);

// SAFETY: DPDK's default mempool operations are safe for any number of threads.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    /// A pool of `mbufs` with room for `frame_bytes`, on NUMA node `node` (-1 for any).
    pub(super) fn new(
        device: &str,
        mbufs: u32,
        frame_bytes: u32,
        node: i32,
    ) -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);

        let room = frame_bytes.max(MIN_ROOM) + dpdk_sys::RTE_PKTMBUF_HEADROOM;
        let name = format!("dmm_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let name = CString::new(name).unwrap_or_default();
        let memory = |reason| Error::Memory {
            device: device.to_owned(),
            buffers: mbufs,
            bytes: room,
            reason,
        };
        let room_bytes = u16::try_from(room).map_err(|_| memory(Errno(libc::E2BIG)))?;
        // SAFETY: the name ends in NUL and is copied; the rest are numbers.
        let pool = unsafe {
            dpdk_sys::rte_pktmbuf_pool_create(name.as_ptr(), mbufs, CACHE, 0, room_bytes, node)
        };
        NonNull::new(pool).map(Self).ok_or_else(|| memory(Errno::last()))
    }

    pub(super) const fn as_ptr(&self) -> *mut rte_mempool {
        self.0.as_ptr()
    }

    /// How many mbufs are out, caches not counted.
    pub(super) fn in_use(&self) -> u32 {
        // SAFETY: the pool exists while `self` does.
        unsafe { dpdk_sys::rte_mempool_in_use_count(self.as_ptr()) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // A driver that lost mbufs when it closed (net_ring does) may still point at them: memory
        // that is left behind is better than memory that is used after it was freed.
        if self.in_use() == 0 {
            // SAFETY: nothing is out, and the queues that could take some are gone.
            unsafe { dpdk_sys::rte_mempool_free(self.as_ptr()) };
        }
    }
}
