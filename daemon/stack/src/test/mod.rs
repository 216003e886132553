//! The `test` kind: a small stack with a protocol of its own, to exercise what the library behind
//! the other kind cannot.
//!
//! Owns: [`TestStack`], stream sockets over raw Ethernet frames. Used by simulations, and as the
//! pattern for stacks that work on the FIFOs directly: segments are sent from the tx FIFO and stay
//! there until acknowledged ([`send`]), and received straight into the rx FIFO in whatever order
//! they come ([`receive`]). Must never: be given to a user. It has no congestion control, no
//! checksum, and looks at all of its connections on each poll.
#![forbid(unsafe_code)]

mod connection;
mod receive;
mod requests;
mod segment;
mod send;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dmm_port::{Instant, RxFrame, TxBurst};
use dmm_proto::Breach;
use nix::errno::Errno;

use crate::config::StackConfig;
use crate::sockets::credits::Credits;
use crate::{Event, Fifos, Request, SocketId, SocketReport, Stack};
use connection::{Connection, Context, State};
use segment::{ACK, Ends, OPEN, RESET, Segment};

/// A listener.
struct Listener {
    id: SocketId,
    backlog: usize,
    /// Established connections that wait.
    ready: VecDeque<Ends>,
    credits: Credits<Fifos>,
}

/// What an id stands for.
#[derive(Clone, Copy)]
enum Place {
    Connection(Ends),
    Listener(SocketAddr),
    Credit(SocketAddr),
}

/// A stack of the test kind.
pub(crate) struct TestStack {
    context: Context,
    addresses: Vec<IpAddr>,
    sockets_max: usize,
    connections: BTreeMap<Ends, Connection>,
    listeners: BTreeMap<SocketAddr, Listener>,
    ids: BTreeMap<SocketId, Place>,
    events: Vec<Event>,
    /// The number of the next connection that we open.
    opening: u32,
    rx_frames: u64,
    drop_backlog: u64,
    drop_no_connection: u64,
    /// Segments sent again by connections that are gone.
    resent: u64,
}

impl TestStack {
    /// A stack without sockets.
    pub(crate) fn new(config: &StackConfig) -> Self {
        Self {
            context: Context {
                mac: config.mac,
                mtu: usize::from(config.mtu),
                user_timeout: Duration::from_secs(config.tcp.user_timeout_s.into()),
            },
            addresses: config.addresses.iter().map(|prefix| prefix.address).collect(),
            sockets_max: config.sockets_max as usize,
            connections: BTreeMap::new(),
            listeners: BTreeMap::new(),
            ids: BTreeMap::new(),
            events: Vec::new(),
            opening: config.seed as u32,
            rx_frames: 0,
            drop_backlog: 0,
            drop_no_connection: 0,
            resent: 0,
        }
    }

    fn receive_segment(
        &mut self,
        now: Instant,
        segment: &Segment,
        payload: &[u8],
        tx: &mut TxBurst<'_>,
    ) {
        let ends = Ends { local: segment.ends.remote, remote: segment.ends.local };
        if !self.addresses.contains(&ends.local.ip()) {
            return;
        }
        let Some(connection) = self.connections.get_mut(&ends) else {
            self.receive_stray(now, segment, ends, tx);
            return;
        };
        if connection.opening != segment.opening {
            return;
        }
        let opened = connection.state == State::Opening && segment.has(OPEN | ACK);
        let confirmed = connection.state == State::Answering
            && segment.has(ACK)
            && !segment.has(OPEN)
            && !segment.has(RESET);
        if opened || confirmed {
            connection.established(now);
        }
        if opened && let Some(socket) = connection.owner {
            self.events.push(Event::Connected { socket, result: Ok(()) });
        }
        if let Err(breach) = connection.receive(now, segment, payload, &mut self.events) {
            self.breach(ends, breach);
        }
        if confirmed {
            self.enqueue(ends);
        }
        self.bury(now, ends);
    }

    /// Takes a segment of no connection: it opens one, or is refused.
    fn receive_stray(&mut self, now: Instant, segment: &Segment, ends: Ends, tx: &mut TxBurst<'_>) {
        if segment.has(RESET) {
            return;
        }
        let opens = segment.has(OPEN) && !segment.has(ACK);
        match self.listener_for(ends.local) {
            Some(local) if opens => {
                let listener = &self.listeners[&local];
                let id = listener.id;
                let waiting = |connection: &&Connection| {
                    connection.listener == Some(id) && connection.owner.is_none()
                };
                let waiting = self.connections.values().filter(waiting).count();
                if waiting >= listener.backlog || self.connections.len() >= self.sockets_max {
                    self.drop_backlog += 1;
                    return;
                }
                let mut connection = Connection::new(now, ends, segment.opening, State::Answering);
                connection.listener = Some(id);
                self.connections.insert(ends, connection);
            }
            _ => {
                self.drop_no_connection += 1;
                let reset = Segment { flags: RESET, window: 0, ends, ..*segment };
                // Without a slot the peer will ask again.
                let _ = reset.emit(self.context.mac, 0, tx);
            }
        }
    }

