//! The native kind, under way: the parts of its TCP that stand by themselves so far.
//!
//! Owns: headers ([`segment`], [`packet`]), congestion control, and the halves of a connection
//! ([`tcp`]). Nothing outside of unit tests calls it yet: the connection that joins the halves, and the
//! stack around it, are missing.
#![forbid(unsafe_code)]
#![allow(dead_code, reason = "the connection that will call these is not written")]

mod congestion;
mod packet;
mod segment;
mod tcp;
