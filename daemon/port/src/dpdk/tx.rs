//! The sending half of a queue pair.
//!
//! Called by one worker. Each transmit slot is an mbuf of the queue's own pool; a flush hands the
//! used ones to the device and frees what it refuses. Must never: keep a refused frame, or lay out
//! a slot beyond the port's MTU.

use std::sync::Arc;

use dpdk_sys::{self as dpdk, rte_mbuf};

use super::device::Device;
use super::offload::{self, Request, TxChecksums};
use crate::{Instant, TX_SLOTS, TxBurst, TxQueue, TxSlot, TxSlots};

/// Slots laid out at most, used and free: a stack that fills its free slots twice between flushes
/// gets no more. `pool` counts on it.
const MAX_SLOTS: usize = 2 * TX_SLOTS;

/// Ethernet header and one VLAN tag: what a stack adds to the MTU.
const L2_HEADERS: u32 = 14 + 4;

/// A transmit queue of a DPDK port.
pub(super) struct DpdkTx {
    queue: u16,
    mtu: u16,
    checksums: TxChecksums,
    slots: TxSlots,
    /// The mbuf behind each slot of `slots`, in its order.
    mbufs: Vec<*mut rte_mbuf>,
    dropped: u64,
    device: Arc<Device>,
}

// SAFETY: the mbufs belong to this queue alone, and DPDK lets any one thread at a time burst.
unsafe impl Send for DpdkTx {}

impl DpdkTx {
    pub(super) fn new(device: Arc<Device>, queue: u16, mtu: u16, checksums: TxChecksums) -> Self {
        let slots = TxSlots::with_capacity(MAX_SLOTS);
        let mbufs = Vec::with_capacity(MAX_SLOTS);
        Self { queue, mtu, checksums, slots, mbufs, dropped: 0, device }
    }

    /// Takes `count` mbufs from the pool and lays them out; none if there are not as many.
    fn lay_out(&mut self, count: usize) {
        let pool = &self.device.pools[usize::from(self.queue)];
        let mut fresh = [std::ptr::null_mut::<rte_mbuf>(); TX_SLOTS];
        let fresh = &mut fresh[..count];
        // SAFETY: the device keeps the pool, and there is room for `count` pointers.
        let returned = unsafe {
            dpdk::rte_pktmbuf_alloc_bulk(pool.as_ptr(), fresh.as_mut_ptr(), count as u32)
        };
        if returned != 0 {
            return;
        }
        for mbuf in fresh {
            let mut capacity = 0;
            // SAFETY: a fresh mbuf, and a local to write to.
            let data = unsafe { dpdk::dpdk_sys_tx_room(*mbuf, &raw mut capacity) };
            let capacity = capacity.min(u32::from(self.mtu) + L2_HEADERS);
            // SAFETY: the mbuf's data room, which only this slot reaches until `flush`.
            self.slots.push(unsafe { TxSlot::new(data, capacity) });
            self.mbufs.push(*mbuf);
        }
    }

    /// Tells the mbufs of the used slots their frames' lengths and what the device is to compute.
    fn describe(&mut self, used: usize) {
        for (slot, mbuf) in self.slots.frames().iter().zip(&self.mbufs[..used]) {
            let request = if self.checksums.transport {
                let mut capacity = 0;
                // SAFETY: an mbuf of ours, and a local to write to.
                let data = unsafe { dpdk::dpdk_sys_tx_room(*mbuf, &raw mut capacity) };
                // SAFETY: the slot's frame, which was written, and which no borrow reaches now.
                let frame = unsafe { std::slice::from_raw_parts_mut(data, slot.len()) };
                offload::prepare(frame, self.checksums)
            } else {
                Request::default()
            };
            // SAFETY: an mbuf of ours; the frame fits its data room, and so 16 bits.
            unsafe {
                dpdk::dpdk_sys_tx_set(
                    *mbuf,
                    slot.len() as u16,
                    request.ol_flags,
                    request.l2_len,
                    request.l3_len,
                    request.l4_len,
                );
            }
        }
    }

    /// Gives the first `used` mbufs to the device; returns how many it took.
    fn send(&mut self, used: usize) -> usize {
        let (port, first, mut count) = (self.device.port, self.mbufs.as_mut_ptr(), used as u16);
        if self.checksums.transport {
            // SAFETY: `used` described mbufs of a started port's queue that is ours.
            count = unsafe { dpdk::rte_eth_tx_prepare(port, self.queue, first, count) };
        }
        // SAFETY: as above; `count` of them are prepared.
        usize::from(unsafe { dpdk::rte_eth_tx_burst(port, self.queue, first, count) })
    }
}

impl TxQueue for DpdkTx {
    fn burst(&mut self) -> TxBurst<'_> {
        let wanted = TX_SLOTS.saturating_sub(self.slots.free());
        let wanted = wanted.min(MAX_SLOTS - self.mbufs.len());
        if wanted > 0 {
            self.lay_out(wanted);
        }
        self.slots.burst()
    }

    fn flush(&mut self, _now: Instant) {
        let used = self.slots.used();
        if used == 0 {
            return;
        }
        self.describe(used);
        let sent = self.send(used);
        if sent < used {
            let refused = &mut self.mbufs[sent..used];
            // SAFETY: the device left these to us, and their slots are taken back below.
            unsafe { dpdk::rte_pktmbuf_free_bulk(refused.as_mut_ptr(), refused.len() as u32) };
            let refused = (used - sent) as u64;
            self.dropped += refused;
            self.device.losses.add_tx_refused(refused);
        }
        self.slots.take(used);
        self.mbufs.drain(..used);
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Drop for DpdkTx {
    fn drop(&mut self) {
        self.slots = TxSlots::default();
        // SAFETY: mbufs of ours that the device never got; their slots are gone.
        unsafe {
            dpdk::rte_pktmbuf_free_bulk(self.mbufs.as_mut_ptr(), self.mbufs.len() as u32);
        }
    }
}
