//! Huge pages per NUMA node: what there is, reserving more, and whether a demand can be met.
//!
//! Owns: the kernel's files about huge pages (Documentation/admin-guide/mm/hugetlbpage.rst). Called
//! by `dmmd` before it sizes DPDK's mempools, and by `dmm hugepages` and `dmm doctor`. Must never:
//! map a page, or change anything but in [`reserve`].
//!
//! Every function takes the root of the file system, `/` in earnest: tests give a made-up tree.

#![forbid(unsafe_code)]

mod backing;
mod error;
#[cfg(test)]
mod fake;
mod files;
mod inventory;
mod mounts;
mod reserve;
mod size;

pub use backing::{Backing, Demand};
pub use error::HugepageError;
pub use inventory::{Inventory, Pool};
pub use mounts::Mount;
pub use reserve::{Reserved, reserve};
pub use size::PageSize;
