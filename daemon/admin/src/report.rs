//! What the daemon reports: plain documents, written by `dmmd`, read by `dmm` and by scripts.
//!
//! A reader ignores keys that it does not know, so that an older `dmm` reads a newer daemon. Must
//! never: hold anything that a client could choose the size of without a bound.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Idle;

mod ports;
mod sockets;

pub use ports::{Drop, Drops, PortReport, Ports, QueueReport};
pub use sockets::{Protocol, SocketRow, SocketState, Sockets};

/// The daemon as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Where it listens.
    pub socket: PathBuf,
    /// Whether packet buffers lie in huge pages.
    pub hugepages: bool,
    /// The worker threads.
    pub workers: Vec<WorkerStatus>,
    /// The stacks.
    pub stacks: Vec<StackStatus>,
    /// The ports.
    pub ports: Vec<PortStatus>,
    /// Client sessions.
    pub sessions: u64,
    /// Sockets of all clients.
    pub sockets: u64,
    /// Connections that go on to their end without a client.
    pub orphans: u64,
    /// Chunks of all arenas that hold or await payload.
    pub chunks_used: u64,
    /// Chunks that all arenas have room for.
    pub chunks_total: u64,
    /// What an operator should know, such as memory in 4 KiB pages.
    pub warnings: Vec<String>,
}

/// One worker thread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The core that it is pinned to.
    pub core: u16,
    /// The instances that it runs, as `stack.index`.
    pub instances: Vec<String>,
    /// What it does when idle.
    pub mode: Idle,
    /// Share of recent turns that found work, 0 to 1.
    pub busy: f64,
    /// Times it was woken.
    pub wakeups: u64,
    /// Times it slept.
    pub sleeps: u64,
    /// Turns of its loop.
    pub turns: u64,
}

/// One stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StackStatus {
    /// Its name.
    pub name: String,
    /// Its kind, as the configuration writes it.
    pub kind: String,
    /// Its port's name.
    pub port: String,
    /// Its addresses with prefix lengths.
    pub addresses: Vec<String>,
    /// Its default routers.
    pub gateways: Vec<IpAddr>,
    /// Congestion control of TCP, as the configuration writes it.
    pub congestion: String,
    /// Its instances.
    pub instances: Vec<InstanceStatus>,
    /// Sockets on all instances.
    pub sockets: u64,
}

/// One instance of a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// The core of its worker.
    pub core: u16,
    /// The queue pair that it drives.
    pub queue: u16,
    /// Sockets on it.
    pub sockets: u64,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// Its name.
    pub name: String,
    /// Its device, as configured.
    pub device: String,
    /// The driver behind it.
    pub driver: String,
    /// Its Ethernet address.
    pub mac: String,
    /// Largest layer-3 packet in bytes.
    pub mtu: u16,
    /// Queue pairs.
    pub queues: u16,
    /// Whether the link is up.
    pub link_up: bool,
    /// Link speed in megabits per second, 0 if unknown.
    pub speed_mbps: u32,
    /// How it wakes a sleeping worker.
    pub wake: WakeKind,
    /// Whether the device itself spreads flows over the queues.
    pub rss: bool,
    /// NUMA node of the device, if known.
    pub numa_node: Option<u32>,
    /// Its counters.
    pub stats: PortCounters,
}

/// How a port wakes a sleeping worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WakeKind {
    /// By a descriptor that becomes readable.
    Fd,
    /// Not at all: the worker naps.
    Timer,
}

/// Frames and bytes of a port since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCounters {
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames dropped by the device for want of a buffer or descriptor.
    pub rx_missed: u64,
    /// Frames received with an error.
    pub rx_errors: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames that the device refused to send.
    pub tx_errors: u64,
}

/// Everything that is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Counters by flat name, with dots between its parts:
    ///
    /// ```text
    /// worker.0.turns              a worker
    /// instance.fast.0.rx.frames   what the daemon counts around an instance of a stack
    /// stack.fast.0.rx.frames      what the stack in that instance counts
    /// drop.<reason>               all drops of one reason, on all instances and their stacks
    /// refused.<reason>            clients and operators that were refused
    /// port.p0.<name>              a port's own, by the names of its driver
    /// sessions.opened             sessions
    /// ```
    pub counters: BTreeMap<String, u64>,
    /// The client sessions.
    pub sessions: Vec<SessionStats>,
}

/// What one client uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStats {
    /// Its process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its program's name.
    pub name: String,
    /// Sockets open now.
    pub sockets: u64,
    /// Sockets opened since the session began.
    pub sockets_opened: u64,
    /// Bytes of its arena in use.
    pub bytes: u64,
    /// Operations that it submitted.
    pub ops: u64,
}

/// What came of an echo request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pong {
    /// The stack that sent it.
    pub stack: String,
    /// Microseconds until the answer came, if one came.
    pub round_trip_us: Option<f64>,
    /// The answer's TTL or hop limit.
    pub hop_limit: Option<u8>,
    /// Why none came.
    pub error: Option<String>,
}
