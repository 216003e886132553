//! Ports from their configuration: ends of in-memory wires, and DPDK's devices.
#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::Context;
#[cfg(feature = "dpdk")]
use dmm_admin::config::limits;
use dmm_admin::config::{Config, Name, PortConfig, WireConfig};
use dmm_port::wire::{self, WirePort};
use dmm_port::{Port, RxQueue, TxQueue, Wake};

/// The started ports, by name.
pub struct Ports {
    ports: Vec<Started>,
    hugepages: bool,
    #[cfg(feature = "dpdk")]
    eal: Option<dmm_port::dpdk::Eal>,
}

/// A started port.
pub struct Started {
    /// Its name in the configuration.
    pub name: Name,
    /// The port.
    pub port: Box<dyn Port>,
    /// Whether it wakes a sleeping worker by a descriptor; known once a queue was handed out.
    pub wakes: bool,
}

impl Ports {
    /// Starts all ports of `config`.
    pub fn start(
        config: &Config,
        file_prefix: Option<&str>,
        warnings: &mut Vec<String>,
    ) -> anyhow::Result<Self> {
        let mut ports = Self {
            ports: Vec::new(),
            hugepages: false,
            #[cfg(feature = "dpdk")]
            eal: None,
        };
        for wire in &config.wires {
            ports.start_wire(config, wire)?;
        }
        let devices: Vec<_> = config.ports.iter().filter(|p| p.device.wire().is_none()).collect();
        if !devices.is_empty() {
            ports.start_devices(config, &devices, file_prefix, warnings)?;
        }
        Ok(ports)
    }

    /// Hands out a queue pair of the port called `name`.
    pub fn queue_pair(
        &mut self,
        name: &Name,
        index: u16,
    ) -> anyhow::Result<(Box<dyn RxQueue>, Box<dyn TxQueue>)> {
        let found = self.ports.iter_mut().find(|started| started.name == *name);
        let started = found.with_context(|| format!("port \"{name}\" was not started"))?;
        let (rx, tx) = started.port.queue_pair(index)?;
        started.wakes = matches!(rx.wake(), Wake::Fd(_));
        Ok((rx, tx))
    }

    /// The port called `name`.
    pub fn get(&self, name: &Name) -> anyhow::Result<&dyn Port> {
        let found = self.ports.iter().find(|started| started.name == *name);
        found
            .map(|started| started.port.as_ref())
            .with_context(|| format!("port \"{name}\" was not started"))
    }

    /// All ports.
    pub fn iter(&self) -> impl Iterator<Item = &Started> {
        self.ports.iter()
    }

    /// Whether packet memory lies in huge pages.
    pub fn hugepages(&self) -> bool {
        self.hugepages
    }

    fn push(&mut self, name: &Name, port: Box<dyn Port>) {
        self.ports.push(Started { name: name.clone(), port, wakes: false });
    }

    fn start_wire(&mut self, config: &Config, wire: &WireConfig) -> anyhow::Result<()> {
        let ends: Vec<_> =
            config.ports.iter().filter(|port| port.device.wire() == Some(&wire.name)).collect();
        let queues = ends.iter().map(|port| config.queues(port)).max().unwrap_or(1);
        // With fewer instances at one end, queues there would have no reader: then all frames come
        // to the first, and the instances sort them out among themselves.
        let rss = ends.iter().all(|port| config.queues(port) == queues);
        let wire_config = wire::WireConfig {
            name: wire.name.to_string(),
            seed: wire.seed,
            delay: Duration::from_micros(u64::from(wire.delay_us)),
            rate_mbps: (wire.rate_mbps > 0).then_some(wire.rate_mbps),
            loss: wire.loss.get(),
            duplicate: wire.duplicate.get(),
            reorder: wire.reorder.get(),
            corrupt: wire.corrupt.get(),
            mtu: ends.first().map_or(1500, |port| port.mtu),
            queues,
            rss,
            ..wire::WireConfig::default()
        };
        let (left, right) = WirePort::pair(&wire_config)
            .with_context(|| format!("wire \"{}\" cannot be made", wire.name))?;
        for (config, end) in ends.into_iter().zip([left, right]) {
            self.push(&config.name, Box::new(end));
        }
        Ok(())
    }