    /// The address of the listener for a local end.
    fn listener_for(&self, local: SocketAddr) -> Option<SocketAddr> {
        let any: IpAddr = match local {
            SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let places = [local, SocketAddr::new(any, local.port())];
        places.into_iter().find(|place| self.listeners.contains_key(place))
    }

    /// Lets a connection wait at its listener.
    fn enqueue(&mut self, ends: Ends) {
        let Some(local) = self.listener_for(ends.local) else { return };
        if let Some(listener) = self.listeners.get_mut(&local) {
            listener.ready.push_back(ends);
        }
        self.hand_out(local);
    }

    /// Gives waiting connections to waiting credits.
    fn hand_out(&mut self, local: SocketAddr) {
        let Some(listener) = self.listeners.get_mut(&local) else { return };
        while !listener.ready.is_empty()
            && let Some((socket, mut fifos)) = listener.credits.pop()
        {
            let Some(ends) = listener.ready.pop_front() else { return };
            let Some(connection) = self.connections.get_mut(&ends) else { continue };
            fifos.tx.grant();
            connection.adopt(socket, fifos);
            connection.stir();
            self.ids.insert(socket, Place::Connection(ends));
            let (local, peer) = (ends.local, ends.remote);
            self.events.push(Event::Accepted { listener: listener.id, socket, local, peer });
        }
    }

    fn breach(&mut self, ends: Ends, breach: Breach) {
        let Some(connection) = self.connections.get_mut(&ends) else { return };
        connection.abort();
        if let Some(socket) = connection.owner.filter(|_| !connection.orphan) {
            self.events.push(Event::Breach { socket, breach });
        }
    }

    /// Forgets a connection if nothing is left of it.
    fn bury(&mut self, now: Instant, ends: Ends) {
        if !self.connections.get(&ends).is_some_and(|connection| connection.is_gone(now)) {
            return;
        }
        let Some(connection) = self.connections.remove(&ends) else { return };
        self.resent += connection.sender.resent;
        for listener in self.listeners.values_mut() {
            listener.ready.retain(|waiting| *waiting != ends);
        }
        if let Some(socket) = connection.owner {
            self.gone(socket);
        }
    }

    fn gone(&mut self, socket: SocketId) {
        self.ids.remove(&socket);
        self.events.push(Event::Gone { socket });
    }
}

impl Stack for TestStack {
    fn receive(&mut self, now: Instant, frames: &[RxFrame<'_>], tx: &mut TxBurst<'_>) {
        for frame in frames {
            self.rx_frames += 1;
            if let Some((segment, payload)) = Segment::parse(frame.bytes) {
                self.receive_segment(now, &segment, payload, tx);
            }
        }
    }

    fn submit(&mut self, now: Instant, request: Request) -> Result<(), Errno> {
        self.take_request(now, request)
    }

    fn poll(&mut self, now: Instant, tx: &mut TxBurst<'_>, events: &mut Vec<Event>) {
        let all: Vec<Ends> = self.connections.keys().copied().collect();
        for ends in all {
            let Some(connection) = self.connections.get_mut(&ends) else { continue };
            match connection.poll(now, &self.context, tx, &mut self.events) {
                Ok(true) => {}
                Ok(false) => break,
                Err(breach) => self.breach(ends, breach),
            }
            self.bury(now, ends);
        }
        events.append(&mut self.events);
    }

    fn deadline(&mut self, now: Instant) -> Option<Instant> {
        if !self.events.is_empty() {
            return Some(now);
        }
        let context = &self.context;
        self.connections.values().filter_map(|connection| connection.deadline(context)).min()
    }

    fn trim(&mut self, _now: Instant) {
        let mut breaches = Vec::new();
        for (ends, connection) in &mut self.connections {
            if let Err(breach) = connection.trim() {
                breaches.push((*ends, breach));
            }
        }
        for (ends, breach) in breaches {
            self.breach(ends, breach);
        }
    }

    fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().find(|own| own.is_ipv4() == remote.is_ipv4()).copied()
    }

    fn counters(&self, show: &mut dyn FnMut(&'static str, u64)) {
        let live: u64 = self.connections.values().map(|connection| connection.sender.resent).sum();
        show("rx.frames", self.rx_frames);
        show("tcp.retransmitted", self.resent + live);
        show("drop.tcp_backlog_full", self.drop_backlog);
        show("drop.tcp_no_connection", self.drop_no_connection);
    }

    fn sockets(&self, show: &mut dyn FnMut(SocketReport)) {
        for (local, listener) in &self.listeners {
            show(SocketReport {
                socket: Some(listener.id),
                protocol: "tcp",
                state: "LISTEN",
                local: *local,
                remote: None,
                rx_queued: listener.ready.len() as u64,
                tx_queued: listener.backlog as u64,
            });
        }
        self.connections.values().for_each(|connection| show(connection.report()));
    }
}
