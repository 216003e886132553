//! How much a socket takes to send, as Linux counts it: memory, in pieces of what a device takes at once.
//!
//! Owns: [`SendBuffer`]. Asked before each write for room, and to look on whenever the stack acted. What is
//! sent, and when, is the stack's alone.
//!
//! ```text
//!   acknowledged        sent                      written
//!        ▼               ▼                           ▼
//!        ├── piece ──────┼── piece ──┬── piece ──┬───┤ the last is filled up before memory is asked for
//! ```
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::Duration;

use dmm_port::Instant;
use dmm_stack::TcpInfo;

/// What a piece costs beside its bytes: `SKB_TRUESIZE` of an empty one.
const PIECE_BYTES: u64 = 1280;
/// `SOCK_MIN_SNDBUF`.
const LIMIT_MIN: u64 = 4608;
/// `tcp_wmem`'s last: as far as a buffer grows by itself, and may be set.
pub const LIMIT_MAX: u64 = 4 << 20;
/// What a device takes at once, headers included, less the room for those.
const DEVICE_BYTES: u64 = 65_215;
/// Memory of a segment, beside the power of two that its payload and headers fit in.
const SEGMENT_BYTES: u64 = 256;
/// Bytes of headers and of the piece's own description (`MAX_TCP_HEADER`, `skb_shared_info`).
const HEADERS_BYTES: u64 = 640;
/// Segments that a buffer has room for at least, twice.
const SEGMENTS_MIN: u64 = 10;

/// Consecutive bytes.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: u64,
    end: u64,
    /// It goes out with PSH.
    pushed: bool,
}

impl Piece {
    const fn memory(&self) -> u64 {
        PIECE_BYTES + self.end - self.start
    }
}

/// The send buffer of a socket. Positions count bytes written.
#[derive(Clone, Debug)]
pub struct SendBuffer {
    /// Bytes of memory (`SO_SNDBUF`), and whether somebody said so.
    limit: u64,
    fixed: bool,
    /// Unsent bytes that hold a writer off (`TCP_NOTSENT_LOWAT`), if any.
    low_water: Option<u64>,
    pieces: VecDeque<Piece>,
    /// Bytes written.
    pub written: u64,
    sent: u64,
    /// Bytes that no more is waited for with.
    pushed: u64,
    /// Where the last piece has its end, or would have.
    goal: u64,
    /// The largest window that the peer had.
    window_max: u64,
    /// Somebody wished for room that there was not (`SOCK_NOSPACE`).
    wished: bool,
    /// Since when everything is sent and somebody wishes for room, and how long that was before.
    starved_since: Option<Instant>,
    starved: Duration,
}

impl SendBuffer {
    /// A buffer of `limit` bytes, which grows.
    pub const fn new(limit: u64) -> Self {
        Self {
            limit,
            fixed: false,
            low_water: None,
            pieces: VecDeque::new(),
            written: 0,
            sent: 0,
            pushed: 0,
            goal: 0,
            window_max: 0,
            wished: false,
            starved_since: None,
            starved: Duration::ZERO,
        }
    }

    /// The buffer of a connection that a listener with this one accepts.
    pub fn of_accepted(&self) -> Self {
        Self { fixed: self.fixed, low_water: self.low_water, ..Self::new(self.limit) }
    }

    /// Sets `SO_SNDBUF`, which counts twice (socket(7)).
    pub fn set_limit(&mut self, bytes: u32) {
        self.limit = (2 * u64::from(bytes)).clamp(LIMIT_MIN, LIMIT_MAX);
        self.fixed = true;
    }

    /// Its bytes.
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// Sets `TCP_NOTSENT_LOWAT`.
    pub fn set_low_water(&mut self, bytes: Option<u32>) {
        self.low_water = bytes.map(u64::from);
    }

    fn memory(&self) -> u64 {
        self.pieces.iter().map(Piece::memory).sum()
    }

    /// Whether memory may be taken: `sk_stream_memory_free`, for a writer that is to be woken with `wake`.
    fn is_free(&self, wake: bool) -> bool {
        let unsent = (self.written - self.sent) << u32::from(wake);
        self.memory() < self.limit && self.low_water.is_none_or(|bytes| unsent < bytes)
    }

