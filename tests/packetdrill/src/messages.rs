//! sendmsg(2) and recvmsg(2).
#![allow(unsafe_code, reason = "the border to C")]
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "each block reads or writes what one system call's arguments point to"
)]

use std::ffi::c_int;
use std::slice;

use libc::{iovec, msghdr, ssize_t};
use nix::errno::Errno;

use crate::interface::{User, answer_len, open_with, read_address, read_parts, writable, write_at};

/// # Safety
/// `parts` points to `count` vectors, each of writable bytes.
pub unsafe fn gather<'a>(parts: *const iovec, count: usize) -> Result<Vec<&'a mut [u8]>, Errno> {
    if parts.is_null() {
        return Err(Errno::EFAULT);
    }
    // SAFETY: by the caller's word.
    let parts = unsafe { slice::from_raw_parts(parts, count) };
    // SAFETY: as above.
    parts.iter().map(|part| unsafe { writable(part.iov_base, part.iov_len) }).collect()
}

/// recvmsg(2).
///
/// # Safety
/// As recvmsg(2) has it.
pub unsafe extern "C" fn recvmsg(
    _: User,
    fd: c_int,
    message: *mut msghdr,
    flags: c_int,
) -> ssize_t {
    if message.is_null() {
        return answer_len(Err(Errno::EFAULT));
    }
    // SAFETY: as recvmsg(2) has it.
    let parts = unsafe {
        (*message).msg_flags = 0;
        (*message).msg_controllen = 0;
        gather((*message).msg_iov, (*message).msg_iovlen)
    };
    answer_len(parts.and_then(|parts| read_parts(fd, parts, flags)))
}

/// sendmsg(2).
///
/// # Safety
/// As sendmsg(2) has it.
pub unsafe extern "C" fn sendmsg(
    _: User,
    fd: c_int,
    message: *const msghdr,
    flags: c_int,
) -> ssize_t {
    if message.is_null() {
        return answer_len(Err(Errno::EFAULT));
    }
    // SAFETY: as sendmsg(2) has it.
    let (parts, peer) = unsafe {
        let parts = gather((*message).msg_iov, (*message).msg_iovlen);
        (parts, read_address((*message).msg_name.cast(), (*message).msg_namelen))
    };
    answer_len(parts.and_then(|parts| {
        let bytes = parts.concat();
        match flags & libc::MSG_FASTOPEN {
            0 => write_at(fd, &bytes, flags),
            _ => open_with(fd, peer?, &bytes, flags),
        }
    }))
}
