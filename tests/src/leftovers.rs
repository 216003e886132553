//! What a daemon's life could leave behind on the machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::command::run;
use crate::deadline::eventually;

/// Everything of that kind that there is at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftovers(BTreeSet<String>);

impl Leftovers {
    /// Lists namespaces, links, files of DPDK and in the page directory, our files in the temporary
    /// folder and in /run, and our processes.
    #[must_use]
    pub fn now() -> Self {
        let mut all = BTreeSet::new();
        let mut add = |kind: &str, names: Vec<String>| {
            all.extend(names.into_iter().map(|name| format!("{kind} {name}")));
        };
        add("namespace", names(run(Command::new("ip").args(["netns", "list"]))));
        add("link", names(run(Command::new("ip").args(["-br", "link"]))));
        for folder in ["/dev/hugepages", "/var/run/dpdk", "/run/dmm", "/dev/shm"] {
            add(folder, files(Path::new(folder), |_| true));
        }
        add("temporary", files(&std::env::temp_dir(), |name| name.starts_with("dmm-tests-")));
        add("process", processes());
        Self(all)
    }

    /// Waits until nothing is there that was not there at this moment.
    pub fn wait_until_no_more(&self) {
        eventually("the end of what was left behind", || {
            let more: Vec<_> = Self::now().0.difference(&self.0).cloned().collect();
            if more.is_empty() { Ok(()) } else { Err(more.join(", ")) }
        });
    }
}

/// The first word of each line.
fn names(text: String) -> Vec<String> {
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn files(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| wanted(name)).collect()
}

/// Processes of this project's programs, by number and name (proc_pid_comm(5)).
fn processes() -> Vec<String> {
    let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let named = files(Path::new("/proc"), is_number).into_iter().filter_map(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        let ours = ["dmmd", "dmm", "dmm-peer", "dmm-wire"].contains(&name.trim_end());
        ours.then(|| format!("{pid} {}", name.trim_end()))
    });
    named.collect()
}
