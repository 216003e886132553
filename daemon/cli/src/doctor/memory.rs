//! Whether packet buffers find the memory that the configuration asks for.

use std::path::Path;

use dmm_admin::Config;
use dmm_admin::config::Hugepages;
use dmm_hugepages::{Backing, Demand, HugepageError, Inventory};

use super::Check;

/// Checks huge pages and hugetlbfs.
pub(super) fn checks(root: &Path, config: &Config) -> Vec<Check> {
    match Inventory::read(root) {
        Ok(inventory) => vec![pages(&inventory, config), mounts(&inventory)],
        Err(e) => vec![unreadable(&e)],
    }
}

fn unreadable(error: &HugepageError) -> Check {
    Check::fail("huge pages", error.to_string(), "or set memory.hugepages to \"never\"")
}

fn pages(inventory: &Inventory, config: &Config) -> Check {
    const NAME: &str = "huge pages";
    let bytes = u64::from(config.packet_memory_mb()) << 20;
    if bytes == 0 {
        return Check::ok(NAME, "no port needs any");
    }
    match (Backing::choose(inventory, &[Demand { node: None, bytes }]), config.memory.hugepages) {
        (_, Hugepages::Never) => Check::ok(NAME, "not used, says memory.hugepages"),
        (Backing::HugePages { size, pages, .. }, _) => {
            Check::ok(NAME, format!("the {pages} {size} pages that dmmd needs are free"))
        }
        (Backing::FallBack4K { reason }, Hugepages::Auto) => {
            Check::warn(NAME, "too few, so 4 KiB pages are used, which is slower", reason)
        }
        (Backing::FallBack4K { reason }, Hugepages::Require) => {
            Check::fail(NAME, "too few, and memory.hugepages requires them", reason)
        }
    }
}

fn mounts(inventory: &Inventory) -> Check {
    const NAME: &str = "hugetlbfs";
    let list: Vec<_> = inventory
        .mounts
        .iter()
        .map(|mount| format!("{} pages on {}", mount.size, mount.path.display()))
        .collect();
    if list.is_empty() {
        return Check::warn(
            NAME,
            "not mounted: the daemon takes pages of 4 KiB",
            "mount -t hugetlbfs none /dev/hugepages",
        );
    }
    Check::ok(NAME, list.join(", "))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::Level;
    use super::*;

    #[test]
    fn the_configuration_decides_how_bad_it_is() {
        let root = tempfile::tempdir().unwrap();
        let mut config = Config::embedded();
        let levels = |config: &Config| -> Vec<_> {
            checks(root.path(), config).iter().map(|check| check.level).collect()
        };
        assert_eq!(levels(&config), [Level::Warn, Level::Warn]);
        config.memory.hugepages = Hugepages::Require;
        assert_eq!(levels(&config), [Level::Fail, Level::Warn]);
        let pool = root.path().join("sys/kernel/mm/hugepages/hugepages-2048kB");
        fs::create_dir_all(&pool).unwrap();
        fs::write(pool.join("nr_hugepages"), "64\n").unwrap();
        fs::write(pool.join("free_hugepages"), "63\n").unwrap();
        assert_eq!(levels(&config), [Level::Fail, Level::Warn], "128 MiB are the least");
        fs::write(pool.join("free_hugepages"), "64\n").unwrap();
        fs::create_dir(root.path().join("proc")).unwrap();
        fs::write(root.path().join("proc/mounts"), "h /h hugetlbfs rw,pagesize=2M 0 0\n").unwrap();
        assert_eq!(levels(&config), [Level::Ok, Level::Ok]);
        config.memory.mempool_mb = 65;
        assert_eq!(levels(&config), [Level::Fail, Level::Ok]);
        config.memory.hugepages = Hugepages::Never;
        assert_eq!(levels(&config), [Level::Ok, Level::Ok]);
        fs::write(pool.join("free_hugepages"), "many\n").unwrap();
        assert_eq!(levels(&config), [Level::Fail]);
    }

    #[test]
    fn wires_need_no_huge_pages() {
        let mut config = Config::embedded();
        config.ports[0].device = "wire:w".parse().unwrap();
        config.memory.hugepages = Hugepages::Require;
        let check = pages(&Inventory::default(), &config);
        assert_eq!((check.level, check.found.as_str()), (Level::Ok, "no port needs any"));
    }
}
