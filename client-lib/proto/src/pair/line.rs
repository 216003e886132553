//! What two clients show each other of a connection and of a context.
#![forbid(unsafe_code)]

use crate::arena::{Arena, ChunkIndex};
use crate::doorbell::SleepFlag;
use crate::shared::Shared;
use crate::sync::{AtomicU32, AtomicU64};

/// What one side shows of a connection. Only its owner writes it, but for `told` and `wanted`,
/// which both exchange; the other side could write all of it, so its owner never reads it back.
#[repr(C, align(128))]
#[derive(Default)]
pub struct PairLine {
    /// Bytes that the owner has written.
    pub tx_tail: AtomicU64,
    /// Bytes that the owner has read.
    pub rx_head: AtomicU64,
    /// The generation of the connection that the rest is about; never 0 for one that is open.
    pub generation: AtomicU32,
    /// [`PairLine::FINISHED`], [`PairLine::RESET`].
    pub state: AtomicU32,
    /// The owner's context that wants to hear of the connection.
    pub home: AtomicU32,
    /// 1 while a message about the connection is on its way to the owner.
    pub told: AtomicU32,
    /// 1 while the owner wants to hear of room to write.
    pub wanted: AtomicU32,
}

impl PairLine {
    /// The owner writes no more: `tx_tail` is the end of its stream.
    pub const FINISHED: u32 = 1;
    /// The owner gave the connection up.
    pub const RESET: u32 = 2;
}

/// What one side shows of a context.
#[repr(C, align(128))]
#[derive(Default)]
pub struct PairContext {
    /// Up while the owner's threads on this context sleep or are about to.
    pub asleep: SleepFlag,
    /// A bit for each context of the other side that has entries for this one: set by the other
    /// side after publishing, cleared by the owner before draining.
    pub pending: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<PairLine>() == 128 && size_of::<PairContext>() == 128);

/// What one side's end of a connection is made of.
#[derive(Clone)]
pub struct PairParts {
    /// This side's line.
    pub ours: Shared<PairLine>,
    /// The other side's.
    pub theirs: Shared<PairLine>,
    /// The pair's payload.
    pub arena: Arena,
    /// The first chunk of what this side sends.
    pub tx_first: ChunkIndex,
    /// The first chunk of what it receives.
    pub rx_first: ChunkIndex,
    /// Chunks of each direction.
    pub chunks: u32,
    /// Contexts that the other side has.
    pub contexts: u32,
}

impl PairParts {
    /// Both sides of a connection on the heap, `chunks` a direction: for tests and models.
    #[must_use]
    pub fn heap(chunks: u32) -> [Self; 2] {
        let lines = [(); 2].map(|()| Shared::heap(PairLine::default()));
        let arena = Arena::heap(2 * chunks);
        [0, 1].map(|side: u8| Self {
            ours: lines[usize::from(side)].clone(),
            theirs: lines[usize::from(1 - side)].clone(),
            arena: arena.clone(),
            tx_first: u32::from(side) * chunks,
            rx_first: u32::from(1 - side) * chunks,
            chunks,
            contexts: 1,
        })
    }
}
