//! The daemon's ends of a socket's FIFOs: it fills rx, empties tx, and keeps both lists of chunks.
//!
//! Owned by a stack's socket. Every word read from the client is checked against a private copy of
//! the truth; what does not fit is a [`Breach`].
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use super::line::{Anchor, ClientLine, DaemonLine, claim, offset_of};
use crate::arena::{Arena, CHUNK_BYTES, ChunkIndex, ChunkPool};
use crate::breach::Breach;
use crate::shared::Shared;
use crate::sync::{AtomicU32, AtomicU64, Handover, Ordering, at, fence_at};

/// Everything that a socket's FIFOs are made of.
#[derive(Clone)]
pub struct FifoParts {
    /// The daemon's line of the socket.
    pub daemon: Shared<DaemonLine>,
    /// The client's line of the socket.
    pub client: Shared<ClientLine>,
    /// The client's arena.
    pub arena: Arena,
    /// A link per chunk of the arena.
    pub links: Shared<[AtomicU32]>,
}

impl FifoParts {
    /// Parts on the heap over an arena of `chunks`: for tests, models and simulations.
    #[must_use]
    pub fn heap(chunks: u32) -> Self {
        let parts = Self {
            daemon: Shared::heap(DaemonLine::default()),
            client: Shared::heap(ClientLine::default()),
            arena: Arena::heap(chunks),
            links: Shared::heap_slice((0..chunks).map(|_| AtomicU32::new(0)).collect()),
        };
        parts.client.reset();
        parts
    }
}

/// The chunks that a FIFO holds at present: `chunks[0]` holds the chunk number `first`.
struct Chain {
    chunks: VecDeque<ChunkIndex>,
    first: u64,
    arena: Arena,
    links: Shared<[AtomicU32]>,
    pool: Arc<ChunkPool>,
}

impl Chain {
    fn new(parts: &FifoParts, pool: Arc<ChunkPool>, capacity: u64) -> Self {
        // Capacity rounded up, and one more at either end that is partly used.
        let most = usize::try_from(capacity).expect("capacities are 32-bit") / CHUNK_BYTES + 3;
        Self {
            chunks: VecDeque::with_capacity(most),
            first: 0,
            arena: parts.arena.clone(),
            links: parts.links.clone(),
            pool,
        }
    }

    /// The position behind the last chunk, if there is one.
    fn end(&self) -> Option<u64> {
        let count = self.chunks.len() as u64;
        (count > 0).then(|| (self.first + count) * CHUNK_BYTES as u64)
    }

    /// Appends a chunk. If the list is empty it begins anew at `position`, which `anchor` tells the
    /// client. Returns false if the client's quota is used up.
    fn append(&mut self, position: u64, anchor: &AtomicU64) -> bool {
        let Some(chunk) = self.pool.take() else { return false };
        match self.chunks.back() {
            Some(&last) => self.links[last as usize].store(chunk, Ordering::Release),
            None => {
                self.first = position / CHUNK_BYTES as u64;
                anchor.store(Anchor::new(position, chunk).pack(), Ordering::Release);
            }
        }
        self.chunks.push_back(chunk);
        true
    }

    /// Frees the chunks that end at or before `done`, given that the client's cursor `theirs` is
    /// strictly beyond their end.
    fn free(&mut self, done: u64, theirs: u64) {
        while let Some(&chunk) = self.chunks.front() {
            let end = (self.first + 1) * CHUNK_BYTES as u64;
            if end > done || end >= theirs {
                return;
            }
            self.chunks.pop_front();
            self.first += 1;
            self.pool.give(chunk);
        }
    }

    fn free_all(&mut self) {
        for chunk in self.chunks.drain(..) {
            self.pool.give(chunk);
        }
    }

    /// The parts of chunks that hold `len` bytes from `position` on, as
    /// (chunk, offset in it, range of the caller's bytes).
    fn spans(
        &self,
        position: u64,
        len: usize,
    ) -> impl Iterator<Item = (ChunkIndex, usize, std::ops::Range<usize>)> + '_ {
        let mut done = 0;
        std::iter::from_fn(move || {
            if done == len {
                return None;
            }
            let at = position + done as u64;
            let slot = usize::try_from(at / CHUNK_BYTES as u64 - self.first).ok()?;
            let chunk = self.chunks[slot];
            let offset = offset_of(at);
            let part = (CHUNK_BYTES - offset).min(len - done);
            let range = done..done + part;
            done += part;
            Some((chunk, offset, range))
        })
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        self.free_all();
    }
}

