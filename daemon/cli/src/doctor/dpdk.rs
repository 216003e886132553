//! Whether the DPDK libraries are installed, in the version that the daemon is built for.

use std::process::Command;

use super::Check;

/// The long-term release that the daemon is built and tested with.
const RELEASE: &str = "22.11";

/// The number in its libraries' names (`librte_eal.so.23`).
const SONAME: &str = "librte_eal.so.23";

/// Checks the installed version.
pub(super) fn library() -> Check {
    let version = run("pkg-config", &["--modversion", "libdpdk"]);
    let loader = run("ldconfig", &["-p"]).or_else(|| run("/sbin/ldconfig", &["-p"]));
    judge(version.as_deref(), loader.as_deref())
}

/// The standard output of a program that succeeds.
fn run(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Judges what pkg-config and the loader's cache say; either may be missing.
fn judge(version: Option<&str>, loader: Option<&str>) -> Check {
    const NAME: &str = "dpdk";
    let remedy = format!("install DPDK {RELEASE} (apt-get install dpdk libdpdk-dev)");
    let library = loader.and_then(|list| {
        list.lines().find_map(|line| {
            line.split_whitespace().next().filter(|name| name.starts_with("librte_eal.so."))
        })
    });
    match (version.map(str::trim), library) {
        (Some(version), _) if version.strip_prefix(RELEASE).is_some_and(is_patch) => {
            Check::ok(NAME, format!("version {version}"))
        }
        (Some(version), _) => {
            Check::warn(NAME, format!("version {version}, untried with this dmmd"), remedy)
        }
        (None, Some(SONAME)) => Check::ok(NAME, format!("{SONAME}, which is {RELEASE}")),
        (None, Some(library)) => {
            Check::warn(NAME, format!("{library}, untried with this dmmd"), remedy)
        }
        (None, None) => Check::fail(NAME, "its libraries are not installed", remedy),
    }
}

/// Whether this is what may follow the release: nothing, or a patch level.
fn is_patch(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn versions_are_judged() {
        let cache = |name: &str| format!("9 libs found\n\t{name} (libc6,x86-64) => /lib/{name}\n");
        assert_eq!(judge(Some("22.11.7\n"), None).level, Level::Ok);
        assert_eq!(judge(Some("22.110"), None).level, Level::Warn);
        assert_eq!(judge(Some("24.11.0"), Some(&cache(SONAME))).level, Level::Warn);
        assert_eq!(judge(None, Some(&cache(SONAME))).level, Level::Ok);
        assert_eq!(judge(None, Some(&cache("librte_eal.so.25"))).level, Level::Warn);
        let none = judge(None, Some(&cache("libc.so.6")));
        assert_eq!(none.level, Level::Fail);
        assert!(none.remedy.unwrap().contains("apt-get install"));
    }
}
