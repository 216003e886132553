//! Who this is, and what its limits are.

use std::fs;
use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::geteuid;

use super::Check;

/// Capabilities that the daemon uses (linux/capability.h), with what for.
const CAPABILITIES: [(u32, &str); 5] = [
    (12, "CAP_NET_ADMIN"),  // TAP devices, interface settings
    (13, "CAP_NET_RAW"),    // packet sockets
    (14, "CAP_IPC_LOCK"),   // packet buffers that stay in memory
    (19, "CAP_SYS_PTRACE"), // pidfd_getfd(2) of clients' sockets
    (21, "CAP_SYS_ADMIN"),  // physical addresses for DMA
];

/// Descriptors that a full daemon needs: 2048 sessions of 8 each.
const DESCRIPTORS: u64 = 16_384;

/// Checks capabilities and resource limits.
pub(super) fn checks(root: &Path) -> Vec<Check> {
    let capabilities = effective_capabilities(root);
    vec![privileges(geteuid().is_root(), capabilities), descriptors(), memlock(capabilities)]
}

fn effective_capabilities(root: &Path) -> u64 {
    let status = fs::read_to_string(root.join("proc/self/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn privileges(is_root: bool, capabilities: u64) -> Check {
    const NAME: &str = "privileges";
    let missing: Vec<_> = CAPABILITIES
        .into_iter()
        .filter(|(bit, _)| capabilities & (1 << bit) == 0)
        .map(|(_, name)| name)
        .collect();
    match (is_root, missing.is_empty()) {
        (true, true) => Check::ok(NAME, "root with the capabilities that dmmd uses"),
        (true, false) => Check::warn(
            NAME,
            format!("root without {}", missing.join(", ")),
            "give them to the container or service that runs dmmd",
        ),
        (false, _) => Check::fail(
            NAME,
            "not root, and dmmd needs to be",
            "run dmmd and this check as root; clients need no privilege",
        ),
    }
}

fn descriptors() -> Check {
    const NAME: &str = "open files";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard >= DESCRIPTORS => Check::ok(NAME, format!("at most {hard}")),
        Ok((_, hard)) => Check::warn(
            NAME,
            format!("at most {hard}, enough for {} clients", hard / 8),
            format!("raise the limit to {DESCRIPTORS} (LimitNOFILE= of the service, ulimit -n)"),
        ),
        Err(e) => Check::warn(NAME, format!("the limit is unknown ({e})"), "see getrlimit(2)"),
    }
}

fn memlock(capabilities: u64) -> Check {
    const NAME: &str = "locked memory";
    let may_lock = capabilities & (1 << 14) != 0;
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((RLIM_INFINITY, _)) => Check::ok(NAME, "without limit"),
        Ok((soft, _)) if may_lock => {
            Check::ok(NAME, format!("{soft} bytes, which CAP_IPC_LOCK overrides"))
        }
        Ok((soft, _)) => Check::warn(
            NAME,
            format!("at most {soft} bytes"),
            "remove the limit (LimitMEMLOCK=infinity of the service, ulimit -l unlimited)",
        ),
        Err(e) => Check::warn(NAME, format!("the limit is unknown ({e})"), "see getrlimit(2)"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn privileges_are_root_with_capabilities() {
        assert_eq!(privileges(true, u64::MAX).level, Level::Ok);
        let some = privileges(true, !(1 << 12));
        assert_eq!(some.level, Level::Warn);
        assert_eq!(some.found, "root without CAP_NET_ADMIN");
        assert_eq!(privileges(false, u64::MAX).level, Level::Fail);
    }

    #[test]
    fn capabilities_are_read_from_proc() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(effective_capabilities(root.path()), 0);
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        let status = "Name:\tdmm\nCapPrm:\t0\nCapEff:\t00000000a80425fb\n";
        fs::write(root.path().join("proc/self/status"), status).unwrap();
        assert_eq!(effective_capabilities(root.path()), 0xa804_25fb);
    }
}
