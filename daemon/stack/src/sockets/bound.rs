//! The UDP sockets of one address and port: one, or several that share it (`SO_REUSEPORT` in socket(7)).
//!
//! Owns: which of them gets a datagram. Called for each datagram, and when a socket is bound, connected or
//! closed. Must never: let a socket in that does not share, or look at all of them to find one.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::SocketAddr;

use nix::errno::Errno;

use super::slots::SlotIndex;

/// Sockets that may share an address and port: what goes to many is copied to each.
const SHARED_MAX: usize = 256;

/// The sockets of one address and port.
#[derive(Debug)]
pub(crate) enum Bound {
    /// One that does not share.
    One(SlotIndex),
    /// Those that share.
    Shared(Box<Shared>),
}

/// Sockets that share an address and port.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Those without a peer: datagrams are spread over them.
    open: Vec<SlotIndex>,
    /// Those with one, by it.
    connected: BTreeSet<(SocketAddr, SlotIndex)>,
}

impl Bound {
    /// The first socket.
    pub(crate) fn new(index: SlotIndex, shares: bool) -> Self {
        if shares {
            Self::Shared(Box::new(Shared { open: vec![index], ..Shared::default() }))
        } else {
            Self::One(index)
        }
    }

    /// Whether another may be let in.
    pub(crate) fn admits(&self, shares: bool) -> Result<(), Errno> {
        match self {
            Self::Shared(shared) if shares => match shared.len() {
                SHARED_MAX.. => Err(Errno::ENOBUFS),
                _ => Ok(()),
            },
            _ => Err(Errno::EADDRINUSE),
        }
    }

    /// Lets one in that [`Bound::admits`] admits.
    pub(crate) fn join(&mut self, index: SlotIndex) {
        if let Self::Shared(shared) = self {
            shared.open.push(index);
        }
    }

    /// Lets one out. Returns whether none is left.
    pub(crate) fn leave(&mut self, index: SlotIndex, peer: Option<SocketAddr>) -> bool {
        match self {
            Self::One(_) => true,
            Self::Shared(shared) => {
                shared.remove(index, peer);
                shared.len() == 0
            }
        }
    }

    /// The peer of one changed.
    pub(crate) fn connect(
        &mut self,
        index: SlotIndex,
        before: Option<SocketAddr>,
        peer: Option<SocketAddr>,
    ) {
        let Self::Shared(shared) = self else { return };
        shared.remove(index, before);
        match peer {
            Some(peer) => drop(shared.connected.insert((peer, index))),
            None => shared.open.push(index),
        }
    }

    /// Which one gets a datagram from `peer`, whose flow has this hash: the one that is connected there, else
    /// always the same as long as none comes or goes. One that does not share gets all.
    pub(crate) fn choose(&self, peer: SocketAddr, hash: impl FnOnce() -> u64) -> Option<SlotIndex> {
        let shared = match self {
            Self::One(index) => return Some(*index),
            Self::Shared(shared) => shared,
        };
        let first = shared.connected.range((peer, SlotIndex::FIRST)..).next();
        if let Some((_, index)) = first.filter(|(of, _)| *of == peer) {
            return Some(*index);
        }
        // The hash's upper half, scaled to the number of sockets.
        let at = ((hash() >> 32) * shared.open.len() as u64) >> 32;
        shared.open.get(at as usize).copied()
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = SlotIndex> {
        let (one, shared) = match self {
            Self::One(index) => (Some(*index), None),
            Self::Shared(shared) => (None, Some(shared)),
        };
        let members = shared.into_iter().flat_map(|shared| {
            shared.open.iter().chain(shared.connected.iter().map(|(_, index)| index))
        });
        one.into_iter().chain(members.copied())
    }
}

impl Shared {
    fn len(&self) -> usize {
        self.open.len() + self.connected.len()
    }

    fn remove(&mut self, index: SlotIndex, peer: Option<SocketAddr>) {
        match peer {
            Some(peer) => drop(self.connected.remove(&(peer, index))),
            None => self.open.retain(|other| *other != index),
        }
    }
}
