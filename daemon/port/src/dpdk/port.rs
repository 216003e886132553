//! A started DPDK port, and how it starts.
//!
//! Called by the daemon's control thread. Must never: burst.

use std::ffi::CStr;
use std::io;
use std::sync::Arc;

use dpdk_sys as dpdk;

use super::configure::{self, Outcome};
use super::device::Device;
use super::eal::Eal;
use super::error::Error;
use super::offload::TxChecksums;
use super::rings::{End, Rings};
use super::rx::DpdkRx;
use super::tx::DpdkTx;
use super::wake::{self, EventBells, WakeSource};
use crate::buffer::mac_from_name;
use crate::{Link, Port, PortInfo, PortStats, RxQueue, TxQueue};

/// What a port is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpdkPortConfig {
    /// Its name in the configuration.
    pub name: String,
    /// A PCI address (`0000:03:00.0`) or a virtual device (`net_tap0,iface=dmm0`).
    pub device: String,
    /// Number of rx/tx queue pairs, one per worker.
    pub queues: u16,
    /// Largest layer-3 packet in bytes.
    pub mtu: u16,
    /// Descriptors in each receive and transmit ring; the device may round or limit them.
    pub descriptors: u16,
}

impl DpdkPortConfig {
    /// Descriptors per ring where nothing else is asked for: 512 frames are 0.6 ms of 64-byte
    /// frames at 1 Gb/s, and a few turns of a busy worker at 10 Gb/s.
    pub const DEFAULT_DESCRIPTORS: u16 = 512;

    /// One queue pair, an MTU of 1500 and [`Self::DEFAULT_DESCRIPTORS`].
    #[must_use]
    pub fn new(name: &str, device: &str) -> Self {
        Self {
            name: name.to_owned(),
            device: device.to_owned(),
            queues: 1,
            mtu: 1500,
            descriptors: Self::DEFAULT_DESCRIPTORS,
        }
    }
}

/// A started ethdev. The device runs until this value and all of its queues are gone.
#[derive(Debug)]
pub struct DpdkPort {
    info: PortInfo,
    tx_checksums: TxChecksums,
    /// Which queue pairs were handed out.
    taken: Vec<bool>,
    device: Arc<Device>,
}

impl DpdkPort {
    /// Attaches, configures and starts the device. A virtual device that makes a network interface
    /// makes it in the calling thread's network namespace.
    ///
    /// # Errors
    /// Every [`Error`] but those of [`Eal::init`]; the device is detached again.
    pub fn start(eal: &Eal, config: &DpdkPortConfig) -> Result<Self, Error> {
        Self::start_device(Device::attach(eal, config)?, config)
    }

    /// Makes two ports of this process, joined by rings. Both have the queues of `left`.
    ///
    /// # Errors
    /// As [`DpdkPort::start`].
    pub fn start_joined(
        eal: &Eal,
        left: &DpdkPortConfig,
        right: &DpdkPortConfig,
    ) -> Result<(Self, Self), Error> {
        let right = &DpdkPortConfig { queues: left.queues, ..right.clone() };
        // One entry of a ring stays free.
        let entries = u32::from(left.descriptors.max(right.descriptors)).next_power_of_two() * 2;
        let rings = Rings::new(eal, &left.device, left.queues, entries)?;
        let start = |config: &DpdkPortConfig, end| {
            Self::start_device(Device::of_rings(eal, config, &rings, end)?, config)
        };
        Ok((start(left, End::Left)?, start(right, End::Right)?))
    }

    fn start_device(mut device: Device, config: &DpdkPortConfig) -> Result<Self, Error> {
        let outcome = configure::start(&mut device, config)?;
        if wake::has_interrupts(device.port) {
            let bells = EventBells::register(device.port, config.queues)
                .map_err(|reason| Error::Wake { device: config.device.clone(), reason })?;
            device.bells = Some(bells);
        }
        Ok(Self {
            info: port_info(&device, config, &outcome),
            tx_checksums: outcome.tx_checksums,
            taken: vec![false; usize::from(config.queues)],
            device: Arc::new(device),
        })
    }

    /// Frame buffers of queue pair `index` that are with the device, the stack or a queue now;
    /// `None` for no such pair.
    #[must_use]
    pub fn buffers_in_use(&self, index: u16) -> Option<u32> {
        self.device.pools.get(usize::from(index)).map(super::pool::Pool::in_use)
    }
}

