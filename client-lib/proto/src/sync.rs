//! The atomics of the shared layout: the machine's own, or loom's when a model is checked.
//!
//! Every module of this crate takes its atomics from here, so that `cfg(loom)` runs the same
//! source, not a model of it.
#![forbid(unsafe_code)]

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
