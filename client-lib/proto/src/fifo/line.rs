//! The two shared lines of a socket: one that the daemon writes, one that the client writes.
#![forbid(unsafe_code)]

use crate::arena::{CHUNK_BYTES, ChunkIndex};
use crate::layout::CHUNKS_MAX;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// A socket's words that only the daemon writes.
#[repr(C, align(128))]
#[derive(Default)]
pub struct DaemonLine {
    /// Bytes delivered into the rx FIFO.
    pub rx_tail: AtomicU64,
    /// Where the rx list began anew: an [`Anchor`].
    pub rx_anchor: AtomicU64,
    /// Bytes of the tx FIFO that are done with (acknowledged, or sent as datagrams).
    pub tx_head: AtomicU64,
    /// Position up to which the client may write.
    pub tx_limit: AtomicU64,
    /// Where the tx list began anew: an [`Anchor`].
    pub tx_anchor: AtomicU64,
    /// [`State`] bits.
    pub state: AtomicU32,
    /// The errno that ended the connection, 0 if none.
    pub error: AtomicU32,
    /// Changed each time the daemon stopped delivering for want of room; the client answers each
    /// value once, with a `Receive` operation, when it has made room.
    pub rx_stalls: AtomicU32,
    /// Bytes that the rx FIFO may hold.
    pub rx_capacity: AtomicU32,
    /// Datagrams dropped because the rx FIFO was full.
    pub rx_dropped: AtomicU32,
    /// The last error that did not end the socket: [`Trouble`].
    pub trouble: AtomicU32,
}

/// A socket's words that the client writes (and, for the `told` and `claim` words, both).
#[repr(C, align(128))]
#[derive(Default)]
pub struct ClientLine {
    /// Bytes read from the rx FIFO.
    pub rx_head: AtomicU64,
    /// Bytes written into the tx FIFO.
    pub tx_tail: AtomicU64,
    /// Who may touch the room of the tx FIFO: a value of [`claim`].
    pub tx_claim: AtomicU32,
    /// 1 while a `Send` operation is under way: no second one is needed.
    pub tx_told: AtomicU32,
    /// 1 while a `Look` completion is under way: no second one is needed.
    pub rx_told: AtomicU32,
    /// Above 0 while the client wants to hear of room in the tx FIFO: how many bytes it wants.
    pub tx_wanted: AtomicU32,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<DaemonLine>() + size_of::<ClientLine>() == 256);

impl DaemonLine {
    /// Makes the line that of a socket just opened.
    pub fn reset(&self, rx_capacity: u32) {
        for word in [&self.rx_tail, &self.rx_anchor, &self.tx_head, &self.tx_limit, &self.tx_anchor]
        {
            word.store(0, Ordering::Relaxed);
        }
        self.state.store(0, Ordering::Relaxed);
        self.error.store(0, Ordering::Relaxed);
        self.rx_stalls.store(0, Ordering::Relaxed);
        self.rx_dropped.store(0, Ordering::Relaxed);
        self.trouble.store(0, Ordering::Relaxed);
        self.rx_capacity.store(rx_capacity, Ordering::Release);
    }

    /// Adds `bits` of [`State`].
    pub fn raise(&self, bits: u32) {
        // Only this side writes the word, so a load and a store make an update.
        self.state.store(self.state.load(Ordering::Relaxed) | bits, Ordering::Release);
    }

    /// Tells of an error that does not end the socket.
    pub fn report(&self, errno: u32) {
        // As above.
        let last = Trouble(self.trouble.load(Ordering::Relaxed));
        self.trouble.store(last.next(errno).0, Ordering::Release);
    }
}

impl ClientLine {
    /// Makes the line that of a socket about to be opened.
    pub fn reset(&self) {
        self.rx_head.store(0, Ordering::Relaxed);
        self.tx_tail.store(0, Ordering::Relaxed);
        self.tx_claim.store(claim::REVOKED, Ordering::Relaxed);
        self.tx_told.store(0, Ordering::Relaxed);
        self.rx_told.store(0, Ordering::Relaxed);
        self.tx_wanted.store(0, Ordering::Release);
    }
}

