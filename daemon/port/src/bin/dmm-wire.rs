//! `dmm-wire`: an impaired cable between two TAP interfaces or DPDK devices.
//!
//! Owns: the clock, the signals and the command line of one [`Relay`]. Started by hand or by tests,
//! as root. Must never: print anything but `ready` before it ends, so that scripts can wait for it.

#![forbid(unsafe_code)]

use std::io::{Write, stdout};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use dmm_port::Instant;
#[cfg(feature = "dpdk")]
use dmm_port::dpdk::{DpdkPort, DpdkPortConfig, Eal, EalConfig};
use dmm_port::relay::{Plug, Relay, RelayStats, TapPort};
use dmm_port::wire::WireConfig;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Joins two TAP interfaces or DPDK devices by a wire that can delay, lose, duplicate, reorder and
/// corrupt frames.
///
/// Interfaces are created if they do not exist, and may be moved to other network namespaces while
/// this runs. A DPDK device is one whose name begins with `net_`, with its arguments, such as
/// `net_memif0,socket=/run/memif.sock`. It prints `ready` once both are attached, and on SIGTERM or
/// SIGINT the counters of each direction.
#[derive(Parser)]
#[command(name = "dmm-wire", version)]
struct Arguments {
    /// One TAP interface or DPDK device.
    #[arg(long, value_name = "PORT")]
    left: String,
    /// The other one.
    #[arg(long, value_name = "PORT")]
    right: String,
    /// Probability that a frame is lost, 0 to 1.
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    loss: f64,
    /// Probability that a frame arrives twice, 0 to 1.
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    duplicate: f64,
    /// Probability that a frame is held back so that others overtake it, 0 to 1.
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    reorder: f64,
    /// For how long at most a frame is held back, in microseconds.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    reorder_us: u64,
    /// Probability that a bit of a frame flips, 0 to 1.
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    corrupt: f64,
    /// How long frames travel, in microseconds.
    #[arg(long, default_value_t = 0, value_name = "N")]
    delay_us: u64,
    /// By how much more at most, in microseconds.
    #[arg(long, default_value_t = 0, value_name = "N")]
    jitter_us: u64,
    /// Speed of the wire in Mb/s; unlimited if not given.
    #[arg(long, value_name = "N")]
    rate_mbps: Option<u32>,
    /// Frames queued at most before a wire of limited speed.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    queue_limit: usize,
    /// Frames queued from which on packets are marked (RFC 3168), if their senders take marks.
    #[arg(long, value_name = "N")]
    mark_limit: Option<usize>,
    /// What the random numbers follow from.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Print the counters as one line of JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block().context("blocking SIGTERM and SIGINT")?;
    let stop = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .context("making a descriptor for signals")?;
    let mut devices = Devices::default();
    let left = devices.open(&arguments.left).context("opening the left side")?;
    let right = devices.open(&arguments.right).context("opening the right side")?;
    let mut relay = Relay::new(left, right, &arguments.wire_config()).context("making the wire")?;
    writeln!(stdout(), "ready").and_then(|()| stdout().flush()).context("printing 'ready'")?;

    let start = std::time::Instant::now();
    let clock = || Instant::ZERO + start.elapsed();
    let outcome = relay.run(stop.as_fd(), clock).context("forwarding frames");
    let report = if arguments.json { json(&relay.stats()) } else { text(&relay.stats()) };
    writeln!(stdout(), "{report}").context("printing the counters")?;
    outcome
}

/// DPDK's devices, if any are wanted.
#[derive(Default)]
struct Devices {
    #[cfg(feature = "dpdk")]
    eal: Option<Eal>,
}

impl Devices {
    fn open(&mut self, name: &str) -> anyhow::Result<Plug> {
        if name.starts_with("net_") {
            return self.start(name);
        }
        Ok(Plug::tap(TapPort::open(name)?)?)
    }

    #[cfg(feature = "dpdk")]
    fn start(&mut self, device: &str) -> anyhow::Result<Plug> {
        // vhost-user and memif hand all memory to the peer, a descriptor a file.
        let config = EalConfig { single_file_segments: true, ..EalConfig::default() };
        let eal = match &self.eal {
            Some(eal) => eal,
            None => self.eal.insert(Eal::init(&config)?),
        };
        Ok(Plug::port(Box::new(DpdkPort::start(eal, &DpdkPortConfig::new(device, device))?)))
    }

    #[cfg(not(feature = "dpdk"))]
    fn start(&mut self, device: &str) -> anyhow::Result<Plug> {
        anyhow::bail!("{device} needs DPDK, which this dmm-wire was built without")
    }
}

impl Arguments {
    fn wire_config(&self) -> WireConfig {
        WireConfig {
            name: format!("{}-{}", self.left, self.right),
            seed: self.seed,
            delay: Duration::from_micros(self.delay_us),
            jitter: Duration::from_micros(self.jitter_us),
            rate_mbps: self.rate_mbps,
            queue_limit: self.queue_limit,
            mark_limit: self.mark_limit,
            loss: self.loss,
            duplicate: self.duplicate,
            reorder: self.reorder,
            reorder_delay: Duration::from_micros(self.reorder_us),
            corrupt: self.corrupt,
            ..WireConfig::default()
        }
    }
}

const DIRECTIONS: [&str; 2] = ["left_to_right", "right_to_left"];

fn counters(stats: &RelayStats) -> impl Iterator<Item = (&'static str, u64)> {
    let relay = [("oversize", stats.oversize), ("refused", stats.refused)];
    stats.wire.named().into_iter().chain(relay)
}

fn json(stats: &[RelayStats; 2]) -> String {
    let direction = |stats| -> serde_json::Map<String, serde_json::Value> {
        counters(stats).map(|(name, count)| (name.to_owned(), count.into())).collect()
    };
    let [left, right] = DIRECTIONS;
    serde_json::json!({ left: direction(&stats[0]), right: direction(&stats[1]) }).to_string()
}

fn text(stats: &[RelayStats; 2]) -> String {
    let line = |(name, stats): (&str, &RelayStats)| {
        let counters = counters(stats).map(|(name, count)| format!(" {name} {count}"));
        format!("{name}:{}", counters.collect::<String>())
    };
    DIRECTIONS.into_iter().zip(stats).map(line).collect::<Vec<_>>().join("\n")
}
