//! Setting a device up: queues, MTU, offloads, RSS, interrupts, and the start.
//!
//! Called by `port` once per device. Must never: report an offload that the device was not given.

use std::ffi::CStr;

use dpdk_sys as dpdk;

use super::attach::QuietTap;
use super::device::Device;
use super::error::{Errno, Error};
use super::offload::TxChecksums;
use super::pool::{self, Pool};
use super::port::DpdkPortConfig;
use super::rss;
use super::signals::OccupiedSignals;

/// What the device became.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) driver: String,
    pub(super) mtu: u16,
    pub(super) rss: bool,
    pub(super) rx_checksum: bool,
    pub(super) tx_checksums: TxChecksums,
    pub(super) numa_node: Option<u32>,
}

const RX_CHECKSUMS: u64 = dpdk::RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RX_TRANSPORT_CHECKSUMS;
const RX_TRANSPORT_CHECKSUMS: u64 =
    dpdk::RTE_ETH_RX_OFFLOAD_UDP_CKSUM | dpdk::RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
const TX_TRANSPORT_CHECKSUMS: u64 =
    dpdk::RTE_ETH_TX_OFFLOAD_UDP_CKSUM | dpdk::RTE_ETH_TX_OFFLOAD_TCP_CKSUM;

/// What is asked of the device, worked out from what it offers.
struct Plan<'a> {
    config: &'a DpdkPortConfig,
    info: dpdk::rte_eth_dev_info,
    conf: dpdk::rte_eth_conf,
    rx_descriptors: u16,
    tx_descriptors: u16,
    node: i32,
}

/// Configures and starts `device`.
pub(super) fn start(device: &mut Device, config: &DpdkPortConfig) -> Result<Outcome, Error> {
    let info = device_info(device)?;
    let driver = driver_name(&info);
    check_limits(&info, config)?;
    let rss_conf = rss::wanted(&info, config.queues);
    let mut plan = Plan {
        config,
        info,
        conf: device_conf(&info, config, rss_conf),
        rx_descriptors: config.descriptors,
        tx_descriptors: config.descriptors,
        // SAFETY: any port number is allowed.
        node: unsafe { dpdk::rte_eth_dev_socket_id(device.port) },
    };
    // Some drivers refuse to start with receive interrupts that their bus cannot deliver.
    plan.conf.intr_conf.set_rxq(1);
    if set_up(device, &mut plan).is_err() {
        plan.conf.intr_conf.set_rxq(0);
        set_up(device, &mut plan)?;
    }
    device.started = true;
    accept_all_addresses(device)?;
    let rss = rss_conf.is_some() && rss::program(device.port, info.reta_size, config.queues);
    let rx = plan.conf.rxmode.offloads;
    let tx = plan.conf.txmode.offloads;
    Ok(Outcome {
        driver,
        mtu: config.mtu,
        rss,
        rx_checksum: rx & RX_TRANSPORT_CHECKSUMS == RX_TRANSPORT_CHECKSUMS,
        tx_checksums: TxChecksums {
            ipv4: tx & dpdk::RTE_ETH_TX_OFFLOAD_IPV4_CKSUM != 0,
            transport: tx & TX_TRANSPORT_CHECKSUMS == TX_TRANSPORT_CHECKSUMS,
        },
        numa_node: u32::try_from(plan.node).ok(),
    })
}

fn refused(device: &Device, step: &'static str, returned: i32) -> Result<(), Error> {
    match returned {
        0 => Ok(()),
        _ => Err(Error::Setup { device: device.label.clone(), step, reason: Errno::of(returned) }),
    }
}

fn device_info(device: &Device) -> Result<dpdk::rte_eth_dev_info, Error> {
    let mut info = dpdk::rte_eth_dev_info::default();
    // SAFETY: an attached port, and a local to write to.
    let returned = unsafe { dpdk::rte_eth_dev_info_get(device.port, &raw mut info) };
    refused(device, "describe itself", returned)?;
    Ok(info)
}

fn driver_name(info: &dpdk::rte_eth_dev_info) -> String {
    if info.driver_name.is_null() {
        return "unknown".to_owned();
    }
    // SAFETY: a driver's static name, which ends in NUL.
    unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned()
}

fn check_limits(info: &dpdk::rte_eth_dev_info, config: &DpdkPortConfig) -> Result<(), Error> {
    let limit = info.max_rx_queues.min(info.max_tx_queues);
    if config.queues == 0 || config.queues > limit {
        let (device, queues) = (config.device.clone(), config.queues);
        return Err(Error::Queues { device, queues, limit });
    }
    // A driver without an MTU limit of its own states the longest frame (rte_eth_dev_set_mtu).
    let longest = info.max_rx_pktlen.saturating_sub(dpdk::RTE_ETHER_HDR_LEN + 4);
    let max = match info.max_mtu {
        u16::MAX => u16::try_from(longest).unwrap_or(u16::MAX),
        limit => limit,
    };
    let min = info.min_mtu.max(dpdk::RTE_ETHER_MIN_MTU as u16);
    if config.mtu < min || config.mtu > max {
        return Err(Error::Mtu { device: config.device.clone(), mtu: config.mtu, min, max });
    }
    Ok(())
}

