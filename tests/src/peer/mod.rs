//! The programs at both ends of a test's connections, in one source for the kernel's sockets and
//! the library's: `dmm-peer`.
//!
//! Owns: the command line ([`Arguments`]), what it prints ([`Line`]), and what it does with a
//! connection ([`Behaviour`]). Run by tests through [`crate::program::Program`].

mod behaviour;
mod datagram;
mod generator;
pub mod net;
mod report;
mod run;

pub use behaviour::{Behaviour, Order};
pub use report::{Line, Outcome, Report};
pub use run::{Arguments, Via, run};
