//! Reserving huge pages: the one place that changes the machine.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::HugepageError;
use crate::files;
use crate::inventory::default_size;
use crate::size::PageSize;

/// What came of a reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reserved {
    /// Pages asked for.
    pub wanted: u64,
    /// Pages that the pool has now.
    pub got: u64,
    /// What to do if the two differ.
    pub remedy: Option<String>,
}

/// Makes the pool of `size` on `node` hold `count` pages; without a node the kernel spreads them
/// over all of them. The kernel may give fewer, for it needs contiguous memory, or keep more, which
/// are in use: [`Reserved::got`] says.
///
/// # Errors
/// If there is no such pool, or it cannot be written or read back.
pub fn reserve(
    root: &Path,
    node: Option<u32>,
    size: PageSize,
    count: u64,
) -> Result<Reserved, HugepageError> {
    let path = pool_file(root, node, size)?;
    let failed = |source| HugepageError::Write { path: path.clone(), source };
    let mut file = OpenOptions::new().write(true).truncate(true).open(&path).map_err(failed)?;
    file.write_all(format!("{count}\n").as_bytes()).map_err(failed)?;
    drop(file);
    let got = files::number(&path)?.ok_or(HugepageError::NoPool { size, node })?;
    let remedy = match got.cmp(&count) {
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Greater => Some(format!(
            "{} of the {got} {size} pages are in use or were asked for meanwhile: end the programs \
             that use them and try again",
            got - count
        )),
        std::cmp::Ordering::Less => Some(shortage(size, count)),
    };
    Ok(Reserved { wanted: count, got, remedy })
}

fn shortage(size: PageSize, count: u64) -> String {
    let at_boot = format!("reserve them at boot with hugepagesz={size} hugepages={count}");
    match size {
        PageSize::M2 => format!(
            "memory is short or in pieces: free it with `echo 3 > /proc/sys/vm/drop_caches; echo 1 \
             > /proc/sys/vm/compact_memory` and try again, or {at_boot} on the kernel command line"
        ),
        PageSize::G1 => format!(
            "a running kernel rarely finds 1 GiB in one piece: {at_boot} on the kernel command \
             line, or use 2M pages"
        ),
    }
}

/// The file that holds the number of pages.
fn pool_file(root: &Path, node: Option<u32>, size: PageSize) -> Result<PathBuf, HugepageError> {
    let pools = match node {
        Some(node) => format!("sys/devices/system/node/node{node}/hugepages"),
        None => "sys/kernel/mm/hugepages".to_owned(),
    };
    let in_sysfs = root.join(pools).join(size.folder()).join("nr_hugepages");
    if in_sysfs.exists() {
        return Ok(in_sysfs);
    }
    let in_proc = root.join("proc/sys/vm/nr_hugepages");
    if node.is_none() && in_proc.exists() && default_size(root)? == Some(size) {
        return Ok(in_proc);
    }
    Err(HugepageError::NoPool { size, node })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::{fs, thread};

    use super::*;
    use crate::fake::Tree;

    const NODE1: &str = "sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages";

    #[test]
    fn the_nodes_own_pool_is_written() {
        let tree = Tree::new();
        tree.node_pool(0, PageSize::M2, 1, 1).node_pool(1, PageSize::M2, 12, 1);
        let got = reserve(tree.root(), Some(1), PageSize::M2, 7).unwrap();
        assert_eq!((got.wanted, got.got, got.remedy), (7, 7, None));
        let found = crate::Inventory::read(tree.root()).unwrap();
        assert_eq!(found.pools.iter().map(|pool| pool.total).collect::<Vec<_>>(), [1, 7]);
    }

    #[test]
    fn without_a_node_the_machines_pool_is_written() {
        let tree = Tree::new();
        tree.machine_pool(PageSize::G1, 0, 0);
        assert_eq!(reserve(tree.root(), None, PageSize::G1, 2).unwrap().got, 2);
        assert_eq!(tree.read("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages"), "2\n");
        tree.file("proc/sys/vm/nr_hugepages", "0\n");
        tree.file("proc/meminfo", "Hugepagesize: 2048 kB\n");
        assert_eq!(reserve(tree.root(), None, PageSize::M2, 3).unwrap().got, 3);
        assert_eq!(tree.read("proc/sys/vm/nr_hugepages"), "3\n");
    }

    /// A kernel that has another number of pages than it was told: a pipe takes the one and gives
    /// the other.
    fn kernel_that_has(answer: &'static str, size: PageSize) -> Reserved {
        let tree = Tree::new();
        tree.node_pool(1, PageSize::M2, 0, 0).node_pool(1, PageSize::G1, 0, 0);
        let path = tree.root().join(NODE1.replace("hugepages-2048kB", &size.folder()));
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (told, heard) = mpsc::channel();
        // Not joined: it would wait for ever for a caller that does not read back.
        thread::spawn(move || {
            told.send(fs::read_to_string(&path).unwrap()).unwrap();
            fs::write(&path, answer).unwrap();
        });
        let reserved = reserve(tree.root(), Some(1), size, 10).unwrap();
        assert_eq!(heard.recv().unwrap(), "10\n");
        reserved
    }

    #[test]
    fn a_short_reservation_says_so() {
        let short = kernel_that_has("3\n", PageSize::M2);
        assert_eq!((short.wanted, short.got), (10, 3));
        let remedy = short.remedy.unwrap();
        assert!(remedy.contains("compact_memory"), "{remedy}");
        assert!(remedy.contains("hugepagesz=2M hugepages=10"), "{remedy}");
        let remedy = kernel_that_has("0\n", PageSize::G1).remedy.unwrap();
        assert!(remedy.contains("hugepagesz=1G hugepages=10"), "{remedy}");
        let more = kernel_that_has("12\n", PageSize::M2);
        assert_eq!(more.got, 12);
        assert!(more.remedy.unwrap().contains("2 of the 12 2M pages are in use"));
    }

    #[test]
    fn pools_that_are_not_there_are_refused() {
        let tree = Tree::new();
        tree.node_pool(0, PageSize::M2, 1, 1);
        let message = |node, size| reserve(tree.root(), node, size, 1).unwrap_err().to_string();
        assert!(message(Some(1), PageSize::M2).contains("no 2M pages on node 1"));
        assert!(message(Some(0), PageSize::G1).contains("no 1G pages on node 0"));
        assert!(message(None, PageSize::G1).contains("no 1G pages:"));
        assert!(!tree.root().join(NODE1).exists(), "nothing is created");
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let tree = Tree::new();
        tree.node_pool(1, PageSize::M2, 1, 1);
        fs::remove_file(tree.root().join(NODE1)).unwrap();
        fs::create_dir(tree.root().join(NODE1)).unwrap();
        let error = reserve(tree.root(), Some(1), PageSize::M2, 1).unwrap_err().to_string();
        assert!(error.starts_with("cannot write ") && error.contains("run as root"), "{error}");
    }
}
