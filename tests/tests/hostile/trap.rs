//! Memory that holds whoever copies from or to it in the midst of a system call: a page of
//! userfaultfd(2) that nobody fills.
//!
//! Called by the attacks on what the kernel may hold meanwhile. Must never outlive its descriptor with
//! somebody still inside: closing it lets them go.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::thread::JoinHandle;

use dmm_tests::deadline::PATIENCE;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

const PAGE_BYTES: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// `UFFD_API` and `UFFDIO_API` of linux/userfaultfd.h.
const API: u64 = 0xaa;
const IOCTL_API: libc::c_ulong = 0xc018_aa3f;
/// `UFFDIO_REGISTER` and its `UFFDIO_REGISTER_MODE_MISSING`.
const IOCTL_REGISTER: libc::c_ulong = 0xc020_aa00;
const MODE_MISSING: u64 = 1;

/// A thread that is held in the midst of a copy until this is dropped.
pub struct Held {
    /// Dropped by hand before `thread` is waited for.
    trap: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread does with the trap.
#[derive(Clone, Copy, Debug)]
pub enum Copy {
    /// read(2) into it.
    Read,
    /// write(2) out of it.
    Write,
}

impl Held {
    /// Has a thread copy `bytes` between `fd` and a trap, and waits until it is caught.
    ///
    /// # Panics
    /// If this machine has no userfaultfd(2) for root, or if the copy is over without a catch.
    pub fn new(fd: BorrowedFd<'_>, copy: Copy, bytes: usize) -> Self {
        let trap = userfaultfd().unwrap_or_else(|error| {
            panic!("this test needs userfaultfd(2), which this kernel refuses to root: {error}")
        });
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new private mapping takes nothing away from anybody.
        let page = unsafe { mmap_anonymous(None, PAGE_BYTES, protection, MapFlags::MAP_PRIVATE) };
        let page = page.expect("a page of memory").as_ptr() as usize;
        let mut register = [page as u64, PAGE_BYTES.get() as u64, MODE_MISSING, 0];
        control(&trap, IOCTL_REGISTER, &mut register).expect("the page is ours");
        let fd = fd.try_clone_to_owned().expect("a descriptor is left");
        let thread = std::thread::spawn(move || {
            copy_with(&fd, copy, page, bytes);
            let page = std::ptr::NonNull::new(page as *mut libc::c_void).expect("mapped above");
            // SAFETY: the page was mapped above, and only this thread knows it.
            unsafe { munmap(page, PAGE_BYTES.get()) }.expect("it is mapped");
        });
        let held = Self { trap: Some(trap), thread: Some(thread) };
        held.wait_for_catch(copy);
        held
    }

    fn wait_for_catch(&self, copy: Copy) {
        let trap = self.trap.as_ref().expect("there until the end");
        let mut fds = [PollFd::new(trap.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(PATIENCE).expect("less than a day");
        let caught = poll(&mut fds, patience).expect("the descriptor is ours");
        assert_eq!(caught, 1, "{copy:?} was not held");
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Whoever is held goes on with a page of zeroes.
        drop(self.trap.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn copy_with(fd: &OwnedFd, copy: Copy, page: usize, bytes: usize) {
    // Whatever comes of it: what matters is how long it takes.
    let _ = match copy {
        // SAFETY: the page is mapped for writing, nobody else's, and at least `bytes` long.
        Copy::Read => unsafe { libc::read(fd.as_raw_fd(), page as *mut libc::c_void, bytes) },
        // SAFETY: the page is mapped, nobody else's, and at least `bytes` long.
        Copy::Write => unsafe { libc::write(fd.as_raw_fd(), page as *const libc::c_void, bytes) },
    };
}

fn userfaultfd() -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: the call takes an integer and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just made the descriptor for us.
    let trap = unsafe { OwnedFd::from_raw_fd(fd) };
    control(&trap, IOCTL_API, &mut [API, 0, 0])?;
    Ok(trap)
}

/// An ioctl of a structure of 64-bit words.
fn control<const N: usize>(
    trap: &OwnedFd,
    request: libc::c_ulong,
    words: &mut [u64; N],
) -> io::Result<()> {
    // SAFETY: the request's number says how long its structure is, which is `words`.
    let result = unsafe { libc::ioctl(trap.as_raw_fd(), request, words.as_mut_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
