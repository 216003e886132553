//! When to acknowledge (RFC 9293 section 3.8.6.3, RFC 5681 section 4.2).
//!
//! Owns: whether an acknowledgement is due. Called for each segment with payload and each segment sent. Must
//! never: keep a peer waiting for longer than the standard's half second.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::time::Duration;

use dmm_port::Instant;

/// How long one is held back, as Linux does at least (`TCP_DELACK_MIN`).
const DELAY: Duration = Duration::from_millis(40);
/// So many are not held back at the beginning, when the peer's window grows with each (Linux's
/// `TCP_MAX_QUICKACKS`).
const QUICK: u8 = 16;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Due {
    Nothing,
    At(Instant),
    Now,
}

/// The state of acknowledging.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Acks {
    due: Due,
    /// Segments received since the last.
    segments: u8,
    /// Payload of the peer's segments, as far as seen.
    mss: u64,
    quick: u8,
    /// Answers go out soon after what they answer, and take acknowledgements along.
    chatty: bool,
    /// When payload came last.
    heard_at: Option<Instant>,
}

impl Acks {
    /// Nothing received yet; `mss` is what the peer may send at most.
    pub(super) const fn new(mss: u64) -> Self {
        Self { due: Due::Nothing, segments: 0, mss, quick: QUICK, chatty: false, heard_at: None }
    }

    /// How long one is held back.
    pub(super) const fn delay(&self) -> Duration {
        DELAY
    }

    /// When payload came last, if ever.
    pub(super) const fn heard_at(&self) -> Option<Instant> {
        self.heard_at
    }

    /// Payload of a full segment of the peer's.
    pub(super) const fn mss(&self) -> u64 {
        self.mss
    }

    /// Both ends know what their segments hold.
    pub(super) const fn synchronized(&mut self, mss: u64) {
        self.mss = mss;
    }

    /// Payload came in order.
    pub(super) fn received(&mut self, now: Instant, bytes: u64) {
        self.heard_at = Some(now);
        self.segments = self.segments.saturating_add(1);
        // RFC 5681 section 4.2 asks for every second full segment. Short ones count as well: a peer
        // with several of them under way takes a delay for a lost tail (RFC 8985 section 7.2). All in
        // a burst are acknowledged by one.
        if self.segments >= 2 || bytes >= 2 * self.mss || (self.quick > 0 && !self.chatty) {
            self.due = Due::Now;
        } else if self.due == Due::Nothing {
            self.due = Due::At(now + DELAY);
        }
    }

    /// One is due at once.
    pub(super) const fn at_once(&mut self) {
        self.due = Due::Now;
    }

    /// Whether one is due.
    pub(super) const fn is_due(&self) -> bool {
        matches!(self.due, Due::Now)
    }

    /// When one will be.
    pub(super) const fn at(&self) -> Option<Instant> {
        match self.due {
            Due::At(at) => Some(at),
            Due::Nothing | Due::Now => None,
        }
    }

    /// Looks at the time.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.at().is_some_and(|at| at <= now) {
            self.due = Due::Now;
            // It was not taken along by an answer.
            self.chatty = false;
        }
    }

    /// A segment took one along, perhaps with payload, or was `bare`.
    pub(super) fn sent(&mut self, now: Instant, payload: bool, bare: bool) {
        if payload {
            self.chatty |= self.heard_at.is_some_and(|at| now.since(at) < DELAY);
        }
        self.quick = self.quick.saturating_sub(u8::from(bare));
        (self.due, self.segments) = (Due::Nothing, 0);
    }
}
