//! Packet I/O behind one trait.
//!
//! Owns: ports and their queues, flow hashing, the in-memory wire, the pcap tee. Called by the
//! daemon's workers, each of which drives one [`RxQueue`]/[`TxQueue`] pair per instance; and by
//! simulations. Must never: read a clock, interpret TCP or UDP state, or block in a burst.

mod buffer;
pub mod checksum;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod flow;
pub mod frame;
pub mod pcap;
pub mod relay;
pub mod time;
mod tun_ioctl;
pub mod wire;

use std::io;
use std::os::fd::RawFd;

pub use frame::{RxChecksum, RxFrame, TxBurst, TxSlot, TxSlots};
pub use time::Instant;

/// Frames in one receive or transmit burst at most.
pub const BURST: usize = 32;

/// Free transmit slots that [`TxQueue::burst`] lays out when buffers are to be had: a received
/// burst in which every frame is answered, and as much again of the stack's own.
pub const TX_SLOTS: usize = 2 * BURST;

/// How a port can wake a worker that sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// This descriptor becomes readable (level-triggered) when frames wait, once
    /// [`RxQueue::arm`] was called.
    Fd(RawFd),
    /// It cannot: the worker naps for a short, bounded time.
    Timer,
}

/// Speed, duplex and state of a port's link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether frames can pass.
    pub up: bool,
    /// Megabits per second, 0 if unknown.
    pub speed_mbps: u32,
}

/// What a port is and offers; fixed once it is started.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// The name that the configuration gave it.
    pub name: String,
    /// The device behind it, as configured.
    pub device: String,
    /// The driver that runs the device, e.g. `net_tap` or `wire`.
    pub driver: String,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Largest layer-3 packet in bytes.
    pub mtu: u16,
    /// Number of rx/tx queue pairs.
    pub queues: u16,
    /// Whether the port spreads flows over its queues by [`flow::toeplitz`].
    pub rss: bool,
    /// Whether the port fills in IPv4, TCP and UDP checksums on transmit, whatever a stack wrote
    /// there. Fragments, ICMP and IPv6 behind extension headers are excepted; see `dpdk`.
    pub tx_checksum: bool,
    /// Whether the port verifies checksums on receive: [`RxFrame::checksum`] of a whole TCP or UDP
    /// packet is then mostly not `Unknown`; of anything else (ICMP, fragments) it may be.
    pub rx_checksum: bool,
    /// NUMA node of the device, if known.
    pub numa_node: Option<u32>,
}

/// Frame and byte counts of a port since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames the device dropped because no buffer or descriptor was free.
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

/// The receiving half of a queue pair, driven by one worker.
pub trait RxQueue: Send {
    /// Receives up to [`BURST`] frames. They stay valid until the next call.
    fn burst(&mut self, now: Instant) -> &[RxFrame<'_>];

    /// How a worker may sleep until this queue has frames.
    fn wake(&self) -> Wake;

    /// Asks for a wake-up by [`Wake::Fd`]. The caller runs one more [`RxQueue::burst`] after this
    /// and before it sleeps. An error means the queue must be treated as [`Wake::Timer`].
    fn arm(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Ends what [`RxQueue::arm`] asked for, and drains its descriptor where that is needed.
    fn disarm(&mut self) {}

    /// When the next frame will be due, for ports that delay frames by themselves.
    fn deadline(&self) -> Option<Instant> {
        None
    }
}

/// The sending half of a queue pair, driven by one worker.
pub trait TxQueue: Send {
    /// The row of buffers to write frames into, refilled up to [`TX_SLOTS`] free slots as far as
    /// buffers are to be had.
    fn burst(&mut self) -> TxBurst<'_>;

    /// Hands the used slots to the device. Frames that it does not take now are dropped and
    /// counted in [`TxQueue::dropped`]: a stack retransmits what matters.
    fn flush(&mut self, now: Instant);

    /// Frames dropped since the start because the device's ring was full.
    fn dropped(&self) -> u64;
}

/// A started port. Held by the control thread; the queues go to the workers.
pub trait Port: Send {
    /// What the port is.
    fn info(&self) -> &PortInfo;

    /// Hands out queue pair `index`, once.
    fn queue_pair(&mut self, index: u16) -> io::Result<(Box<dyn RxQueue>, Box<dyn TxQueue>)>;

    /// The link as it is now.
    fn link(&self) -> Link;

    /// The device's counters.
    fn stats(&self) -> PortStats;

    /// The device's own named counters.
    fn xstats(&self) -> Vec<(String, u64)> {
        Vec::new()
    }
}
