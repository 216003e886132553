//! The sockets of the DMM client library in event loops.
//!
//! - [`tokio`]: sockets that are `AsyncRead` and `AsyncWrite`, with accept and UDP, for tokio or any
//!   other executor that takes wakers.
//! - [`mio`]: one wait for this library's sockets and for all that mio watches.
//!
//! Both stand on [`dmm::Poll`]. Must never: busy an event loop with a socket that nobody waits for.
#![deny(unsafe_code)]

#[cfg(feature = "mio")]
pub mod mio;
#[cfg(feature = "tokio")]
mod reactor;
#[cfg(feature = "tokio")]
pub mod tokio;
