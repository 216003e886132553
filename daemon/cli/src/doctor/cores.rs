//! The cores for workers: how many, whether others keep off them, and how many NUMA nodes.

use std::fs;
use std::path::Path;

use dmm_admin::config::{Cores, format_core_list, parse_core_list};

use super::Check;

/// Checks cores, isolation and NUMA nodes.
pub(super) fn checks(root: &Path) -> Vec<Check> {
    let cores = match Cores::of_this_process() {
        Ok(cores) => usable(&cores),
        Err(e) => Check::fail("cores", e.to_string(), "see sched_getaffinity(2)"),
    };
    vec![cores, isolation(root), numa(root)]
}

fn usable(cores: &Cores) -> Check {
    const NAME: &str = "cores";
    let list = format_core_list(&cores.allowed);
    match (cores.allowed.len(), cores.online.len()) {
        (1, _) => Check::warn(
            NAME,
            format!("only core {list} may be used, by workers and clients alike"),
            "give dmmd at least two cores, or set workers.idle to \"interrupt\"",
        ),
        (allowed, online) if allowed < online => {
            Check::ok(NAME, format!("{list} of {online} may be used"))
        }
        _ => Check::ok(NAME, list),
    }
}

fn isolation(root: &Path) -> Check {
    const NAME: &str = "isolated cores";
    let text = fs::read_to_string(root.join("sys/devices/system/cpu/isolated"));
    let isolated = text.ok().and_then(|text| parse_core_list(&text)).unwrap_or_default();
    if isolated.is_empty() {
        return Check::warn(
            NAME,
            "none, so other programs delay the workers",
            "for steady latency boot with isolcpus= and nohz_full= for the workers' cores",
        );
    }
    Check::ok(NAME, format_core_list(&isolated))
}

fn numa(root: &Path) -> Check {
    const NAME: &str = "numa nodes";
    let text = fs::read_to_string(root.join("sys/devices/system/node/online"));
    match text.ok().and_then(|text| parse_core_list(&text)) {
        None => Check::ok(NAME, "the kernel knows none"),
        Some(nodes) if nodes.len() > 1 => Check::ok(
            NAME,
            format!("{}: let a stack's cores and its port share one", format_core_list(&nodes)),
        ),
        Some(_) => Check::ok(NAME, "one"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn one_core_is_few() {
        let cores = |n: u16| Cores { online: (0..2).collect(), allowed: (0..n).collect() };
        assert_eq!(usable(&cores(1)).level, Level::Warn);
        assert_eq!(usable(&cores(2)).level, Level::Ok);
        assert_eq!(usable(&cores(2)).found, "0-1");
    }

    #[test]
    fn isolation_and_nodes_are_read() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(isolation(root.path()).level, Level::Warn);
        assert_eq!(numa(root.path()).found, "the kernel knows none");
        fs::create_dir_all(root.path().join("sys/devices/system/cpu")).unwrap();
        fs::create_dir_all(root.path().join("sys/devices/system/node")).unwrap();
        fs::write(root.path().join("sys/devices/system/cpu/isolated"), "2-3,6\n").unwrap();
        fs::write(root.path().join("sys/devices/system/node/online"), "0-1\n").unwrap();
        assert_eq!(isolation(root.path()).found, "2-3,6");
        assert!(numa(root.path()).found.starts_with("0-1: "));
    }
}