    #[cfg(not(feature = "dpdk"))]
    fn start_devices(
        &mut self,
        _: &Config,
        devices: &[&PortConfig],
        _: Option<&str>,
        _: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        anyhow::bail!(
            "port \"{}\" needs DPDK, which this dmmd was built without: build it with the feature \
             \"dpdk\", or use a wire",
            devices[0].name
        )
    }

    #[cfg(feature = "dpdk")]
    fn start_devices(
        &mut self,
        config: &Config,
        devices: &[&PortConfig],
        file_prefix: Option<&str>,
        warnings: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        use dmm_port::dpdk::{
            DEFAULT_MEMORY_MB, DpdkPort, DpdkPortConfig, Eal, EalConfig, HugePages,
        };
        const _: () = assert!(limits::PACKET_MEMORY_MB_MIN == DEFAULT_MEMORY_MB);

        let memory_mb = config.packet_memory_mb();
        let bytes = u64::from(memory_mb) << 20;
        self.hugepages = super::hugepages::choose(&config.memory, bytes, warnings)?;
        let names: Vec<String> = devices.iter().map(|port| port.device.to_string()).collect();
        let is_pci = |name: &&String| {
            name.chars().next().is_some_and(|c| c.is_ascii_hexdigit())
                && name.contains(':')
                && !name.contains(',')
        };
        // vhost-user and memif hand their memory to the peer, a descriptor a file.
        let shares_memory =
            names.iter().any(|n| ["net_memif", "net_virtio_user"].iter().any(|d| n.starts_with(d)));
        let eal = Eal::init(&EalConfig {
            huge: if self.hugepages { HugePages::Use } else { HugePages::Never },
            memory_mb: (!self.hugepages).then_some(memory_mb),
            file_prefix: file_prefix.map(str::to_owned),
            in_memory: file_prefix.is_none(),
            single_file_segments: shares_memory,
            pci: names.iter().filter(is_pci).cloned().collect(),
            ..EalConfig::default()
        })
        .context("DPDK did not start")?;
        let port_config = |port: &PortConfig| DpdkPortConfig {
            queues: config.queues(port),
            mtu: port.mtu,
            ..DpdkPortConfig::new(port.name.as_str(), &port.device.to_string())
        };
        for (i, port) in devices.iter().enumerate() {
            let failed = || format!("port \"{}\" did not start", port.name);
            let Some(ring) = port.device.ring() else {
                let started = DpdkPort::start(&eal, &port_config(port)).with_context(failed)?;
                self.push(&port.name, Box::new(started));
                continue;
            };
            // Both ends start with the first.
            let is_other = |other: &&&PortConfig| other.device.ring() == Some(ring);
            if let Some(other) = devices[i + 1..].iter().find(is_other) {
                let (left, right) =
                    DpdkPort::start_joined(&eal, &port_config(port), &port_config(other))
                        .with_context(failed)?;
                self.push(&port.name, Box::new(left));
                self.push(&other.name, Box::new(right));
            }
        }
        self.eal = Some(eal);
        Ok(())
    }

    /// What each worker thread calls first, and whose result it holds until its end.
    #[cfg(feature = "dpdk")]
    pub fn thread_registration(
        &self,
    ) -> impl FnOnce() -> Option<dmm_port::dpdk::RegisteredThread> + Send + 'static {
        let eal = self.eal.clone();
        move || match eal?.register_thread() {
            Ok(registered) => Some(registered),
            Err(error) => {
                tracing::warn!(%error, "a worker runs without mempool caches of its own");
                None
            }
        }
    }

    /// What each worker thread calls first: nothing, without DPDK.
    #[cfg(not(feature = "dpdk"))]
    pub fn thread_registration(&self) -> impl FnOnce() + Send + 'static {
        || ()
    }
}
