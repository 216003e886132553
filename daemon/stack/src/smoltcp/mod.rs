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
//! ICMP errors about segments, groups, VLANs.
#![deny(unsafe_code)]

mod carrier;
mod challenge;
mod connection;
mod counters;
mod device;
mod introductions;
mod link;
mod memory;
mod network;
mod receive;
mod sequence;
mod serve;

use std::net::IpAddr;

use ::smoltcp::config::FRAGMENTATION_BUFFER_SIZE;
use ::smoltcp::socket::tcp;
use dmm_port::flow::Flow;
use dmm_port::{Instant, RxFrame, TxBurst};
use nix::errno::Errno;

use crate::config::{Congestion, StackConfig, TcpConfig};
use crate::ip::echo::Echoes;
use crate::ip::net::Net;
use crate::ip::reassembly::Reassembler;
use crate::kinds::BuildError;
use crate::sockets::options::Options;
use crate::sockets::{Owner, Sockets};
use crate::{Event, Fifos, Ping, Request, SocketReport, Stack, ip};
use carrier::Carrier;
use connection::Connection;
use counters::Counters;
pub(crate) use counters::MEANINGS;
use link::Link;
use memory::{Memory, Tcp};

// The library takes its limits from the environment of its build: `.cargo/config.toml`.
const _: () = assert!(FRAGMENTATION_BUFFER_SIZE >= 65_535);

/// Sockets served in one poll at most. At 8 frames each this is far more than the 64 slots of a
/// row can take, so the bound is felt by sockets that have little to send: 256 of them take about
/// as long as receiving a few bursts.
const SERVED_PER_POLL: usize = 256;

/// Bytes of buffers kept for the next connections, with the pages that the last ones touched: those
/// of 32 connections with buffers of 256 KiB each way.
const SPARE_BYTES: usize = 16 << 20;

/// A stack on the smoltcp library.
pub(crate) struct SmoltcpStack {
    mac: [u8; 6],
    link: Link,
    sockets: Sockets<Connection>,
    carrier: Carrier,
    echoes: Echoes,
    reassembler: Reassembler,
    counters: ip::Counters,
    own: Counters,
    buffers: Buffers,
}

impl SmoltcpStack {
    /// A stack without sockets.
    pub(crate) fn new(config: &StackConfig) -> Result<Self, BuildError> {
        let net = Net::new(config, network::LIMITS)?;
        Ok(Self {
            mac: config.mac,
            link: Link::new(config, &net),
            sockets: Sockets::new(config, net),
            carrier: Carrier::new(config.mtu),
            echoes: Echoes::new(config.mtu, config.seed),
            reassembler: Reassembler::default(),
            counters: ip::Counters::default(),
            own: Counters::default(),
            buffers: Buffers::new(&config.tcp)?,
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
        let (link, buffers) = (&mut self.link, &mut self.buffers);
        let open = |socket, flow, fifos, options, _| {
            buffers.open(now, link, Owner::Socket(socket), flow, fifos, options)
        };
        self.sockets.take(now, request, open)
    }

    fn ping(&mut self, _now: Instant, ping: &Ping) -> Result<(), Errno> {
        self.echoes.add(ping, &self.sockets.net)
    }

    fn poll(&mut self, now: Instant, tx: &mut TxBurst<'_>, events: &mut Vec<Event>) {
        self.reassembler.expire(now);
        self.counters.add_fragment_losses(self.reassembler.take_losses());
        self.link.ask_neighbours(now, tx, &mut self.counters);
        self.link.flush_fragments(now, tx, &mut self.counters);
        let (link, counters) = (&mut self.link, &mut self.counters);
        self.echoes.poll(now, &mut self.sockets.events, |packet, write| {
            link.send_frame(now, tx, packet, counters, write)
        });
        self.sockets.slots.expire(now, SERVED_PER_POLL);
        // Those that ask for more in this poll get it in the next, so no event is told twice.
        for _ in 0..self.sockets.slots.dirty_count().min(SERVED_PER_POLL) {
            let Some(index) = self.sockets.slots.next_dirty() else { break };
            if !self.serve(now, index, tx) {
                break;
            }
        }
        events.append(&mut self.sockets.events);
    }

    fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let due = self.sockets.slots.dirty_count() > 0
            || !self.sockets.events.is_empty()
            || self.echoes.is_due()
            || self.link.fragments_wait(now);
        if due {
            return Some(now);
        }
        let timers = [
            self.sockets.slots.next_wake(),
            self.link.question_at(),
            self.reassembler.next_expiry(),
            self.echoes.deadline(),
        ];
        timers.into_iter().flatten().min()
    }

    fn trim(&mut self, _now: Instant) {
        self.sockets.trim();
    }

    fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        self.sockets.net.source_for(remote)
    }

    fn counters(&self, show: &mut dyn FnMut(&'static str, u64)) {
        self.counters.show(show);
        self.sockets.counters.show(show);
        self.own.show(show);
    }

    fn sockets(&self, show: &mut dyn FnMut(SocketReport)) {
        self.sockets.report(show);
    }
}

/// Buffers of the library's TCP sockets.
struct Buffers {
    tcp: TcpConfig,
    congestion: tcp::CongestionControl,
    /// Those of connections that are over, for the next.
    spare: Vec<Memory>,
}

impl Buffers {
    fn new(tcp: &TcpConfig) -> Result<Self, BuildError> {
        let congestion = match tcp.congestion {
            Congestion::None => tcp::CongestionControl::None,
            Congestion::Reno => tcp::CongestionControl::Reno,
            Congestion::Cubic => tcp::CongestionControl::Cubic,
            Congestion::Dctcp | Congestion::Bbr => return Err(BuildError::Congestion),
        };
        Ok(Self { tcp: *tcp, congestion, spare: Vec::new() })
    }

    /// A library socket for a new connection, if there is memory for its buffers.
    fn take(&mut self, options: &Options) -> Option<Tcp> {
        let (rx_bytes, tx_bytes) = (self.tcp.rx_buffer as usize, self.tcp.tx_buffer as usize);
        let memory = match self.spare.pop() {
            Some(memory) => memory,
            None => Memory::new(rx_bytes + tx_bytes).ok()?,
        };
        let mut socket = Tcp::new(memory, rx_bytes, self.congestion);
        socket.set_options(options);
        Some(socket)
    }

    /// Keeps the memory of a connection that is over for another, or gives it back.
    fn give(&mut self, connection: Connection) {
        let memory = connection.into_memory();
        if (self.spare.len() + 1) * memory.bytes() <= SPARE_BYTES {
            self.spare.push(memory);
        }
    }

    /// A connection that begins its handshake.
    fn open(
        &mut self,
        now: Instant,
        link: &mut Link,
        owner: Owner,
        flow: Flow,
        fifos: Fifos,
        options: Options,
    ) -> Result<Connection, Errno> {
        let tcp = self.take(&options).ok_or(Errno::ENOBUFS)?;
        let mut connection = Connection::new(now, tcp, flow, owner, Some(fifos), options);
        let context = link.iface().context();
        // What the library refuses was refused before.
        let opened = connection.tcp().connect(context, flow.remote, flow.local);
        opened.map_err(|_| Errno::EINVAL)?;
        Ok(connection)
    }
}
