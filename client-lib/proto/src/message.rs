//! Packets with descriptors over a unix socket (SOCK_SEQPACKET).
//!
//! Called by everything that speaks on a session socket. Must never: lose track of a descriptor
//! that the kernel has installed, whatever else is wrong with the packet that brought it.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

use crate::lease::Cookie;

/// Descriptors of a packet at most (`SCM_MAX_FD`).
pub const FDS_MAX: usize = 253;

/// Bytes of a control message's header: its length, level and type.
const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();
const FD_BYTES: usize = size_of::<RawFd>();
/// Words of control data that hold [`FDS_MAX`] descriptors.
const CONTROL_WORDS: usize = (HEADER_BYTES + FDS_MAX * FD_BYTES).div_ceil(8);

const _: () = assert!(HEADER_BYTES == 16 && size_of::<libc::size_t>() == 8);

/// Sends one packet with descriptors.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Receives one packet with its descriptors, which are closed on exec. A packet that does not fit
/// is cut, and its parser will refuse it. If this process may not open as many descriptors as the
/// packet holds, all are closed and the error is `ENOBUFS`.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero bytes are a valid msghdr: null pointers and zero lengths.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    let len = loop {
        // SAFETY: the header refers to one vector over `bytes` and to `control`, both of which are
        // ours alone for the length of the call.
        let len =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        match usize::try_from(len) {
            Ok(len) => break len,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    };
    // Taken charge of before anything is refused: those that the kernel could install are open.
    let fds = descriptors(&control, header.msg_controllen);
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(nix::errno::Errno::ENOBUFS.into());
    }
    Ok((len, fds))
}

/// The descriptors in the first `len` bytes of control data.
fn descriptors(control: &[u64; CONTROL_WORDS], len: usize) -> Vec<OwnedFd> {
    let bytes: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let mut rest = &bytes[..len.min(bytes.len())];
    let mut fds = Vec::new();
    while let Some((header, data)) = rest.split_first_chunk::<HEADER_BYTES>() {
        let word = |at: usize| i32::from_ne_bytes(std::array::from_fn(|i| header[at + i]));
        let length = u64::from_ne_bytes(std::array::from_fn(|i| header[i]));
        let length = usize::try_from(length).unwrap_or(0);
        let Some(payload) = length.checked_sub(HEADER_BYTES) else { break };
        let payload = &data[..payload.min(data.len())];
        if word(8) == libc::SOL_SOCKET && word(12) == libc::SCM_RIGHTS {
            let numbers = payload.chunks_exact(FD_BYTES);
            fds.extend(numbers.map(|n| own(i32::from_ne_bytes(std::array::from_fn(|i| n[i])))));
        }
        rest = rest.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    fds
}

/// A socket's `SO_COOKIE` (socket(7)), by which the daemon knows a placeholder that it is shown.
pub fn cookie_of(socket: BorrowedFd<'_>) -> io::Result<Cookie> {
    let mut cookie = 0_u64;
    let mut len = libc::socklen_t::try_from(size_of_val(&cookie)).expect("eight");
    // SAFETY: the option is a 64-bit integer, and `cookie` is one, as `len` says.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 { Ok(Cookie(cookie)) } else { Err(io::Error::last_os_error()) }
}

/// Takes charge of a descriptor that the kernel has just installed for this process.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the callers pass a number that recvmsg(2) wrote into an SCM_RIGHTS message or that
    // accept(2) returned just now, so the descriptor is open and nobody owns it yet.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::os::fd::AsFd;

    #[test]
    fn as_many_descriptors_as_a_packet_can_hold_arrive() -> io::Result<()> {
        let kind = SockType::SeqPacket;
        let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?;
        for count in [0, 1, 2, 3, FDS_MAX] {
            send(ours.as_fd(), b"packet", &vec![theirs.as_fd(); count])?;
            let mut bytes = [0; 16];
            let (len, fds) = receive(theirs.as_fd(), &mut bytes)?;
            assert_eq!((&bytes[..len], fds.len()), (&b"packet"[..], count));
            let inode = nix::sys::stat::fstat(&theirs)?.st_ino;
            for fd in fds {
                assert_eq!(nix::sys::stat::fstat(&fd)?.st_ino, inode);
            }
        }
        Ok(())
    }
}
