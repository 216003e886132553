//! The atomics of the shared layout: the machine's own, or loom's when a model is checked.
//!
//! Every module of this crate takes its atomics from here, so that `cfg(loom)` runs the same
//! source, not a model of it. The orderings by which one side hands something to the other are
//! named ([`Handover`]); a model may take one away to prove that its check would notice.
#![forbid(unsafe_code)]

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub use weakened::weaken;

/// The points at which one side hands something to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// A ring's producer shows entries.
    RingTail,
    /// A writer shows received bytes.
    RxTail,
    /// A reader gives received bytes' memory back.
    RxHead,
    /// A writer shows bytes to send.
    TxTail,
    /// A writer lets go of the room.
    TxClaim,
    /// Both sides exchange a word that suppresses a second message.
    Told,
    /// Sleeper and waker, each between its store and its look.
    Sleep,
    /// A reader and a writer that stalled, each between its store and its look.
    Stall,
    /// An owner of a pair's line shows that it was made ready.
    PairOpen,
}

/// The ordering of a hand-over: `full`, unless a model took it away.
#[cfg(not(loom))]
#[inline]
#[must_use]
pub const fn at(_: Handover, full: Ordering) -> Ordering {
    full
}

/// A sequentially consistent fence, unless a model took it away.
#[cfg(not(loom))]
#[inline]
pub fn fence_at(_: Handover) {
    fence(Ordering::SeqCst);
}

#[cfg(loom)]
pub use weakened::{at, fence_at};

#[cfg(loom)]
mod weakened {
    use super::{Handover, Ordering, fence};
    use std::cell::Cell;

    thread_local! {
        // A model runs all its threads on the thread that checks it.
        static WEAK: Cell<Option<Handover>> = const { Cell::new(None) };
    }

    /// Takes the ordering of one hand-over away from models that this thread checks from now on.
    pub fn weaken(handover: Handover) {
        WEAK.set(Some(handover));
    }

    /// The ordering of a hand-over: `full`, unless it was taken away.
    #[must_use]
    pub fn at(handover: Handover, full: Ordering) -> Ordering {
        if WEAK.get() == Some(handover) { Ordering::Relaxed } else { full }
    }

    /// A sequentially consistent fence, unless it was taken away.
    pub fn fence_at(handover: Handover) {
        if WEAK.get() != Some(handover) {
            fence(Ordering::SeqCst);
        }
    }
}