/// The writing end of a socket's rx FIFO. Dropping it frees its chunks.
pub struct RxFifo {
    daemon: Shared<DaemonLine>,
    client: Shared<ClientLine>,
    chain: Chain,
    capacity: u64,
    /// The client's cursor as last seen and checked.
    head: u64,
    /// Bytes written in order, published or not.
    tail: u64,
    published: u64,
}

impl RxFifo {
    /// The rx FIFO of a socket just opened, to hold at most `capacity` bytes.
    #[must_use]
    pub fn new(parts: &FifoParts, pool: Arc<ChunkPool>, capacity: u32) -> Self {
        let capacity = u64::from(capacity);
        Self {
            daemon: parts.daemon.clone(),
            client: parts.client.clone(),
            chain: Chain::new(parts, pool, capacity),
            capacity,
            head: 0,
            tail: 0,
            published: 0,
        }
    }

    /// Looks at how far the client has read, and frees the chunks behind it.
    pub fn refresh(&mut self) -> Result<(), Breach> {
        let head = self.client.rx_head.load(Ordering::Acquire);
        if head < self.head || head > self.published {
            return Err(Breach::RxHead);
        }
        self.head = head;
        self.chain.free(head, head);
        Ok(())
    }

    /// Makes sure that chunks lie under the next `bytes` bytes as far as capacity and quota allow.
    /// Returns how many bytes may be written behind the tail: never more than is reserved.
    pub fn reserve(&mut self, bytes: usize) -> usize {
        let room = self.capacity.saturating_sub(self.tail - self.head);
        let wanted = self.tail + room.min(bytes as u64);
        while self.chain.end().unwrap_or(self.tail) < wanted
            && self.chain.append(self.tail, &self.daemon.rx_anchor)
        {}
        let reserved = self.chain.end().map_or(0, |end| end.saturating_sub(self.tail));
        usize::try_from(reserved.min(wanted - self.tail)).unwrap_or(0)
    }

    /// Copies `bytes` in at `ahead` bytes behind the tail, without moving it: how segments that
    /// came out of order are kept.
    ///
    /// # Panics
    /// If the range was not reserved.
    pub fn write_at(&mut self, ahead: usize, bytes: &[u8]) {
        for (chunk, offset, range) in self.chain.spans(self.tail + ahead as u64, bytes.len()) {
            self.chain.arena.copy_in(chunk, offset, &bytes[range]);
        }
    }

    /// Moves the tail over `bytes` bytes that were written; [`RxFifo::publish`] shows them.
    pub fn advance(&mut self, bytes: usize) {
        self.tail += bytes as u64;
        debug_assert!(self.chain.end().unwrap_or(self.tail) >= self.tail);
    }

