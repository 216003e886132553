//! What travels in the rings between two clients' contexts.
#![forbid(unsafe_code)]

use crate::breach::Breach;
use crate::ring::Entry;

const LOOK: u64 = 1;

/// A message from one client to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairMessage {
    /// Something about the connection changed: its lines say what. One about a generation that is
    /// over is late, not wrong.
    Look {
        /// The connection's number.
        connection: u32,
        /// Its generation.
        generation: u32,
    },
}

impl PairMessage {
    /// As an entry of the ring.
    #[must_use]
    pub const fn encode(&self) -> Entry {
        let Self::Look { connection, generation } = *self;
        [LOOK, connection as u64 | (generation as u64) << 32, 0, 0, 0, 0, 0, 0]
    }

    /// From an entry that was copied out of the ring, in a pair of `connections`.
    pub const fn decode(entry: &Entry, connections: u32) -> Result<Self, Breach> {
        if entry[0] != LOOK {
            return Err(Breach::Operation);
        }
        let connection = entry[1] as u32;
        if connection >= connections {
            return Err(Breach::Slot);
        }
        Ok(Self::Look { connection, generation: (entry[1] >> 32) as u32 })
    }
}
