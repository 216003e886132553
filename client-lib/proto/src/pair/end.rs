//! One side's end of a connection: what it sends and what it receives.
//!
//! Owned by the library's socket, one lock a direction. Everything of the other side's is loaded
//! once and checked against what was checked before; an error means that the other client broke the
//! contract, and that nothing more of this connection is to be believed.
#![forbid(unsafe_code)]

use super::line::{PairLine, PairParts};
use crate::arena::{CHUNK_BYTES, ChunkIndex};
use crate::breach::Breach;
use crate::sync::{Handover, Ordering, at};

/// Opens this side's end of a connection of `generation` (not 0), whose messages shall come to this
/// side's context `home`. The caller then looks once, as if it had been told: messages that came
/// before were not for anyone.
#[must_use]
pub fn open(parts: &PairParts, generation: u32, home: u32) -> (PairTx, PairRx) {
    let line = &parts.ours;
    line.tx_tail.store(0, Ordering::Relaxed);
    line.rx_head.store(0, Ordering::Relaxed);
    line.state.store(0, Ordering::Relaxed);
    line.home.store(home, Ordering::Relaxed);
    line.wanted.store(0, Ordering::Relaxed);
    // The other side looks at nothing else before it sees the generation.
    line.generation.store(generation, at(Handover::PairOpen, Ordering::Release));
    line.told.swap(0, Ordering::AcqRel);
    let peer = Peer { parts: parts.clone(), generation, ready: false };
    let tx = PairTx { peer: peer.clone(), tail: 0, head: 0, state: 0 };
    (tx, PairRx { peer, head: 0, tail: 0, ended: false })
}

/// The other side of a connection, as either direction sees it.
#[derive(Clone)]
struct Peer {
    parts: PairParts,
    generation: u32,
    /// It was seen to be open.
    ready: bool,
}

impl Peer {
    /// Whether the other side's line is about this connection.
    fn is_ready(&mut self) -> bool {
        self.ready =
            self.ready || self.parts.theirs.generation.load(Ordering::Acquire) == self.generation;
        self.ready
    }

    fn capacity(&self) -> u64 {
        u64::from(self.parts.chunks) * CHUNK_BYTES as u64
    }

    fn must_tell(&self) -> bool {
        self.parts.theirs.told.swap(1, at(Handover::Told, Ordering::AcqRel)) == 0
    }

    /// Calls `copy` with (chunk, offset in it, range of the caller's bytes) for each part of the
    /// `len` bytes from `position` on, in the direction whose chunks begin at `first`.
    fn spans(
        &self,
        first: ChunkIndex,
        position: u64,
        len: usize,
        mut copy: impl FnMut(ChunkIndex, usize, std::ops::Range<usize>),
    ) {
        let mut done = 0;
        while done < len {
            let at = position + done as u64;
            let number = at / CHUNK_BYTES as u64 % u64::from(self.parts.chunks);
            let offset = (at % CHUNK_BYTES as u64) as usize;
            let part = (CHUNK_BYTES - offset).min(len - done);
            copy(first + number as u32, offset, done..done + part);
            done += part;
        }
    }
}

/// The sending direction.
pub struct PairTx {
    peer: Peer,
    tail: u64,
    /// The other side's cursor as last seen and checked.
    head: u64,
    /// What this side shows of itself.
    state: u32,
}

impl PairTx {
    /// Bytes of room, as far as it matters whether there are `wanted`.
    pub fn room(&mut self, wanted: usize) -> Result<usize, Breach> {
        let capacity = self.peer.capacity();
        if capacity - (self.tail - self.head) < wanted as u64 && self.peer.is_ready() {
            let head = self.peer.parts.theirs.rx_head.load(Ordering::Acquire);
            if head < self.head || head > self.tail {
                return Err(Breach::RxHead);
            }
            self.head = head;
        }
        Ok(usize::try_from(capacity - (self.tail - self.head)).unwrap_or(usize::MAX))
    }

    /// Writes as much of `parts`, one after the other, as there is room for, and shows it to the
    /// other side. With `whole`, writes all or nothing. Returns how many bytes were written.
    pub fn write(&mut self, parts: &[&[u8]], whole: bool) -> Result<usize, Breach> {
        let wanted: usize = parts.iter().map(|part| part.len()).sum();
        let room = self.room(wanted)?;
        let len = if whole && room < wanted { 0 } else { room.min(wanted) };
        let mut left = len;
        for part in parts {
            let part = &part[..part.len().min(left)];
            let arena = &self.peer.parts.arena;
            self.peer.spans(self.peer.parts.tx_first, self.tail, part.len(), |chunk, at, range| {
                arena.copy_in(chunk, at, &part[range]);
            });
            self.tail += part.len() as u64;
            left -= part.len();
        }
        self.peer.parts.ours.tx_tail.store(self.tail, at(Handover::TxTail, Ordering::Release));
        Ok(len)
    }

    /// Bytes written that the other side has not read (`SIOCOUTQ`).
    pub fn queued(&mut self) -> Result<u64, Breach> {
        self.room(usize::MAX)?;
        Ok(self.tail - self.head)
    }

