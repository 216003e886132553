//! Room in a tx FIFO, offered to its writer.
//!
//! Owns: the decision when a writer hears of room. Called after bytes were taken from a FIFO and
//! when its writer asks. Must never: leave a writer asleep that waits for room it will not hear of.
#![forbid(unsafe_code)]

use dmm_proto::Breach;
use dmm_proto::fifo::TxFifo;
use serde::{Deserialize, Serialize};

/// What a writer is known to want.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Room {
    /// It asked for room, or is owed some that its quota did not allow.
    pub(crate) hungry: bool,
    /// It wished for more than it has, and its wish was taken without being granted.
    owed: bool,
}

/// What an offer came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The writer wished for room, and there may be enough: it is to be told.
    pub(crate) writable: bool,
    /// The client's quota is used up, and nothing is queued whose end would make room: to be tried
    /// again later.
    pub(crate) starved: bool,
}

impl Room {
    /// Grants room as far as capacity and quota allow.
    pub(crate) fn offer(&mut self, tx: &mut TxFifo) -> Result<Offer, Breach> {
        let offer = self.try_offer(tx)?;
        self.hungry = offer.starved;
        Ok(offer)
    }

    fn try_offer(&mut self, tx: &mut TxFifo) -> Result<Offer, Breach> {
        if tx.grant() {
            let writable = tx.take_wanted() || std::mem::take(&mut self.owed);
            return Ok(Offer { writable, starved: false });
        }
        if tx.queued() > 0 {
            return Ok(Offer::default());
        }
        if tx.chunks() >= 2 {
            // A writer of an empty FIFO has a chunk's length at least, then. If it wishes for more,
            // a grant would have taken place but for the quota. The number it wished for is gone
            // with the wish, so it is told to look again after a while.
            if std::mem::take(&mut self.owed) {
                return Ok(Offer { writable: true, starved: false });
            }
            self.owed = tx.take_wanted();
            return Ok(Offer { writable: false, starved: self.owed });
        }
        // With one chunk or none it may stand at the very end: beginning anew tells.
        if !tx.let_go()? {
            return Ok(Offer::default());
        }
        let granted = tx.grant();
        Ok(Offer { writable: granted && tx.take_wanted(), starved: !granted })
    }
}
