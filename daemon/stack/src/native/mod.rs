//! The `native` kind: a TCP/IP stack of our own.
//!
//! Owns: [`NativeStack`], which leads frames, requests and time to the sockets that they are for.
//! Called through [`Stack`] by a worker or a simulation. Must never: look at all connections to serve
//! one, or hold a byte that a FIFO could hold.
//!
//! ```text
//!  frame ─▶ receive ─ flow ─▶ connection.arrive ─┐ mark
//!                                                ▼
//!  request ─▶ sockets ────────────────────▶ dirty sockets ─▶ serve ─▶ link ─▶ frame
//!                                                ▲  │
//!                       time ─▶ timers ──────────┘  └─▶ events, next timer
//! ```
#![forbid(unsafe_code)]

mod congestion;
mod counters;
mod fast_open;
mod icmp;
mod link;
mod receive;
mod segment;
mod serve;
mod tcp;

use std::net::IpAddr;

use dmm_port::flow::Flow;
use dmm_port::{Instant, RxFrame, TxBurst};
use nix::errno::Errno;

use crate::config::StackConfig;
use crate::ip::echo::Echoes;
use crate::ip::groups::Groups;
use crate::ip::neighbours::Purpose;
use crate::ip::net::{Limits, Net};
use crate::ip::reassembly::Reassembler;
use crate::kinds::BuildError;
use crate::sockets::slots::Place;
use crate::sockets::{Owner, Sockets};
use crate::{Event, Ping, Request, Saved, SocketId, SocketReport, Stack, TcpInfo};
use counters::Counters;
pub(crate) use counters::MEANINGS;
use fast_open::FastOpen;
use icmp::Allowance;
use link::Link;
use tcp::{Connection, Cookies, Parameters};

/// Sockets served in one poll at most. At 8 frames each this is far more than the 64 slots of a
/// row can take, so the bound is felt by sockets that have little to send.
const SERVED_PER_POLL: usize = 256;

/// How long the lists of a configuration may be: they are searched one by one.
const LIMITS: Limits = Limits { addresses: 64, routes: 256, neighbours: 1024 };

/// A stack of our own.
pub(crate) struct NativeStack {
    link: Link,
    sockets: Sockets<Connection>,
    /// What connections are made from.
    parameters: Parameters,
    echoes: Echoes,
    reassembler: Reassembler,
    /// How many ICMP errors may be sent.
    allowance: Allowance,
    /// For listeners whose backlog is full of handshakes that nobody completes.
    cookies: Cookies,
    /// For payload on SYNs.
    fast_open: FastOpen,
    counters: Counters,
    /// Where packets are put together that go out in fragments.
    scratch: Vec<u8>,
}

impl NativeStack {
    /// A stack without sockets.
    pub(crate) fn new(config: &StackConfig) -> Result<Self, BuildError> {
        let net = Net::new(config, LIMITS)?;
        let groups = Groups::new(&net, config.mac, config.mtu, config.seed);
        let link = Link::new(config, &net);
        let mut sockets = Sockets::new(config, net);
        sockets.groups = Some(groups);
        Ok(Self {
            link,
            sockets,
            parameters: Parameters::new(config),
            echoes: Echoes::new(config.mtu, config.seed),
            reassembler: Reassembler::default(),
            allowance: Allowance::default(),
            cookies: Cookies::new(config.seed),
            fast_open: FastOpen::new(config),
            counters: Counters::default(),
            scratch: Vec::new(),
        })
    }
}

