//! What fuzz targets share: a stack alone with whoever writes to its wire.
//!
//! Start reading at `fuzz_targets/segments.rs`.
#![forbid(unsafe_code)]

mod world;

pub use world::{Step, World};
