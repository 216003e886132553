//! Why huge pages could not be read or reserved.

use std::io;
use std::path::PathBuf;

use crate::size::PageSize;

/// Why huge pages could not be read or reserved.
#[derive(Debug, thiserror::Error)]
pub enum HugepageError {
    /// A file of the kernel's cannot be read.
    #[error("cannot read {}: {source}: are /proc and /sys mounted and readable?", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the kernel's does not hold a number where one belongs.
    #[error("{} holds {text:?} instead of a number: is this really sysfs?", path.display())]
    Garbage {
        /// The file.
        path: PathBuf,
        /// Its text, shortened.
        text: String,
    },
    /// A count cannot be written.
    #[error("cannot write {}: {source}: run as root, outside of a container with a read-only /sys",
        path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The machine has no such pool.
    #[error("this machine has no {size} pages{}: `dmm hugepages show` lists what it has",
        node.map_or_else(String::new, |n| format!(" on node {n}")))]
    NoPool {
        /// The page size asked for.
        size: PageSize,
        /// The node asked for.
        node: Option<u32>,
    },
    /// The text names no page size.
    #[error("{0:?} is no page size: write 2M or 1G")]
    Size(String),
}
