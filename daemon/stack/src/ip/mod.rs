//! What lies under the transports, for every kind of stack: the link, its neighbours, and IP.
//!
//! Called by kinds of stack. Must never: know a socket.
#![forbid(unsafe_code)]

mod admission;
pub(crate) mod checksum;
mod counters;
pub(crate) mod discovery;
pub(crate) mod echo;
pub(crate) mod fragment;
pub(crate) mod groups;
pub(crate) mod neighbours;
pub(crate) mod net;
pub(crate) mod packet;
pub(crate) mod reassembly;
pub(crate) mod trouble;
pub(crate) mod vlan;

pub(crate) use admission::{Admitted, admit};
pub(crate) use counters::{Counters, MEANINGS};

/// What writes a frame, given our and the neighbour's Ethernet address.
pub(crate) type Write<'a> = &'a dyn Fn(&mut [u8], (discovery::Mac, discovery::Mac));

/// What became of a socket's turn to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// One frame was written; there may be more.
    Frame,
    /// The socket has nothing to send now.
    Nothing,
    /// It may have, but no transmit slot is free.
    NoSlot,
    /// It has, but the neighbour's Ethernet address is not known yet.
    NoNeighbour,
}
