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

mod buffer;
mod calls;
mod info;
mod interface;
mod messages;
mod notices;
mod options;
mod socket;
mod world;

pub use info::{getsockopt, sendfile};
pub use interface::{Interface, packetdrill_interface_init};