    /// Copies in as much of `bytes` as there is room for, behind the tail. Returns how much.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let len = self.reserve(bytes.len());
        self.write_at(0, &bytes[..len]);
        self.advance(len);
        len
    }

    /// Shows the client everything up to the tail. Returns whether there was anything new.
    pub fn publish(&mut self) -> bool {
        if self.tail == self.published {
            return false;
        }
        self.daemon.rx_tail.store(self.tail, at(Handover::RxTail, Ordering::Release));
        self.published = self.tail;
        true
    }

    /// Asks the client for a `Receive` operation once it has read something: the daemon has more
    /// than fits. The caller looks at [`RxFifo::refresh`] once more afterwards. The answer is sure
    /// to come only if the FIFO is at least half full; one that is short of chunks instead is tried
    /// again by the caller's own timer.
    pub fn stall(&mut self) {
        let stalls = self.daemon.rx_stalls.load(Ordering::Relaxed).wrapping_add(1);
        self.daemon.rx_stalls.store(stalls, Ordering::Release);
        fence_at(Handover::Stall);
    }

    /// Counts a datagram that found no room, where the client can see it.
    pub fn count_dropped(&mut self) {
        let dropped = self.daemon.rx_dropped.load(Ordering::Relaxed).wrapping_add(1);
        self.daemon.rx_dropped.store(dropped, Ordering::Relaxed);
    }

    /// Bytes that the client has not read yet, as of the last [`RxFifo::refresh`].
    #[must_use]
    pub const fn unread(&self) -> u64 {
        self.tail - self.head
    }

    /// Bytes that can still be written as of the last [`RxFifo::refresh`], quota aside.
    #[must_use]
    pub const fn room(&self) -> u64 {
        self.capacity.saturating_sub(self.tail - self.head)
    }

    /// Gives all chunks back if the client has read everything. Returns whether none is held.
    /// Room that was reserved goes as well, and bytes that were kept there out of order with it: a
    /// stack that advertised the room or holds such bytes does not let go.
    pub fn let_go(&mut self) -> Result<bool, Breach> {
        self.refresh()?;
        if self.head == self.tail {
            self.chain.free_all();
        }
        Ok(self.chain.chunks.is_empty())
    }

    /// Whether a `Look` completion must tell the client of what was shown: none is needed while an
    /// earlier one is under way. Mirrors [`super::RxReader::hear`]. The word is the client's to
    /// scribble over: who defers completions bounds them by a mark of its own.
    #[must_use]
    pub fn must_tell(&self) -> bool {
        self.client.rx_told.swap(1, at(Handover::Told, Ordering::AcqRel)) == 0
    }

    /// Copies out what the client has not read, from `ahead` bytes behind its head on, without
    /// consuming it: how a socket moves to another client's arena. Returns how many bytes there
    /// were, as of the last [`RxFifo::refresh`].
    pub fn copy_unread(&self, ahead: usize, bytes: &mut [u8]) -> usize {
        let there = self.unread().saturating_sub(ahead as u64);
        let len = bytes.len().min(usize::try_from(there).unwrap_or(usize::MAX));
        for (chunk, offset, range) in self.chain.spans(self.head + ahead as u64, len) {
            self.chain.arena.copy_out(chunk, offset, &mut bytes[range]);
        }
        len
    }

    /// Chunks held at present.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.chain.chunks.len()
    }
}

/// The reading end of a socket's tx FIFO. Dropping it frees its chunks.
pub struct TxFifo {
    daemon: Shared<DaemonLine>,
    client: Shared<ClientLine>,
    chain: Chain,
    capacity: u64,
    /// Bytes done with.
    head: u64,
    /// The client's cursor as last seen and checked.
    tail: u64,
    /// Position up to which the client may write.
    limit: u64,
    /// The client will write no more: its line belongs to another socket, or to nobody.
    sealed: bool,
    /// The client may not write until room is granted anew.
    revoked: bool,
    /// How often the room was taken back, as the claim word counts it.
    epoch: u32,
}

impl TxFifo {
    /// The tx FIFO of a socket just opened, to hold at most `capacity` bytes. There is no room until
    /// [`TxFifo::grant`].
    #[must_use]
    pub fn new(parts: &FifoParts, pool: Arc<ChunkPool>, capacity: u32) -> Self {
        let capacity = u64::from(capacity);
        Self {
            daemon: parts.daemon.clone(),
            client: parts.client.clone(),
            chain: Chain::new(parts, pool, capacity),
            capacity,
            head: 0,
            tail: 0,
            limit: 0,
            sealed: false,
            revoked: true,
            epoch: 0,
        }
    }

    /// Looks at how far the client has written.
    pub fn refresh(&mut self) -> Result<(), Breach> {
        if self.sealed {
            return Ok(());
        }
        let tail = self.client.tx_tail.load(Ordering::Acquire);
        if tail < self.tail || tail > self.limit {
            return Err(Breach::TxTail);
        }
        self.tail = tail;
        Ok(())
    }

    /// Looks a last time, and never at the client's line again: what was written up to now is
    /// still sent, and the slot can serve another socket.
    pub fn seal(&mut self) -> Result<(), Breach> {
        let looked = self.refresh();
        self.sealed = true;
        looked
    }

    /// Bytes done with, ever.
    #[must_use]
    pub const fn head(&self) -> u64 {
        self.head
    }

    /// Bytes written but not done with.
    #[must_use]
    pub const fn queued(&self) -> u64 {
        self.tail - self.head
    }

    /// Copies out the bytes from `ahead` bytes behind the head on. Returns how many there were.
    pub fn copy_out(&self, ahead: usize, bytes: &mut [u8]) -> usize {
        let there = self.queued().saturating_sub(ahead as u64);
        let len = bytes.len().min(usize::try_from(there).unwrap_or(usize::MAX));
        for (chunk, offset, range) in self.chain.spans(self.head + ahead as u64, len) {
            self.chain.arena.copy_out(chunk, offset, &mut bytes[range]);
        }
        len
    }

