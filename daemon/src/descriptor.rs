//! Raw descriptors: the calls for which no safe wrapper exists.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Lends a port's wake descriptor, which stays open while its queue exists, for one call.
pub fn borrow<T>(fd: RawFd, call: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
    // SAFETY: `dmm_port::Wake::Fd` promises an open descriptor as long as the queue is held, which
    // the caller does.
    call(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// A descriptor that becomes readable when process `pid` ends (pidfd_open(2)).
pub fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).ok().filter(|&fd| fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just made the descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Bytes that a unix socket has sent and its peer has not taken (`SIOCOUTQ`, unix(7)).
pub fn unsent(socket: BorrowedFd<'_>) -> Option<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request, of the same number as TIOCOUTQ, writes one int, and `bytes` is one.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { u32::try_from(bytes).ok() } else { None }
}

/// Takes charge of a descriptor that accept4(2) has just returned.
pub fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: nothing else in the process knows the number yet.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
