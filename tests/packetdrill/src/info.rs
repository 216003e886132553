//! Linux's `struct tcp_info` (`linux/tcp.h`), which scripts read by libc's own getsockopt(2): preloaded, this
//! object answers for its descriptors.
#![allow(unsafe_code, reason = "the border to C")]
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "each block writes what one system call's arguments point to"
)]

use std::ffi::{c_int, c_long, c_void};

use libc::socklen_t;

use crate::interface;

/// How much memory a socket uses (`asm/socket.h`): scripts ask, and look at none of it.
const SO_MEMINFO: c_int = 55;
/// Bytes of one sendfile(2).
const SENDFILE_MAX: usize = 1 << 20;

/// getsockopt(2).
///
/// # Safety
/// As getsockopt(2) has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    if let Some((info, starved)) = interface::info(fd) {
        // Scripts also ask what nobody looks at (`TCP_CC_INFO`, `SO_MEMINFO`).
        let mut bytes = info.to_linux();
        let starved = u64::try_from(starved.as_micros()).unwrap_or(u64::MAX);
        bytes[184..192].copy_from_slice(&starved.to_ne_bytes());
        let told = match name {
            libc::TCP_INFO => &bytes[..],
            SO_MEMINFO => &[0; 36],
            _ => &[],
        };
        // SAFETY: by the caller's word.
        unsafe {
            let fits = told.len().min(*len as usize);
            std::ptr::copy_nonoverlapping(told.as_ptr(), value.cast(), fits);
            *len = fits as socklen_t;
        }
        return 0;
    }
    let [fd, level, name] = [fd, level, name].map(c_long::from);
    // SAFETY: the system call that this stands for.
    let result = unsafe { libc::syscall(libc::SYS_getsockopt, fd, level, name, value, len) };
    c_int::try_from(result).unwrap_or(-1)
}

/// sendfile(2), which packetdrill calls by that name.
///
/// # Safety
/// As sendfile(2) has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendfile(
    to: c_int,
    from: c_int,
    offset: *mut libc::off_t,
    count: usize,
) -> libc::ssize_t {
    if !interface::is_ours(to) {
        let [to, from] = [to, from].map(c_long::from);
        // SAFETY: the system call that this stands for.
        let result = unsafe { libc::syscall(libc::SYS_sendfile, to, from, offset, count) };
        return result as libc::ssize_t;
    }
    let mut bytes = vec![0; count.min(SENDFILE_MAX)];
    // SAFETY: by the caller's word; the buffer is as long as it says.
    let read = unsafe {
        let at = if offset.is_null() { 0 } else { *offset };
        libc::pread(from, bytes.as_mut_ptr().cast(), bytes.len(), at)
    };
    let Ok(read) = usize::try_from(read) else { return -1 };
    let sent = interface::answer_len(interface::write_at(to, &bytes[..read], 0));
    if sent > 0 && !offset.is_null() {
        // SAFETY: by the caller's word.
        unsafe { *offset += sent as libc::off_t };
    }
    sent
}
