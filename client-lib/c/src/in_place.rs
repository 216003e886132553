//! Reading and writing without a copy.
#![allow(unsafe_code, reason = "C passes places by pointers")]

use std::ffi::{c_int, c_void};
use std::io;
use std::panic::AssertUnwindSafe;

use libc::{size_t, ssize_t};
use nix::errno::Errno;

use crate::errors::{call, done, os};
use crate::handles;

/// Lends received bytes of a TCP connection where they lie: `*bytes` points to as many as the result
/// says, 16 KiB at most, which stay until dmm_return, and may not be written to. 0 is the end of the
/// stream: then there is nothing to return. Waits as recv(2) does; `flags` may hold `MSG_DONTWAIT`.
///
/// Errors: those of dmm_recv; `EBUSY` while bytes of the socket are lent already, as any other call
/// that receives then fails; `EFAULT` without `bytes`.
///
/// # Safety
/// `bytes` must be null or point to a pointer. What it then points to is not to be used after
/// dmm_return or the socket's last dmm_close: it does no harm but to what is read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_borrow(
    handle: c_int,
    bytes: *mut *const c_void,
    flags: c_int,
) -> ssize_t {
    call(AssertUnwindSafe(|| {
        let socket = handles::socket(handle)?;
        let wait = waits(flags)?;
        if bytes.is_null() {
            return Err(os(Errno::EFAULT));
        }
        let stream = socket.stream()?;
        let lent = if wait { stream.read_in_place() } else { stream.try_read_in_place() }?;
        let len = lent.len();
        // SAFETY: as the caller promised.
        unsafe { bytes.write_unaligned(lent.as_ptr().cast()) };
        if len > 0 {
            socket.loans().received = Some(lent);
        }
        Ok(len as ssize_t)
    }))
}

/// Gives back what dmm_borrow lent at `bytes`, the first `consumed` bytes read; the others are received
/// again.
///
/// Errors: `EBADF`; `EINVAL` if nothing is lent at `bytes` (returned already, say), or less than
/// `consumed`.
#[unsafe(no_mangle)]
pub extern "C" fn dmm_return(handle: c_int, bytes: *const c_void, consumed: size_t) -> c_int {
    call(AssertUnwindSafe(|| {
        let socket = handles::socket(handle)?;
        let fits = |at: *const u8, len: usize| at.cast() == bytes && consumed <= len;
        let lent = socket.loans().received.take_if(|lent| fits(lent.as_ptr(), lent.len()));
        done(lent.ok_or_else(|| os(Errno::EINVAL))?.give_back(consumed))
    }))
}

/// Reserves room to send on a TCP connection: `*bytes` points to as many writable bytes as the result
/// says, at least 1, `len` and 16 KiB at most, until dmm_commit. Waits for room as send(2) does;
/// `flags` may hold `MSG_DONTWAIT`.
///
/// Errors: those of dmm_send; `EBUSY` while room of the socket is reserved already, as any other call
/// that sends then fails; `EFAULT` without `bytes`, `EINVAL` if `len` is 0.
///
/// # Safety
/// As of dmm_borrow. What is written there after dmm_commit may be sent.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_reserve(
    handle: c_int,
    bytes: *mut *mut c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    call(AssertUnwindSafe(|| {
        let socket = handles::socket(handle)?;
        let wait = waits(flags)?;
        if bytes.is_null() {
            return Err(os(Errno::EFAULT));
        }
        let stream = socket.stream().map_err(|_| os(Errno::EPIPE))?;
        let mut room =
            if wait { stream.write_in_place(len) } else { stream.try_write_in_place(len) }?;
        // SAFETY: as the caller promised.
        unsafe { bytes.write_unaligned(room.as_mut_ptr().cast()) };
        let len = room.len();
        socket.loans().reserved = Some(room);
        Ok(len as ssize_t)
    }))
}

/// Sends the first `filled` bytes of what dmm_reserve reserved at `bytes`, perhaps none, and gives back
/// the rest.
///
/// Errors: `EBADF`; `EINVAL` if nothing is reserved at `bytes` (committed already, say), or less than
/// `filled`; `EPIPE` if the direction was shut down meanwhile, `ECONNRESET` if the daemon ended.
#[unsafe(no_mangle)]
pub extern "C" fn dmm_commit(handle: c_int, bytes: *mut c_void, filled: size_t) -> c_int {
    call(AssertUnwindSafe(|| {
        let socket = handles::socket(handle)?;
        let fits = |at: *const u8, len: usize| at.cast() == bytes.cast_const() && filled <= len;
        let room = socket.loans().reserved.take_if(|room| fits(room.as_ptr(), room.len()));
        done(room.ok_or_else(|| os(Errno::EINVAL))?.commit(filled))
    }))
}

fn waits(flags: c_int) -> io::Result<bool> {
    match flags {
        0 => Ok(true),
        libc::MSG_DONTWAIT => Ok(false),
        _ => Err(os(Errno::EOPNOTSUPP)),
    }
}