/// The values of [`ClientLine::tx_claim`]: a state in two bits, and above it an epoch that counts
/// how often the daemon took the room back, so that a client notices even if it got new room since.
pub mod claim {
    /// Nobody touches the room; either side may take it.
    pub const FREE: u32 = 0;
    /// A client thread writes.
    pub const WRITING: u32 = 1;
    /// The daemon took the room back; a `Send` operation asks for more.
    pub const REVOKED: u32 = 2;

    /// The word for `state` in `epoch`.
    #[must_use]
    pub const fn word(state: u32, epoch: u32) -> u32 {
        epoch << 2 | state
    }

    /// The state in `word`.
    #[must_use]
    pub const fn state(word: u32) -> u32 {
        word & 3
    }

    /// The epoch in `word`.
    #[must_use]
    pub const fn epoch(word: u32) -> u32 {
        word >> 2
    }
}

/// What became of a socket: bits of [`DaemonLine::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State(pub u32);

impl State {
    /// The connection is established, or the socket bound.
    pub const OPEN: u32 = 1;
    /// The peer sent its FIN: `rx_tail` is the end of the stream. Raised after the last bytes were
    /// shown, so look at this first and at `rx_tail` afterwards (`RxReader::at_end` does).
    pub const RX_ENDED: u32 = 2;
    /// Nothing can be sent any more; [`DaemonLine::error`] says why.
    pub const BROKEN: u32 = 4;

    /// Whether all of `bits` are set.
    #[must_use]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

/// An error that did not end the socket, and how many there were: a client tells each number once.
///
/// In 32 bits: `| count:20 | errno:12 |`, 0 before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble(pub u32);

impl Trouble {
    const ERRNO_BITS: u32 = 12;

    /// The word for the next error.
    #[must_use]
    pub const fn next(self, errno: u32) -> Self {
        let count = (self.0 >> Self::ERRNO_BITS).wrapping_add(1);
        Self(count << Self::ERRNO_BITS | errno & ((1 << Self::ERRNO_BITS) - 1))
    }

    /// The errno, 0 before the first error.
    #[must_use]
    pub const fn errno(self) -> u32 {
        self.0 & ((1 << Self::ERRNO_BITS) - 1)
    }
}

/// Which chunk holds which part of the stream where a list begins anew.
///
/// In 64 bits: `| chunk number modulo 2^44 | chunk index:20 |`. The number repeats after 2^44
/// chunks of 16 KiB, 256 PiB, which a stream of 100 Gb/s reaches in eight months; with fewer bits
/// a long stream would take an old anchor for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    number: u64,
    /// The chunk there.
    pub chunk: ChunkIndex,
}

const CHUNK_BITS: u32 = CHUNKS_MAX.ilog2();
const NUMBER_MASK: u64 = u64::MAX >> CHUNK_BITS;
const _: () = assert!(CHUNKS_MAX.is_power_of_two());

impl Anchor {
    /// Says that `chunk` holds `position`.
    #[must_use]
    pub const fn new(position: u64, chunk: ChunkIndex) -> Self {
        Self { number: number_of(position) & NUMBER_MASK, chunk }
    }

    /// Whether it is about the chunk of this number.
    #[must_use]
    pub(super) const fn is_for(self, number: u64) -> bool {
        self.number == number & NUMBER_MASK
    }

    /// The shared form.
    #[must_use]
    pub const fn pack(self) -> u64 {
        self.number << CHUNK_BITS | self.chunk as u64
    }

    /// From the shared form.
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self { number: word >> CHUNK_BITS, chunk: word as u32 & (CHUNKS_MAX - 1) }
    }
}

/// The number of the chunk that holds `position`.
pub(super) const fn number_of(position: u64) -> u64 {
    position / CHUNK_BYTES as u64
}

/// The offset of `position` in its chunk.
pub(super) const fn offset_of(position: u64) -> usize {
    (position % CHUNK_BYTES as u64) as usize
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_of_64_tib_ago_is_not_taken_for_this_one() {
        let position = 3 * CHUNK_BYTES as u64 + 5;
        let anchor = Anchor::new(position, CHUNKS_MAX - 1);
        assert_eq!(Anchor::unpack(anchor.pack()), anchor);
        assert!(anchor.is_for(3) && !anchor.is_for(4));
        assert!(!anchor.is_for(3 + (1 << 32)));
    }
}