fn port_info(device: &Device, config: &DpdkPortConfig, outcome: &Outcome) -> PortInfo {
    let mut mac = dpdk::rte_ether_addr::default();
    // SAFETY: a started port, and a local to write to; on failure it stays zero.
    unsafe { dpdk::rte_eth_macaddr_get(device.port, &raw mut mac) };
    // Rings have no address: any will do that differs from the other end's.
    if mac.addr_bytes == [0; 6] {
        mac.addr_bytes = mac_from_name(&config.name);
    }
    PortInfo {
        name: config.name.clone(),
        device: config.device.clone(),
        driver: outcome.driver.clone(),
        mac: mac.addr_bytes,
        mtu: outcome.mtu,
        queues: config.queues,
        rss: outcome.rss,
        tx_checksum: outcome.tx_checksums.transport,
        rx_checksum: outcome.rx_checksum,
        numa_node: outcome.numa_node,
    }
}

impl Port for DpdkPort {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn queue_pair(&mut self, index: u16) -> io::Result<(Box<dyn RxQueue>, Box<dyn TxQueue>)> {
        let (name, queues) = (&self.info.name, self.info.queues);
        let wake = match self.taken.get(usize::from(index)) {
            None => {
                let text = format!("port {name} has queue pairs 0 to {}, not {index}", queues - 1);
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            Some(true) => {
                let text = format!("queue pair {index} of port {name} was handed out already");
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
            }
            Some(false) => {
                WakeSource::new(&self.device, &self.info.driver, index).map_err(io::Error::other)?
            }
        };
        self.taken[usize::from(index)] = true;
        let device = || Arc::clone(&self.device);
        let rx = DpdkRx::new(device(), index, self.info.rss, self.info.mtu, wake);
        let tx = DpdkTx::new(device(), index, self.info.mtu, self.tx_checksums);
        Ok((Box::new(rx), Box::new(tx)))
    }

    fn link(&self) -> Link {
        // Drivers of packet sockets say "up" whatever happens to the interface.
        if self.device.kernel.interface.as_ref().is_some_and(|interface| !interface.is_running()) {
            return Link::default();
        }
        let mut link = dpdk::rte_eth_link::default();
        // SAFETY: a started port, and a local to write to; on failure it stays "down".
        unsafe { dpdk::rte_eth_link_get_nowait(self.device.port, &raw mut link) };
        let speed_mbps = match link.link_speed {
            dpdk::RTE_ETH_SPEED_NUM_UNKNOWN => 0,
            speed => speed,
        };
        Link { up: u32::from(link.link_status()) == dpdk::RTE_ETH_LINK_UP, speed_mbps }
    }

    fn stats(&self) -> PortStats {
        let mut stats = dpdk::rte_eth_stats::default();
        // SAFETY: a started port, and a local to write to; on failure it stays zero.
        unsafe { dpdk::rte_eth_stats_get(self.device.port, &raw mut stats) };
        PortStats {
            rx_frames: stats.ipackets,
            rx_bytes: stats.ibytes,
            rx_missed: stats.imissed + stats.rx_nombuf + self.device.kernel.sockets.dropped(),
            rx_errors: stats.ierrors + self.device.losses.rx_oversize(),
            tx_frames: stats.opackets,
            tx_bytes: stats.obytes,
            tx_errors: stats.oerrors + self.device.losses.tx_refused(),
        }
    }

    fn xstats(&self) -> Vec<(String, u64)> {
        let port = self.device.port;
        // SAFETY: no room is offered, so nothing is written.
        let count = unsafe { dpdk::rte_eth_xstats_get_names(port, std::ptr::null_mut(), 0) }.max(0);
        let room = count as usize;
        let mut names = vec![dpdk::rte_eth_xstat_name { name: [0; 64] }; room];
        let mut values = vec![dpdk::rte_eth_xstat::default(); room];
        // SAFETY: room for `count` names.
        let named =
            unsafe { dpdk::rte_eth_xstats_get_names(port, names.as_mut_ptr(), count as u32) };
        // SAFETY: room for `count` values.
        let valued = unsafe { dpdk::rte_eth_xstats_get(port, values.as_mut_ptr(), count as u32) };
        if named != count || valued != count {
            return Vec::new();
        }
        let name_of = |value: &dpdk::rte_eth_xstat| {
            let name = names.get(usize::try_from(value.id).ok()?)?;
            // SAFETY: DPDK ends names in NUL within their 64 bytes.
            Some(unsafe { CStr::from_ptr(name.name.as_ptr()) }.to_string_lossy().into_owned())
        };
        values.iter().filter_map(|value| Some((name_of(value)?, value.value))).collect()
    }
}
