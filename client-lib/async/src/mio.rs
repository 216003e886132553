//! One wait for this library's sockets and for what mio watches.
//!
//! A [`Poll`] holds a poll of each. Sockets of this library are registered with [`Poll::register`],
//! level-triggered; mio's sources with [`Poll::registry`], as ever. A wait tells of both, each by the
//! token that it was registered with.
//!
//! ```no_run
//! use dmm_async::mio::{Events, Poll};
//! use mio::Token;
//!
//! let mut poll = Poll::new()?;
//! let listener = dmm::TcpListener::bind("10.1.0.2:80")?;
//! poll.register(&listener, Token(0), dmm::Interest::READABLE)?;
//! let mut events = Events::with_capacity(64);
//! poll.poll(&mut events, None)?;
//! # Ok::<(), std::io::Error>(())
//! ```

#![allow(unsafe_code, reason = "mio gives its descriptor as a number")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use dmm::{Interest, Source};
use mio::{Registry, Token};

/// Watches sockets of both kinds.
pub struct Poll {
    dmm: dmm::Poll,
    mio: mio::Poll,
}

/// What a wait told.
pub struct Events {
    dmm: dmm::Events,
    mio: mio::Events,
}

/// What is ready.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A socket of this library.
    Dmm(dmm::Event),
    /// One of mio's sources.
    Mio(&'a mio::event::Event),
}

impl Poll {
    /// A poll without sockets.
    ///
    /// # Errors
    /// As [`mio::Poll::new`].
    pub fn new() -> io::Result<Self> {
        Ok(Self { dmm: dmm::Poll::new(), mio: mio::Poll::new()? })
    }

    /// Where mio's sources are registered.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        self.mio.registry()
    }

    /// Watches a socket of this library, level-triggered.
    ///
    /// # Errors
    /// As [`dmm::Poll::register`].
    pub fn register(
        &self,
        source: &impl Source,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        self.dmm.register(source, dmm::Token(token.0), interest)
    }

    /// Changes a registered socket's token and interest.
    ///
    /// # Errors
    /// As [`dmm::Poll::modify`].
    pub fn reregister(
        &self,
        source: &impl Source,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        self.dmm.modify(source, dmm::Token(token.0), interest)
    }

    /// Watches a socket no longer.
    ///
    /// # Errors
    /// As [`dmm::Poll::deregister`].
    pub fn deregister(&self, source: &impl Source) -> io::Result<()> {
        self.dmm.deregister(source)
    }

    /// Waits until anything is ready or `timeout` is over, and fills `events`; none after a timeout.
    ///
    /// # Errors
    /// As [`dmm::Poll::wait_with`] and [`mio::Poll::poll`].
    pub fn poll(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        events.mio.clear();
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            // SAFETY: mio's own, open as long as `self`.
            let mios = unsafe { BorrowedFd::borrow_raw(self.mio.as_raw_fd()) };
            if self.dmm.wait_with(&mut events.dmm, left, mios)? {
                match self.mio.poll(&mut events.mio, Some(Duration::ZERO)) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    polled => polled?,
                }
            }
            // Of mio's, another thread may have taken the event.
            let over = left.is_some_and(|left| left.is_zero());
            if !events.is_empty() || over {
                return Ok(());
            }
        }
    }
}

impl Events {
    /// Room for `capacity` events of each kind, at least one.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            dmm: dmm::Events::with_capacity(capacity),
            mio: mio::Events::with_capacity(capacity.max(1)),
        }
    }

    /// The events of the last wait.
    pub fn iter(&self) -> impl Iterator<Item = Event<'_>> {
        let dmm = self.dmm.iter().map(|event| Event::Dmm(*event));
        dmm.chain(self.mio.iter().map(Event::Mio))
    }

    /// Whether the last wait ended without any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dmm.is_empty() && self.mio.is_empty()
    }
}

impl Event<'_> {
    /// What the socket was registered with.
    #[must_use]
    pub fn token(&self) -> Token {
        match self {
            Self::Dmm(event) => Token(event.token().0),
            Self::Mio(event) => event.token(),
        }
    }

    /// A read, or an accept, would not wait.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        match self {
            Self::Dmm(event) => event.is_readable(),
            Self::Mio(event) => event.is_readable(),
        }
    }

    /// A write would not wait.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        match self {
            Self::Dmm(event) => event.is_writable(),
            Self::Mio(event) => event.is_writable(),
        }
    }
}
