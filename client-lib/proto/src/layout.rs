//! Where everything lies in the three regions of a session and in the beacon.
//!
//! ```text
//!  daemon region (client: read-only)        client region (both write)      arena (both write)
//!  ┌──────────────────────────────┐         ┌──────────────────────────┐    ┌─────────────┐
//!  │ stack entries                │         │ pending, one/instance    │    │ chunk 0     │
//!  │ daemon lines, one a socket   │         │ sleep flags, one/context │    │ chunk 1     │
//!  │ completion rings: tail,slots │         │ client lines, one/socket │    │ ...         │
//!  │ submission rings: head       │         │ submission rings: tail,  │    └─────────────┘
//!  │ links, one a chunk           │         │   slots                  │    beacon (read-only)
//!  └──────────────────────────────┘         │ completion rings: head   │    ┌─────────────┐
//!                                           └──────────────────────────┘    │ worker lines│
//!                                                                           └─────────────┘
//! ```
//!
//! A channel's index is `context * instances + instance`. All memory is sparse: what is never
//! touched costs nothing. The beacon is one for all clients; nobody but the daemon can write it.
#![forbid(unsafe_code)]

use crate::arena::CHUNK_BYTES;
use crate::doorbell::SleepFlag;
use crate::fifo::{ClientLine, DaemonLine};
use crate::ring::{Cursor, Slot};
use crate::sync::{AtomicU32, AtomicU64};

/// Stacks of a daemon at most.
pub const STACKS_MAX: u32 = 16;
/// Instances of a daemon at most: one bit each would fit a word, one doorbell per worker a packet
/// of descriptors (253 at most).
pub const INSTANCES_MAX: u32 = 64;
/// Workers of a daemon at most.
pub const WORKERS_MAX: u32 = 64;
/// Contexts of a session at most: one bit each in [`Pending`].
pub const CONTEXTS_MAX: u32 = 64;
/// Sockets of a session at most: 2^20 lines of 128 bytes are 128 MiB of sparse memory a side.
pub const SOCKETS_MAX: u32 = 1 << 20;
/// Chunks of a session at most: 2^20 of 16 KiB are 16 GiB.
pub const CHUNKS_MAX: u32 = 1 << 20;
/// Entries of a ring: a client may have this many operations under way on a channel. 256 entries
/// of 64 bytes are four pages.
pub const RING_ENTRIES: u32 = 256;
/// IPv4 addresses of a stack at most.
pub const ADDRESSES_MAX: usize = 8;
/// Bytes of a stack's name, zero-padded.
pub const NAME_BYTES: usize = 32;

/// A worker's words in the beacon.
#[repr(C, align(128))]
#[derive(Default)]
pub struct WorkerLine {
    /// Up while the worker sleeps or is about to: ring its doorbell.
    pub asleep: SleepFlag,
    /// Grows while the worker runs its loop, sleeping included: a client that sees it stand still
    /// for seconds knows that the daemon hangs.
    pub heartbeat: AtomicU64,
}

/// A context's word in the client region.
#[repr(C, align(128))]
#[derive(Default)]
pub struct ContextLine {
    /// Up while the client's threads on this context sleep or are about to: ring its doorbell.
    pub asleep: SleepFlag,
}

/// Which contexts have submissions for one instance: a bit each.
#[repr(C, align(128))]
#[derive(Default)]
pub struct Pending {
    /// Set by the client after publishing, cleared by the worker before draining.
    pub contexts: AtomicU64,
}

/// One of the daemon's stacks, as clients see it.
#[repr(C, align(128))]
#[derive(Default)]
pub struct StackEntry {
    /// The name, zero-padded, little-endian words.
    pub name: [AtomicU64; NAME_BYTES / 8],
    /// Its first instance's index among all.
    pub first_instance: AtomicU32,
    /// Its number of instances; 0 marks the end of the table.
    pub instances: AtomicU32,
    /// Its IPv4 addresses, each in the upper bits, with its prefix length in the lower eight; 0 for none.
    pub v4: [AtomicU64; ADDRESSES_MAX],
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<WorkerLine>() == 128);
    assert!(size_of::<ContextLine>() == 128);
    assert!(size_of::<Pending>() == 128);
    assert!(size_of::<StackEntry>() == 128);
    assert!(size_of::<SleepFlag>() == 4);
};

/// The numbers that fix a session's layout; both sides compute every offset from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Sockets that the client may have.
    pub sockets: u32,
    /// Contexts that the client may have.
    pub contexts: u32,
    /// Instances of the daemon.
    pub instances: u32,
    /// Workers of the daemon.
    pub workers: u32,
    /// Chunks of the arena.
    pub chunks: u32,
}

