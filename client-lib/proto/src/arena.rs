//! The arena: the memory in which the payload of one client's sockets lies, cut into chunks.
//!
//! Both sides copy bytes in and out of it and neither ever holds a reference into it: the other
//! may write at any time. Which chunk serves which FIFO is the daemon's private knowledge
//! ([`ChunkPool`]); what a client scribbles over is its own payload.

use std::sync::Arc;

pub use chunk::{CHUNK_BYTES, ChunkIndex};
pub use memory::Arena;
pub use pool::ChunkPool;

mod chunk {
    /// Bytes of a chunk: four pages, so that a short message touches one page and a bulk transfer
    /// changes chunk every eleven segments. Under loom a chunk is two bytes, to keep models small.
    pub const CHUNK_BYTES: usize = if cfg!(loom) { 2 } else { 16 * 1024 };

    /// The index of a chunk in its arena.
    pub type ChunkIndex = u32;
}

#[cfg(not(loom))]
mod memory {
    use super::{Arc, CHUNK_BYTES, ChunkIndex};
    use std::any::Any;
    use std::ptr::NonNull;

    /// A handle to an arena's memory.
    #[derive(Clone)]
    pub struct Arena {
        base: NonNull<u8>,
        chunks: u32,
        _keep: Arc<dyn Any + Send + Sync>,
    }

    // SAFETY: the arena is only reached by copies through raw pointers; concurrent access by the
    // other process is part of the contract and needs no exclusion here.
    unsafe impl Send for Arena {}
    // SAFETY: as above.
    unsafe impl Sync for Arena {}

    impl Arena {
        /// An arena of `chunks` zeroed chunks on the heap: for tests and simulations.
        #[must_use]
        pub fn heap(chunks: u32) -> Self {
            // Words keep the base 8-aligned, as a mapping's would be.
            let memory = vec![0_u64; chunks as usize * CHUNK_BYTES / 8];
            let keep: Arc<HeapMemory> = Arc::new(HeapMemory(std::cell::UnsafeCell::new(memory)));
            // SAFETY: nobody else has the cell yet; the vector never grows, so its buffer stays.
            let base = unsafe { (*keep.0.get()).as_mut_ptr() };
            Self {
                base: NonNull::new(base.cast()).expect("a vector's pointer"),
                chunks,
                _keep: keep,
            }
        }

        /// An arena at `base`, alive as long as `keep`.
        ///
        /// # Safety
        /// `chunks * CHUNK_BYTES` bytes at `base` stay mapped readable and writable while `keep`
        /// lives.
        #[must_use]
        pub unsafe fn from_raw(
            base: NonNull<u8>,
            chunks: u32,
            keep: Arc<dyn Any + Send + Sync>,
        ) -> Self {
            Self { base, chunks, _keep: keep }
        }

        /// How many chunks there are.
        #[must_use]
        pub const fn chunks(&self) -> u32 {
            self.chunks
        }

        /// Copies `bytes` into `chunk` at `offset`.
        ///
        /// # Panics
        /// If the range leaves the chunk or the arena: positions are this side's own.
        pub fn copy_in(&self, chunk: ChunkIndex, offset: usize, bytes: &[u8]) {
            let at = self.at(chunk, offset, bytes.len());
            // SAFETY: `at` checked the range; source and destination cannot overlap because `bytes`
            // is a Rust slice and nobody makes slices of the arena. A racing writer on the other
            // side can only garble payload that it owns.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) }
        }

        /// Copies from `chunk` at `offset` into `bytes`.
        ///
        /// # Panics
        /// If the range leaves the chunk or the arena.
        pub fn copy_out(&self, chunk: ChunkIndex, offset: usize, bytes: &mut [u8]) {
            let at = self.at(chunk, offset, bytes.len());
            // SAFETY: as in `copy_in`, in the other direction.
            unsafe { std::ptr::copy_nonoverlapping(at, bytes.as_mut_ptr(), bytes.len()) }
        }

