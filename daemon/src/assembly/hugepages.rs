//! Whether packet memory lies in huge pages.
#![forbid(unsafe_code)]

use std::path::Path;

use anyhow::bail;
use dmm_admin::config::{Hugepages, MemoryConfig};
use dmm_hugepages::{Backing, Demand, Inventory};

/// Decides whether packet memory of `wanted_bytes` lies in huge pages.
pub fn choose(
    config: &MemoryConfig,
    wanted_bytes: u64,
    warnings: &mut Vec<String>,
) -> anyhow::Result<bool> {
    if config.hugepages == Hugepages::Never {
        return Ok(false);
    }
    let demand = [Demand { node: None, bytes: wanted_bytes }];
    let backing = Inventory::read(Path::new("/")).map(|i| Backing::choose(&i, &demand));
    let reason = match backing {
        Ok(Backing::HugePages { .. }) => return Ok(true),
        Ok(Backing::FallBack4K { reason, .. }) => reason,
        Err(error) => error.to_string(),
    };
    if config.hugepages == Hugepages::Require {
        bail!("memory.hugepages is \"require\", and {reason}");
    }
    warnings.push(format!("packet memory lies in 4 KiB pages: {reason}"));
    Ok(false)
}
