//! Explicit congestion notification (RFC 3168).
//!
//! Owns: whether both ends use it, and what is to be echoed. Called for each segment. Must never: mark a
//! retransmission, or a segment without payload, as capable (sections 6.1.4 and 6.1.5).
#![forbid(unsafe_code)]

use crate::config::Ecn as Wanted;
use crate::ip::packet::ecn;
use crate::native::segment::{Segment, flag};

/// The state of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ecn {
    wanted: Wanted,
    /// Both ends use it.
    pub(super) on: bool,
    /// A mark came that the peer has not answered with CWR.
    echoes: bool,
    /// Marks came at some time.
    pub(super) seen: bool,
    /// The next new segment says that the window was made smaller.
    pub(super) reduced: bool,
}

impl Ecn {
    /// Nothing was agreed on yet.
    pub(super) const fn new(wanted: Wanted) -> Self {
        Self { wanted, on: false, echoes: false, seen: false, reduced: false }
    }

    /// Takes the peer's SYN, or its SYN-ACK (section 6.1.1).
    pub(super) const fn take_syn(&mut self, segment: &Segment) {
        let (ece, cwr) = (segment.has(flag::ECE), segment.has(flag::CWR));
        self.on = if segment.has(flag::ACK) {
            matches!(self.wanted, Wanted::On) && ece && !cwr
        } else {
            !matches!(self.wanted, Wanted::Off) && ece && cwr
        };
    }

    /// The flags of our SYN, which answers the peer's if `answers`.
    pub(super) const fn syn_flags(&self, answers: bool) -> u8 {
        match (answers, self.wanted) {
            (true, _) if self.on => flag::ECE,
            (false, Wanted::On) => flag::ECE | flag::CWR,
            _ => 0,
        }
    }

    /// Takes a segment that came with the traffic class `class`. Returns whether there is something to
    /// echo that was not there before (section 6.1.3).
    pub(super) const fn receive(&mut self, segment: &Segment, class: u8) -> bool {
        if !self.on {
            return false;
        }
        if segment.has(flag::CWR) {
            self.echoes = false;
        }
        let marked = class & ecn::MASK == ecn::CONGESTED;
        let news = marked && !self.echoes;
        self.echoes |= marked;
        self.seen |= marked;
        news
    }

    /// The flags of a segment, which has payload that was not sent before if `new`.
    pub(super) const fn flags(&self, new: bool) -> u8 {
        let echo = if self.on && self.echoes { flag::ECE } else { 0 };
        echo | if self.on && new && self.reduced { flag::CWR } else { 0 }
    }

    /// The ECN field of its packet.
    pub(super) const fn field(&self, new: bool) -> u8 {
        if self.on && new { ecn::CAPABLE } else { 0 }
    }
}
