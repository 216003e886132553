//! Raw bindings to DPDK, generated from the installed headers.
//!
//! Owns: nothing but declarations, and the wrappers through which DPDK's inline functions can be
//! called. Called by `dmm_port::dpdk` alone, which makes them safe. Must never: describe a DPDK
//! structure by hand, or work around a release in Rust: what differs goes into `shim.h`.

#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks,
    reason = "generated code"
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;

/// The release whose headers the bindings were made from, as `pkg-config --modversion` prints it.
pub const PKG_VERSION: &str = env!("DPDK_SYS_PKG_VERSION");
