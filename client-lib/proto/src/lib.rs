//! The contract between a DMM client and the daemon.
//!
//! Owns: the layout of everything the two sides share, the rings, FIFOs and doorbells that run over
//! it, the operations that travel in the rings, and the hello that sets a session up. Used by the
//! client library on one side and the daemon's sessions on the other. Must never: know a protocol
//! stack, own a thread, or trust a value that the other side can write.
//!
//! ```text
//!            client process                                   daemon
//!   ┌────────────────────────────┐  client region (rw)  ┌──────────────────────┐
//!   │ ring::Producer ────────────┼── submissions ──────▶│ ring::Consumer       │
//!   │ fifo::TxWriter ── payload ─┼── arena chunks ─────▶│ fifo::TxFifo         │
//!   │ fifo::RxReader ◀─ payload ─┼── arena chunks ──────│ fifo::RxFifo         │
//!   │ ring::Consumer ◀───────────┼── completions ───────│ ring::Producer       │
//!   └────────────────────────────┘  daemon region (ro)  └──────────────────────┘
//!            ▲   doorbell (one each way)            ▲   beacon region (ro)
//! ```
//!
//! Start reading at [`layout`], which places every shared word, then [`ring`], [`fifo`] and [`op`].

pub mod arena;
#[cfg(not(loom))]
pub mod attach;
pub mod breach;
pub mod congestion;
pub mod doorbell;
pub mod fifo;
#[cfg(not(loom))]
pub mod hello;
pub mod info;
pub mod layout;
#[cfg(not(loom))]
pub mod lease;
#[cfg(not(loom))]
pub mod message;
#[cfg(not(loom))]
pub mod mock;
pub mod op;
pub mod pair;
#[cfg(not(loom))]
pub mod region;
pub mod rehome;
#[cfg(not(loom))]
pub mod request;
pub mod ring;
#[cfg(not(loom))]
pub mod session;
pub mod shared;
pub mod sync;

pub use breach::Breach;

/// Version of everything in this crate. Two sides of different versions refuse each other.
pub const VERSION: u32 = 2;