fn device_conf(
    info: &dpdk::rte_eth_dev_info,
    config: &DpdkPortConfig,
    rss_conf: Option<dpdk::rte_eth_rss_conf>,
) -> dpdk::rte_eth_conf {
    let mut conf = dpdk::rte_eth_conf::default();
    conf.rxmode.mtu = u32::from(config.mtu);
    conf.rxmode.offloads = RX_CHECKSUMS & info.rx_offload_capa;
    if let Some(rss_conf) = rss_conf {
        conf.rxmode.mq_mode = dpdk::RTE_ETH_MQ_RX_RSS;
        conf.rxmode.offloads |= dpdk::RTE_ETH_RX_OFFLOAD_RSS_HASH & info.rx_offload_capa;
        conf.rx_adv_conf.rss_conf = rss_conf;
    }
    // Every mbuf of a transmit queue is from that queue's own pool, with one reference.
    conf.txmode.offloads = dpdk::RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE & info.tx_offload_capa;
    if info.tx_offload_capa & TX_TRANSPORT_CHECKSUMS == TX_TRANSPORT_CHECKSUMS {
        conf.txmode.offloads |= TX_TRANSPORT_CHECKSUMS;
        conf.txmode.offloads |= dpdk::RTE_ETH_TX_OFFLOAD_IPV4_CKSUM & info.tx_offload_capa;
    }
    conf
}

fn set_up(device: &mut Device, plan: &mut Plan<'_>) -> Result<(), Error> {
    // The TAP driver opens a descriptor per queue here.
    let _signals = OccupiedSignals::new();
    let _quiet = QuietTap::new(device.eal.log_level());
    let queues = plan.config.queues;
    // SAFETY: an attached, stopped port; `conf` is copied, and the key it points to is static.
    let returned =
        unsafe { dpdk::rte_eth_dev_configure(device.port, queues, queues, &raw const plan.conf) };
    refused(device, "take its configuration", returned)?;
    set_mtu(device, plan.config.mtu)?;
    // SAFETY: a configured port, and two locals to write to.
    let returned = unsafe {
        dpdk::rte_eth_dev_adjust_nb_rx_tx_desc(
            device.port,
            &raw mut plan.rx_descriptors,
            &raw mut plan.tx_descriptors,
        )
    };
    refused(device, "name its ring sizes", returned)?;
    for queue in 0..queues {
        set_up_queue(device, plan, queue)?;
    }
    // SAFETY: configured, with all queues set up.
    let returned = unsafe { dpdk::rte_eth_dev_start(device.port) };
    refused(device, "start", returned)
}

fn set_mtu(device: &Device, mtu: u16) -> Result<(), Error> {
    // SAFETY: a configured, stopped port.
    let returned = unsafe { dpdk::rte_eth_dev_set_mtu(device.port, mtu) };
    // A device that cannot be told has none of its own: rings carry what fits an mbuf.
    if -returned == libc::ENOTSUP {
        return Ok(());
    }
    refused(device, "set its MTU", returned)
}

fn set_up_queue(device: &mut Device, plan: &Plan<'_>, queue: u16) -> Result<(), Error> {
    if usize::from(queue) == device.pools.len() {
        let mbufs = match device.needs.holds_mbufs {
            true => pool::mbufs_for(plan.rx_descriptors, plan.tx_descriptors),
            false => pool::mbufs_for(0, 0),
        };
        let pool = Pool::new(&device.label, mbufs, device.needs.frame_bytes, plan.node)?;
        device.pools.push(pool);
    }
    let pool = &device.pools[usize::from(queue)];
    let mut rx_conf = plan.info.default_rxconf;
    rx_conf.offloads = plan.conf.rxmode.offloads;
    // SAFETY: a configured, stopped port; the pool lives until the port is closed.
    let returned = unsafe {
        dpdk::rte_eth_rx_queue_setup(
            device.port,
            queue,
            plan.rx_descriptors,
            plan.node.cast_unsigned(),
            &raw const rx_conf,
            pool.as_ptr(),
        )
    };
    refused(device, "set up a receive queue", returned)?;
    let mut tx_conf = plan.info.default_txconf;
    tx_conf.offloads = plan.conf.txmode.offloads;
    // SAFETY: a configured, stopped port.
    let returned = unsafe {
        dpdk::rte_eth_tx_queue_setup(
            device.port,
            queue,
            plan.tx_descriptors,
            plan.node.cast_unsigned(),
            &raw const tx_conf,
        )
    };
    refused(device, "set up a transmit queue", returned)
}

/// Promiscuous and all-multicast: a stack may own several Ethernet addresses, and neighbour
/// discovery (RFC 4861) is multicast. Devices without filters refuse, and need neither.
fn accept_all_addresses(device: &mut Device) -> Result<(), Error> {
    const STEP: &str = "accept all addresses";
    if let Some(interface) = &device.kernel.interface {
        if interface.was_promiscuous() {
            // The start has unset the operator's own flag (`rte_eth_dev_start` has the driver do
            // what it takes for its default), and this sets it again.
            // SAFETY: a started port.
            unsafe { dpdk::rte_eth_promiscuous_enable(device.port) };
        }
        return interface.accept_all_addresses().map_err(|error| {
            let reason = Errno(error.raw_os_error().unwrap_or(libc::EIO));
            Error::Setup { device: device.label.clone(), step: STEP, reason }
        });
    }
    // SAFETY: a started port.
    let promiscuous = unsafe { dpdk::rte_eth_promiscuous_enable(device.port) };
    device.promiscuous = promiscuous == 0;
    // SAFETY: a started port.
    let multicast = unsafe { dpdk::rte_eth_allmulticast_enable(device.port) };
    device.all_multicast = multicast == 0;
    for returned in [promiscuous, multicast] {
        if -returned != libc::ENOTSUP {
            refused(device, STEP, returned)?;
        }
    }
    Ok(())
}
