//! The machine and the build that a run belongs to: figures mean nothing without them. No names of
//! hosts or users.

use std::fmt;
use std::fs;

use serde::Serialize;

/// Where and how a run was made.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    cpu: String,
    cores: usize,
    memory_mib: u64,
    kernel: String,
    profile: &'static str,
    load_before: String,
    kernel_congestion: String,
}

impl Machine {
    /// This machine now.
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let memory_kib = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory_kib.unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" },
            load_before: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            kernel_congestion: read("/proc/sys/net/ipv4/tcp_congestion_control").trim().to_owned(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cpu     {}, {} cores, {} MiB", self.cpu, self.cores, self.memory_mib)?;
        writeln!(f, "kernel  {}, congestion control {}", self.kernel, self.kernel_congestion)?;
        writeln!(f, "build   {}", self.profile)?;
        write!(f, "load    {} before the run", self.load_before)
    }
}
