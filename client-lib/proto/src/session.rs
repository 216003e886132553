//! A session's regions as typed places: what [`crate::layout`] says in offsets, as references.
//!
//! The daemon makes a [`Memory`]; the client opens the same from the descriptors of the hello.
#![forbid(unsafe_code)]

use std::io;
use std::net::Ipv4Addr;

use crate::arena::Arena;
use crate::fifo::{ClientLine, DaemonLine, FifoParts};
use crate::layout::{
    ContextLine, Geometry, NAME_BYTES, Pending, RING_ENTRIES, STACKS_MAX, StackEntry, WORKERS_MAX,
    WorkerLine,
};
use crate::region::Region;
use crate::ring::{Cursor, Parts};
use crate::shared::Shared;
use crate::sync::{AtomicU32, Ordering};

/// The three regions of one session.
#[derive(Clone)]
pub struct Memory {
    /// The numbers that place everything.
    pub geometry: Geometry,
    /// What only the daemon writes.
    pub daemon: Region,
    /// What the client writes.
    pub client: Region,
    /// Payload.
    pub arena: Region,
    links: Shared<[AtomicU32]>,
    chunks: Arena,
}

impl Memory {
    /// Makes the regions of a new session.
    ///
    /// # Panics
    /// If `geometry` is not sane: it comes from a validated configuration.
    pub fn create(geometry: Geometry) -> io::Result<Self> {
        assert!(geometry.is_sane(), "{geometry:?}");
        let daemon = Region::read_only_for_others("dmm-daemon", geometry.daemon_bytes())?;
        let client = Region::writable("dmm-client", geometry.client_bytes())?;
        let arena = Region::writable("dmm-arena", geometry.arena_bytes())?;
        Ok(Self::assemble(geometry, daemon, client, arena))
    }

    /// Puts regions that were opened together.
    #[must_use]
    pub fn assemble(geometry: Geometry, daemon: Region, client: Region, arena: Region) -> Self {
        let links = daemon.shared_slice(geometry.links_at(), geometry.chunks as usize);
        let chunks = arena.arena(geometry.chunks);
        Self { geometry, daemon, client, arena, links, chunks }
    }

    /// What a socket's FIFOs are made of.
    #[must_use]
    pub fn fifo(&self, slot: u32) -> FifoParts {
        FifoParts {
            daemon: self.daemon_line(slot),
            client: self.client_line(slot),
            arena: self.chunks.clone(),
            links: self.links.clone(),
        }
    }

    /// The daemon's line of a socket.
    #[must_use]
    pub fn daemon_line(&self, slot: u32) -> Shared<DaemonLine> {
        self.daemon.shared(nth::<DaemonLine>(self.geometry.daemon_lines_at(), slot))
    }

    /// The client's line of a socket.
    #[must_use]
    pub fn client_line(&self, slot: u32) -> Shared<ClientLine> {
        self.client.shared(nth::<ClientLine>(self.geometry.client_lines_at(), slot))
    }

    /// The submission ring of a channel.
    #[must_use]
    pub fn submissions(&self, channel: u32) -> Parts {
        let g = &self.geometry;
        Parts {
            tail: self.client.shared(nth::<Cursor>(g.submission_tails_at(), channel)),
            head: self.daemon.shared(nth::<Cursor>(g.submission_heads_at(), channel)),
            slots: self
                .client
                .shared_slice(ring_at(g.submissions_at(), channel), RING_ENTRIES as usize),
        }
    }

    /// The completion ring of a channel.
    #[must_use]
    pub fn completions(&self, channel: u32) -> Parts {
        let g = &self.geometry;
        Parts {
            tail: self.daemon.shared(nth::<Cursor>(g.completion_tails_at(), channel)),
            head: self.client.shared(nth::<Cursor>(g.completion_heads_at(), channel)),
            slots: self
                .daemon
                .shared_slice(ring_at(g.completions_at(), channel), RING_ENTRIES as usize),
        }
    }

    /// The pending word of an instance.
    #[must_use]
    pub fn pending(&self, instance: u32) -> Shared<Pending> {
        self.client.shared(nth::<Pending>(self.geometry.pending_at(), instance))
    }

    /// A context's line.
    #[must_use]
    pub fn context(&self, context: u32) -> Shared<ContextLine> {
        self.client.shared(nth::<ContextLine>(self.geometry.context_lines_at(), context))
    }

