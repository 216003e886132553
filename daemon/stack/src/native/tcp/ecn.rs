//! Explicit congestion notification (RFC 3168), and that of DCTCP, which tells of each mark (RFC 8257).
//!
//! Owns: whether both ends use it, and what is to be echoed. Called for each segment. Must never: mark a
//! retransmission, or a segment without payload, as capable (sections 6.1.4 and 6.1.5).
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

use crate::config::Ecn as Wanted;
use crate::ip::packet::ecn;
use crate::native::segment::{Segment, flag};

/// The state of a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// Each mark is echoed, as DCTCP has it.
    exact: bool,
    /// Acknowledgements that are due since marks began or ended: up to which position, and whether what is
    /// before was marked.
    turns: VecDeque<(u64, bool)>,
}

/// Turns that wait at most: a burst has no more frames.
const TURNS_MAX: usize = 64;

impl Ecn {
    /// Nothing was agreed on yet.
    pub(super) const fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            on: false,
            echoes: false,
            seen: false,
            reduced: false,
            exact: false,
            turns: VecDeque::new(),
        }
    }

    /// Sets whether each mark is echoed, which our SYNs ask for.
    pub(super) const fn count_marks(&mut self, exact: bool) {
        self.exact = exact;
        if exact {
            self.wanted = Wanted::On;
        }
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
    /// echo that was not there before (section 6.1.3). `owed` is the position up to which an acknowledgement
    /// is owed.
    pub(super) fn receive(&mut self, segment: &Segment, class: u8, owed: Option<u64>) -> bool {
        if !self.on {
            return false;
        }
        if self.exact {
            return self.turn(class, owed);
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

    /// RFC 8257 section 3.2: what came before marks begin or end is acknowledged as it was.
    fn turn(&mut self, class: u8, owed: Option<u64>) -> bool {
        let marked = match class & ecn::MASK {
            // Bare acknowledgements and retransmissions say nothing.
            0 => return false,
            field => field == ecn::CONGESTED,
        };
        self.seen |= marked;
        if marked == self.echoes {
            return false;
        }
        if let Some(position) = owed {
            if self.turns.len() == TURNS_MAX {
                self.turns.pop_front();
            }
            self.turns.push_back((position, self.echoes));
        }
        self.echoes = marked;
        true
    }

    /// The next acknowledgement that is due since marks began or ended.
    pub(super) fn next_turn(&self) -> Option<(u64, bool)> {
        self.turns.front().copied()
    }

    /// That was sent.
    pub(super) fn told_turn(&mut self) {
        self.turns.pop_front();
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