impl Stack for NativeStack {
    fn receive(&mut self, now: Instant, frames: &[RxFrame<'_>], tx: &mut TxBurst<'_>) {
        self.link.counters.rx_frames += frames.len() as u64;
        for frame in frames {
            self.receive_frame(now, (frame, self.link.vlan(), true), tx);
        }
    }

    fn submit(&mut self, now: Instant, request: Request) -> Result<(), Errno> {
        let (parameters, peers) = (&self.parameters, &self.fast_open);
        self.sockets.take(now, request, |socket, flow, fifos, options, first| {
            let owner = Owner::Socket(socket);
            let mut connection = Connection::open(now, parameters, owner, flow, fifos, options);
            if let Some(first) = first {
                connection.begin_after(first);
            }
            connection.knows(peers.peer(flow.remote.ip()));
            Ok(connection)
        })
    }

    fn ping(&mut self, _now: Instant, ping: &Ping) -> Result<(), Errno> {
        self.echoes.add(ping, &self.sockets.net)
    }

    fn poll(&mut self, now: Instant, tx: &mut TxBurst<'_>, events: &mut Vec<Event>) {
        if self.reassembler.next_expiry().is_some_and(|at| at <= now) {
            self.reassembler.expire(now);
            self.link.counters.add_fragment_losses(self.reassembler.take_losses());
        }
        self.link.ask_neighbours(now, tx);
        if let Some(groups) = &mut self.sockets.groups {
            let link = &mut self.link;
            groups.poll(now, |(to, len), write| {
                link.send(now, tx, (to, len, Purpose::Socket), write)
            });
        }
        if !self.echoes.is_idle() {
            let link = &mut self.link;
            self.echoes.poll(now, &mut self.sockets.events, |(to, len), write| {
                link.send(now, tx, (to, len, Purpose::Socket), write)
            });
        }
        for _ in 0..self.link.looped() {
            self.receive_looped(now, tx);
        }
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
            || self.link.looped() > 0;
        if due {
            return Some(now);
        }
        let sockets = self.sockets.slots.next_wake();
        let link = Instant::earliest(self.link.question_at(), self.reassembler.next_expiry());
        let groups = self.sockets.groups.as_ref().and_then(Groups::next);
        let link = Instant::earliest(link, groups);
        Instant::earliest(Instant::earliest(sockets, link), self.echoes.deadline())
    }

    fn trim(&mut self, _now: Instant) {
        self.sockets.trim();
    }

    fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        self.sockets.net.source_for(remote)
    }

    fn makes_way(&self, now: Instant, flow: &Flow) -> bool {
        self.sockets.succession(now, flow).is_some()
    }

    fn fast_open_room(&self, remote: IpAddr) -> Option<u16> {
        self.fast_open.peer(remote).map(|known| self.parameters.syn_room(remote, known.mss))
    }

    fn tcp_info(&mut self, now: Instant, socket: SocketId) -> Option<TcpInfo> {
        match self.sockets.slots.place(socket) {
            Place::Slot(index) => self.sockets.slots.connection(index).map(|c| c.info(now)),
            Place::Credit(_) | Place::Free => None,
        }
    }

    fn save(&mut self, socket: SocketId) -> Option<Saved> {
        let Place::Slot(index) = self.sockets.slots.place(socket) else { return None };
        self.sockets.slots.connection(index).filter(|connection| connection.is_saveable())?;
        self.sockets.take_out(socket, index)?.save()
    }

    fn restore(
        &mut self,
        now: Instant,
        socket: SocketId,
        saved: Saved,
    ) -> Result<(), (Errno, Saved)> {
        let Saved { state, fifos } = saved;
        let sockets = &mut self.sockets;
        let restored = Connection::restore(now, socket, &state)
            .and_then(|connection| sockets.put_in(socket, connection));
        match restored {
            Ok(connection) => {
                connection.resume(*fifos);
                Ok(())
            }
            Err(errno) => Err((errno, Saved { state, fifos })),
        }
    }

    fn counters(&self, show: &mut dyn FnMut(&'static str, u64)) {
        self.link.counters.show(show);
        self.sockets.counters.show(show);
        self.counters.show(show);
    }

    fn sockets(&self, show: &mut dyn FnMut(SocketReport)) {
        self.sockets.report(show);
    }
}
