//! The `smoltcp` kind: a stack on the library of that name.
//!
//! Owns: [`SmoltcpStack`], which leads frames, requests and time to the sockets that they are for.
//! Called through [`Stack`] by a worker or a simulation. Must never: let the library search for a
//! socket, or hold a payload byte twice except where the library must keep it until it is
//! acknowledged.
//!
//! ```text
//!  frame ─▶ receive ─ flow ─▶ slot ─▶ link.feed ─┐ mark
//!                                                ▼
//!  request ─▶ requests ───────────────────▶ dirty sockets ─▶ serve ─▶ link.send ─▶ frame
//!                                                ▲  │
//!                       time ─▶ timers ──────────┘  └─▶ events, next timer
//! ```
//!
//! What the library lacks and this kind therefore does itself: backlogs, user timeouts that spare
//! idle connections, the search for neighbours, reassembly, and a table of sockets that does not
//! slow down as it grows. What remains missing: SACK, timestamps, fragmentation over IPv6, path MTU discovery,
//! ICMP errors.
#![deny(unsafe_code)]

mod carrier;
mod challenge;
mod checksum;
mod connection;
mod counters;
mod device;
mod echo;
mod fragment;
mod introductions;
mod link;
mod memory;
mod network;
mod receive;
mod requests;
mod sequence;
mod serve;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use ::smoltcp::config::FRAGMENTATION_BUFFER_SIZE;
use ::smoltcp::socket::tcp;
use dmm_port::flow::Flow;
use dmm_port::{Instant, RxFrame, TxBurst};
use nix::errno::Errno;

use crate::config::{Congestion, StackConfig, TcpConfig};
use crate::kinds::BuildError;
use crate::net::Net;
use crate::options::Options;
use crate::reassembly::Reassembler;
use crate::slots::{Slot, SlotIndex, Slots};
use crate::{Event, Ping, Request, SocketReport, Stack};
use carrier::Carrier;
use connection::Connection;
use counters::Counters;
pub(crate) use counters::MEANINGS;
use echo::Echoes;
use link::Link;
use memory::Memory;

// The library takes its limits from the environment of its build: `.cargo/config.toml`.
const _: () = assert!(FRAGMENTATION_BUFFER_SIZE >= 65_535);

/// Sockets served in one poll at most. At 8 frames each this is far more than the 64 slots of a
/// row can take, so the bound is felt by sockets that have little to send: 256 of them take about
/// as long as receiving a few bursts.
const SERVED_PER_POLL: usize = 256;

/// Sockets that one trim looks at, at most: ten times a second, so that 10,000 are through in a
/// second.
const TRIMMED_PER_CALL: usize = 1024;

/// A stack on the smoltcp library.
pub(crate) struct SmoltcpStack {
    mac: [u8; 6],
    link: Link,
    net: Net,
    slots: Slots<Connection>,
    flows: HashMap<Flow, SlotIndex>,
    listeners: HashMap<SocketAddr, SlotIndex>,
    datagrams: HashMap<SocketAddr, SlotIndex>,
    carrier: Carrier,
    echoes: Echoes,
    reassembler: Reassembler,
    /// Sockets that wait for a neighbour's Ethernet address.
    waiting: Vec<SlotIndex>,
    /// Buffers for the next connections.
    spare: Vec<Memory>,
    events: Vec<Event>,
    counters: Counters,
    tcp: TcpConfig,
    congestion: tcp::CongestionControl,
    /// Options of new sockets.
    options: Options,
    /// Where the next trim goes on.
    trim_from: usize,
}

impl SmoltcpStack {
    /// A stack without sockets.
    pub(crate) fn new(config: &StackConfig) -> Result<Self, BuildError> {
        let net = Net::new(config, network::LIMITS)?;
        Ok(Self {
            mac: config.mac,
            link: Link::new(config, &net),
            net,
            slots: Slots::new(config.sockets_max),
            flows: HashMap::new(),
            listeners: HashMap::new(),
            datagrams: HashMap::new(),
            carrier: Carrier::new(config.mtu),
            echoes: Echoes::new(config.mtu, config.seed),
            reassembler: Reassembler::default(),
            waiting: Vec::new(),
            spare: Vec::new(),
            events: Vec::new(),
            counters: Counters::default(),
            tcp: config.tcp,
            congestion: match config.tcp.congestion {
                Congestion::None => tcp::CongestionControl::None,
                Congestion::Reno => tcp::CongestionControl::Reno,
                Congestion::Cubic => tcp::CongestionControl::Cubic,
            },
            options: Options::new(&config.tcp),
            trim_from: 0,
        })
    }
}

impl Stack for SmoltcpStack {
    fn receive(&mut self, now: Instant, frames: &[RxFrame<'_>], tx: &mut TxBurst<'_>) {
        self.counters.rx_frames += frames.len() as u64;
        for frame in frames {
            self.receive_frame(now, frame, tx);
        }
    }

    fn submit(&mut self, now: Instant, request: Request) -> Result<(), Errno> {
        self.take_request(now, request)
    }

    fn ping(&mut self, _now: Instant, ping: &Ping) -> Result<(), Errno> {
        self.echoes.add(ping, &self.net)
    }

    fn poll(&mut self, now: Instant, tx: &mut TxBurst<'_>, events: &mut Vec<Event>) {
        self.reassembler.expire(now);
        self.counters.add_fragment_losses(self.reassembler.take_losses());
        self.link.ask_neighbours(now, tx, &mut self.counters);
        self.link.flush_fragments(now, tx, &mut self.counters);
        self.echoes.poll(now, tx, &mut self.link, &mut self.counters, &mut self.events);
        self.slots.expire(now, SERVED_PER_POLL);
        // Those that ask for more in this poll get it in the next, so no event is told twice.
        for _ in 0..self.slots.dirty_count().min(SERVED_PER_POLL) {
            let Some(index) = self.slots.next_dirty() else { break };
            if !self.serve(now, index, tx) {
                break;
            }
        }
        events.append(&mut self.events);
    }

    fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let due = self.slots.dirty_count() > 0
            || !self.events.is_empty()
            || self.echoes.is_due()
            || self.link.fragments_wait(now);
        if due {
            return Some(now);
        }
        let timers = [
            self.slots.next_wake(),
            self.link.question_at(),
            self.reassembler.next_expiry(),
            self.echoes.deadline(),
        ];
        timers.into_iter().flatten().min()
    }

    fn trim(&mut self, _now: Instant) {
        let (indices, next) = self.slots.some(self.trim_from, TRIMMED_PER_CALL);
        self.trim_from = next;
        for index in indices {
            let trimmed = match self.slots.get_mut(index) {
                Some(Slot::Connection(connection)) => connection.trim(),
                Some(Slot::Datagram(datagram)) => datagram.trim(),
                Some(Slot::Listener(_)) | None => Ok(()),
            };
            if let Err(breach) = trimmed {
                self.breach(index, breach);
            }
        }
    }

    fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        self.net.source_for(remote)
    }

    fn counters(&self, show: &mut dyn FnMut(&'static str, u64)) {
        self.counters.show(show);
    }

    fn sockets(&self, show: &mut dyn FnMut(SocketReport)) {
        for slot in self.slots.iter() {
            show(match slot {
                Slot::Connection(connection) => connection.report(),
                Slot::Datagram(datagram) => datagram.report(),
                Slot::Listener(listener) => listener.report(),
            });
        }
    }
}
