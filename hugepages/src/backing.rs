//! Whether a demand for memory can be met with huge pages.

use std::path::PathBuf;

use serde::Serialize;

use crate::inventory::Inventory;
use crate::size::PageSize;

/// Memory that is wanted on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The NUMA node; none if any will do.
    pub node: Option<u32>,
    /// Bytes wanted there.
    pub bytes: u64,
}

/// What backs the memory of packet buffers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Backing {
    /// Huge pages of one size.
    HugePages {
        /// Their size.
        size: PageSize,
        /// How many the demand takes, on all nodes together.
        pages: u64,
        /// Where a hugetlbfs of that size is mounted. A process that shares its memory with no
        /// other needs none.
        mount: Option<PathBuf>,
    },
    /// Pages of 4 KiB: slower, for the processor's address cache covers less.
    FallBack4K {
        /// What is missing, and how to provide it.
        reason: String,
    },
}

impl Backing {
    /// Chooses what can back all of `wanted`: 2 MiB pages, for the least waste, unless some node
    /// is to give a gigabyte or more; then 1 GiB pages, if there are enough.
    #[must_use]
    pub fn choose(inventory: &Inventory, wanted: &[Demand]) -> Self {
        let large = wanted.iter().any(|demand| demand.bytes >= PageSize::G1.bytes());
        let order = if large { [PageSize::G1, PageSize::M2] } else { PageSize::ALL };
        for size in order {
            if shortage(inventory, wanted, size).is_none() {
                let pages = wanted.iter().map(|demand| pages(demand, size)).sum();
                let mount = inventory.mount(size).map(Into::into);
                return Self::HugePages { size, pages, mount };
            }
        }
        // The remedy that always works is the smaller size.
        let reason = shortage(inventory, wanted, PageSize::M2).unwrap_or_default();
        Self::FallBack4K { reason }
    }
}

fn pages(demand: &Demand, size: PageSize) -> u64 {
    demand.bytes.div_ceil(size.bytes())
}

/// What is missing to meet the demand with pages of `size`.
fn shortage(inventory: &Inventory, wanted: &[Demand], size: PageSize) -> Option<String> {
    let short = |node: Option<u32>, needed: u64| {
        let free = inventory.free(node, size);
        let (place, flag) = match node {
            Some(node) => (format!("node {node}"), format!(" --node {node}")),
            None => ("the machine".to_owned(), String::new()),
        };
        // Reserving sets the size of the whole pool, so what is in use counts too.
        let here = |node_of: Option<u32>| node.is_none() || node_of == node;
        let pools = inventory.pools.iter().filter(|pool| pool.size == size && here(pool.node));
        let used: u64 = pools.map(|pool| pool.total.saturating_sub(pool.free)).sum();
        let count = used.saturating_add(needed);
        (free < needed).then(|| {
            format!(
                "{place} has {free} free {size} pages and {needed} are needed: reserve them with \
                 `dmm hugepages reserve{flag} --size {size} --count {count}`"
            )
        })
    };
    let on = |node: Option<u32>| {
        let here = wanted.iter().filter(move |demand| node.is_none() || demand.node == node);
        here.map(|demand| pages(demand, size)).fold(0, u64::saturating_add)
    };
    // Each node must hold what is wanted of it, and all together the sum of everything: then the
    // demands without a node fit into what is left.
    let mut nodes: Vec<_> = wanted.iter().filter_map(|demand| demand.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes.retain(|_| inventory.is_per_node());
    let per_node = nodes.into_iter().find_map(|node| short(Some(node), on(Some(node))));
    per_node.or_else(|| short(None, on(None)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Pool;
    use crate::mounts::Mount;

    const MIB: u64 = 1 << 20;

    fn inventory(pools: &[(Option<u32>, PageSize, u64, u64)]) -> Inventory {
        let pool = |&(node, size, total, free)| Pool { node, size, total, free, surplus: 0 };
        let mounts = vec![Mount { path: "/dev/hugepages".into(), size: PageSize::M2 }];
        Inventory { pools: pools.iter().map(pool).collect(), mounts }
    }

    fn want(node: Option<u32>, mib: u64) -> Demand {
        Demand { node, bytes: mib * MIB }
    }

    fn chosen(inventory: &Inventory, wanted: &[Demand]) -> (PageSize, u64) {
        match Backing::choose(inventory, wanted) {
            Backing::HugePages { size, pages, .. } => (size, pages),
            Backing::FallBack4K { reason } => panic!("{reason}"),
        }
    }

    fn reason(inventory: &Inventory, wanted: &[Demand]) -> String {
        match Backing::choose(inventory, wanted) {
            Backing::FallBack4K { reason } => reason,
            found @ Backing::HugePages { .. } => panic!("{found:?}"),
        }
    }

    #[test]
    fn enough_pages_are_taken() {
        let two = inventory(&[(Some(0), PageSize::M2, 20, 16), (Some(1), PageSize::M2, 1, 1)]);
        assert_eq!(chosen(&two, &[want(Some(0), 31), want(Some(1), 1)]), (PageSize::M2, 17));
        let Backing::HugePages { mount, .. } = Backing::choose(&two, &[want(None, 34)]) else {
            panic!("17 pages are there")
        };
        assert_eq!(mount, Some(PathBuf::from("/dev/hugepages")));
    }

    #[test]
    fn a_short_node_falls_back_and_says_what_to_reserve() {
        let two = inventory(&[(Some(0), PageSize::M2, 20, 16), (Some(1), PageSize::M2, 1, 1)]);
        let text = reason(&two, &[want(Some(1), 4)]);
        assert!(text.contains("node 1 has 1 free 2M pages and 2 are needed"), "{text}");
        assert!(text.contains("--node 1 --size 2M --count 2`"), "{text}");
        let text = reason(&two, &[want(Some(0), 40)]);
        assert!(text.contains("--node 0 --size 2M --count 24`"), "4 are in use: {text}");
        let text = reason(&two, &[want(Some(0), 32), want(None, 4)]);
        assert!(text.contains("the machine has 17 free 2M pages and 18 are needed"), "{text}");
        assert!(reason(&Inventory::default(), &[want(None, 2)]).contains("has 0 free"));
    }

    #[test]
    fn without_nodes_the_sum_decides() {
        let one = inventory(&[(None, PageSize::M2, 4, 4)]);
        assert_eq!(chosen(&one, &[want(Some(0), 4), want(Some(1), 4)]), (PageSize::M2, 4));
        let text = reason(&one, &[want(Some(0), 6), want(Some(1), 4)]);
        assert!(text.contains("the machine has 4"), "{text}");
    }

    #[test]
    fn gigabyte_pages_serve_gigabytes_and_those_without_small_ones() {
        let both = inventory(&[(Some(0), PageSize::M2, 600, 600), (Some(0), PageSize::G1, 2, 2)]);
        assert_eq!(chosen(&both, &[want(Some(0), 64)]), (PageSize::M2, 32));
        assert_eq!(chosen(&both, &[want(Some(0), 1025)]), (PageSize::G1, 2));
        let large = inventory(&[(Some(0), PageSize::G1, 1, 1)]);
        assert_eq!(chosen(&large, &[want(Some(0), 64)]), (PageSize::G1, 1));
        let few = inventory(&[(Some(0), PageSize::M2, 600, 600)]);
        assert_eq!(chosen(&few, &[want(Some(0), 1024)]), (PageSize::M2, 512));
        assert!(reason(&few, &[Demand { node: None, bytes: u64::MAX }]).contains("needed"));
    }
}
