//! Ports that are DPDK ethdevs: PCI NICs and virtual devices.
//!
//! Owns: the process's one EAL, the devices' life from attach to close, their mempools, and the
//! translation between mbufs and frames. Called by the daemon's control thread (start, counters)
//! and its workers (queues). Must never: let an mbuf or a device outlive what it came from, or
//! trust what a driver claims without the check that can be made.
//!
//! ```text
//!  Eal <- Device (ethdev + one mempool per queue pair) <- DpdkPort (control thread)
//!                    ^                        ^
//!                 RxQueue (a worker)       TxQueue (the same worker)
//! ```
//!
//! Arrows are reference counts: a device stops, closes and leaves its bus with its last holder.
//!
//! # Checksums on transmit
//!
//! When [`crate::PortInfo::tx_checksum`] is true, the port fills in the IPv4 header checksum and
//! the TCP or UDP checksum of every frame that is Ethernet, at most one VLAN tag, IPv4 or IPv6
//! without extension headers, and TCP or UDP unfragmented; what the stack wrote into those fields
//! does not matter. Of an IPv4 fragment, or of IPv4 with another protocol, it fills in the header
//! checksum only. All other checksums (ICMP, ICMPv6, fragments' TCP and UDP, IPv6 behind extension
//! headers) are the stack's.

mod attach;
mod configure;
mod device;
mod eal;
mod error;
mod interface;
mod interrupts;
mod meeting;
mod needs;
mod offload;
mod packet_socket;
mod pool;
mod port;
mod rings;
mod rss;
mod rx;
mod signals;
mod tx;
mod wake;

pub use eal::{DEFAULT_MEMORY_MB, Eal, EalConfig, HugePages, LogLevel, RegisteredThread};
pub use error::Error;
pub use port::{DpdkPort, DpdkPortConfig};
