//! Ports and the in-memory wires that may join two of them.

#![forbid(unsafe_code)]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::device::Device;
use super::limits;
use super::values::{Name, Probability};

/// A port: a device that the daemon owns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortConfig {
    /// What stacks call it.
    pub name: Name,
    /// A PCI address, a DPDK virtual device such as `net_tap0,iface=dmm0`, `wire:NAME`, or
    /// `ring:NAME`, of which two ports are the ends of a pair of DPDK's rings.
    pub device: Device,
    /// Queue pairs: one per instance of the port's stack, which is the default. As many as wanted on
    /// a port without a stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = limits::QUEUES_MAX))]
    pub queues: Option<u16>,
    /// Largest layer-3 packet in bytes. Default: 1500.
    #[serde(default = "default_mtu")]
    #[schemars(range(min = limits::MTU_MIN, max = limits::MTU_MAX))]
    pub mtu: u16,
}

/// An in-memory wire; exactly two ports name it as `wire:NAME`. What it does to frames, it does to
/// both directions alike and in an order that the seed fixes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WireConfig {
    /// What ports call it.
    pub name: Name,
    /// One-way delay in microseconds. Default: 0.
    #[serde(default)]
    #[schemars(range(max = limits::WIRE_DELAY_US_MAX))]
    pub delay_us: u32,
    /// Rate of each direction in megabits per second. Default: 0, which is without limit.
    #[serde(default)]
    #[schemars(range(max = limits::WIRE_RATE_MBPS_MAX))]
    pub rate_mbps: u32,
    /// How likely a frame is lost. Default: 0.
    #[serde(default)]
    pub loss: Probability,
    /// How likely a frame arrives twice. Default: 0.
    #[serde(default)]
    pub duplicate: Probability,
    /// How likely a frame is overtaken by later ones. Default: 0.
    #[serde(default)]
    pub reorder: Probability,
    /// How likely one bit of a frame is flipped. Default: 0.
    #[serde(default)]
    pub corrupt: Probability,
    /// Where the wire's random numbers start. Default: 1.
    #[serde(default = "default_seed")]
    pub seed: u64,
}

const fn default_mtu() -> u16 {
    1500
}

const fn default_seed() -> u64 {
    1
}
