//! The bounds of a configuration, each with its arithmetic. The daemon sizes its tables by them;
//! the schema and the checks read the same constants.

#![forbid(unsafe_code)]

/// Bytes in a configuration file. The largest sensible one (16 stacks with 64 neighbours each)
/// is about 100 KiB.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Bytes in the name of a port, wire or stack: with its end mark it fills 32 bytes of a shared
/// record.
pub const NAME_BYTES_MAX: usize = 31;

/// Bytes in a socket path: `sun_path` has 108 with its end mark (unix(7)).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Bytes in a device string; DPDK's own limit for a vdev's arguments is of this order.
pub const DEVICE_BYTES_MAX: usize = 255;

/// Stacks in one daemon.
pub const STACKS_MAX: usize = 16;

/// Instances of all stacks together: one bit each in a 64-bit pending map.
pub const INSTANCES_MAX: usize = 64;

/// Ports in one daemon. DPDK's `RTE_MAX_ETHPORTS` is 32; each stack uses one.
pub const PORTS_MAX: usize = 16;

/// Wires in one daemon: each joins two of [`PORTS_MAX`] ports.
pub const WIRES_MAX: usize = PORTS_MAX / 2;

/// Queue pairs of one port: no more than there can be instances.
pub const QUEUES_MAX: u16 = 64;

/// Smallest MTU in bytes: what every IPv4 host takes (RFC 1122 section 3.3.2).
pub const MTU_MIN: u16 = 576;

/// Smallest MTU in bytes of a port that carries IPv6 (RFC 8200 section 5).
pub const MTU_IPV6_MIN: u16 = 1280;

/// Largest MTU in bytes: the jumbo frames that switches and NICs agree on.
pub const MTU_MAX: u16 = 9000;

/// Addresses of one stack, both families together.
pub const ADDRESSES_MAX: usize = 8;
/// The last number of a VLAN (IEEE 802.1Q table 9-2).
pub const VLAN_MAX: u16 = 4094;

/// Routes of one stack, gateways included.
pub const ROUTES_MAX: usize = 16;

/// Static neighbours of one stack.
pub const NEIGHBOURS_MAX: usize = 64;

/// Smallest socket buffer in bytes: two full-sized segments of [`MTU_IPV6_MIN`] fit with room.
pub const BUFFER_BYTES_MIN: u32 = 4096;

/// Largest socket buffer in bytes: 16 MiB carries 10 Gb/s over 13 ms of round trip.
pub const BUFFER_BYTES_MAX: u32 = 16 << 20;

/// Largest backlog of a listener: what the kernel's 16-bit `sk_max_ack_backlog` once held.
pub const BACKLOG_MAX: u32 = 65_535;

/// Longest keep-alive idle time in seconds: the kernel's `MAX_TCP_KEEPIDLE` (tcp(7)).
pub const KEEPALIVE_S_MAX: u32 = 32_767;

/// Client sessions: each costs the daemon about 8 descriptors (socket, pidfd, memfds, doorbells),
/// and a hard limit of 20,000 is common: 2048 x 8 = 16,384.
pub const SESSIONS_MAX: u32 = 2048;

/// Sockets of one client: the table's index has 20 bits.
pub const SOCKETS_MAX: u32 = 1 << 20;

/// Smallest arena of a client in bytes: 2 MiB, so that a few sockets with default buffers work.
pub const ARENA_BYTES_MIN: u64 = 2 << 20;

/// Largest arena of a client in bytes: 64 GiB of sparse memory.
pub const ARENA_BYTES_MAX: u64 = 64 << 30;

/// Contexts of one client: times [`INSTANCES_MAX`] instances that is 4096 channels.
pub const CONTEXTS_MAX: u32 = 64;

/// Entries in each of `clients.users` and `clients.groups`.
pub const PRINCIPALS_MAX: usize = 256;

/// Longest spin of a worker before it sleeps, in microseconds: beyond 10 ms `busy` is meant.
pub const SPIN_US_MAX: u32 = 10_000;

/// Smallest packet-buffer pool of a port in MiB: 4 MiB hold 1800 buffers of 2304 bytes, which is
/// one queue's rings of 512 descriptors each and their caches.
pub const MEMPOOL_MB_MIN: u32 = 4;

/// Largest packet-buffer pool of a port in MiB.
pub const MEMPOOL_MB_MAX: u32 = 16 << 10;

/// Least packet memory of a daemon with a DPDK port in MiB, whatever its pools take: DPDK's own rings
/// and tables, and what its drivers allocate.
pub const PACKET_MEMORY_MB_MIN: u32 = 128;

/// Longest one-way delay of a wire in microseconds: ten seconds.
pub const WIRE_DELAY_US_MAX: u32 = 10_000_000;

/// Highest rate of a wire in megabits per second: 400 Gb/s.
pub const WIRE_RATE_MBPS_MAX: u32 = 400_000;
