//! The receiving half of a queue pair.
//!
//! Called by one worker. The mbufs of a burst are on loan to the stack until the next burst, and
//! then go back to their pool at once. Must never: hand out a frame whose mbuf was freed.

use std::io;
use std::sync::Arc;

use dpdk_sys::{self as dpdk, dpdk_sys_rx_view, rte_mbuf};

use super::device::Device;
use super::offload;
use super::pool::L2_OVERHEAD;
use super::wake::WakeSource;
use crate::{BURST, Instant, RxFrame, RxQueue, Wake};

/// A receive queue of a DPDK port.
pub(super) struct DpdkRx {
    queue: u16,
    /// Whether hashes are ours ([`crate::flow::toeplitz`]).
    rss: bool,
    wake: WakeSource,
    mbufs: [*mut rte_mbuf; BURST],
    /// How many of `mbufs` are on loan.
    held: usize,
    views: [dpdk_sys_rx_view; BURST],
    /// Over memory of `mbufs` and `scratch`; really of the lifetime of a burst.
    frames: Vec<RxFrame<'static>>,
    scratch: Scratch,
    /// Last: the device closes after the wake source is gone.
    device: Arc<Device>,
}

// SAFETY: the mbufs are on loan to this queue alone, and DPDK lets any one thread at a time burst.
unsafe impl Send for DpdkRx {}

impl DpdkRx {
    pub(super) fn new(
        device: Arc<Device>,
        queue: u16,
        rss: bool,
        mtu: u16,
        wake: WakeSource,
    ) -> Self {
        Self {
            queue,
            rss,
            wake,
            mbufs: [std::ptr::null_mut(); BURST],
            held: 0,
            views: [dpdk_sys_rx_view::default(); BURST],
            frames: Vec::with_capacity(BURST),
            scratch: Scratch::new(mtu),
            device,
        }
    }

    fn release(&mut self) {
        self.frames.clear();
        if self.held > 0 {
            // SAFETY: the first `held` mbufs were received and not freed yet; no frame is left.
            unsafe { dpdk::rte_pktmbuf_free_bulk(self.mbufs.as_mut_ptr(), self.held as u32) };
            self.held = 0;
        }
    }

    fn push_frame(&mut self, at: usize) {
        let view = self.views[at];
        let bytes = if view.nb_segs == 1 {
            // SAFETY: the mbuf's one segment, which stays until `release`.
            Some(unsafe { std::slice::from_raw_parts(view.data, view.data_len as usize) })
        } else {
            self.scratch.linearise(at, self.mbufs[at], view.pkt_len)
        };
        let Some(bytes) = bytes else {
            self.device.losses.add_rx_oversize();
            return;
        };
        let has_hash = self.rss && view.ol_flags & dpdk::RTE_MBUF_F_RX_RSS_HASH != 0;
        self.frames.push(RxFrame {
            bytes,
            checksum: offload::verdict(view.ol_flags, bytes),
            hash: has_hash.then_some(view.rss_hash),
        });
    }
}

impl RxQueue for DpdkRx {
    fn burst(&mut self, _now: Instant) -> &[RxFrame<'_>] {
        self.release();
        // SAFETY: a started port, a queue that this value alone reads, and room for BURST.
        let received = unsafe {
            dpdk::rte_eth_rx_burst(
                self.device.port,
                self.queue,
                self.mbufs.as_mut_ptr(),
                BURST as u16,
            )
        };
        self.held = usize::from(received).min(BURST);
        if self.held > 0 {
            // SAFETY: as many mbufs as were received, and room for as many views.
            unsafe {
                dpdk::dpdk_sys_rx_view(
                    self.mbufs.as_ptr(),
                    self.views.as_mut_ptr(),
                    self.held as u32,
                );
            }
        }
        for at in 0..self.held {
            self.push_frame(at);
        }
        &self.frames
    }

    fn wake(&self) -> Wake {
        self.wake.wake()
    }

    fn arm(&mut self) -> io::Result<()> {
        self.wake.arm(self.device.port, self.queue)
    }

    fn disarm(&mut self) {
        self.wake.disarm(self.device.port, self.queue);
    }
}

impl Drop for DpdkRx {
    fn drop(&mut self) {
        self.release();
    }
}

/// Room to copy the frames of one burst together that came in several mbufs.
#[derive(Debug)]
struct Scratch {
    /// Reached through raw pointers only: frames of the same burst share it.
    memory: *mut [u8],
    room: usize,
}

impl Scratch {
    fn new(mtu: u16) -> Self {
        let room = (u32::from(mtu) + L2_OVERHEAD) as usize;
        let memory = vec![0; room * BURST].into_boxed_slice();
        Self { memory: Box::into_raw(memory), room }
    }

    /// The bytes of a chained mbuf, as number `at` of the burst; `None` if they exceed the MTU.
    fn linearise(&mut self, at: usize, mbuf: *const rte_mbuf, len: u32) -> Option<&'static [u8]> {
        if len as usize > self.room || at >= BURST {
            return None;
        }
        // SAFETY: `memory` has BURST times `room` bytes.
        let copy = unsafe { self.memory.cast::<u8>().add(at * self.room) };
        // SAFETY: a received mbuf, and room for `len` bytes that no frame of this burst uses yet.
        let data = unsafe { dpdk::rte_pktmbuf_read(mbuf, 0, len, copy.cast()) };
        if data.is_null() {
            return None;
        }
        // SAFETY: `len` bytes in the mbuf or at `copy`, which stay until the next burst.
        Some(unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len as usize) })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw`, and the queue's frames are gone.
        drop(unsafe { Box::from_raw(self.memory) });
    }
}

#[cfg(test)]
mod tests;
