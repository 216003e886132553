//! What huge pages this machine has.
//!
//! Three sources, the first that has any: the NUMA nodes in sysfs, the machine's pools in sysfs,
//! and /proc for a kernel that shows neither.

use std::path::Path;

use serde::Serialize;

use crate::error::HugepageError;
use crate::files;
use crate::mounts::{self, Mount};
use crate::size::PageSize;

/// What huge pages this machine has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// The pools, by node and size.
    pub pools: Vec<Pool>,
    /// The hugetlbfs file systems that are mounted.
    pub mounts: Vec<Mount>,
}

/// The pages of one size on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// The NUMA node; none if the kernel does not say.
    pub node: Option<u32>,
    /// The size of its pages.
    pub size: PageSize,
    /// Pages reserved.
    pub total: u64,
    /// Pages of them that nobody uses.
    pub free: u64,
    /// Pages beyond the reservation, given back when they are freed.
    pub surplus: u64,
}

impl Inventory {
    /// Reads the inventory below `root`, which is `/` except in tests.
    ///
    /// # Errors
    /// If a file of the kernel's cannot be read or holds no number. A machine without huge pages is
    /// no error: it has no pools.
    pub fn read(root: &Path) -> Result<Self, HugepageError> {
        let mut pools = Vec::new();
        for (name, path) in files::folders(&root.join("sys/devices/system/node"), "node")? {
            if let Ok(node) = name.parse() {
                pools.extend(read_pools(&path.join("hugepages"), Some(node))?);
            }
        }
        if pools.is_empty() {
            pools = read_pools(&root.join("sys/kernel/mm/hugepages"), None)?;
        }
        if pools.is_empty() {
            pools.extend(read_proc(root)?);
        }
        pools.sort_by_key(|pool| (pool.node, pool.size));
        Ok(Self { pools, mounts: mounts::read(root)? })
    }

    /// Free pages of a size, on one node or, with `None`, on all.
    #[must_use]
    pub fn free(&self, node: Option<u32>, size: PageSize) -> u64 {
        let here = |pool: &&Pool| pool.size == size && (node.is_none() || pool.node == node);
        self.pools.iter().filter(here).map(|pool| pool.free).fold(0, u64::saturating_add)
    }

    /// Whether the kernel tells the nodes apart.
    #[must_use]
    pub fn is_per_node(&self) -> bool {
        self.pools.iter().any(|pool| pool.node.is_some())
    }

    /// Where a hugetlbfs of this page size is mounted.
    #[must_use]
    pub fn mount(&self, size: PageSize) -> Option<&Path> {
        let mount = self.mounts.iter().find(|mount| mount.size == size);
        mount.map(|mount| mount.path.as_path())
    }
}

/// The pools in a `hugepages` folder of sysfs. Sizes that DPDK does not use are left out.
fn read_pools(folder: &Path, node: Option<u32>) -> Result<Vec<Pool>, HugepageError> {
    let mut pools = Vec::new();
    for size in PageSize::ALL {
        let folder = folder.join(size.folder());
        let Some(total) = files::number(&folder.join("nr_hugepages"))? else { continue };
        let free = files::number(&folder.join("free_hugepages"))?.unwrap_or(0);
        let surplus = files::number(&folder.join("surplus_hugepages"))?.unwrap_or(0);
        pools.push(Pool { node, size, total, free, surplus });
    }
    Ok(pools)
}

/// The pool of the default size, from /proc.
fn read_proc(root: &Path) -> Result<Option<Pool>, HugepageError> {
    let Some(total) = files::number(&root.join("proc/sys/vm/nr_hugepages"))? else {
        return Ok(None);
    };
    let Some(size) = default_size(root)? else { return Ok(None) };
    let free = files::meminfo(root, "HugePages_Free")?.unwrap_or(0);
    let surplus = files::meminfo(root, "HugePages_Surp")?.unwrap_or(0);
    Ok(Some(Pool { node: None, size, total, free, surplus }))
}

