//! sendmsg(2) and recvmsg(2).
#![allow(unsafe_code, reason = "the border to C")]
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "each block reads or writes what one system call's arguments point to"
)]

use std::ffi::c_int;
use std::{ptr, slice};

use libc::{iovec, msghdr, ssize_t};
use nix::errno::Errno;

use crate::interface::{
    User, answer_len, open_with, read_address, read_parts, with, writable, write_at,
};
use crate::notices::Notice;

/// `linux/errqueue.h`.
const SO_EE_ORIGIN_TIMESTAMPING: u8 = 4;
const SO_EE_ORIGIN_ZEROCOPY: u8 = 5;
const SO_EE_CODE_ZEROCOPY_COPIED: u8 = 1;
/// `linux/tcp.h`.
const TCP_CM_INQ: c_int = 36;

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
    if flags & libc::MSG_ERRQUEUE != 0 {
        return answer_len(
            with(|world| world.get(fd)?.notices.queue.pop_front().ok_or(Errno::EAGAIN)).map(
                |notice| {
                    // SAFETY: as recvmsg(2) has it.
                    unsafe { write_notice(message, &notice) };
                    0
                },
            ),
        );
    }
    // SAFETY: as recvmsg(2) has it.
    let parts = unsafe { gather((*message).msg_iov, (*message).msg_iovlen) };
    answer_len(parts.and_then(|parts| read_parts(fd, parts, flags)).inspect(|_| {
        let rest = with(|world| world.rest(fd)).map(i32::to_ne_bytes);
        let told = rest.as_ref().map(|rest| (libc::SOL_TCP, TCP_CM_INQ, &rest[..]));
        // SAFETY: as recvmsg(2) has it.
        unsafe {
            (*message).msg_flags = 0;
            write_control(message, told.as_slice());
        }
    }))
}

/// Writes a notice where recvmsg(2) has it.
///
/// # Safety
/// `message` is one to be filled by recvmsg(2).
unsafe fn write_notice(message: *mut msghdr, notice: &Notice) {
    // struct sock_extended_err, and the address of who told: nobody.
    let mut error = [0; 16 + size_of::<libc::sockaddr_in>()];
    let mut stamps = [0; 3 * size_of::<libc::timespec>()];
    let stamped = match *notice {
        Notice::Copied(first, last) => {
            error[4] = SO_EE_ORIGIN_ZEROCOPY;
            error[6] = SO_EE_CODE_ZEROCOPY_COPIED;
            error[8..12].copy_from_slice(&first.to_ne_bytes());
            error[12..16].copy_from_slice(&last.to_ne_bytes());
            false
        }
        Notice::Stamp(stage, key, at) => {
            error[..4].copy_from_slice(&(Errno::ENOMSG as u32).to_ne_bytes());
            error[4] = SO_EE_ORIGIN_TIMESTAMPING;
            error[8..12].copy_from_slice(&(stage as u32).to_ne_bytes());
            error[12..16].copy_from_slice(&key.to_ne_bytes());
            let micros = at.as_micros();
            stamps[..8].copy_from_slice(&(micros / 1_000_000).to_ne_bytes());
            stamps[8..16].copy_from_slice(&(micros % 1_000_000 * 1000).to_ne_bytes());
            true
        }
    };
    let told = [
        (libc::SOL_SOCKET, libc::SCM_TIMESTAMPING, &stamps[..]),
        (libc::SOL_IP, libc::IP_RECVERR, &error[..]),
    ];
    // SAFETY: by the caller's word.
    unsafe {
        // The packet that a time is of is not handed back.
        (*message).msg_flags = libc::MSG_ERRQUEUE | if stamped { libc::MSG_TRUNC } else { 0 };
        write_control(message, &told[usize::from(!stamped)..]);
    }
}

/// Writes control messages, each of a level, a type and bytes, as far as there is room.
///
/// # Safety
/// `message` is one to be filled by recvmsg(2).
unsafe fn write_control(message: *mut msghdr, told: &[(c_int, c_int, &[u8])]) {
    // SAFETY: by the caller's word its control buffer is as long as it says; messages are written one after
    // the other while there is room for the next.
    unsafe {
        let room = (*message).msg_controllen;
        let mut used = 0;
        for (level, kind, bytes) in told {
            let len = bytes.len() as u32;
            let space = libc::CMSG_SPACE(len) as usize;
            if used + space > room || (*message).msg_control.is_null() {
                (*message).msg_flags |= libc::MSG_CTRUNC;
                break;
            }
            let header = (*message).msg_control.byte_add(used).cast::<libc::cmsghdr>();
            (*header).cmsg_len = libc::CMSG_LEN(len) as usize;
            (*header).cmsg_level = *level;
            (*header).cmsg_type = *kind;
            ptr::copy_nonoverlapping(bytes.as_ptr(), libc::CMSG_DATA(header), bytes.len());
            used += space;
        }
        (*message).msg_controllen = used;
    }
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
