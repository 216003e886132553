//! The two sizes of huge pages that DPDK uses on x86-64.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::HugepageError;

/// A size of huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageSize {
    /// 2 MiB.
    M2,
    /// 1 GiB.
    G1,
}

impl PageSize {
    /// Both sizes, the smaller first.
    pub const ALL: [Self; 2] = [Self::M2, Self::G1];

    /// Bytes in a page.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::M2 => 2 << 20,
            Self::G1 => 1 << 30,
        }
    }

    /// The size as it is written on a command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::M2 => "2M",
            Self::G1 => "1G",
        }
    }

    /// The name of the size's folder in sysfs.
    pub(crate) fn folder(self) -> String {
        format!("hugepages-{}kB", self.bytes() >> 10)
    }

    /// The size of this many bytes, if it is one of ours.
    pub(crate) fn of_bytes(bytes: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|size| size.bytes() == bytes)
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for PageSize {
    type Err = HugepageError;

    fn from_str(text: &str) -> Result<Self, HugepageError> {
        let found = Self::ALL.into_iter().find(|size| size.as_str().eq_ignore_ascii_case(text));
        found.ok_or_else(|| HugepageError::Size(text.to_owned()))
    }
}

impl Serialize for PageSize {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_write_alike() {
        for size in PageSize::ALL {
            assert_eq!(size.to_string().parse::<PageSize>().unwrap(), size);
            assert_eq!(PageSize::of_bytes(size.bytes()), Some(size));
        }
        assert_eq!("1g".parse::<PageSize>().unwrap(), PageSize::G1);
        assert_eq!(PageSize::G1.folder(), "hugepages-1048576kB");
        assert!("4K".parse::<PageSize>().unwrap_err().to_string().contains("write 2M or 1G"));
    }
}