    /// Tells the client of the daemon's stacks, in order; `workers` names each instance's worker.
    pub fn write_stacks(&self, stacks: &[StackInfo], workers: &[u32]) {
        let entries = self.stack_entries();
        for (entry, stack) in entries.iter().zip(stacks) {
            let mut name = [0; NAME_BYTES];
            let len = stack.name.len().min(NAME_BYTES - 1);
            name[..len].copy_from_slice(&stack.name.as_bytes()[..len]);
            for (i, word) in entry.name.iter().enumerate() {
                let bytes = std::array::from_fn(|b| name[8 * i + b]);
                word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
            }
            for (word, (address, len)) in entry.v4.iter().zip(&stack.v4) {
                let bits = u64::from(address.to_bits()) << 8 | u64::from(*len);
                word.store(bits, Ordering::Relaxed);
            }
            entry.first_instance.store(stack.first_instance, Ordering::Relaxed);
            entry.instances.store(stack.instances, Ordering::Release);
        }
        for (word, worker) in self.workers_of().iter().zip(workers) {
            word.store(*worker, Ordering::Release);
        }
    }

    /// The daemon's stacks, in order.
    #[must_use]
    pub fn read_stacks(&self) -> Vec<StackInfo> {
        let entries = self.stack_entries();
        let in_use = entries.iter().take_while(|e| e.instances.load(Ordering::Acquire) > 0);
        let read = in_use.map(|entry| {
            let words = entry.name.iter().flat_map(|w| w.load(Ordering::Relaxed).to_le_bytes());
            let name: Vec<u8> = words.take_while(|&byte| byte != 0).collect();
            StackInfo {
                name: String::from_utf8_lossy(&name).into_owned(),
                first_instance: entry.first_instance.load(Ordering::Relaxed),
                instances: entry.instances.load(Ordering::Relaxed),
                v4: entry
                    .v4
                    .iter()
                    .map(|word| word.load(Ordering::Relaxed))
                    .filter(|word| *word != 0)
                    .map(|word| (Ipv4Addr::from_bits((word >> 8) as u32), word as u8))
                    .collect(),
            }
        });
        read.collect()
    }

    /// The worker that runs `instance`.
    #[must_use]
    pub fn worker_of(&self, instance: u32) -> u32 {
        self.workers_of()[instance as usize].load(Ordering::Acquire)
    }

    fn stack_entries(&self) -> Shared<[StackEntry]> {
        self.daemon.shared_slice(self.geometry.stacks_at(), STACKS_MAX as usize)
    }

    fn workers_of(&self) -> Shared<[AtomicU32]> {
        let g = &self.geometry;
        self.daemon.shared_slice(g.workers_of_at(), g.instances as usize)
    }
}

/// A stack as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackInfo {
    /// Its name.
    pub name: String,
    /// Its first instance among all.
    pub first_instance: u32,
    /// Its number of instances.
    pub instances: u32,
    /// Its IPv4 addresses with the lengths of their prefixes.
    pub v4: Vec<(Ipv4Addr, u8)>,
}

impl StackInfo {
    /// Whether `address` stands for all stations of a link of this stack (RFC 1122 section 3.3.6).
    #[must_use]
    pub fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        let of_subnet = |(own, len): &(Ipv4Addr, u8)| {
            let hosts = u32::MAX.checked_shr((*len).into()).unwrap_or(0);
            *len < 31 && address.to_bits() == own.to_bits() | hosts
        };
        address.is_broadcast() || self.v4.iter().any(of_subnet)
    }

    /// Whether `address` is one of its own.
    #[must_use]
    pub fn is_own(&self, address: Ipv4Addr) -> bool {
        self.v4.iter().any(|(own, _)| *own == address)
    }
}

/// The beacon: what the daemon shows to all clients.
#[derive(Clone)]
pub struct Beacon {
    region: Region,
}

impl Beacon {
    /// Makes the beacon, once per daemon.
    pub fn create() -> io::Result<Self> {
        Ok(Self { region: Region::read_only_for_others("dmm-beacon", Geometry::beacon_bytes())? })
    }

    /// The beacon behind a region that was opened.
    #[must_use]
    pub const fn open(region: Region) -> Self {
        Self { region }
    }

    /// The region, to pass on.
    #[must_use]
    pub const fn region(&self) -> &Region {
        &self.region
    }

    /// A worker's line.
    ///
    /// # Panics
    /// If there can be no such worker.
    #[must_use]
    pub fn worker(&self, worker: u32) -> Shared<WorkerLine> {
        assert!(worker < WORKERS_MAX);
        self.region.shared(nth::<WorkerLine>(0, worker))
    }
}

const fn nth<T>(at: u64, index: u32) -> u64 {
    at + size_of::<T>() as u64 * index as u64
}

const fn ring_at(at: u64, channel: u32) -> u64 {
    at + size_of::<crate::ring::Slot>() as u64 * RING_ENTRIES as u64 * channel as u64
}
