//! Regions: memory that two processes share, and the few raw calls that this needs.
//!
//! The daemon makes every region and seals it before it is passed on, so that neither side can
//! shrink it under the other; a region that only the daemon may write is sealed against new
//! writable mappings as well (its own, made before, stays).

use std::any::Any;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::arena::{Arena, CHUNK_BYTES};
use crate::shared::{Atomics, Shared};

/// Shared memory behind a sealed memfd.
#[derive(Clone)]
pub struct Region {
    map: Arc<MmapRaw>,
    fd: Arc<OwnedFd>,
}

impl Region {
    /// Makes a region of `bytes` zero bytes that both sides may write; its size is sealed.
    pub fn writable(name: &str, bytes: u64) -> io::Result<Self> {
        Self::make(name, bytes, SealFlag::empty())
    }

    /// Makes a region of `bytes` zero bytes that only this process may write, and only through
    /// this mapping.
    pub fn read_only_for_others(name: &str, bytes: u64) -> io::Result<Self> {
        Self::make(name, bytes, SealFlag::F_SEAL_FUTURE_WRITE)
    }

    fn make(name: &str, bytes: u64, seals: SealFlag) -> io::Result<Self> {
        let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        nix::unistd::ftruncate(&fd, i64::try_from(bytes).map_err(io::Error::other)?)?;
        let map = MmapOptions::new().map_raw(fd.as_raw_fd())?;
        let seals = seals | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(Self { map: Arc::new(map), fd: Arc::new(fd) })
    }

    /// Maps a region that was received: `bytes` long at least, and sealed against shrinking, so
    /// that no later touch can fault.
    pub fn open(fd: OwnedFd, bytes: u64, writable: bool) -> io::Result<Self> {
        let seals = SealFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(SealFlag::F_SEAL_SHRINK) {
            return Err(io::Error::other("shared memory is not sealed against shrinking"));
        }
        let there = u64::try_from(nix::sys::stat::fstat(&fd)?.st_size).unwrap_or(0);
        if there < bytes {
            return Err(io::Error::other(format!("shared memory has {there} bytes, not {bytes}")));
        }
        let len = usize::try_from(bytes).map_err(io::Error::other)?;
        let mut options = MmapOptions::new();
        options.len(len);
        let map = if writable {
            options.map_raw(fd.as_raw_fd())?
        } else {
            options.map_raw_read_only(fd.as_raw_fd())?
        };
        Ok(Self { map: Arc::new(map), fd: Arc::new(fd) })
    }

    /// The descriptor to pass on.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Where the region is mapped, for a handler of faults.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<usize> {
        let start = self.map.as_ptr() as usize;
        start..start + self.map.len()
    }

    /// The structure at `offset`.
    ///
    /// # Panics
    /// If it leaves the region or is misaligned: offsets come from [`crate::layout::Geometry`].
    #[must_use]
    pub fn shared<T: Atomics>(&self, offset: u64) -> Shared<T> {
        let at = self.at(offset, size_of::<T>(), align_of::<T>());
        // SAFETY: `at` checked range and alignment; the mapping lives as long as `map`. Storing is
        // up to callers: a client that stores into a read-only region faults by its own doing.
        unsafe { Shared::from_raw(at.cast(), self.keep()) }
    }

    /// `count` structures from `offset` on.
    ///
    /// # Panics
    /// As [`Region::shared`].
    #[must_use]
    pub fn shared_slice<T: Atomics>(&self, offset: u64, count: usize) -> Shared<[T]> {
        let at = self.at(offset, size_of::<T>() * count, align_of::<T>());
        let slice = NonNull::slice_from_raw_parts(at.cast(), count);
        // SAFETY: as in `shared`, for the whole slice.
        unsafe { Shared::slice_from_raw(slice, self.keep()) }
    }

    /// The region as an arena of `chunks` chunks.
    ///
    /// # Panics
    /// If it is too short.
    #[must_use]
    pub fn arena(&self, chunks: u32) -> Arena {
        let at = self.at(0, chunks as usize * CHUNK_BYTES, CHUNK_BYTES.min(4096));
        // SAFETY: `at` checked the range, and the mapping lives as long as `map`.
        unsafe { Arena::from_raw(at, chunks, self.keep()) }
    }

    fn keep(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::<MmapRaw>::clone(&self.map)
    }

    fn at(&self, offset: u64, bytes: usize, align: usize) -> NonNull<u8> {
        let offset = usize::try_from(offset).expect("offsets fit the address space");
        assert!(offset <= self.map.len() && bytes <= self.map.len() - offset, "leaves the region");
        // SAFETY: the assertion keeps the offset inside the mapping.
        let at = unsafe { self.map.as_mut_ptr().add(offset) };
        assert!((at as usize).is_multiple_of(align), "misaligned offset {offset}");
        NonNull::new(at).expect("a mapping is never at zero")
    }
}

/// Gives `SIGPIPE` its default disposition, which the Rust runtime takes away.
#[cfg(test)]
pub(crate) fn default_sigpipe() {
    // SAFETY: no handler is installed, only the default disposition restored.
    unsafe {
        nix::sys::signal::signal(
            nix::sys::signal::Signal::SIGPIPE,
            nix::sys::signal::SigHandler::SigDfl,
        )
    }
    .expect("SIGPIPE has a disposition");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{AtomicU64, Ordering};

    #[test]
    fn a_reader_sees_and_cannot_write() -> io::Result<()> {
        let ours = Region::read_only_for_others("dmm-test", 4096)?;
        ours.shared::<AtomicU64>(8).store(7, Ordering::Relaxed);
        let theirs = Region::open(ours.fd().try_clone_to_owned()?, 4096, false)?;
        assert_eq!(theirs.shared::<AtomicU64>(8).load(Ordering::Relaxed), 7);
        assert!(Region::open(ours.fd().try_clone_to_owned()?, 4096, true).is_err());
        // A descriptor reopened for writing through /proc is still sealed.
        let path = format!("/proc/self/fd/{}", ours.fd().as_raw_fd());
        let reopened = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
        assert!(nix::unistd::ftruncate(&reopened, 0).is_err());
        assert!(nix::unistd::write(&reopened, b"x").is_err());
        assert!(Region::open(reopened.into(), 4096, true).is_err());
        Ok(())
    }

    #[test]
    fn an_unsealed_or_short_memfd_is_refused() -> io::Result<()> {
        let unsealed = memfd_create("dmm-test", MFdFlags::MFD_CLOEXEC)?;
        assert!(Region::open(unsealed, 0, true).is_err());
        let short = Region::writable("dmm-test", 4096)?;
        assert!(Region::open(short.fd().try_clone_to_owned()?, 8192, true).is_err());
        Ok(())
    }
}
