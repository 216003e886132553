//! Stacks, from their configuration to the instances that workers run.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use dmm_admin::config::StackConfig;
use dmm_proto::session::StackInfo;

use super::ports::Ports;
use super::workers::{self, Plan};
use super::{host, stack_config};
use crate::counters::InstanceCounters;
use crate::instance::binding::Bindings;
use crate::instance::inbox::Inbox;
use crate::instance::{Instance, InstanceConfig, InstanceParts};

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

/// The stacks so far.
#[derive(Default)]
pub struct Stacks {
    /// All instances.
    pub instances: Vec<InstancePlace>,
    /// The stacks as clients see them.
    pub infos: Vec<StackInfo>,
}

/// What the instances of one stack have in common.
struct Shared {
    stack: usize,
    first_instance: u32,
    inboxes: Arc<[Inbox]>,
    bindings: Arc<Bindings>,
    fast_open_key: [u8; 16],
}

impl Stacks {
    /// Builds the instances of one stack, one on each of `cores`, and gives them to their workers.
    pub fn add(
        &mut self,
        config: &StackConfig,
        cores: &[u16],
        ports: &mut Ports,
        plans: &mut [Plan],
    ) -> anyhow::Result<()> {
        let workers: Vec<usize> =
            cores.iter().filter_map(|&core| workers::on_core(plans, core)).collect();
        let shared = Shared {
            stack: self.infos.len(),
            first_instance: u32::try_from(self.instances.len())?,
            inboxes: workers.iter().map(|&worker| Inbox::new(plans[worker].waker())).collect(),
            bindings: Arc::default(),
            fast_open_key: match config.tcp.fast_open_key {
                Some(key) => key.0,
                None => stack_config::secret()?,
            },
        };
        let v4 = config.addresses.iter().filter_map(|prefix| match prefix.address {
            IpAddr::V4(address) => Some((address, prefix.prefix_len)),
            IpAddr::V6(_) => None,
        });
        self.infos.push(StackInfo {
            name: config.name.to_string(),
            first_instance: shared.first_instance,
            instances: u32::try_from(workers.len())?,
            v4: v4.collect(),
        });
        for (shard, worker) in workers.into_iter().enumerate() {
            let counters = Arc::<InstanceCounters>::default();
            let index = u32::try_from(self.instances.len())?;
            let instance = build(config, &shared, shard, index, ports, Arc::clone(&counters))?;
            plans[worker].add(instance);
            let worker = u32::try_from(worker)?;
            self.instances.push(InstancePlace { stack: shared.stack, shard, worker, counters });
        }
        Ok(())
    }
}

fn build(
    config: &StackConfig,
    shared: &Shared,
    shard: usize,
    index: u32,
    ports: &mut Ports,
    counters: Arc<InstanceCounters>,
) -> anyhow::Result<Instance> {
    let name = &config.name;
    let (rx, tx) = ports
        .queue_pair(&config.port, u16::try_from(shard)?)
        .with_context(|| format!("stack \"{name}\" cannot have queue {shard} of its port"))?;
    let seed = stack_config::secret_seed()?;
    let port = ports.get(&config.port)?.info();
    let stack_config =
        stack_config::of(config, port, (seed, shared.fast_open_key), INSTANCE_SOCKETS_MAX);
    let stack = dmm_stack::build(config.kind.as_str(), &stack_config)
        .with_context(|| format!("stack \"{name}\" cannot be built"))?;
    Ok(Instance::new(InstanceParts {
        config: InstanceConfig {
            stack: name.to_string(),
            index,
            shard,
            first_instance: shared.first_instance,
            tcp_buffers: (config.tcp.rx_buffer, config.tcp.tx_buffer),
            udp_buffers: (config.udp.rx_buffer, config.udp.tx_buffer),
            backlog_max: config.tcp.backlog_max,
            sockets_max: INSTANCE_SOCKETS_MAX,
        },
        stack,
        rx,
        tx,
        inboxes: Arc::clone(&shared.inboxes),
        bindings: Arc::clone(&shared.bindings),
        counters,
        seed,
    }))
}

/// One warning for each of `cores` that is on another NUMA node than the stack's port.
pub fn numa_warnings(
    config: &StackConfig,
    cores: &[u16],
    ports: &Ports,
) -> anyhow::Result<Vec<String>> {
    let Some(device) = ports.get(&config.port)?.info().numa_node else { return Ok(Vec::new()) };
    let warnings = cores.iter().filter_map(|&core| {
        let node = host::node_of_core(Path::new("/"), core)?;
        (node != device).then(|| {
            format!(
                "stack \"{}\" runs on core {core} of NUMA node {node}, and its port is on node \
                 {device}: choose cores of that node",
                config.name
            )
        })
    });
    Ok(warnings.collect())
}
