//! Frame buffers on the heap, and the rows in which queues lend them out.
//!
//! Owns: the memory of frames in ports that have no mbufs (the wire, the TAP). Called by their
//! queues. Must never: allocate once a queue runs (whoever refills a row decides that), or let a
//! buffer move on while a row still lends it.
//!
//! ```text
//! TxRow   slots    [ used | used | free | free ]   lent to the stack, which writes frames
//!         buffers  [  b0  |  b1  |  b2  |  b3  ]   slot i writes to buffer i
//! RxRow   frames   [  f0  |  f1  ]                 lent to the stack, which reads frames
//!         buffers  [  b0  |  b1  ]                 frame i lies in buffer i
//! ```

use std::ptr::NonNull;

use crate::{RxChecksum, RxFrame, TX_SLOTS, TxBurst, TxSlot, TxSlots};

/// One frame's memory: fixed capacity, current length. The only handle to it, but for a slot or
/// frame of the row that it is in.
pub(crate) struct FrameBuffer {
    memory: NonNull<u8>,
    capacity: u32,
    len: u32,
}

// SAFETY: the buffer owns its memory like a `Box<[u8]>`, which is `Send`.
unsafe impl Send for FrameBuffer {}

impl FrameBuffer {
    /// An empty frame with room for `capacity` bytes.
    pub(crate) fn new(capacity: u32) -> Self {
        let memory: Box<[u8]> = vec![0; capacity as usize].into_boxed_slice();
        let memory = NonNull::from(Box::leak(memory)).cast();
        Self { memory, capacity, len: 0 }
    }

    /// The frame.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `len <= capacity` bytes are allocated and initialised, and `&self` keeps writers
        // away: rows let nobody reach a buffer by `&` while a slot lends it.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len as usize) }
    }

    /// The frame, to be changed in place.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` keeps everybody else away.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.len as usize) }
    }

    /// Sets the length to `len`, or the capacity if that is less; what is beyond the old length
    /// holds whatever it held.
    pub(crate) fn set_len(&mut self, len: usize) {
        self.len = u32::try_from(len).map_or(self.capacity, |len| len.min(self.capacity));
    }

    /// Becomes a copy of `frame`, which must fit: buffers of one port are of one capacity.
    pub(crate) fn copy_from(&mut self, frame: &[u8]) {
        self.set_len(frame.len());
        self.bytes_mut().copy_from_slice(frame);
    }
}

impl Drop for FrameBuffer {
    fn drop(&mut self) {
        let memory =
            std::ptr::slice_from_raw_parts_mut(self.memory.as_ptr(), self.capacity as usize);
        // SAFETY: `new` leaked a box of exactly this pointer and length, and nothing frees it but
        // this, once.
        drop(unsafe { Box::from_raw(memory) });
    }
}

/// Transmit slots and the buffers behind them.
pub(crate) struct TxRow {
    slots: TxSlots,
    buffers: Vec<FrameBuffer>,
}

impl TxRow {
    /// A row that never grows beyond twice [`TX_SLOTS`]: as many used as free.
    pub(crate) fn new() -> Self {
        let capacity = 2 * TX_SLOTS;
        Self { slots: TxSlots::with_capacity(capacity), buffers: Vec::with_capacity(capacity) }
    }

    /// What the stack writes to.
    pub(crate) const fn burst(&mut self) -> TxBurst<'_> {
        self.slots.burst()
    }

    /// Frames waiting to be sent.
    pub(crate) const fn used(&self) -> usize {
        self.slots.used()
    }

    /// How many buffers [`TxRow::lay_out`] is wanted for: up to [`TX_SLOTS`] free slots, but no
    /// more than twice that many slots in all.
    pub(crate) fn missing(&self) -> usize {
        let free = TX_SLOTS.saturating_sub(self.slots.free());
        free.min((2 * TX_SLOTS).saturating_sub(self.buffers.len()))
    }

    /// Adds a free slot over `buffer`.
    pub(crate) fn lay_out(&mut self, buffer: FrameBuffer) {
        // SAFETY: the row keeps the buffer, and touches it no more until `sent` drops the slot.
        let slot = unsafe { TxSlot::new(buffer.memory.as_ptr(), buffer.capacity) };
        self.slots.push(slot);
        self.buffers.push(buffer);
    }

    /// Takes the frames that were written, oldest first, out of the row.
    pub(crate) fn sent(&mut self) -> impl Iterator<Item = FrameBuffer> {
        let count = self.slots.used();
        for (slot, buffer) in self.slots.frames().iter().zip(&mut self.buffers) {
            buffer.set_len(slot.len());
        }
        self.slots.take(count);
        self.buffers.drain(..count)
    }
}

