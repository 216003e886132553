//! References into memory that another process may write.
//!
//! A [`Shared`] names a structure made of atomics only, and keeps alive whatever it lies in: a
//! mapping in production, the heap in tests and under loom. Because every field is an atomic, a
//! hostile writer on the other side can change values but cannot cause undefined behaviour here.

use std::any::Any;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

/// Structures that may lie in shared memory.
///
/// # Safety
/// Implementors are `repr(C)`, consist of atomic integers only (arrays and structures of them
/// included), and accept every bit pattern.
pub unsafe trait Atomics: Sync + Send + 'static {}

// SAFETY: a single atomic integer.
unsafe impl Atomics for crate::sync::AtomicU32 {}
// SAFETY: a single atomic integer.
unsafe impl Atomics for crate::sync::AtomicU64 {}

// SAFETY: one atomic and padding.
unsafe impl Atomics for crate::ring::Cursor {}
// SAFETY: an array of atomics.
unsafe impl Atomics for crate::ring::Slot {}
// SAFETY: atomics and padding.
unsafe impl Atomics for crate::fifo::DaemonLine {}
// SAFETY: atomics and padding.
unsafe impl Atomics for crate::fifo::ClientLine {}
// SAFETY: atomics and padding.
unsafe impl Atomics for crate::layout::ContextLine {}
// SAFETY: atomics and padding.
unsafe impl Atomics for crate::layout::WorkerLine {}
// SAFETY: atomics and padding.
unsafe impl Atomics for crate::layout::Pending {}
// SAFETY: arrays of atomics and padding.
unsafe impl Atomics for crate::layout::StackEntry {}
// SAFETY: atomics and padding.
unsafe impl Atomics for crate::pair::PairLine {}
// SAFETY: atomics and padding.
unsafe impl Atomics for crate::pair::PairContext {}
// SAFETY: a single atomic integer.
unsafe impl Atomics for crate::doorbell::SleepFlag {}

/// A reference to a `T`, or a slice of them, in memory that another process may write.
pub struct Shared<T: ?Sized> {
    at: NonNull<T>,
    keep: Arc<dyn Any + Send + Sync>,
}

impl<T: ?Sized> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self { at: self.at, keep: Arc::clone(&self.keep) }
    }
}

// SAFETY: `Shared` gives only `&T`, and `T` consists of atomics, which any thread may use.
unsafe impl<T: ?Sized + Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Sync> Sync for Shared<T> {}

impl<T: Atomics> Shared<T> {
    /// Puts `value` on the heap: for tests, models and benchmarks.
    pub fn heap(value: T) -> Self {
        let keep = Arc::new(value);
        Self { at: NonNull::from(keep.as_ref()), keep }
    }

    /// Refers to a `T` at `at`, which lives as long as `keep`.
    ///
    /// # Safety
    /// `at` is aligned for `T` and points to `size_of::<T>()` bytes that stay mapped while `keep`
    /// lives, readable, and writable if a caller is going to store.
    pub unsafe fn from_raw(at: NonNull<T>, keep: Arc<dyn Any + Send + Sync>) -> Self {
        Self { at, keep }
    }
}

impl<T: Atomics> Shared<[T]> {
    /// Puts `values` on the heap: for tests, models and benchmarks.
    pub fn heap_slice(values: Vec<T>) -> Self {
        let keep: Arc<Vec<T>> = Arc::new(values);
        Self { at: NonNull::from(keep.as_slice()), keep }
    }

    /// Refers to the slice at `at`, which lives as long as `keep`.
    ///
    /// # Safety
    /// As for [`Shared::from_raw`], for the slice's whole length.
    pub unsafe fn slice_from_raw(at: NonNull<[T]>, keep: Arc<dyn Any + Send + Sync>) -> Self {
        Self { at, keep }
    }
}

impl<T: ?Sized> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the constructors require memory that is valid while `keep` lives, and `T` is
        // `Atomics`, so writes by others are allowed while `&T` exists.
        unsafe { self.at.as_ref() }
    }
}
