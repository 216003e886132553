//! The machine under the daemon: its limits, its NUMA nodes, and what an operator should know of them.
#![forbid(unsafe_code)]

use std::path::Path;

use dmm_admin::config::parse_core_list;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that a client costs: its socket, its pidfd, three regions, a doorbell for each of
/// some contexts and workers.
const FDS_PER_CLIENT: u64 = 16;

/// Raises the limit of open descriptors as far as it goes, and says what is short.
pub fn warnings() -> Vec<String> {
    let mut warnings = Vec::new();
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let raised = soft == hard || setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
        let limit = if raised { hard } else { soft };
        if limit < 64 * FDS_PER_CLIENT {
            warnings.push(format!(
                "only {limit} descriptors may be open, enough for some {} clients: raise \
                 LimitNOFILE of the service (ulimit -n)",
                limit / FDS_PER_CLIENT
            ));
        }
    }
    warnings
}

/// The NUMA node of a core, if the machine under `root` has several and says so.
pub fn node_of_core(root: &Path, core: u16) -> Option<u32> {
    let nodes = std::fs::read_dir(root.join("sys/devices/system/node")).ok()?;
    nodes.filter_map(Result::ok).find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let node = name.strip_prefix("node")?.parse().ok()?;
        let cores = std::fs::read_to_string(entry.path().join("cpulist")).ok()?;
        parse_core_list(cores.trim())?.contains(&core).then_some(node)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_found_on_its_node() {
        let root = std::env::temp_dir().join(format!("dmm-numa-{}", std::process::id()));
        for (node, cores) in [("node0", "0-3"), ("node1", "4-7,9"), ("possible", "0-1")] {
            let folder = root.join("sys/devices/system/node").join(node);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("cpulist"), format!("{cores}\n")).unwrap();
        }
        let found = [0, 5, 9, 8].map(|core| node_of_core(&root, core));
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(found, [Some(0), Some(1), Some(1), None]);
    }
}