    /// Writes no more. To be told.
    pub fn finish(&mut self) {
        self.raise(PairLine::FINISHED);
    }

    /// Gives the connection up. To be told.
    pub fn reset(&mut self) {
        self.raise(PairLine::RESET);
    }

    /// Wishes to hear of room. The caller looks at [`PairTx::room`] once more afterwards.
    pub fn want_room(&self) {
        self.peer.parts.ours.wanted.swap(1, at(Handover::Told, Ordering::AcqRel));
    }

    /// Says whether a message must tell the other side of what was written, finished or reset: none
    /// is needed while an earlier one is on its way.
    #[must_use]
    pub fn must_tell(&self) -> bool {
        self.peer.must_tell()
    }

    /// The other side's context that a message must go to. To be asked after `must_tell`.
    pub fn home(&mut self) -> Result<u32, Breach> {
        let home = if self.peer.is_ready() {
            self.peer.parts.theirs.home.load(Ordering::Acquire)
        } else {
            0
        };
        if home < self.peer.parts.contexts { Ok(home) } else { Err(Breach::Context) }
    }

    /// Moves this side's messages to another of its contexts, and looks as [`PairRx::hear`] does:
    /// a message on the old channel may come late, or was the one that suppressed others.
    pub fn rehome(&self, home: u32) {
        self.peer.parts.ours.home.store(home, Ordering::Release);
        self.peer.parts.ours.told.swap(0, at(Handover::Told, Ordering::AcqRel));
    }

    fn raise(&mut self, state: u32) {
        self.state |= state;
        self.peer.parts.ours.state.store(self.state, Ordering::Release);
    }
}

/// The receiving direction.
pub struct PairRx {
    peer: Peer,
    head: u64,
    /// The other side's cursor as last seen and checked.
    tail: u64,
    /// The end of the stream was seen: nothing comes behind it.
    ended: bool,
}

impl PairRx {
    /// Bytes that can be read now.
    pub fn available(&mut self) -> Result<usize, Breach> {
        if !self.ended && self.peer.is_ready() {
            let tail = self.peer.parts.theirs.tx_tail.load(Ordering::Acquire);
            if tail < self.tail || tail - self.head > self.peer.capacity() {
                return Err(Breach::TxTail);
            }
            self.tail = tail;
        }
        Ok(usize::try_from(self.tail - self.head).unwrap_or(usize::MAX))
    }

    /// Copies out up to `bytes.len()` bytes and consumes them. Returns how many. What was copied
    /// once is what counts: the other side may change it in the region at any time.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Breach> {
        let len = self.peek(bytes)?;
        self.consume(len);
        Ok(len)
    }

    /// Copies out up to `bytes.len()` bytes without consuming them (`MSG_PEEK`).
    pub fn peek(&mut self, bytes: &mut [u8]) -> Result<usize, Breach> {
        let len = bytes.len().min(self.available()?);
        let arena = &self.peer.parts.arena;
        self.peer.spans(self.peer.parts.rx_first, self.head, len, |chunk, at, range| {
            arena.copy_out(chunk, at, &mut bytes[range]);
        });
        Ok(len)
    }

    /// Consumes up to `len` bytes unread. Returns how many.
    pub fn skip(&mut self, len: usize) -> Result<usize, Breach> {
        let len = len.min(self.available()?);
        self.consume(len);
        Ok(len)
    }

    /// Whether the stream has ended and everything was read.
    pub fn at_end(&mut self) -> Result<bool, Breach> {
        if !self.ended && self.peer_state() & PairLine::FINISHED != 0 {
            // The state was raised after the last bytes were shown: this look is the last.
            self.available()?;
            self.ended = true;
        }
        Ok(self.ended && self.head == self.tail)
    }

    /// Whether the other side gave the connection up.
    pub fn is_reset(&mut self) -> bool {
        self.peer_state() & PairLine::RESET != 0
    }

    /// Hears a message: what the other side shows after this is told by another one. To be called
    /// before looking.
    pub fn hear(&self) {
        self.peer.parts.ours.told.swap(0, at(Handover::Told, Ordering::AcqRel));
    }

    /// Whether the other side waits to hear of room; asking clears the wish. To be asked after
    /// reading has made room, and answered with a message if [`PairRx::must_tell`] says so.
    #[must_use]
    pub fn take_wanted(&self) -> bool {
        self.peer.parts.theirs.wanted.swap(0, at(Handover::Told, Ordering::AcqRel)) != 0
    }

    /// As [`PairTx::must_tell`].
    #[must_use]
    pub fn must_tell(&self) -> bool {
        self.peer.must_tell()
    }

    fn peer_state(&mut self) -> u32 {
        if !self.peer.is_ready() {
            return 0;
        }
        self.peer.parts.theirs.state.load(Ordering::Acquire)
    }

    fn consume(&mut self, len: usize) {
        self.head += len as u64;
        self.peer.parts.ours.rx_head.store(self.head, at(Handover::RxHead, Ordering::Release));
    }
}
