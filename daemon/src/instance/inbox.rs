//! Shard-to-shard rings: frames that one shard received and another owns.
//!
//! Bounded and lock-free. A frame is copied once; its buffer goes back to the inbox that it came
//! from, so that the steady state allocates nothing. These are the exceptions: where a port spreads
//! flows by our hash, nearly nothing passes here.
#![forbid(unsafe_code)]

use crossbeam_queue::ArrayQueue;
use dmm_port::{RxChecksum, RxFrame};

use crate::worker::waker::Waker;

/// Frames that may wait in an inbox: eight bursts.
pub const INBOX_FRAMES: usize = 256;

/// A frame on its way.
pub struct Passed {
    bytes: Vec<u8>,
    checksum: RxChecksum,
    /// The sender has decided the owner; else the receiver (shard 0) decides.
    pub steered: bool,
}

impl Passed {
    /// The frame.
    pub fn frame(&self) -> RxFrame<'_> {
        RxFrame { bytes: &self.bytes, checksum: self.checksum, hash: None }
    }
}

/// The frames that wait for one shard.
pub struct Inbox {
    waiting: ArrayQueue<Passed>,
    spare: ArrayQueue<Vec<u8>>,
    waker: Waker,
}

impl Inbox {
    /// An empty inbox of a shard whose worker `waker` wakes.
    pub fn new(waker: Waker) -> Self {
        Self { waiting: ArrayQueue::new(INBOX_FRAMES), spare: ArrayQueue::new(INBOX_FRAMES), waker }
    }

    /// Passes a copy of `frame`. Returns false if the inbox is full.
    pub fn pass(&self, frame: &RxFrame<'_>, steered: bool) -> bool {
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(frame.bytes);
        let passed = Passed { bytes, checksum: frame.checksum, steered };
        let fits = self.waiting.push(passed).is_ok();
        self.waker.wake_if_asleep();
        fits
    }

    /// The next frame.
    pub fn take(&self) -> Option<Passed> {
        self.waiting.pop()
    }

    /// Gives a frame's buffer back.
    pub fn give_back(&self, passed: Passed) {
        // With no room the buffer is freed, which is as well.
        let _ = self.spare.push(passed.bytes);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
