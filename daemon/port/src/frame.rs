//! Frames on their way between a port and a stack, always as borrowed bytes.
//!
//! A received frame is borrowed from the port until its next burst: a stack copies what it keeps.
//! A frame to send is written in place into a [`TxBurst`], a row of empty buffers that the port
//! laid out beforehand, so that one dynamic call per burst is all that the seam costs.

/// What the port found out about a received frame's layer-3 and layer-4 checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RxChecksum {
    /// The port did not look: the stack must verify.
    #[default]
    Unknown,
    /// The port verified all checksums.
    Good,
    /// The port found a wrong checksum.
    Bad,
}

/// One received Ethernet frame, without its FCS.
#[derive(Clone, Copy, Debug)]
pub struct RxFrame<'a> {
    /// The frame from its destination address on.
    pub bytes: &'a [u8],
    /// The port's verdict on its checksums.
    pub checksum: RxChecksum,
    /// The port's RSS hash of the flow, if it computes one that [`crate::flow::toeplitz`] also would.
    pub hash: Option<u32>,
}

/// One buffer of a row of [`TxSlots`].
///
/// The memory behind `buffer` belongs to the port that made the row (an mbuf's data room, or a
/// heap buffer) and stays valid and unaliased until the port takes the slot back.
#[derive(Debug)]
pub struct TxSlot {
    buffer: *mut u8,
    capacity: u32,
    len: u32,
}

// SAFETY: a slot is the only handle to its buffer, so moving it moves the right to write there.
unsafe impl Send for TxSlot {}

impl TxSlot {
    /// A slot over `capacity` writable bytes at `buffer`.
    ///
    /// # Safety
    /// The bytes must stay valid for writes, and be reached by nobody else, until the slot is
    /// taken back by the port that made it.
    #[must_use]
    pub const unsafe fn new(buffer: *mut u8, capacity: u32) -> Self {
        Self { buffer, capacity, len: 0 }
    }

    /// Bytes that were written: the frame's length.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether nothing was written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The frame as written.
    #[must_use]
    pub const fn bytes(&self) -> &[u8] {
        // SAFETY: `new`'s caller promised `capacity` valid bytes, `len <= capacity` holds since
        // `TxSlots::next` checked it, and `&self` keeps writers away.
        unsafe { std::slice::from_raw_parts(self.buffer, self.len as usize) }
    }
}

/// A port's row of transmit buffers: the first `used` hold frames, the rest are free.
///
/// It stays with the port, whose buffers the slots are; stacks see it as a [`TxBurst`].
#[derive(Debug, Default)]
pub struct TxSlots {
    slots: Vec<TxSlot>,
    used: usize,
}

impl TxSlots {
    /// An empty row that can hold `capacity` slots without allocating.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { slots: Vec::with_capacity(capacity), used: 0 }
    }

    /// The row, lent to a stack.
    pub const fn burst(&mut self) -> TxBurst<'_> {
        TxBurst(self)
    }

    /// How many more frames fit.
    #[must_use]
    pub const fn free(&self) -> usize {
        self.slots.len() - self.used
    }

    /// How many frames are waiting to be sent.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.used
    }

    fn next(&mut self, len: usize) -> Option<&mut [u8]> {
        let slot = self.slots.get_mut(self.used)?;
        if len > slot.capacity as usize {
            return None;
        }
        slot.len = u32::try_from(len).ok()?;
        self.used += 1;
        // SAFETY: `TxSlot::new`'s caller promised `capacity >= len` writable bytes that only this
        // slot reaches, and `&mut self` keeps every other borrower away.
        Some(unsafe { std::slice::from_raw_parts_mut(slot.buffer, len) })
    }

    /// The frames waiting to be sent, oldest first.
    #[must_use]
    pub fn frames(&self) -> &[TxSlot] {
        &self.slots[..self.used]
    }

    /// Adds a free slot at the end.
    pub fn push(&mut self, slot: TxSlot) {
        self.slots.push(slot);
    }

    /// Forgets the first `count` used slots, which the port has taken over.
    pub fn take(&mut self, count: usize) {
        assert!(count <= self.used, "a port takes only slots that were used");
        self.slots.drain(..count);
        self.used -= count;
    }
}

/// Transmit buffers on loan from a port: frames are written into the free ones, in place.
///
/// A loan, so that no two ports' rows can be exchanged by those who write to them.
#[derive(Debug)]
pub struct TxBurst<'a>(&'a mut TxSlots);

impl TxBurst<'_> {
    /// How many more frames fit.
    #[must_use]
    pub const fn free(&self) -> usize {
        self.0.free()
    }

    /// How many frames are waiting to be sent.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.0.used()
    }

    /// The next free buffer, cut to `len` bytes, to be filled in whole by the caller.
    /// `None` if no slot is free or `len` exceeds the buffers (the port's MTU plus headers).
    pub fn next(&mut self, len: usize) -> Option<&mut [u8]> {
        self.0.next(len)
    }

    /// The frames waiting to be sent, oldest first.
    #[must_use]
    pub fn frames(&self) -> &[TxSlot] {
        self.0.frames()
    }
}
