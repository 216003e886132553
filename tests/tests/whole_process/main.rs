//! DMM as a whole: `dmmd`, clients of the library, and the kernel as their peer.
//!
//! Each file is one subject. Every test sets up what it needs and removes it. They need root, and
//! the programs of the workspace built; `scripts/test` sees to both.

#![forbid(unsafe_code)]

mod c_api;
mod capture;
mod client_death;
mod connections;
mod daemon_death;
mod daemon_stop;
mod endings;
mod event_loops;
mod examples;
mod exits;
mod groups;
mod huge_pages;
mod impaired;
mod leftovers;
mod like_std;
mod linux;
mod matrix;
mod nic;
mod proxy;
mod refusals;
mod reuse;
mod service;
mod testpmd;
mod transfer;
mod udp;
mod udp_like_linux;
mod vlan;