    /// Is done with the first `bytes` bytes: frees their chunks and shows the client the room.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn consume(&mut self, bytes: usize) {
        self.head += bytes as u64;
        assert!(self.head <= self.tail, "more consumed than was written");
        self.chain.free(self.head, self.tail);
        if !self.sealed {
            self.daemon.tx_head.store(self.head, Ordering::Release);
        }
    }

    /// Grants room: a chunk at least, or what the client wishes for, and twice what is queued if
    /// capacity and quota allow, so that the grant grows with use. Returns whether the client may
    /// now write more than before.
    pub fn grant(&mut self) -> bool {
        if self.sealed {
            return false;
        }
        let chunk = CHUNK_BYTES as u64;
        // The wish is foreign: a number that the capacity bounds.
        let wish = u64::from(self.client.tx_wanted.load(Ordering::Relaxed));
        let ahead = (2 * self.queued()).max(chunk).max(wish);
        let ahead = ahead.min(self.capacity.saturating_sub(self.queued()));
        let wanted = self.tail + ahead;
        let before = self.limit;
        // A list that begins anew begins where the client stands.
        let mut limit = self.chain.end().unwrap_or(self.tail);
        while limit < wanted && self.chain.append(self.tail, &self.daemon.tx_anchor) {
            limit = self.chain.end().unwrap_or(limit);
        }
        if limit > self.limit {
            self.limit = limit;
            self.daemon.tx_limit.store(limit, Ordering::Release);
        }
        if self.revoked && limit > self.tail {
            self.revoked = false;
            self.client.tx_claim.store(claim::word(claim::FREE, self.epoch), Ordering::Release);
            return true;
        }
        self.limit > before
    }

    /// Gives all chunks back if everything is done with and the client is not writing. Returns
    /// whether none is held. For sockets that have been idle for a while: room that goes whenever
    /// it is empty is gone again before the client that asked for it has come to write.
    pub fn let_go(&mut self) -> Result<bool, Breach> {
        if self.chain.chunks.is_empty() {
            return Ok(true);
        }
        self.refresh()?;
        if self.queued() > 0 {
            return Ok(false);
        }
        if !self.sealed {
            if !self.revoked && !self.revoke()? {
                return Ok(false);
            }
            self.limit = self.tail;
            self.daemon.tx_limit.store(self.limit, Ordering::Release);
        }
        self.chain.free_all();
        Ok(true)
    }

    /// Whether the client has used up most of its quota of chunks.
    #[must_use]
    pub fn chunks_are_scarce(&self) -> bool {
        self.chain.pool.used() > self.chain.pool.chunks() / 2
    }

    /// Takes the client's right to write, unless it is writing. Returns whether it was taken and
    /// nothing is queued.
    fn revoke(&mut self) -> Result<bool, Breach> {
        let free = claim::word(claim::FREE, self.epoch);
        let next = self.epoch.wrapping_add(1) & (u32::MAX >> 2);
        let word = &self.client.tx_claim;
        let revoked = claim::word(claim::REVOKED, next);
        if word.compare_exchange(free, revoked, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return Ok(false);
        }
        self.epoch = next;
        self.revoked = true;
        // The exchange orders us behind the client's last write: look once more. If there was one,
        // the right stays with us all the same until the next grant, which answers the wish of a
        // client that has seen it gone.
        self.refresh()?;
        Ok(self.queued() == 0)
    }

    /// Hears a `Send` operation: looks at how far the client has written, in such an order that the
    /// client either sees that this one is over or is seen.
    pub fn hear(&mut self) -> Result<(), Breach> {
        if !self.sealed {
            self.client.tx_told.swap(0, at(Handover::Told, Ordering::AcqRel));
        }
        self.refresh()
    }

    /// Whether the client waits to hear of room; asking clears the wish. To be asked after room
    /// was made: the exchange pairs with `TxWriter::want_room`.
    #[must_use]
    pub fn take_wanted(&self) -> bool {
        !self.sealed && self.client.tx_wanted.swap(0, at(Handover::Told, Ordering::AcqRel)) != 0
    }

    /// Chunks held at present.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.chain.chunks.len()
    }
}
