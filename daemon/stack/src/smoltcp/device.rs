//! The device that the library believes in.
//!
//! Owns: [`Device`], which gives it one received frame and a row of transmit slots, and notes what it did
//! with them. Made anew for each call of the library. Must never: let a frame go out that was not written
//! in whole.
#![forbid(unsafe_code)]

use ::smoltcp::phy::{self, DeviceCapabilities};
use ::smoltcp::time::Instant as LibraryInstant;
use dmm_port::TxBurst;

use super::sequence::Sequence;

/// What the library did with the transmit tokens that it took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    /// It took one.
    pub(super) taken: bool,
    /// It wrote a frame into a slot.
    pub(super) written: bool,
    /// It wrote a frame for which there was no slot.
    pub(super) lost: bool,
}

/// The device: one received frame, and a row of transmit slots.
pub(super) struct Device<'a, 'b> {
    /// What the library is to believe of it.
    pub(super) capabilities: &'a DeviceCapabilities,
    /// The received frame.
    pub(super) frame: Option<&'a [u8]>,
    /// Where frames go.
    pub(super) out: Option<&'a mut TxBurst<'b>>,
    /// Where those go that have no slot.
    pub(super) scratch: &'a mut Vec<u8>,
    /// What came of it.
    pub(super) outcome: &'a mut Outcome,
    /// Is shown what a TCP socket sends.
    pub(super) sequence: Option<&'a mut Sequence>,
}

impl<'b> Device<'_, 'b> {
    fn token(&mut self) -> TxToken<'_, 'b> {
        TxToken {
            out: self.out.as_deref_mut(),
            scratch: self.scratch,
            outcome: self.outcome,
            sequence: self.sequence.as_deref_mut(),
        }
    }
}

impl<'b> phy::Device for Device<'_, 'b> {
    type RxToken<'t>
        = RxToken<'t>
    where
        Self: 't;
    type TxToken<'t>
        = TxToken<'t, 'b>
    where
        Self: 't;

    fn receive(&mut self, _: LibraryInstant) -> Option<(RxToken<'_>, TxToken<'_, 'b>)> {
        let frame = self.frame.take()?;
        Some((RxToken(frame), self.token()))
    }

    fn transmit(&mut self, _: LibraryInstant) -> Option<TxToken<'_, 'b>> {
        if self.out.as_ref().is_some_and(|tx| tx.free() == 0) {
            return None;
        }
        self.outcome.taken = true;
        Some(self.token())
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities.clone()
    }
}

/// The right to read the received frame.
pub(super) struct RxToken<'a>(&'a [u8]);

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

/// The right to write one frame.
pub(super) struct TxToken<'a, 'b> {
    out: Option<&'a mut TxBurst<'b>>,
    scratch: &'a mut Vec<u8>,
    outcome: &'a mut Outcome,
    sequence: Option<&'a mut Sequence>,
}

impl phy::TxToken for TxToken<'_, '_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let Some(buffer) = self.out.and_then(|tx| tx.next(len)) else {
            self.outcome.lost = true;
            self.scratch.resize(len, 0);
            return write(self.scratch);
        };
        // A slot holds what an earlier frame left there, and the library sets some header fields
        // bit by bit.
        buffer.fill(0);
        let result = write(buffer);
        if let Some(sequence) = self.sequence {
            sequence.sending(buffer);
        }
        self.outcome.written = true;
        result
    }
}
