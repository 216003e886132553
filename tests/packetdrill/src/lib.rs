//! The native stack as a shared object that packetdrill tests.
//!
//! Owns: the C interface, [`packetdrill_interface_init`]. Loaded by `packetdrill --so_filename`; also by our own
//! player of scripts. All time is virtual. Must never: let a panic cross into C.
//!
//! ```text
//!   script ─▶ packetdrill ─┬─ socket calls ─▶ calls ─▶ world: stack, clock
//!                          └─ packets, time ─▶          │
//!                                         ◀── packets ──┘
//! ```
#![deny(unsafe_code)]

mod calls;
mod info;
mod interface;
mod messages;
mod options;
mod socket;
mod world;

pub use info::getsockopt;
pub use interface::{Interface, packetdrill_interface_init};