        /// Bytes of `chunk` in place.
        ///
        /// # Safety
        /// Nobody writes to them while the slice lives.
        ///
        /// # Panics
        /// If the range leaves the chunk or the arena.
        #[must_use]
        pub unsafe fn slice(&self, chunk: ChunkIndex, offset: usize, len: usize) -> &[u8] {
            let at = self.at(chunk, offset, len);
            // SAFETY: `at` checked the range, and the caller keeps writers away.
            unsafe { std::slice::from_raw_parts(at, len) }
        }

        /// Bytes of `chunk` in place, to be written.
        ///
        /// # Safety
        /// Nobody else reads or writes them while the slice lives.
        ///
        /// # Panics
        /// If the range leaves the chunk or the arena.
        #[must_use]
        #[expect(clippy::mut_from_ref, reason = "the arena is no value of Rust's")]
        pub unsafe fn slice_mut(&self, chunk: ChunkIndex, offset: usize, len: usize) -> &mut [u8] {
            let at = self.at(chunk, offset, len);
            // SAFETY: `at` checked the range, and the caller keeps everybody else away.
            unsafe { std::slice::from_raw_parts_mut(at, len) }
        }

        fn at(&self, chunk: ChunkIndex, offset: usize, len: usize) -> *mut u8 {
            assert!(chunk < self.chunks, "chunk {chunk} of {}", self.chunks);
            assert!(offset <= CHUNK_BYTES && len <= CHUNK_BYTES - offset, "range leaves its chunk");
            // SAFETY: the assertions keep the offset inside the mapping that `from_raw`'s caller
            // promised.
            unsafe { self.base.as_ptr().add(chunk as usize * CHUNK_BYTES + offset) }
        }
    }

    struct HeapMemory(std::cell::UnsafeCell<Vec<u64>>);

    // SAFETY: only `Arena` reaches the memory, by raw copies.
    unsafe impl Send for HeapMemory {}
    // SAFETY: as above.
    unsafe impl Sync for HeapMemory {}
}

#[cfg(loom)]
mod memory {
    use super::{Arc, CHUNK_BYTES, ChunkIndex};
    use loom::cell::UnsafeCell;

    /// The arena under loom: a cell per byte, so that loom reports an unordered access.
    #[derive(Clone)]
    pub struct Arena {
        memory: Arc<Memory>,
    }

    struct Memory(Vec<UnsafeCell<u8>>);

    // SAFETY: loom's cells check every access.
    unsafe impl Send for Memory {}
    // SAFETY: as above.
    unsafe impl Sync for Memory {}

    impl Arena {
        /// An arena of `chunks` zeroed chunks.
        pub fn heap(chunks: u32) -> Self {
            let bytes = (0..chunks as usize * CHUNK_BYTES).map(|_| UnsafeCell::new(0)).collect();
            Self { memory: Arc::new(Memory(bytes)) }
        }

        /// How many chunks there are.
        pub fn chunks(&self) -> u32 {
            u32::try_from(self.memory.0.len() / CHUNK_BYTES).expect("small")
        }

        /// Copies `bytes` into `chunk` at `offset`.
        pub fn copy_in(&self, chunk: ChunkIndex, offset: usize, bytes: &[u8]) {
            for (i, byte) in bytes.iter().enumerate() {
                // SAFETY: loom checks that no other access is concurrent.
                self.memory.0[chunk as usize * CHUNK_BYTES + offset + i]
                    .with_mut(|p| unsafe { *p = *byte });
            }
        }

        /// Copies from `chunk` at `offset` into `bytes`.
        pub fn copy_out(&self, chunk: ChunkIndex, offset: usize, bytes: &mut [u8]) {
            for (i, byte) in bytes.iter_mut().enumerate() {
                // SAFETY: loom checks that no write is concurrent.
                *byte = self.memory.0[chunk as usize * CHUNK_BYTES + offset + i]
                    .with(|p| unsafe { *p });
            }
        }
    }
}

mod pool {
    use super::ChunkIndex;
    // Private to the daemon, so never part of a model: always the machine's own atomics.
    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    const NONE: u32 = u32::MAX;

