//! Receiving a packet with the descriptors that came along: the one place with unsafe code, since
//! the kernel's answer must be turned into owned descriptors.

#![allow(unsafe_code, reason = "received descriptors come as numbers")]

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Descriptors that one packet can bring: the kernel's `SCM_MAX_FD` (unix(7)). One is right; with
/// room for all, none is left open unseen.
const FDS_MAX: usize = 253;

/// A packet as received.
pub(super) struct Packet {
    /// Bytes of it in the caller's buffer; 0 means that the peer closed the connection.
    pub len: usize,
    /// The descriptors that came along.
    pub fds: Vec<OwnedFd>,
    /// Whether bytes or descriptors were cut off.
    pub truncated: bool,
}

/// Receives one packet into `buffer`.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Packet> {
    let mut space = cmsg_space!([RawFd; FDS_MAX]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            fds.extend(raw.into_iter().map(|fd| {
                // SAFETY: the kernel has just put this descriptor into our table for us (unix(7),
                // SCM_RIGHTS), and nothing else in the process knows its number.
                unsafe { OwnedFd::from_raw_fd(fd) }
            }));
        }
    }
    let truncated = message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
    Ok(Packet { len: message.bytes, fds, truncated })
}
