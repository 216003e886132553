//! The other side, for tests: a daemon that obeys, and a client that does not.
//!
//! [`FakeDaemon`] tries the client library without a stack or a port; [`HostileClient`] tries
//! whatever answers on a unix socket, this crate's fake or the real daemon. Called by tests, fuzzers
//! and by users who test their programs; never by the daemon or the library themselves.
#![forbid(unsafe_code)]

mod daemon;
mod hostile;
mod random;

pub use daemon::{FakeDaemon, FakeSession};
pub use hostile::{Area, HostileClient, LyingHello, Word};
pub use random::Random;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect as connect_to,
    listen as listen_on, socket,
};

#[cfg(test)]
mod tests;

/// Listens where clients will connect.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let listener = seqpacket()?;
    bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen_on(&listener, Backlog::new(16)?)?;
    Ok(listener)
}

/// The next client's socket.
pub fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    loop {
        match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            Ok(fd) => return Ok(crate::message::own(fd)),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Connects to a daemon.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    connect_to(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

fn seqpacket() -> io::Result<OwnedFd> {
    let kind = SockType::SeqPacket;
    Ok(socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?)
}
