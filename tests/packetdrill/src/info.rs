//! Linux's `struct tcp_info` (`linux/tcp.h`), which scripts read by libc's own getsockopt(2): preloaded, this
//! object answers for its descriptors.
#![allow(unsafe_code, reason = "the border to C")]
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "each block writes what one system call's arguments point to"
)]

use std::ffi::{c_int, c_long, c_void};
use std::time::Duration;

use dmm_stack::TcpInfo;
use libc::socklen_t;

use crate::interface;

/// How much memory a socket uses (`asm/socket.h`): scripts ask, and look at none of it.
const SO_MEMINFO: c_int = 55;
/// Bytes of the structure in the longest version that scripts know; what is not named here is zero.
const BYTES: usize = 280;

fn micros(span: Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX)
}

fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}

/// The structure as C has it.
fn layout(info: &TcpInfo) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..6].copy_from_slice(&[
        info.state,
        info.ca_state,
        info.retransmits,
        info.probes,
        info.retransmits,
        info.options,
    ]);
    bytes[6] = info.shifts.0 | info.shifts.1 << 4;
    for (at, word) in [
        (8, micros(info.rto)),
        (12, micros(info.ato)),
        (16, info.snd_mss),
        (20, info.rcv_mss),
        (24, info.unacked),
        (28, info.sacked),
        (32, info.lost),
        (36, info.retrans),
        (68, micros(info.rtt.0)),
        (72, micros(info.rtt.1)),
        (76, info.snd_ssthresh),
        (80, info.snd_cwnd),
        (44, millis(info.last.0)),
        (52, millis(info.last.1)),
        (56, millis(info.last.2)),
        (84, info.adv_mss),
        (88, info.reordering),
        (100, info.total_retrans),
        (136, info.segs_out),
        (140, info.segs_in),
        (144, info.notsent_bytes),
        (148, micros(info.min_rtt)),
        (192, info.delivered),
    ] {
        bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }
    let long = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    for (at, word) in [
        (120, info.bytes_acked),
        (128, info.bytes_received),
        (168, long(info.busy.0)),
        (176, long(info.busy.1)),
    ] {
        bytes[at..at + 8].copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

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
        let bytes = layout(&info);
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
