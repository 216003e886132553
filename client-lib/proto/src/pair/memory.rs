//! A pair's region as typed places.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use super::{PairContext, PairGeometry, PairLine, PairParts, Side};
use crate::arena::Arena;
use crate::layout::RING_ENTRIES;
use crate::region::Region;
use crate::ring::{Cursor, Parts, Slot};
use crate::shared::Shared;

/// The region of a pair, as one of its sides sees it (or the daemon, which only makes it).
#[derive(Clone)]
pub struct PairMemory {
    /// The numbers that place everything.
    pub geometry: PairGeometry,
    side: Side,
    region: Region,
    arena: Arena,
}

impl PairMemory {
    /// Makes the region: for the daemon, which passes it to both sides and forgets it.
    ///
    /// # Panics
    /// If `geometry` is not sane: it comes from a validated configuration.
    pub fn create(geometry: PairGeometry) -> io::Result<Self> {
        assert!(geometry.is_sane(), "{geometry:?}");
        let region = Region::writable("dmm-pair", geometry.bytes())?;
        Ok(Self::assemble(geometry, Side::First, region))
    }

    /// Maps a region that was received, as `side`.
    pub fn open(geometry: PairGeometry, side: Side, region: OwnedFd) -> io::Result<Self> {
        Ok(Self::assemble(geometry, side, Region::open(region, geometry.bytes(), true)?))
    }

    fn assemble(geometry: PairGeometry, side: Side, region: Region) -> Self {
        let arena = region.arena(geometry.chunks_in_all());
        Self { geometry, side, region, arena }
    }

    /// The region, to pass on, or to guard against faults.
    #[must_use]
    pub const fn region(&self) -> &Region {
        &self.region
    }

    /// Which side this is.
    #[must_use]
    pub const fn side(&self) -> Side {
        self.side
    }

    /// What this side's end of a connection is made of.
    ///
    /// # Panics
    /// If there can be no such connection: the number is the daemon's, or was checked.
    #[must_use]
    pub fn connection(&self, connection: u32) -> PairParts {
        assert!(connection < self.geometry.connections, "connection {connection}");
        let other = self.side.other();
        PairParts {
            ours: self.line(self.side, connection),
            theirs: self.line(other, connection),
            arena: self.arena.clone(),
            tx_first: self.geometry.first_chunk(self.side, connection),
            rx_first: self.geometry.first_chunk(other, connection),
            chunks: self.geometry.chunks,
            contexts: self.geometry.contexts_of(other),
        }
    }

    /// The ring by which this side's context `ours` tells the other's context `theirs`.
    #[must_use]
    pub fn outgoing(&self, ours: u32, theirs: u32) -> Parts {
        self.ring(self.side, self.geometry.channel(self.side, ours, theirs))
    }

    /// The ring by which the other side's context `theirs` tells this side's context `ours`.
    #[must_use]
    pub fn incoming(&self, ours: u32, theirs: u32) -> Parts {
        self.ring(self.side.other(), self.geometry.channel(self.side, ours, theirs))
    }

    /// The line of a side's context.
    ///
    /// # Panics
    /// If there can be no such context.
    #[must_use]
    pub fn context(&self, side: Side, context: u32) -> Shared<PairContext> {
        assert!(context < self.geometry.contexts_of(side), "context {context}");
        let before = if side == Side::First { 0 } else { self.geometry.contexts[0] };
        self.region.shared(nth::<PairContext>(self.geometry.contexts_at(), before + context))
    }

    fn line(&self, side: Side, connection: u32) -> Shared<PairLine> {
        self.region.shared(nth::<PairLine>(self.geometry.lines_at(), 2 * connection + side as u32))
    }

    /// The ring of `channel` that `producer` fills.
    fn ring(&self, producer: Side, channel: u32) -> Parts {
        assert!(channel < self.geometry.channels(), "channel {channel}");
        let (g, index) = (&self.geometry, 2 * channel + producer as u32);
        Parts {
            tail: self.region.shared(nth::<Cursor>(g.tails_at(), index)),
            head: self.region.shared(nth::<Cursor>(g.heads_at(), index)),
            slots: self.region.shared_slice(
                nth::<Slot>(g.slots_at(), index * RING_ENTRIES),
                RING_ENTRIES as usize,
            ),
        }
    }
}

const fn nth<T>(at: u64, index: u32) -> u64 {
    at + size_of::<T>() as u64 * index as u64
}
