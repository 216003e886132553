//! Ports in full, and the drops of the whole daemon.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::PortStatus;

/// Every port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// In the order of the configuration.
    pub ports: Vec<PortReport>,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortReport {
    /// What `status` says of it too.
    #[serde(flatten)]
    pub status: PortStatus,
    /// Whether the device verifies checksums of received frames.
    pub rx_checksum: bool,
    /// Whether the device fills in checksums of sent frames.
    pub tx_checksum: bool,
    /// Its queue pairs.
    pub queue_pairs: Vec<QueueReport>,
    /// The device's own counters, by its driver's names.
    pub xstats: BTreeMap<String, u64>,
}

/// One queue pair of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueReport {
    /// Its number.
    pub index: u16,
    /// The instance that drives it, as `stack.index`, if one does.
    pub instance: Option<String>,
    /// The core of that instance.
    pub core: Option<u16>,
    /// Frames that the instance received by it.
    pub rx_frames: u64,
    /// Frames that the instance wrote for it.
    pub tx_frames: u64,
}

/// Every reason for a drop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// By name.
    pub drops: Vec<Drop>,
}

/// One reason for drops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// Its name: `drop.<reason>` of all instances and stacks together, or `port.<port>.<counter>`.
    pub name: String,
    /// How many.
    pub count: u64,
    /// What was dropped, and why.
    pub meaning: String,
}
