//! Shortcut pairs: one region for all connections between two client processes.
//!
//! The daemon makes and seals the region, hands it to both, and gives connections out by number; it
//! never looks inside. Either client writes everywhere in it, and trusts nothing that it reads
//! there: what lies outside of what was agreed is a [`Breach`](crate::Breach), upon which it resets
//! the connection or drops the pair. Two clients trust each other no more than the daemon them.
//!
//! ```text
//!  first side                        region                            second side
//!  PairTx ── bytes ──▶ connection n, first's FIFO (chunks, a ring) ──▶ PairRx
//!  PairRx ◀── bytes ── connection n, second's FIFO                 ◀── PairTx
//!  PairTx, PairRx ───▶ line of first in n │ line of second in n ◀───── PairTx, PairRx
//!  ring::Producer ───▶ channel (context of first, context of second) ─▶ ring::Consumer
//! ```
//!
//! - A FIFO is a fixed ring of chunks, since nobody in a pair could be trusted with a list of free
//!   ones. The memory is sparse: a connection costs what it has ever filled.
//! - A side's own cursors are kept privately and only shown in the region, never read back.
//! - A connection's number serves a new connection only after the daemon has heard from both sides
//!   that they closed it; the generation tells a line that is ready from one that is old.
#![forbid(unsafe_code)]

mod channel;
mod end;
mod line;
#[cfg(not(loom))]
mod memory;

pub use channel::PairMessage;
pub use end::{PairRx, PairTx, open};
pub use line::{PairContext, PairLine, PairParts};
#[cfg(not(loom))]
pub use memory::PairMemory;

use crate::arena::CHUNK_BYTES;
use crate::layout::{CHUNKS_MAX, CONTEXTS_MAX, RING_ENTRIES, bytes};
use crate::ring::{Cursor, Slot};

#[cfg(all(test, not(loom)))]
mod tests;

/// Connections of a pair at most.
pub const PAIR_CONNECTIONS_MAX: u32 = 1 << 16;

/// One of the two clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that the daemon named first.
    First,
    /// The other one.
    Second,
}

impl Side {
    /// The client on the other side.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// The numbers that fix a pair's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairGeometry {
    /// Connections that the pair may have at once.
    pub connections: u32,
    /// Contexts of the first side and of the second.
    pub contexts: [u32; 2],
    /// Chunks of each direction of a connection.
    pub chunks: u32,
}

impl PairGeometry {
    /// Whether every number lies within its bound and none is zero.
    #[must_use]
    pub const fn is_sane(&self) -> bool {
        0 < self.connections
            && self.connections <= PAIR_CONNECTIONS_MAX
            && 0 < self.contexts[0]
            && self.contexts[0] <= CONTEXTS_MAX
            && 0 < self.contexts[1]
            && self.contexts[1] <= CONTEXTS_MAX
            && 0 < self.chunks
            && self.chunks <= CHUNKS_MAX / 2 / self.connections
    }

    /// The shared form.
    #[must_use]
    pub fn encode(&self) -> [u64; 6] {
        let [first, second] = self.contexts;
        [self.connections, first, second, self.chunks, 0, 0].map(u64::from)
    }

    /// From the shared form; `None` if the numbers are not sane.
    #[must_use]
    pub fn decode(words: [u64; 6]) -> Option<Self> {
        let number = |at: usize| u32::try_from(words[at]).ok();
        let geometry = Self {
            connections: number(0)?,
            contexts: [number(1)?, number(2)?],
            chunks: number(3)?,
        };
        geometry.is_sane().then_some(geometry)
    }

    /// Contexts of one side.
    #[must_use]
    pub const fn contexts_of(&self, side: Side) -> u32 {
        self.contexts[side as usize]
    }

    /// Number of channels.
    #[must_use]
    pub const fn channels(&self) -> u32 {
        self.contexts[0] * self.contexts[1]
    }

    /// The channel between a context of `side` and one of the other.
    #[must_use]
    pub const fn channel(&self, side: Side, ours: u32, theirs: u32) -> u32 {
        match side {
            Side::First => ours * self.contexts[1] + theirs,
            Side::Second => theirs * self.contexts[1] + ours,
        }
    }

    /// Chunks in all; they come first in the region.
    #[must_use]
    pub const fn chunks_in_all(&self) -> u32 {
        2 * self.connections * self.chunks
    }

    /// The first chunk of what `side` sends on a connection.
    #[must_use]
    pub const fn first_chunk(&self, side: Side, connection: u32) -> u32 {
        (2 * connection + side as u32) * self.chunks
    }

    /// Offset of the lines, two a connection.
    #[must_use]
    pub const fn lines_at(&self) -> u64 {
        self.chunks_in_all() as u64 * CHUNK_BYTES as u64
    }

    /// Offset of the contexts' lines: the first side's, then the second's.
    #[must_use]
    pub const fn contexts_at(&self) -> u64 {
        self.lines_at() + bytes::<PairLine>(2 * self.connections)
    }

    /// Offset of the rings' tails, two a channel.
    #[must_use]
    pub const fn tails_at(&self) -> u64 {
        self.contexts_at() + bytes::<PairContext>(self.contexts[0] + self.contexts[1])
    }

    /// Offset of the rings' heads.
    #[must_use]
    pub const fn heads_at(&self) -> u64 {
        self.tails_at() + bytes::<Cursor>(2 * self.channels())
    }

    /// Offset of the rings' entries.
    #[must_use]
    pub const fn slots_at(&self) -> u64 {
        self.heads_at() + bytes::<Cursor>(2 * self.channels())
    }

    /// Bytes of the region.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.slots_at() + bytes::<Slot>(2 * self.channels() * RING_ENTRIES)
    }
}
