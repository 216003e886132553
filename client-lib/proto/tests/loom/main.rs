//! The shared memory's hand-overs under loom: this crate's own source, every interleaving within
//! three preemptions, every value that the orderings allow.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test -p dmm-proto --release --test loom
//! ```
//! Chunks are two bytes long here, and each byte is a cell in which loom notices an access that is
//! not ordered. For each hand-over a twin with that one ordering taken away must fail: that is what
//! proves that the model looks.
#![cfg(loom)]

mod fifo;
mod pairs;
mod rings;
mod wake;

use std::sync::Arc as StdArc;

use dmm_proto::arena::ChunkPool;
use dmm_proto::doorbell::SleepFlag;
use dmm_proto::fifo::{FifoParts, RxFifo, RxReader, State, TxFifo, TxWriter};
use dmm_proto::op::{Completion, Socket};
use dmm_proto::pair::{self, PairParts};
use dmm_proto::rehome::{Outbox, rehome};
use dmm_proto::ring;
use dmm_proto::shared::Shared;
use dmm_proto::sync::{Handover, weaken};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(model);
}

fn check_weakened(handover: Handover, model: impl Fn() + Sync + Send + 'static) {
    weaken(handover);
    check(model);
}

fn entry(n: u64) -> ring::Entry {
    [n; ring::ENTRY_WORDS]
}

/// The operations under way: a counter stands for the ring.
#[derive(Clone)]
struct Sends(Arc<AtomicU32>);

impl Sends {
    fn new() -> Self {
        Self(Arc::new(AtomicU32::new(0)))
    }

    fn send(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    fn take(&self) -> bool {
        self.0.swap(0, Ordering::Acquire) > 0
    }
}

struct World {
    parts: FifoParts,
    pool: StdArc<ChunkPool>,
    rx: RxFifo,
    reader: RxReader,
    tx: TxFifo,
    writer: TxWriter,
}

fn world(chunks: u32, capacity: u32) -> World {
    let parts = FifoParts::heap(chunks);
    let pool = StdArc::new(ChunkPool::new(chunks));
    parts.daemon.reset(capacity);
    World {
        rx: RxFifo::new(&parts, StdArc::clone(&pool), capacity),
        reader: RxReader::new(&parts),
        tx: TxFifo::new(&parts, StdArc::clone(&pool), capacity),
        writer: TxWriter::new(&parts),
        parts,
        pool,
    }
}

/// Reads what there is and compares it with 1, 2, 3, ...
fn read_on(reader: &mut RxReader, seen: &mut u8) {
    let mut bytes = [0; 4];
    let len = reader.read(&mut bytes);
    for byte in &bytes[..len] {
        *seen += 1;
        assert_eq!(byte, seen);
    }
}

/// Consumes what there is and compares it with 1, 2, 3, ...
fn consume_on(tx: &mut TxFifo, seen: &mut u8) {
    let mut bytes = [0; 4];
    let len = tx.copy_out(0, &mut bytes);
    for byte in &bytes[..len] {
        *seen += 1;
        assert_eq!(byte, seen);
    }
    tx.consume(len);
}
