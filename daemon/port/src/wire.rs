//! The in-memory wire: two ports joined by a path that delays, loses, duplicates, reorders and
//! corrupts frames, from a seed.
//!
//! Owns: the frames in flight between the two ports. Driven by whoever drives the ports' queues: a
//! simulation that drives both ends in one thread and virtual time, or two workers in real time.
//! Must never: read a clock, or let anything but the configuration and the senders' `now` decide
//! what happens to a frame. So a run in virtual time replays exactly from its seed.
//!
//! Both ends must count time from the same origin: a frame sent at `t` without delay is there for
//! a receiver whose `now` is `t` or later.

#![forbid(unsafe_code)]

mod config;
mod direction;
mod fate;
mod mark;
mod queue;
mod random;
mod stats;

use std::io;
use std::sync::Arc;

pub use config::{QUEUES_MAX, WireConfig, WireError};
pub use stats::WireStats;

use crate::buffer::mac_from_name;
use crate::{Link, Port, PortInfo, PortStats, RxQueue, TxQueue};
use direction::Direction;
use queue::{WireRx, WireTx};

/// An Ethernet header and two VLAN tags (IEEE 802.1Q clause 9), beyond the MTU, in bytes.
pub(crate) const HEADER_BYTES: u32 = 14 + 2 * 4;

/// One end of an in-memory wire.
pub struct WirePort {
    info: PortInfo,
    outgoing: Arc<Direction>,
    incoming: Arc<Direction>,
    /// Which queue pairs have been handed out.
    taken: Vec<bool>,
}

impl WirePort {
    /// Makes a wire and returns its ends, named after the configuration with `-left` and `-right`.
    ///
    /// # Errors
    /// See [`WireError`].
    pub fn pair(config: &WireConfig) -> Result<(Self, Self), WireError> {
        if config.queues == 0 || config.queues > QUEUES_MAX {
            return Err(WireError::Queues(config.queues));
        }
        let frame_capacity = u32::from(config.mtu) + HEADER_BYTES;
        // Any two different seeds give SplitMix64 unrelated sequences, for one direction each.
        let rightward = Arc::new(Direction::new(config, config.seed, frame_capacity)?);
        let leftward = Arc::new(Direction::new(config, !config.seed, frame_capacity)?);
        let left = Self::new(config, "left", &rightward, &leftward);
        let right = Self::new(config, "right", &leftward, &rightward);
        Ok((left, right))
    }

    fn new(
        config: &WireConfig,
        side: &str,
        outgoing: &Arc<Direction>,
        incoming: &Arc<Direction>,
    ) -> Self {
        let name = format!("{}-{side}", config.name);
        let info = PortInfo {
            mac: mac_from_name(&name),
            name,
            device: config.name.clone(),
            driver: "wire".to_owned(),
            mtu: config.mtu,
            queues: config.queues,
            rss: config.rss,
            tx_checksum: false,
            rx_checksum: false,
            numa_node: None,
        };
        Self {
            info,
            outgoing: Arc::clone(outgoing),
            incoming: Arc::clone(incoming),
            taken: vec![false; usize::from(config.queues)],
        }
    }

    /// What became of the frames that this port sent.
    #[must_use]
    pub fn tx_wire_stats(&self) -> WireStats {
        self.outgoing.stats().frames
    }

    /// What became of the frames that the other port sent to this one.
    #[must_use]
    pub fn rx_wire_stats(&self) -> WireStats {
        self.incoming.stats().frames
    }

    /// Cuts the wire, or mends it, in both directions. Frames sent while it is cut are lost; those
    /// in flight arrive.
    pub fn set_link_up(&self, up: bool) {
        self.outgoing.set_up(up);
        self.incoming.set_up(up);
    }

    /// From now on frames of more than `bytes` bytes are lost, in both directions, and nobody is told: a
    /// black hole of path MTU discovery (RFC 2923 section 2.1). `None`: no longer.
    pub fn set_longest(&self, bytes: Option<u32>) {
        self.outgoing.set_longest(bytes);
        self.incoming.set_longest(bytes);
    }
}

impl Port for WirePort {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn queue_pair(&mut self, index: u16) -> io::Result<(Box<dyn RxQueue>, Box<dyn TxQueue>)> {
        let lane = usize::from(index);
        match self.taken.get_mut(lane) {
            Some(taken) if !*taken => *taken = true,
            Some(_) => return Err(WireError::Taken(index).into()),
            None => return Err(WireError::NoQueue { index, queues: self.info.queues }.into()),
        }
        let rx = WireRx::new(Arc::clone(&self.incoming), lane);
        let tx = WireTx::new(Arc::clone(&self.outgoing));
        Ok((Box::new(rx), Box::new(tx)))
    }

    fn link(&self) -> Link {
        Link { up: self.outgoing.is_up(), speed_mbps: 0 }
    }

    fn stats(&self) -> PortStats {
        let (outgoing, incoming) = (self.outgoing.stats(), self.incoming.stats());
        PortStats {
            rx_frames: incoming.frames.delivered,
            rx_bytes: incoming.delivered_bytes,
            tx_frames: outgoing.frames.sent,
            tx_bytes: outgoing.sent_bytes,
            tx_errors: outgoing.frames.overflowed,
            ..PortStats::default()
        }
    }

    fn xstats(&self) -> Vec<(String, u64)> {
        let sides = [("tx", self.tx_wire_stats()), ("rx", self.rx_wire_stats())];
        let name = |side| move |(kind, count)| (format!("{side}_{kind}"), count);
        sides.into_iter().flat_map(|(side, stats)| stats.named().map(name(side))).collect()
    }
}

#[cfg(test)]
mod tests;
