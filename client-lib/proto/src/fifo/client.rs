//! The client's ends of a socket's FIFOs: it fills tx and empties rx.
//!
//! Owned by the library's socket, one lock a direction. What is read from the daemon is read-only
//! to the client and therefore trusted, but positions are checked where a wrong one would leave the
//! arena.
#![forbid(unsafe_code)]

use super::daemon::FifoParts;
use super::line::{Anchor, ClientLine, DaemonLine, State, claim, number_of, offset_of};
#[cfg(not(loom))]
use super::span::{Range, RxSpan, TxSpan};
use crate::arena::{Arena, CHUNK_BYTES, ChunkIndex};
use crate::shared::Shared;
use crate::sync::{AtomicU32, AtomicU64, Handover, Ordering, at, fence_at};

/// Where a client stands in a list of chunks.
#[derive(Clone, Copy)]
struct Place {
    chunk: ChunkIndex,
    /// The number of `chunk`, or `None` before the first.
    number: Option<u64>,
}

impl Place {
    /// Moves to the chunk that holds `position`. `looked` says that the other side's cursor was
    /// just seen to move away from ours, which is when the list may have begun anew.
    fn find(
        &mut self,
        position: u64,
        looked: bool,
        anchor: &AtomicU64,
        links: &[AtomicU32],
    ) -> ChunkIndex {
        let wanted = number_of(position);
        if looked {
            let anchor = Anchor::unpack(anchor.load(Ordering::Acquire));
            if anchor.is_for(wanted) {
                self.chunk = anchor.chunk;
                self.number = Some(wanted);
                return self.chunk;
            }
        }
        if self.number != Some(wanted) {
            debug_assert_eq!(self.number.map(|n| n + 1), Some(wanted));
            self.chunk = links[self.chunk as usize].load(Ordering::Acquire);
            self.number = Some(wanted);
        }
        self.chunk
    }
}

/// The reading end of a socket's rx FIFO.
pub struct RxReader {
    daemon: Shared<DaemonLine>,
    client: Shared<ClientLine>,
    arena: Arena,
    links: Shared<[AtomicU32]>,
    place: Place,
    head: u64,
    /// The daemon's cursor as last seen.
    tail: u64,
    /// New bytes were seen after there had been none: look at the anchor.
    fresh: bool,
    stalls_answered: u32,
    /// The head of which the daemon cannot but know: as of the last fence.
    head_fenced: u64,
    /// A span is out: nothing is consumed, nor another lent, before it is back.
    lent: bool,
}

impl RxReader {
    /// The reading end for a socket just opened. The daemon makes its line ready before it answers
    /// (`Connected`, `Bound`, `Accepted`): until then nothing here means anything.
    #[must_use]
    pub fn new(parts: &FifoParts) -> Self {
        Self {
            daemon: parts.daemon.clone(),
            client: parts.client.clone(),
            arena: parts.arena.clone(),
            links: parts.links.clone(),
            place: Place { chunk: 0, number: None },
            head: 0,
            tail: 0,
            fresh: false,
            stalls_answered: 0,
            head_fenced: 0,
            lent: false,
        }
    }

    /// Bytes that can be read now.
    pub fn available(&mut self) -> usize {
        let tail = self.daemon.rx_tail.load(Ordering::Acquire);
        if tail != self.tail {
            self.fresh |= self.tail == self.head;
            self.tail = tail;
        }
        usize::try_from(self.tail - self.head).unwrap_or(usize::MAX)
    }

    /// Copies out up to `bytes.len()` bytes and consumes them. Returns how many; none while a span is
    /// out.
    pub fn read(&mut self, bytes: &mut [u8]) -> usize {
        if self.lent {
            return 0;
        }
        let len = bytes.len().min(self.available());
        self.copy(&mut bytes[..len]);
        self.publish();
        len
    }

    /// Copies out up to `bytes.len()` bytes without consuming them (`MSG_PEEK`).
    pub fn peek(&mut self, bytes: &mut [u8]) -> usize {
        self.peek_at(0, bytes)
    }

    /// As [`RxReader::peek`], from `ahead` bytes behind the head on.
    pub(super) fn peek_at(&mut self, ahead: usize, bytes: &mut [u8]) -> usize {
        let Some(there) = self.available().checked_sub(ahead) else { return 0 };
        let len = bytes.len().min(there);
        let before = (self.place, self.head, self.fresh);
        self.advance(ahead);
        self.copy(&mut bytes[..len]);
        (self.place, self.head, self.fresh) = before;
        len
    }

    /// Consumes up to `len` bytes unread. Returns how many; none while a span is out.
    pub fn skip(&mut self, len: usize) -> usize {
        if self.lent {
            return 0;
        }
        let len = len.min(self.available());
        self.advance(len);
        self.publish();
        len
    }

