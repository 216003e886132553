//! How calls fail: -1, errno, and words for those who want them.
#![allow(unsafe_code, reason = "a C string is lent to the caller")]

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int};
use std::io;
use std::panic::{UnwindSafe, catch_unwind};

use nix::errno::Errno;

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Runs a call. Its error becomes errno and -1.
pub(crate) fn call<T: From<i8>>(work: impl FnOnce() -> io::Result<T> + UnwindSafe) -> T {
    // A panic would be a defect of the library; it must not cross into C.
    let result = catch_unwind(work).unwrap_or_else(|_| Err(os(Errno::ENOTRECOVERABLE)));
    result.unwrap_or_else(|error| {
        let text = CString::new(error.to_string()).unwrap_or_default();
        // Not while the thread ends: then nobody asks.
        let _ = LAST.try_with(|last| *last.borrow_mut() = text);
        // Last, since what is above may change it.
        Errno::from_raw(dmm::errno(&error)).set();
        T::from(-1)
    })
}

pub(crate) fn os(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno as i32)
}

/// What was wrong with the calling thread's last call that failed, in words: more than errno says
/// where there is no daemon, or no stack of that name. Empty if none failed. The text stays until
/// the thread's next call that fails.
#[unsafe(no_mangle)]
pub extern "C" fn dmm_error_text() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// The version of the library, such as "0.1.0". Static.
#[unsafe(no_mangle)]
pub extern "C" fn dmm_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// 0 for success, as calls without another result return it.
pub(crate) fn done(result: io::Result<()>) -> io::Result<c_int> {
    result.map(|()| 0)
}
