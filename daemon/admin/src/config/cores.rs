//! The cores of this machine, and those that this process may run on.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::{fs, io};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use super::error::ConfigError;

/// Which cores there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cores {
    /// The cores that are online.
    pub online: BTreeSet<u16>,
    /// Those of them that the affinity mask of this process allows.
    pub allowed: BTreeSet<u16>,
}

/// Where the kernel lists the cores that are online (Documentation/admin-guide/cputopology.rst).
const ONLINE: &str = "/sys/devices/system/cpu/online";

impl Cores {
    /// The cores as this process finds them.
    ///
    /// # Errors
    /// If the affinity mask cannot be read (sched_getaffinity(2)).
    pub fn of_this_process() -> Result<Self, ConfigError> {
        let mask = sched_getaffinity(Pid::from_raw(0)).map_err(|e| ConfigError::Cores(e.into()))?;
        let allowed: BTreeSet<u16> = (0..CpuSet::count())
            .filter(|core| mask.is_set(*core).unwrap_or(false))
            .filter_map(|core| u16::try_from(core).ok())
            .collect();
        // A container may hide /sys; then what is allowed is all that is known to exist.
        let listed = fs::read_to_string(ONLINE).ok().and_then(|text| parse_core_list(&text));
        let mut online = listed.unwrap_or_default();
        online.extend(&allowed);
        if allowed.is_empty() {
            return Err(ConfigError::Cores(io::Error::other("the affinity mask is empty")));
        }
        Ok(Self { online, allowed })
    }

    /// The first core that this process may use.
    #[must_use]
    pub fn first(&self) -> Option<u16> {
        self.allowed.first().copied()
    }
}

/// Parses the kernel's list format, such as `0-3,8`. `None` if it is anything else.
#[must_use]
pub fn parse_core_list(text: &str) -> Option<BTreeSet<u16>> {
    let mut cores = BTreeSet::new();
    for range in text.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cores.extend(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?);
    }
    Some(cores)
}

/// Writes cores as the kernel does, such as `0-3,8`.
#[must_use]
pub fn format_core_list(cores: &BTreeSet<u16>) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for &core in cores {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(core) => *last = core,
            _ => runs.push((core, core)),
        }
    }
    let run = |&(a, b): &(u16, u16)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    runs.iter().map(run).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists_read_and_write_alike() {
        let cores = parse_core_list("0-2,8\n").unwrap();
        assert_eq!(cores, BTreeSet::from([0, 1, 2, 8]));
        assert_eq!(format_core_list(&cores), "0-2,8");
        assert_eq!(parse_core_list("\n").unwrap(), BTreeSet::new());
        assert_eq!(format_core_list(&BTreeSet::new()), "");
        for text in ["x", "1-", "0-99999999", "-1"] {
            assert_eq!(parse_core_list(text), None, "{text}");
        }
    }

    #[test]
    fn this_process_runs_on_some_core() {
        let cores = Cores::of_this_process().unwrap();
        assert!(cores.allowed.is_subset(&cores.online));
        assert_eq!(cores.first(), cores.allowed.first().copied());
        assert!(cores.first().is_some());
    }
}