    /// Lends the unread bytes up to the end of their chunk. `None` if there are none, or if a span is
    /// out.
    #[cfg(not(loom))]
    pub fn lend(&mut self) -> Option<RxSpan> {
        let available = self.available();
        if self.lent || available == 0 {
            return None;
        }
        let fresh = std::mem::take(&mut self.fresh);
        let chunk = self.place.find(self.head, fresh, &self.daemon.rx_anchor, &self.links);
        let offset = offset_of(self.head);
        let len = available.min(CHUNK_BYTES - offset);
        self.lent = true;
        Some(RxSpan(Range { arena: self.arena.clone(), chunk, offset, len }))
    }

    /// Takes a span back and consumes its first `len` bytes, at most all.
    #[cfg(not(loom))]
    pub fn give_back(&mut self, span: RxSpan, len: usize) {
        let len = len.min(span.0.len);
        drop(span);
        self.lent = false;
        self.skip(len);
    }

    /// Whether a span is out.
    #[must_use]
    pub const fn is_lent(&self) -> bool {
        self.lent
    }

    /// Whether the daemon waits to hear that room was made; true once for each time it stalled,
    /// when a quarter of the capacity is free again. To be asked after each reading, and answered
    /// with a `Receive` operation.
    ///
    /// The fence is paid once per half a capacity of bytes: up to `head_fenced` the daemon knows
    /// what we have read, so a FIFO that it finds full (more than half, see `RxFifo::stall`) is one
    /// of which we get to see half a capacity from there on.
    pub fn owes_receive(&mut self) -> bool {
        let capacity = u64::from(self.daemon.rx_capacity.load(Ordering::Relaxed));
        if self.tail - self.head > capacity / 4 * 3 {
            return false;
        }
        if self.tail - self.head_fenced >= capacity / 2 {
            // Orders our head before the look at the daemon's word; `RxFifo::stall` mirrors it.
            fence_at(Handover::Stall);
            self.head_fenced = self.head;
        }
        let stalls = self.daemon.rx_stalls.load(Ordering::Acquire);
        let owes = stalls != self.stalls_answered;
        self.stalls_answered = stalls;
        owes
    }

    /// Hears a `Look` completion: what the daemon shows after this is told by another one. To be
    /// called before looking at cursors and state.
    pub fn hear(&self) {
        self.client.rx_told.swap(0, at(Handover::Told, Ordering::AcqRel));
    }

    /// Whether the stream has ended and everything was read.
    pub fn at_end(&mut self) -> bool {
        State(self.daemon.state.load(Ordering::Acquire)).has(State::RX_ENDED)
            && self.available() == 0
    }

    /// Copies out bytes that are known to be there.
    fn copy(&mut self, bytes: &mut [u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let offset = offset_of(self.head);
            let (chunk, part) = self.step(bytes.len() - done);
            self.arena.copy_out(chunk, offset, &mut bytes[done..done + part]);
            done += part;
        }
    }

    /// Moves over bytes that are known to be there.
    fn advance(&mut self, mut len: usize) {
        while len > 0 {
            len -= self.step(len).1;
        }
    }

    /// Moves over at most `len` bytes that lie in one chunk. Returns the chunk and how many.
    fn step(&mut self, len: usize) -> (ChunkIndex, usize) {
        let fresh = std::mem::take(&mut self.fresh);
        let chunk = self.place.find(self.head, fresh, &self.daemon.rx_anchor, &self.links);
        let part = len.min(CHUNK_BYTES - offset_of(self.head));
        self.head += part as u64;
        (chunk, part)
    }

    fn publish(&self) {
        self.client.rx_head.store(self.head, at(Handover::RxHead, Ordering::Release));
    }
}

/// The writing end of a socket's tx FIFO.
pub struct TxWriter {
    daemon: Shared<DaemonLine>,
    client: Shared<ClientLine>,
    arena: Arena,
    links: Shared<[AtomicU32]>,
    place: Place,
    tail: u64,
    /// The daemon's limit as last seen.
    limit: u64,
    /// Room was seen after there had been none: look at the anchor.
    fresh: bool,
    /// The claim word's epoch as last seen.
    epoch: u32,
    /// Bytes of room that the last write would have needed to get anywhere.
    wished: u32,
    /// A span is out, and the room claimed: nothing is written before it is back.
    reserved: bool,
}

impl TxWriter {
    /// The writing end for a socket just opened.
    #[must_use]
    pub fn new(parts: &FifoParts) -> Self {
        Self {
            daemon: parts.daemon.clone(),
            client: parts.client.clone(),
            arena: parts.arena.clone(),
            links: parts.links.clone(),
            place: Place { chunk: 0, number: None },
            tail: 0,
            limit: 0,
            fresh: false,
            epoch: 0,
            wished: 1,
            reserved: false,
        }
    }