/// The page size that /proc/sys/vm/nr_hugepages and a mount without options mean.
pub(crate) fn default_size(root: &Path) -> Result<Option<PageSize>, HugepageError> {
    let kib = files::meminfo(root, "Hugepagesize")?;
    Ok(kib.and_then(|kib| PageSize::of_bytes(kib.saturating_mul(1024))))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::fake::Tree;

    #[test]
    fn two_nodes_are_told_apart() {
        let tree = Tree::new();
        tree.node_pool(0, PageSize::M2, 8, 5).node_pool(1, PageSize::M2, 4, 4);
        tree.node_pool(1, PageSize::G1, 2, 1).machine_pool(PageSize::M2, 12, 9);
        tree.file("sys/devices/system/node/online", "0-1\n");
        tree.file("sys/devices/system/node/node0/hugepages/hugepages-64kB/nr_hugepages", "9\n");
        let found = Inventory::read(tree.root()).unwrap();
        let pool =
            |node, size, total, free| Pool { node: Some(node), size, total, free, surplus: 0 };
        assert_eq!(
            found.pools,
            [pool(0, PageSize::M2, 8, 5), pool(1, PageSize::M2, 4, 4), pool(1, PageSize::G1, 2, 1)]
        );
        assert!(found.is_per_node());
        assert_eq!(found.free(Some(1), PageSize::M2), 4);
        assert_eq!(found.free(None, PageSize::M2), 9);
        assert_eq!(found.free(Some(0), PageSize::G1), 0);
    }

    #[test]
    fn without_nodes_the_machines_pools_count() {
        let tree = Tree::new();
        tree.machine_pool(PageSize::M2, 12, 9);
        tree.file("sys/kernel/mm/hugepages/hugepages-2048kB/surplus_hugepages", "1\n");
        let found = Inventory::read(tree.root()).unwrap();
        let only = Pool { node: None, size: PageSize::M2, total: 12, free: 9, surplus: 1 };
        assert_eq!(found.pools, [only]);
        assert!(!found.is_per_node());
    }

    #[test]
    fn without_sysfs_proc_counts() {
        let tree = Tree::new();
        tree.file("proc/sys/vm/nr_hugepages", "6\n").file(
            "proc/meminfo",
            "MemTotal: 1 kB\nHugePages_Total:  6\nHugePages_Free:  2\nHugepagesize:  2048 kB\n",
        );
        let found = Inventory::read(tree.root()).unwrap();
        let only = Pool { node: None, size: PageSize::M2, total: 6, free: 2, surplus: 0 };
        assert_eq!(found.pools, [only]);
    }

    #[test]
    fn a_machine_without_huge_pages_has_none() {
        assert_eq!(Inventory::read(Tree::new().root()).unwrap(), Inventory::default());
    }

    #[test]
    fn garbage_is_named_with_its_file() {
        for text in ["", "x\n", "-1\n", "1 2\n", "99999999999999999999\n"] {
            let tree = Tree::new();
            tree.node_pool(0, PageSize::M2, 1, 1);
            tree.file(
                "sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages",
                text,
            );
            let message = Inventory::read(tree.root()).unwrap_err().to_string();
            assert!(message.contains("hugepages-2048kB/free_hugepages holds"), "{message}");
        }
        let tree = Tree::new();
        let free = "sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages";
        tree.node_pool(0, PageSize::M2, 1, 1);
        fs::write(tree.root().join(free), [0xff; 100_000]).unwrap();
        assert!(Inventory::read(tree.root()).unwrap_err().to_string().len() < 400);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        // A folder in place of a file is unreadable for root too, unlike one without permission.
        let tree = Tree::new();
        tree.node_pool(0, PageSize::M2, 1, 1);
        let nr = "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages";
        fs::remove_file(tree.root().join(nr)).unwrap();
        fs::create_dir(tree.root().join(nr)).unwrap();
        let message = Inventory::read(tree.root()).unwrap_err().to_string();
        assert!(message.starts_with("cannot read ") && message.contains(nr), "{message}");
    }

    #[test]
    fn this_machine_can_be_read() {
        Inventory::read(Path::new("/")).unwrap();
    }
}
