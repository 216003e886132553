//! Whole-process tests of DMM: a real `dmmd`, real client processes, and the kernel as their peer.
//!
//! ```text
//!   namespace "daemon"                    namespace "peer" (with a TAP, the same)
//!   ┌───────────────────┐   TAP or veth   ┌─────────────────────────┐
//!   │ dmmd, its port    ├─────────────────┤ dmm-peer over std::net  │
//!   └───────▲───────────┘                 └─────────────────────────┘
//!           │ shared memory
//!   ┌───────┴───────────────────────┐
//!   │ dmm-peer over the dmm library │  namespace "clients": no interface at all
//!   └───────────────────────────────┘
//! ```
//!
//! Client processes of the library live where the kernel has no network, so what they send can only
//! have gone through the daemon. [`lab::Lab`] sets all of it up and removes it when dropped; the
//! programs at both ends are one source, [`peer`]. The tests are in `tests/`, and need root.

#![forbid(unsafe_code)]

pub mod cable;
pub mod command;
pub mod daemon;
pub mod deadline;
pub mod firewall;
pub mod lab;
pub mod leftovers;
pub mod link;
pub mod namespace;
pub mod peer;
pub mod program;
pub mod sniffer;
pub mod testpmd;
