//! From a configuration to ports, stacks and workers.
//!
//! Called once, by the control thread at start. Every failure is one error that names the part and
//! the remedy.
#![forbid(unsafe_code)]

mod host;
#[cfg(feature = "dpdk")]
mod hugepages;
pub mod ports;
mod stack_config;
mod stacks;
mod workers;

use std::sync::Arc;
use std::time::Instant as Clock;

use anyhow::Context;
use crossbeam_channel::Receiver;
use dmm_admin::config::{Config, Cores};
use dmm_proto::session::{Beacon, StackInfo};
use nix::sys::eventfd::EventFd;

use crate::counters::WorkerCounters;
use crate::worker::message::{FromWorker, WorkerHandle};
use ports::Ports;
pub use stacks::InstancePlace;
use stacks::Stacks;
use workers::Answers;

/// The running parts, as the control thread holds them.
pub struct Machine {
    /// The ports; dropping them stops the devices.
    pub ports: Ports,
    /// What the daemon shows to all clients.
    pub beacon: Beacon,
    /// When the workers' time began.
    pub origin: Clock,
    /// The workers.
    pub workers: Vec<WorkerHandle>,
    /// What each worker counts.
    pub worker_counters: Vec<Arc<WorkerCounters>>,
    /// All instances.
    pub instances: Vec<InstancePlace>,
    /// The stacks as clients see them.
    pub stacks: Vec<StackInfo>,
    /// What workers answer.
    pub answers: Receiver<FromWorker>,
    /// Tells of answers.
    pub answered: Arc<EventFd>,
    /// Threads to join at the end.
    pub threads: Vec<std::thread::JoinHandle<()>>,
    /// What an operator should know.
    pub warnings: Vec<String>,
    /// Whether packet memory lies in huge pages.
    pub hugepages: bool,
}

/// Starts everything that `config` describes.
pub fn start(config: &Config, file_prefix: Option<&str>) -> anyhow::Result<Machine> {
    let cores = Cores::of_this_process()?;
    config.validate_on(&cores)?;
    let first_core = cores.first().context("no core may be used: widen the affinity mask")?;
    let mut warnings: Vec<_> = config.warnings().iter().map(ToString::to_string).collect();
    warnings.extend(host::warnings());
    let mut ports = Ports::start(config, file_prefix, &mut warnings)?;
    let beacon = Beacon::create().context("cannot make the beacon")?;
    let answers = Answers::new()?;

    let used_cores = config.stacks.iter().flat_map(|stack| stack.instance_cores(first_core));
    let mut plans = workers::plan(used_cores, &beacon, &answers)?;
    let mut stacks = Stacks::default();
    for stack in &config.stacks {
        let cores = stack.instance_cores(first_core);
        stacks.add(stack, &cores, &mut ports, &mut plans)?;
        warnings.extend(stacks::numa_warnings(stack, &cores, &ports)?);
    }
    let running = workers::launch(plans, &config.workers, &ports)?;
    let hugepages = ports.hugepages();
    Ok(Machine {
        ports,
        beacon,
        origin: running.origin,
        workers: running.handles,
        worker_counters: running.counters,
        instances: stacks.instances,
        stacks: stacks.infos,
        answers: answers.answers,
        answered: answers.answered,
        threads: running.threads,
        warnings,
        hugepages,
    })
}