    /// Bytes that may be written at once, before the stack is to have a look: zero if there is no room.
    pub fn room(&mut self) -> u64 {
        let filled = match self.pieces.back() {
            Some(last) if last.start >= self.sent => last.end - last.start,
            _ => 0,
        };
        if filled > 0 && filled < self.goal {
            return self.goal - filled;
        }
        if self.is_free(false) {
            return self.goal.max(1);
        }
        self.wished = true;
        0
    }

    /// Whether `bytes` more, which more of the same write follows, are pushed all the same: half the peer's
    /// largest window was not (`forced_push`).
    pub const fn pushes(&self, bytes: u64) -> bool {
        self.written + bytes > self.pushed + self.window_max / 2
    }

    /// Everything written is; `whole` tells whether that is the end of a write.
    pub fn pushed(&mut self, whole: bool) {
        self.pushed = self.written;
        if let (false, Some(last)) = (whole, self.pieces.back_mut()) {
            last.pushed = true;
        }
    }

    /// Whether what is written next begins a piece behind another, and whether that is pushed.
    pub fn begins(&self) -> Option<bool> {
        let last = self.pieces.back()?;
        let full = last.start < self.sent || last.end - last.start >= self.goal;
        (full && last.end > self.sent).then_some(last.pushed)
    }

    /// So many bytes were written, no more than there was room for.
    pub fn wrote(&mut self, bytes: u64) {
        let start = self.written;
        self.written += bytes;
        match self.pieces.back_mut() {
            Some(last) if last.start >= self.sent && last.end - last.start < self.goal => {
                last.end = self.written;
            }
            _ => self.pieces.push_back(Piece { start, end: self.written, pushed: false }),
        }
    }

    /// Whether poll(2) tells of room: a third of the memory (`sk_stream_is_writeable`).
    pub fn is_writable(&mut self) -> bool {
        let memory = self.memory();
        let writable = self.is_free(true) && self.limit.saturating_sub(memory) >= memory / 2;
        self.wished |= !writable;
        writable
    }

    /// Bytes up to `sent` and `acknowledged` were; `info` is the connection's. Returns whether somebody who
    /// wished for room is to be told.
    pub fn look(&mut self, now: Instant, (sent, acknowledged): (u64, u64), info: &TcpInfo) -> bool {
        let mss = u64::from(info.snd_mss).max(1);
        self.window_max = info.window_max.into();
        self.goal = DEVICE_BYTES.min(self.window_max / 2) / mss * mss;
        self.goal = self.goal.max(mss);
        let progress = acknowledged > self.pieces.front().map_or(u64::MAX, |first| first.start);
        self.sent = sent.min(self.written);
        // What was sent in part is two pieces from now on.
        if let Some(at) = self.pieces.iter().position(|p| p.start < sent && sent < p.end) {
            let rest = Piece { start: sent, ..self.pieces[at] };
            self.pieces[at].end = sent;
            self.pieces.insert(at + 1, rest);
        }
        while self.pieces.front().is_some_and(|first| first.end <= acknowledged) {
            self.pieces.pop_front();
        }
        if let Some(first) = self.pieces.front_mut() {
            first.start = first.start.max(acknowledged);
        }
        let mut told = false;
        if progress && self.wished {
            self.grow(mss, info.snd_cwnd.into());
            self.wished = false;
            told = self.is_writable();
        }
        let starves = self.wished && self.sent == self.written && self.written > acknowledged;
        if let (Some(since), false) = (self.starved_since, starves) {
            self.starved += now.since(since);
        }
        self.starved_since = starves.then(|| self.starved_since.unwrap_or(now)).filter(|_| starves);
        told
    }

    /// Twice the congestion window fits (`tcp_sndbuf_expand`).
    fn grow(&mut self, mss: u64, window: u64) {
        if !self.fixed {
            let segment = (mss + HEADERS_BYTES).next_power_of_two() + SEGMENT_BYTES;
            let wanted = 2 * segment * window.max(SEGMENTS_MIN);
            self.limit = self.limit.max(wanted.min(LIMIT_MAX));
        }
    }

    /// How long it was what held the connection back.
    pub fn starved(&self, now: Instant) -> Duration {
        self.starved + self.starved_since.map_or(Duration::ZERO, |since| now.since(since))
    }
}
