//! A connection as bytes, to go on in another stack.
#![forbid(unsafe_code)]

use dmm_port::Instant;
use nix::errno::Errno;

use super::{Connection, State};
use crate::sockets::Owner;
use crate::{Fifos, Saved, SocketId};

impl Connection {
    /// Whether it can be saved: its handshake is complete, and somebody has it.
    pub(in super::super) fn is_saveable(&self) -> bool {
        let lives = !self.is_opening() && self.sender.una > 0 && self.state != State::Closed;
        let whole = self.receiver.fifo.is_some() && self.sender.fifo.is_some();
        lives && whole && matches!(self.owner, Owner::Socket(_))
    }

    /// It, as bytes, and its FIFOs.
    pub(in super::super) fn save(mut self) -> Option<Saved> {
        let (rx, tx) = (self.receiver.fifo.take()?, self.sender.fifo.take()?);
        // It cannot fail: nothing in it is of unknown length, and memory grows as is needed.
        let state = postcard::to_stdvec(&self).ok()?;
        Some(Saved { state, fifos: Box::new(Fifos { rx, tx }) })
    }

    /// A connection that was saved, with the FIFOs that it had: `EINVAL` if that cannot be.
    pub(in super::super) fn restore(
        now: Instant,
        socket: SocketId,
        state: &[u8],
    ) -> Result<Self, Errno> {
        let mut connection: Self = postcard::from_bytes(state).map_err(|_| Errno::EINVAL)?;
        connection.owner = Owner::Socket(socket);
        if connection.is_opening() || connection.state == State::Closed {
            return Err(Errno::EINVAL);
        }
        connection.settle(now);
        Ok(connection)
    }

    /// Gives a restored connection its FIFOs.
    pub(in super::super) fn resume(&mut self, fifos: Fifos) {
        (self.receiver.fifo, self.sender.fifo) = (Some(fifos.rx), Some(fifos.tx));
    }
}