const PAGE: u64 = 4096;

/// Bytes of `count` structures, in whole pages.
pub(crate) const fn bytes<T>(count: u32) -> u64 {
    (size_of::<T>() as u64 * count as u64).next_multiple_of(PAGE)
}

impl Geometry {
    /// Whether every number lies within its bound and none is zero: to be asked of foreign numbers
    /// before anything else.
    #[must_use]
    pub const fn is_sane(&self) -> bool {
        0 < self.sockets
            && self.sockets <= SOCKETS_MAX
            && 0 < self.contexts
            && self.contexts <= CONTEXTS_MAX
            && 0 < self.instances
            && self.instances <= INSTANCES_MAX
            && 0 < self.workers
            && self.workers <= WORKERS_MAX
            && 0 < self.chunks
            && self.chunks <= CHUNKS_MAX
    }

    /// Number of channels.
    #[must_use]
    pub const fn channels(&self) -> u32 {
        self.contexts * self.instances
    }

    /// The channel between a context and an instance.
    #[must_use]
    pub const fn channel(&self, context: u32, instance: u32) -> u32 {
        context * self.instances + instance
    }

    // Daemon region.

    /// Offset of the stack entries.
    #[must_use]
    pub const fn stacks_at(&self) -> u64 {
        0
    }

    /// Offset of the table that names each instance's worker, a 32-bit word each.
    #[must_use]
    pub const fn workers_of_at(&self) -> u64 {
        self.stacks_at() + bytes::<StackEntry>(STACKS_MAX)
    }

    /// Offset of the daemon lines.
    #[must_use]
    pub const fn daemon_lines_at(&self) -> u64 {
        self.workers_of_at() + bytes::<AtomicU32>(self.instances)
    }

    /// Offset of the completion rings' tails, a cursor per channel.
    #[must_use]
    pub const fn completion_tails_at(&self) -> u64 {
        self.daemon_lines_at() + bytes::<DaemonLine>(self.sockets)
    }

    /// Offset of the submission rings' heads, a cursor per channel.
    #[must_use]
    pub const fn submission_heads_at(&self) -> u64 {
        self.completion_tails_at() + bytes::<Cursor>(self.channels())
    }

    /// Offset of the completion rings' entries.
    #[must_use]
    pub const fn completions_at(&self) -> u64 {
        self.submission_heads_at() + bytes::<Cursor>(self.channels())
    }

    /// Offset of the links.
    #[must_use]
    pub const fn links_at(&self) -> u64 {
        self.completions_at() + bytes::<Slot>(self.channels() * RING_ENTRIES)
    }

    /// Bytes of the daemon region.
    #[must_use]
    pub const fn daemon_bytes(&self) -> u64 {
        self.links_at() + bytes::<AtomicU32>(self.chunks)
    }

    // Client region.

    /// Offset of the pending words.
    #[must_use]
    pub const fn pending_at(&self) -> u64 {
        0
    }

    /// Offset of the contexts' lines.
    #[must_use]
    pub const fn context_lines_at(&self) -> u64 {
        self.pending_at() + bytes::<Pending>(self.instances)
    }

    /// Offset of the client lines.
    #[must_use]
    pub const fn client_lines_at(&self) -> u64 {
        self.context_lines_at() + bytes::<ContextLine>(self.contexts)
    }

    /// Offset of the submission rings' tails.
    #[must_use]
    pub const fn submission_tails_at(&self) -> u64 {
        self.client_lines_at() + bytes::<ClientLine>(self.sockets)
    }

    /// Offset of the completion rings' heads.
    #[must_use]
    pub const fn completion_heads_at(&self) -> u64 {
        self.submission_tails_at() + bytes::<Cursor>(self.channels())
    }

    /// Offset of the submission rings' entries.
    #[must_use]
    pub const fn submissions_at(&self) -> u64 {
        self.completion_heads_at() + bytes::<Cursor>(self.channels())
    }

    /// Bytes of the client region.
    #[must_use]
    pub const fn client_bytes(&self) -> u64 {
        self.submissions_at() + bytes::<Slot>(self.channels() * RING_ENTRIES)
    }

    /// Bytes of the arena.
    #[must_use]
    pub const fn arena_bytes(&self) -> u64 {
        self.chunks as u64 * CHUNK_BYTES as u64
    }

    /// Bytes of the beacon, the same for every client.
    #[must_use]
    pub const fn beacon_bytes() -> u64 {
        bytes::<WorkerLine>(WORKERS_MAX)
    }
}
