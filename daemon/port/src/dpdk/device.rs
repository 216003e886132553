//! An attached ethdev and all that must live as long as it.
//!
//! Held by the port and each of its queues; the last one to let go stops and closes it. Must
//! never: be closed while a queue could still burst.

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::attach::{self, Attached, BusDevice, KernelSide};
use super::eal::Eal;
use super::error::Error;
use super::needs::Needs;
use super::pool::Pool;
use super::port::DpdkPortConfig;
use super::rings::{End, Rings};
use super::wake::EventBells;

/// An ethdev of this process.
#[derive(Debug)]
pub(super) struct Device {
    /// As configured, for messages.
    pub(super) label: String,
    /// DPDK's number for it.
    pub(super) port: u16,
    /// Whether it was started.
    pub(super) started: bool,
    /// Whether it was told to accept frames for any address.
    pub(super) promiscuous: bool,
    /// Whether it was told to accept frames for any multicast address.
    pub(super) all_multicast: bool,
    /// The memory that its driver wants.
    pub(super) needs: Needs,
    /// One mempool per queue pair.
    pub(super) pools: Vec<Pool>,
    /// What rings when the device's state changes, if it has interrupts.
    pub(super) bells: Option<EventBells>,
    /// What was lost on our side of the driver.
    pub(super) losses: Losses,
    /// What the kernel has behind it, if it uses the kernel's.
    pub(super) kernel: KernelSide,
    address: BusDevice,
    /// What it is made of, if that is rings.
    _rings: Option<Arc<Rings>>,
    /// Last: the environment outlives the pools.
    pub(super) eal: Eal,
}

/// Frames lost between the driver and the stack; written by the workers, read by anyone.
#[derive(Debug, Default)]
pub(super) struct Losses {
    rx_oversize: AtomicU64,
    tx_refused: AtomicU64,
}

impl Losses {
    /// A chained frame that exceeds the port's MTU came in.
    pub(super) fn add_rx_oversize(&self) {
        self.rx_oversize.fetch_add(1, Ordering::Relaxed);
    }

    /// The device did not take `count` frames.
    pub(super) fn add_tx_refused(&self, count: u64) {
        self.tx_refused.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn rx_oversize(&self) -> u64 {
        self.rx_oversize.load(Ordering::Relaxed)
    }

    pub(super) fn tx_refused(&self) -> u64 {
        self.tx_refused.load(Ordering::Relaxed)
    }
}

impl Device {
    /// Attaches the device that `config` names.
    pub(super) fn attach(eal: &Eal, config: &DpdkPortConfig) -> Result<Self, Error> {
        Ok(Self::new(eal, config, attach::attach(eal, config)?, None))
    }

    /// Makes one end of `rings` a device.
    pub(super) fn of_rings(
        eal: &Eal,
        config: &DpdkPortConfig,
        rings: &Arc<Rings>,
        end: End,
    ) -> Result<Self, Error> {
        let name = CString::new(format!("dmm_{}", config.name))
            .map_err(|_| Error::Nul { value: config.name.clone() })?;
        let port = rings.port(end, &config.device, &name)?;
        let attached = attach::adopt(port, &name, config.mtu);
        Ok(Self::new(eal, config, attached, Some(Arc::clone(rings))))
    }

    fn new(
        eal: &Eal,
        config: &DpdkPortConfig,
        attached: Attached,
        rings: Option<Arc<Rings>>,
    ) -> Self {
        let Attached { port, address, needs, kernel } = attached;
        Self {
            label: config.device.clone(),
            port,
            started: false,
            promiscuous: false,
            all_multicast: false,
            needs,
            pools: Vec::new(),
            bells: None,
            losses: Losses::default(),
            kernel,
            address,
            _rings: rings,
            eal: eal.clone(),
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // A device that the kernel keeps, as it does mlx5's, would keep both.
        if self.promiscuous {
            // SAFETY: a started port of ours.
            unsafe { dpdk_sys::rte_eth_promiscuous_disable(self.port) };
        }
        if self.all_multicast {
            // SAFETY: a started port of ours.
            unsafe { dpdk_sys::rte_eth_allmulticast_disable(self.port) };
        }
        if self.started {
            // SAFETY: a started port of ours, and no queue of it is left.
            unsafe { dpdk_sys::rte_eth_dev_stop(self.port) };
        }
        if let Some(bells) = self.bells.take() {
            bells.unregister(self.port);
        }
        // SAFETY: stopped, or never started.
        unsafe { dpdk_sys::rte_eth_dev_close(self.port) };
        attach::detach(&self.address);
    }
}
