//! What a poll tells: which socket is ready for what.
//!
//! Made by [`super::Poll::wait`], read by programs. Must never: say more than was seen.

use std::ops::BitOr;

/// What the program calls a registered socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub usize);

/// Which kinds of readiness to report. Errors and hang-ups are reported in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest(pub(super) u8);

impl Interest {
    /// Bytes, a datagram, a connection or the end of the stream can be taken.
    pub const READABLE: Self = Self(1);
    /// There is room to write, or a connect that was started has ended.
    pub const WRITABLE: Self = Self(2);
    /// The peer will send no more, whether or not bytes wait (`EPOLLRDHUP` alone).
    pub const READ_CLOSED: Self = Self(4);
    /// Errors and hang-ups only.
    pub const NONE: Self = Self(0);

    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Interest {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What a socket is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub(super) token: Token,
    pub(super) ready: Readiness,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Readiness {
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) read_closed: bool,
    pub(super) hang_up: bool,
    pub(super) error: bool,
}

impl Event {
    /// The socket's token.
    #[must_use]
    pub const fn token(&self) -> Token {
        self.token
    }

    /// A read, or an accept, would not wait.
    #[must_use]
    pub const fn is_readable(&self) -> bool {
        self.ready.readable
    }

    /// A write would not wait.
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.ready.writable
    }

    /// The peer will send no more (`EPOLLRDHUP`).
    #[must_use]
    pub const fn is_read_closed(&self) -> bool {
        self.ready.read_closed
    }

    /// Both directions are over (`EPOLLHUP`).
    #[must_use]
    pub const fn is_hang_up(&self) -> bool {
        self.ready.hang_up
    }

    /// An error waits to be taken (`EPOLLERR`).
    #[must_use]
    pub const fn is_error(&self) -> bool {
        self.ready.error
    }
}

/// Events for which there is memory from the first.
const FIRST_ROOM: usize = 1024;

/// Room for the events of one wait.
#[derive(Debug)]
pub struct Events {
    pub(super) events: Vec<Event>,
    pub(super) capacity: usize,
}

impl Events {
    /// Room for `capacity` events, at least one.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        // More may come one day; memory for them is taken then.
        Self { events: Vec::with_capacity(capacity.min(FIRST_ROOM)), capacity }
    }

    /// The events of the last wait.
    pub fn iter(&self) -> std::slice::Iter<'_, Event> {
        self.events.iter()
    }

    /// Whether the last wait ended without any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

impl<'a> IntoIterator for &'a Events {
    type Item = &'a Event;
    type IntoIter = std::slice::Iter<'a, Event>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
