//! The packet sockets of a net_af_packet device: how many frames their rings had no room for, which
//! the driver never asks.
//!
//! Owned by `device`. The descriptors are the driver's. Must never: close one, or use one after the
//! device was closed.

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// One socket per queue pair, each with a receive and a transmit ring.
#[derive(Debug, Default)]
pub(super) struct PacketSockets {
    descriptors: Vec<RawFd>,
    /// Frames that a ring had no room for, as far as the kernel was asked.
    dropped: AtomicU64,
}

/// The packet sockets of this process at one time.
#[derive(Debug)]
pub(super) struct Seen(BTreeSet<RawFd>);

impl Seen {
    /// Those that are open now.
    pub(super) fn now() -> io::Result<Self> {
        let is_packet_socket = |descriptor: &RawFd| {
            option(*descriptor, libc::SOL_SOCKET, libc::SO_DOMAIN, 0)
                .is_ok_and(|domain| domain == libc::AF_PACKET)
        };
        Ok(Self(open_descriptors()?.into_iter().filter(is_packet_socket).collect()))
    }
}

impl PacketSockets {
    /// Those that were opened since `before`, by the driver of a device that was attached since.
    pub(super) fn since(before: &Seen) -> io::Result<Self> {
        let now = Seen::now()?;
        let descriptors = now.0.difference(&before.0).copied().collect();
        let this = Self { descriptors, dropped: AtomicU64::new(0) };
        // Until it is bound, a socket receives what comes to any interface, which is not the port's.
        this.count_dropped();
        this.dropped.store(0, Ordering::Relaxed);
        Ok(this)
    }

    /// Frames that the rings had no room for, since the start. The kernel counts to 2^32 between
    /// two calls.
    pub(super) fn dropped(&self) -> u64 {
        self.count_dropped();
        self.dropped.load(Ordering::Relaxed)
    }

    fn count_dropped(&self) {
        for &descriptor in &self.descriptors {
            // packet(7): to read the counters resets them. Those of a device that is gone still count.
            let none = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
            let stats = option(descriptor, libc::SOL_PACKET, libc::PACKET_STATISTICS, none);
            let dropped = stats.map_or(0, |stats| u64::from(stats.tp_drops));
            self.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
    }
}

fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let mut descriptors = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        descriptors.extend(name.to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    Ok(descriptors)
}

/// A socket option of the type of `value`, plain integers all.
fn option<T: Copy>(
    descriptor: RawFd,
    level: libc::c_int,
    name: libc::c_int,
    mut value: T,
) -> io::Result<T> {
    let mut bytes = size_of::<T>() as libc::socklen_t;
    let at = (&raw mut value).cast::<c_void>();
    // SAFETY: any descriptor is allowed, and the kernel writes at most `bytes` bytes to the value, a
    // `c_int` or a `tpacket_stats`, which may hold any.
    let returned = unsafe { libc::getsockopt(descriptor, level, name, at, &raw mut bytes) };
    if returned == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}
