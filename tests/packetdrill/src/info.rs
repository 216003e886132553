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
    if let Some(info) = interface::info(fd) {
        // Scripts also ask what nobody looks at (`TCP_CC_INFO`, `SO_MEMINFO`).
        let bytes = info.to_linux();
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
