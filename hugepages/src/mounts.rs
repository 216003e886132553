//! The hugetlbfs file systems in /proc/mounts.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::HugepageError;
use crate::files;
use crate::inventory::default_size;
use crate::size::PageSize;

/// A mounted hugetlbfs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Where it is mounted.
    pub path: PathBuf,
    /// The size of its pages.
    pub size: PageSize,
}

/// The hugetlbfs mounts with page sizes that DPDK uses, in the order in which they were mounted.
pub(crate) fn read(root: &Path) -> Result<Vec<Mount>, HugepageError> {
    let Some(text) = files::text(&root.join("proc/mounts"))? else { return Ok(Vec::new()) };
    let default = default_size(root)?;
    let mount = |line: &str| {
        // fstab(5): device, directory, type, options.
        let mut fields = line.split(' ').skip(1);
        let (path, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        if kind != "hugetlbfs" {
            return None;
        }
        let stated = options.split(',').find_map(|option| option.strip_prefix("pagesize="));
        let size = stated.map_or(default, |text| PageSize::of_bytes(parse_bytes(text)?))?;
        Some(Mount { path: unescape(path).into(), size })
    };
    Ok(text.lines().filter_map(mount).collect())
}

/// A size as mount(8) shows it, such as `2M` or `1024M`.
fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KB" => 10,
        "M" | "MB" => 20,
        "G" | "GB" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Undoes the octal escapes of blanks and backslashes (getmntent(3)).
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Tree;

    #[test]
    fn mounts_are_found_with_their_sizes() {
        let tree = Tree::new();
        tree.file("proc/meminfo", "Hugepagesize:       2048 kB\n").file(
            "proc/mounts",
            "proc /proc proc rw 0 0\n\
             hugetlbfs /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0\n\
             none /mnt/a\\040b hugetlbfs rw,pagesize=1024M 0 0\n\
             none /mnt/plain hugetlbfs rw 0 0\n\
             none /mnt/odd hugetlbfs rw,pagesize=64K 0 0\n\
             none /mnt/garbage hugetlbfs rw,pagesize=9999999999999999999G 0 0\n\
             broken line\n\n",
        );
        let mount = |path: &str, size| Mount { path: path.into(), size };
        assert_eq!(
            read(tree.root()).unwrap(),
            [
                mount("/dev/hugepages", PageSize::M2),
                mount("/mnt/a b", PageSize::G1),
                mount("/mnt/plain", PageSize::M2)
            ]
        );
    }
}
