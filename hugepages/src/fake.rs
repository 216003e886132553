//! A made-up file system for tests.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::size::PageSize;

/// A folder that stands for `/`.
pub(crate) struct Tree(TempDir);

impl Tree {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }

    pub(crate) fn node_pool(&self, node: u32, size: PageSize, total: u64, free: u64) -> &Self {
        self.pool(&format!("sys/devices/system/node/node{node}/hugepages"), size, total, free)
    }

    pub(crate) fn machine_pool(&self, size: PageSize, total: u64, free: u64) -> &Self {
        self.pool("sys/kernel/mm/hugepages", size, total, free)
    }

    fn pool(&self, folder: &str, size: PageSize, total: u64, free: u64) -> &Self {
        let folder = format!("{folder}/{}", size.folder());
        self.file(&format!("{folder}/nr_hugepages"), &format!("{total}\n"));
        self.file(&format!("{folder}/free_hugepages"), &format!("{free}\n"));
        self.file(&format!("{folder}/surplus_hugepages"), "0\n")
    }
}
