//! Numbers for sockets.
//!
//! A number is the lowest that is free, as of descriptors, above [`HANDLE_BASE`], where the kernel
//! has none: so that a call can tell the two apart. A thread that uses a socket holds it, so that one
//! which is closed meanwhile goes when the last call on it has returned.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
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

static TABLE: RwLock<Table> = RwLock::new(Table { places: Vec::new(), free: BTreeSet::new() });

struct Table {
    places: Vec<Option<Handle>>,
    /// The places that hold nothing.
    free: BTreeSet<usize>,
}

/// Whether a number is of this library's kind, open or not.
pub(crate) const fn is_ours(number: c_int) -> bool {
    number >= HANDLE_BASE
}

/// Gives a handle its number.
pub(crate) fn open(handle: Handle) -> io::Result<c_int> {
    let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
    let free = table.free.first().copied();
    let index = free.unwrap_or(table.places.len());
    let number = c_int::try_from(index).ok().and_then(|index| HANDLE_BASE.checked_add(index));
    let number = number.ok_or_else(|| os(Errno::EMFILE))?;
    match free {
        Some(index) => {
            table.free.remove(&index);
            table.places[index] = Some(handle);
        }
        None => table.places.push(Some(handle)),
    }
    Ok(number)
}

/// What a number stands for; `EBADF` if nothing.
pub(crate) fn get(number: c_int) -> io::Result<Handle> {
    let table = TABLE.read().unwrap_or_else(PoisonError::into_inner);
    let handle = index(number).and_then(|index| table.places.get(index)?.clone());
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
    let index = index(number).ok_or_else(|| os(Errno::EBADF))?;
    let handle = table.places.get_mut(index).and_then(Option::take);
    let handle = handle.ok_or_else(|| os(Errno::EBADF))?;
    table.free.insert(index);
    Ok(handle)
}

fn index(number: c_int) -> Option<usize> {
    usize::try_from(number.checked_sub(HANDLE_BASE)?).ok()
}
