//! From a configuration to ports, stacks and workers.
//!
//! Called once, by the control thread at start. Every failure is one error that names the part and
//! the remedy.
#![forbid(unsafe_code)]

mod host;
#[cfg(feature = "dpdk")]
mod hugepages;
pub mod ports;
mod stacks;

use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use anyhow::Context;
use crossbeam_channel::{Receiver, unbounded};
use dmm_admin::config::{Config, Cores};
use dmm_proto::session::{Beacon, StackInfo};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::counters::{InstanceCounters, WorkerCounters};
use crate::instance::binding::Bindings;
use crate::instance::inbox::Inbox;
use crate::instance::{Instance, InstanceConfig, InstanceParts};
use crate::worker::idle::Idler;
use crate::worker::message::{FromWorker, WorkerEnds, WorkerHandle};
use crate::worker::waker::Waker;
use crate::worker::{Worker, WorkerConfig};
use ports::Ports;

/// Sockets of one instance at most: the clients' quotas bound each client, this bounds them
/// together, at 256 bytes of table and some hundred of stack state a socket.
const INSTANCE_SOCKETS_MAX: u32 = 1 << 20;

/// Where an instance stands, for reports.
pub struct InstancePlace {
    /// Index of its stack.
    pub stack: usize,
    /// Its shard.
    pub shard: usize,
    /// Its worker.
    pub worker: u32,
    /// Its counters.
    pub counters: Arc<InstanceCounters>,
}

/// The running parts, as the control thread holds them.
pub struct Machine {
    /// The ports; dropping them stops the devices.
    pub ports: Ports,
    /// What the daemon shows to all clients.
    pub beacon: Beacon,
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

/// A worker before it is started.
struct Plan {
    core: u16,
    instances: Vec<Instance>,
    handle: WorkerHandle,
    ends: WorkerEnds,
    counters: Arc<WorkerCounters>,
}

/// Starts everything that `config` describes.
pub fn start(config: &Config, file_prefix: Option<&str>) -> anyhow::Result<Machine> {
    let cores = Cores::of_this_process()?;
    config.validate_on(&cores)?;
    let first_core = cores.first().context("no core may be used: widen the affinity mask")?;
    let mut warnings = host::warnings();
    let mut ports = Ports::start(config, file_prefix, &mut warnings)?;
    let beacon = Beacon::create().context("cannot make the beacon")?;
    let (to_control, answers) = unbounded();
    let answered = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let answered = Arc::new(EventFd::from_value_and_flags(0, answered)?);

    let mut plans: Vec<Plan> = Vec::new();
    for core in config.stacks.iter().flat_map(|stack| stack.instance_cores(first_core)) {
        if plans.iter().any(|plan| plan.core == core) {
            continue;
        }
        let index = u32::try_from(plans.len())?;
        let waker = Waker::new(beacon.worker(index)).context("cannot make a worker's eventfd")?;
        let (to_worker, messages) = unbounded();
        plans.push(Plan {
            core,
            instances: Vec::new(),
            handle: WorkerHandle { core, messages: to_worker, waker: waker.clone() },
            ends: WorkerEnds {
                messages,
                answers: to_control.clone(),
                control: Arc::clone(&answered),
                waker,
            },
            counters: Arc::default(),
        });
    }

    let (mut instances, mut stacks) = (Vec::new(), Vec::new());
    for (stack_index, stack) in config.stacks.iter().enumerate() {
        let cores = stack.instance_cores(first_core);
        let worker_of = |core: u16| plans.iter().position(|plan| plan.core == core);
        let workers: Vec<usize> = cores.iter().filter_map(|&core| worker_of(core)).collect();
        let inboxes: Arc<[Inbox]> =
            workers.iter().map(|&w| Inbox::new(plans[w].handle.waker.clone())).collect();
        let device_node = ports.get(&stack.port)?.info().numa_node;
        for &core in &cores {
            let node = host::node_of_core(std::path::Path::new("/"), core);
            if let (Some(node), Some(device)) = (node, device_node)
                && node != device
            {
                warnings.push(format!(
                    "stack \"{}\" runs on core {core} of NUMA node {node}, and its port is on \
                     node {device}: choose cores of that node",
                    stack.name
                ));
            }
        }
        let bindings = Arc::new(Bindings::default());
        let first_instance = u32::try_from(instances.len())?;
        stacks.push(StackInfo {
            name: stack.name.to_string(),
            first_instance,
            instances: u32::try_from(workers.len())?,
        });
        for (shard, &worker) in workers.iter().enumerate() {
            let (rx, tx) =
                ports.queue_pair(&stack.port, u16::try_from(shard)?).with_context(|| {
                    format!("stack \"{}\" cannot have queue {shard} of its port", stack.name)
                })?;
            let seed = stacks::secret_seed()?;
            let stack_config = stacks::config_of(
                stack,
                ports.get(&stack.port)?.info(),
                seed,
                INSTANCE_SOCKETS_MAX,
            );
            let kind = stack.kind.as_str();
            let built = dmm_stack::build(kind, &stack_config)
                .with_context(|| format!("stack \"{}\" cannot be built", stack.name))?;
            let counters = Arc::<InstanceCounters>::default();
            plans[worker].instances.push(Instance::new(InstanceParts {
                config: InstanceConfig {
                    stack: stack.name.to_string(),
                    index: u32::try_from(instances.len())?,
                    shard,
                    first_instance,
                    tcp_buffers: (stack.tcp.rx_buffer, stack.tcp.tx_buffer),
                    udp_buffers: (stack.udp.rx_buffer, stack.udp.tx_buffer),
                    backlog_max: stack.tcp.backlog_max,
                    sockets_max: INSTANCE_SOCKETS_MAX,
                },
                stack: built,
                rx,
                tx,
                inboxes: Arc::clone(&inboxes),
                bindings: Arc::clone(&bindings),
                counters: Arc::clone(&counters),
                seed,
            }));
            let worker = u32::try_from(worker)?;
            instances.push(InstancePlace { stack: stack_index, shard, worker, counters });
        }
    }

    let origin = Clock::now();
    let (mut workers, mut worker_counters, mut threads) = (Vec::new(), Vec::new(), Vec::new());
    for (index, plan) in (0_u32..).zip(plans) {
        let spin = Duration::from_micros(u64::from(config.workers.spin_us));
        let idler = Idler::new(config.workers.idle, spin).context("cannot make an epoll")?;
        let worker_config = WorkerConfig {
            index,
            core: plan.core,
            instances: plan.instances,
            origin,
            counters: Arc::clone(&plan.counters),
        };
        let worker = Worker::new(worker_config, plan.ends, idler)?;
        let register = ports.thread_registration();
        let thread = std::thread::Builder::new()
            .name(format!("dmm-worker-{index}"))
            .spawn(move || {
                let _registered = register();
                worker.run();
            })
            .context("cannot start a worker thread")?;
        threads.push(thread);
        workers.push(plan.handle);
        worker_counters.push(plan.counters);
    }
    let hugepages = ports.hugepages();
    Ok(Machine {
        ports,
        beacon,
        workers,
        worker_counters,
        instances,
        stacks,
        answers,
        answered,
        threads,
        warnings,
        hugepages,
    })
}