    /// The free chunks of one arena: a lock-free last-in-first-out list, so that the chunk handed
    /// out next is the one most likely still in cache. Used by every worker that serves the client.
    ///
    /// ```text
    ///  top: | tag:32 | index:32 | ──▶ next[index] ──▶ ... ──▶ NONE
    /// ```
    /// The tag grows with every change, so that a chunk that left and came back between a load and
    /// the exchange is noticed.
    pub struct ChunkPool {
        top: AtomicU64,
        next: Box<[AtomicU32]>,
        used: AtomicU32,
    }

    impl ChunkPool {
        /// A pool in which all of `chunks` chunks are free.
        #[must_use]
        pub fn new(chunks: u32) -> Self {
            let next = (1..=chunks).map(|n| AtomicU32::new(if n == chunks { NONE } else { n }));
            let top = if chunks == 0 { NONE } else { 0 };
            Self {
                top: AtomicU64::new(u64::from(top)),
                next: next.collect(),
                used: AtomicU32::new(0),
            }
        }

        /// Takes a free chunk, or `None` if the client's quota is used up.
        pub fn take(&self) -> Option<ChunkIndex> {
            let mut top = self.top.load(Ordering::Acquire);
            loop {
                let index = index_of(top);
                if index == NONE {
                    return None;
                }
                let next = self.next[index as usize].load(Ordering::Relaxed);
                match self.exchange(top, next) {
                    Ok(()) => {
                        self.used.fetch_add(1, Ordering::Relaxed);
                        return Some(index);
                    }
                    Err(now) => top = now,
                }
            }
        }

        /// Gives a chunk back.
        pub fn give(&self, chunk: ChunkIndex) {
            self.used.fetch_sub(1, Ordering::Relaxed);
            let mut top = self.top.load(Ordering::Acquire);
            loop {
                self.next[chunk as usize].store(index_of(top), Ordering::Relaxed);
                match self.exchange(top, chunk) {
                    Ok(()) => return,
                    Err(now) => top = now,
                }
            }
        }

        /// Chunks that are handed out.
        #[must_use]
        pub fn used(&self) -> u32 {
            self.used.load(Ordering::Relaxed)
        }

        /// Chunks in all.
        #[must_use]
        pub fn chunks(&self) -> u32 {
            u32::try_from(self.next.len()).expect("made from a u32")
        }

        fn exchange(&self, top: u64, index: u32) -> Result<(), u64> {
            let tag = (top >> 32).wrapping_add(1);
            let new = tag << 32 | u64::from(index);
            self.top
                .compare_exchange_weak(top, new, Ordering::AcqRel, Ordering::Acquire)
                .map(|_| ())
        }
    }

    const fn index_of(top: u64) -> u32 {
        top as u32
    }

    #[cfg(all(test, not(loom)))]
    mod tests {
        use super::*;

        #[test]
        fn hands_out_each_chunk_once_last_in_first_out() {
            let pool = ChunkPool::new(3);
            let taken = [pool.take(), pool.take(), pool.take()];
            assert_eq!(taken, [Some(0), Some(1), Some(2)]);
            assert_eq!(pool.take(), None);
            pool.give(1);
            assert_eq!((pool.used(), pool.take()), (2, Some(1)));
        }

        #[test]
        fn two_threads_never_hold_the_same_chunk() {
            let pool = ChunkPool::new(4);
            let owners: Vec<AtomicU32> = (0..4).map(|_| AtomicU32::new(0)).collect();
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        for _ in 0..50_000 {
                            let held: Vec<_> = (0..2).filter_map(|_| pool.take()).collect();
                            for &chunk in &held {
                                assert_eq!(
                                    owners[chunk as usize].fetch_add(1, Ordering::SeqCst),
                                    0
                                );
                            }
                            for &chunk in &held {
                                owners[chunk as usize].fetch_sub(1, Ordering::SeqCst);
                                pool.give(chunk);
                            }
                        }
                    });
                }
            });
            assert_eq!(pool.used(), 0);
        }
    }
}