    /// Writes as much of `parts`, one after the other, as there is room for, and shows it to the
    /// daemon. With `whole`, writes all or nothing. Returns how many bytes were written.
    pub fn write(&mut self, parts: &[&[u8]], whole: bool) -> usize {
        let wanted: usize = parts.iter().map(|part| part.len()).sum();
        self.wished = if whole { u32::try_from(wanted).unwrap_or(u32::MAX).max(1) } else { 1 };
        if !self.claim() {
            return 0;
        }
        let room = self.look(wanted);
        let len = if whole && room < wanted { 0 } else { room.min(wanted) };
        let mut left = len;
        for part in parts {
            let part = &part[..part.len().min(left)];
            self.copy(part);
            left -= part.len();
        }
        self.client.tx_tail.store(self.tail, at(Handover::TxTail, Ordering::Release));
        self.release();
        len
    }

    /// Reserves up to `wanted` bytes of room, up to the end of their chunk. `None` if there is none, or
    /// if a span is out. The room stays claimed until the span is back.
    #[cfg(not(loom))]
    pub fn reserve(&mut self, wanted: usize) -> Option<TxSpan> {
        self.wished = 1;
        // A claimed one cannot be claimed again.
        if wanted == 0 || !self.claim() {
            return None;
        }
        let room = self.look(wanted);
        if room == 0 {
            self.release();
            return None;
        }
        let fresh = std::mem::take(&mut self.fresh);
        let chunk = self.place.find(self.tail, fresh, &self.daemon.tx_anchor, &self.links);
        let offset = offset_of(self.tail);
        let len = room.min(wanted).min(CHUNK_BYTES - offset);
        self.reserved = true;
        Some(TxSpan(Range { arena: self.arena.clone(), chunk, offset, len }))
    }

    /// Takes a span back, and shows its first `len` bytes, at most all, to the daemon.
    #[cfg(not(loom))]
    pub fn commit(&mut self, span: TxSpan, len: usize) {
        self.tail += len.min(span.0.len) as u64;
        drop(span);
        self.reserved = false;
        self.client.tx_tail.store(self.tail, at(Handover::TxTail, Ordering::Release));
        self.release();
    }

    /// Whether a span is out.
    #[must_use]
    pub const fn is_reserved(&self) -> bool {
        self.reserved
    }

    fn release(&self) {
        let free = claim::word(claim::FREE, self.epoch);
        self.client.tx_claim.store(free, at(Handover::TxClaim, Ordering::Release));
    }

    /// Bytes of room, as far as it matters whether there are `wanted`.
    pub fn room(&mut self, wanted: usize) -> usize {
        let word = self.client.tx_claim.load(Ordering::Acquire);
        self.meet_epoch(word);
        if claim::state(word) == claim::REVOKED { 0 } else { self.look(wanted) }
    }

    /// Bytes written, ever.
    #[must_use]
    pub const fn tail(&self) -> u64 {
        self.tail
    }

    /// Bytes written that the daemon is not done with (`SIOCOUTQ`).
    #[must_use]
    pub fn queued(&self) -> u64 {
        self.tail.saturating_sub(self.daemon.tx_head.load(Ordering::Acquire))
    }

    /// Says whether a `Send` operation must tell the daemon of what was written or wished for:
    /// none is needed while an earlier one is under way.
    ///
    /// Both sides exchange the word, so whichever exchange comes second sees what was stored
    /// before the first.
    #[must_use]
    pub fn must_tell(&self) -> bool {
        self.client.tx_told.swap(1, at(Handover::Told, Ordering::AcqRel)) == 0
    }

    /// Wishes to hear of room: any, or after a write of all or nothing, enough for that. The caller
    /// looks at [`TxWriter::room`] once more afterwards.
    pub fn want_room(&self) {
        self.client.tx_wanted.swap(self.wished, at(Handover::Told, Ordering::AcqRel));
    }

    /// Takes the room for writing; false if the daemon has taken it back.
    fn claim(&mut self) -> bool {
        let word = self.client.tx_claim.load(Ordering::Relaxed);
        let taken = claim::state(word) == claim::FREE
            && self
                .client
                .tx_claim
                .compare_exchange(word, word | claim::WRITING, Ordering::Acquire, Ordering::Relaxed)
                .is_ok();
        if taken {
            self.meet_epoch(word);
        }
        taken
    }

    /// Forgets what was known of the room if it was taken back since.
    fn meet_epoch(&mut self, word: u32) {
        if claim::epoch(word) != self.epoch {
            self.epoch = claim::epoch(word);
            self.limit = self.tail;
        }
    }

    fn look(&mut self, wanted: usize) -> usize {
        if ((self.limit - self.tail) as usize) < wanted {
            let limit = self.daemon.tx_limit.load(Ordering::Acquire);
            if limit > self.limit {
                self.fresh |= self.limit == self.tail;
                self.limit = limit;
            }
        }
        usize::try_from(self.limit - self.tail).unwrap_or(usize::MAX)
    }

    fn copy(&mut self, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let fresh = std::mem::take(&mut self.fresh);
            let chunk = self.place.find(self.tail, fresh, &self.daemon.tx_anchor, &self.links);
            let offset = offset_of(self.tail);
            let part = (bytes.len() - done).min(CHUNK_BYTES - offset);
            self.arena.copy_in(chunk, offset, &bytes[done..done + part]);
            self.tail += part as u64;
            done += part;
        }
    }
}
