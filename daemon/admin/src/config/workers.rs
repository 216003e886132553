//! What workers do when idle, and where packet buffers live.

#![forbid(unsafe_code)]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::limits;

/// What a worker does when it has nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// Spins for `spin_us`, then sleeps.
    #[default]
    Adaptive,
    /// Spins for ever: the lowest latency, and a whole core.
    Busy,
    /// Sleeps at once.
    Interrupt,
}

/// How workers idle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkersConfig {
    /// `adaptive`, `busy` or `interrupt`. Default: `adaptive`.
    pub idle: Idle,
    /// Microseconds that an `adaptive` worker spins before it sleeps. Default: 50, a little more
    /// than waking a sleeping thread costs.
    #[schemars(range(max = limits::SPIN_US_MAX))]
    pub spin_us: u32,
}

impl Default for WorkersConfig {
    fn default() -> Self {
        Self { idle: Idle::Adaptive, spin_us: 50 }
    }
}

/// Whether packet buffers lie in huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Hugepages {
    /// In huge pages if enough are free, else in 4 KiB pages.
    #[default]
    Auto,
    /// In huge pages, or the daemon does not start.
    Require,
    /// In 4 KiB pages.
    Never,
}

/// The memory of packet buffers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// `auto`, `require` or `never`. Default: `auto`.
    pub hugepages: Hugepages,
    /// MiB of packet memory to set aside for each DPDK port. Default: 32. How much of it is used
    /// follows from the port: 3.2 MiB of buffers for a queue pair of 512 descriptors each way at an
    /// MTU of 1500, more with larger frames. The daemon takes twice that for all ports together, since
    /// drivers need memory too, and at least 128 MiB.
    #[schemars(range(min = limits::MEMPOOL_MB_MIN, max = limits::MEMPOOL_MB_MAX))]
    pub mempool_mb: u32,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { hugepages: Hugepages::Auto, mempool_mb: 32 }
    }
}
