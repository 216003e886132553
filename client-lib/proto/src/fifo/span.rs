//! Parts of a client's FIFOs in place: what it reads, or fills, without a copy.
//!
//! ```text
//!   rx:  ── consumed ──┤ RxSpan │ ... unread ... ├──     one at a time, within a chunk, from the head
//!   tx:  ── written  ──┤ TxSpan │ ... room ...   ├──     one at a time, within a chunk, from the tail
//! ```
//!
//! Made by [`super::RxReader::lend`] and [`super::TxWriter::reserve`], and given back to the same. The
//! daemon, which clients trust, writes nothing between head and tail, and reads nothing behind the
//! tail; and the ends themselves do nothing while a span of theirs is out. Must never: be made by
//! anybody else, or be copied.
#![allow(unsafe_code, reason = "payload in place lies in shared memory")]

use crate::arena::{Arena, ChunkIndex};

/// Where a span lies.
pub(super) struct Range {
    pub(super) arena: Arena,
    pub(super) chunk: ChunkIndex,
    pub(super) offset: usize,
    pub(super) len: usize,
}

/// Received bytes in place.
pub struct RxSpan(pub(super) Range);

/// Room to send in place.
pub struct TxSpan(pub(super) Range);

impl RxSpan {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let Range { arena, chunk, offset, len } = &self.0;
        // SAFETY: nobody writes to received bytes before they are consumed, which only `give_back`
        // does while this span, the only one, is out.
        unsafe { arena.slice(*chunk, *offset, *len) }
    }
}

impl TxSpan {
    /// The room. What is in it is what was there.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let Range { arena, chunk, offset, len } = &self.0;
        // SAFETY: as in `bytes_mut`, which needs this span to itself.
        unsafe { arena.slice(*chunk, *offset, *len) }
    }

    /// The room, to be filled.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let Range { arena, chunk, offset, len } = &self.0;
        // SAFETY: the daemon reads up to the tail alone, which only `commit` moves while this span, the
        // only one, is out; and it does not take back the room, which is claimed.
        unsafe { arena.slice_mut(*chunk, *offset, *len) }
    }
}