/// Received frames, lent to the stack until the next burst.
pub(crate) struct RxRow {
    /// Each borrows from the buffer at its index. `'static` is what the compiler is told; `frames`
    /// shortens it to the borrow of the row, and whatever moves a buffer clears this first.
    frames: Vec<RxFrame<'static>>,
    buffers: Vec<FrameBuffer>,
}

impl RxRow {
    /// A row for up to `capacity` frames without allocating.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { frames: Vec::with_capacity(capacity), buffers: Vec::with_capacity(capacity) }
    }

    /// Whether it holds nothing.
    pub(crate) const fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    /// How many frames it holds.
    pub(crate) const fn len(&self) -> usize {
        self.buffers.len()
    }

    /// Adds a frame whose checksums nobody verified, with its flow's hash if that is known.
    pub(crate) fn push(&mut self, buffer: FrameBuffer, hash: Option<u32>) {
        let memory = buffer.memory.as_ptr();
        // SAFETY: `len` initialised bytes that stay allocated and unchanged as long as the row
        // keeps the buffer; `take` forgets the frame before it gives the buffer away.
        let bytes = unsafe { std::slice::from_raw_parts(memory, buffer.len as usize) };
        self.frames.push(RxFrame { bytes, checksum: RxChecksum::Unknown, hash });
        self.buffers.push(buffer);
    }

    /// What the stack reads.
    pub(crate) fn frames(&self) -> &[RxFrame<'_>] {
        &self.frames
    }

    /// Takes all buffers out of the row.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = FrameBuffer> {
        self.frames.clear();
        self.buffers.drain(..)
    }
}

/// A locally administered unicast address (IEEE 802 clause 8) that follows from `name`, by FNV-1a.
pub(crate) fn mac_from_name(name: &str) -> [u8; 6] {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let [_, _, first, rest @ ..] = hash.to_be_bytes();
    let mut mac = [(first & 0xfc) | 0x02, 0, 0, 0, 0, 0];
    mac[1..].copy_from_slice(&rest);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_hands_over_what_was_written_and_keeps_the_rest() {
        let mut row = TxRow::new();
        assert_eq!(row.missing(), TX_SLOTS);
        for _ in 0..row.missing() {
            row.lay_out(FrameBuffer::new(16));
        }
        row.burst().next(3).unwrap().copy_from_slice(b"one");
        row.burst().next(5).unwrap().copy_from_slice(b"three");
        assert!(row.burst().next(17).is_none(), "beyond the capacity");
        assert_eq!(row.missing(), 2);
        let sent: Vec<_> = row.sent().map(|buffer| buffer.bytes().to_vec()).collect();
        assert_eq!(sent, [b"one".to_vec(), b"three".to_vec()]);
        assert_eq!((row.used(), row.burst().free()), (0, TX_SLOTS - 2));
        row.burst().next(1).unwrap()[0] = 7;
        assert_eq!(row.sent().next().unwrap().bytes(), [7]);
    }

    #[test]
    fn an_unsent_row_stays_bounded() {
        let mut row = TxRow::new();
        for _ in 0..5 {
            for _ in 0..row.missing() {
                row.lay_out(FrameBuffer::new(16));
            }
            while row.burst().next(1).is_some() {}
        }
        assert_eq!(row.used(), 2 * TX_SLOTS);
    }

    #[test]
    fn addresses_are_local_unicast_and_differ() {
        let (left, right) = (mac_from_name("a-left"), mac_from_name("a-right"));
        assert_eq!((left[0] & 3, right[0] & 3), (2, 2));
        assert_ne!(left, right);
    }
}
