//! Numbers for sockets.
//!
//! A number is the lowest that is free, as of descriptors, above [`HANDLE_BASE`], where the kernel
//! has none: so that a call can tell the two apart. A thread that uses a socket holds it, so that one
//! which is closed meanwhile goes when the last call on it has returned.
#![forbid(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use nix::errno::Errno;

use crate::epoll::Epoll;
use crate::errors::os;
use crate::socket::Socket;

/// Where this library's numbers begin. The kernel's end below: `fs.nr_open` is at most 2^30 - 64.
pub(crate) const HANDLE_BASE: c_int = 1 << 30;

/// What a number stands for.
#[derive(Clone)]
pub(crate) enum Handle {
    /// A socket.
    Socket(Arc<Socket>),
    /// An epoll instance.
    Epoll(Arc<Epoll>),
}

static TABLE: RwLock<Vec<Option<Handle>>> = RwLock::new(Vec::new());

/// Whether a number is of this library's kind, open or not.
pub(crate) const fn is_ours(number: c_int) -> bool {
    number >= HANDLE_BASE
}

/// Gives a handle its number.
pub(crate) fn open(handle: Handle) -> io::Result<c_int> {
    let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
    let free = table.iter().position(Option::is_none);
    let index = free.unwrap_or(table.len());
    let number = c_int::try_from(index).ok().and_then(|index| HANDLE_BASE.checked_add(index));
    let number = number.ok_or_else(|| os(Errno::EMFILE))?;
    match free {
        Some(index) => table[index] = Some(handle),
        None => table.push(Some(handle)),
    }
    Ok(number)
}

/// What a number stands for; `EBADF` if nothing.
pub(crate) fn get(number: c_int) -> io::Result<Handle> {
    let table = TABLE.read().unwrap_or_else(PoisonError::into_inner);
    let handle = index(number).and_then(|index| table.get(index)?.clone());
    handle.ok_or_else(|| os(Errno::EBADF))
}

/// The socket of a number; `EBADF` if it is none.
pub(crate) fn socket(number: c_int) -> io::Result<Arc<Socket>> {
    match get(number)? {
        Handle::Socket(socket) => Ok(socket),
        Handle::Epoll(_) => Err(os(Errno::ENOTSOCK)),
    }
}

/// Takes a number out of use, and returns what it stood for.
pub(crate) fn close(number: c_int) -> io::Result<Handle> {
    let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
    let place = index(number).and_then(|index| table.get_mut(index));
    place.and_then(Option::take).ok_or_else(|| os(Errno::EBADF))
}

fn index(number: c_int) -> Option<usize> {
    usize::try_from(number.checked_sub(HANDLE_BASE)?).ok()
}
