//! The sockets of an instance, for every kind of stack: who they belong to, and what is told of them.
//!
//! Owns: [`Sockets`], the tables by id, flow and local address. A kind brings its TCP connection
//! ([`Connection`]) and leads segments and time to it. Called on every path. Must never: know a
//! protocol's state, or tell an owner of a socket that it has closed.
//!
//! ```text
//!   Request ─▶ requests ─┐                        ┌─▶ Event
//!   frame ─▶ find ───────┼─▶ Slot: a listener, a connection, a UDP socket
//!   time ─▶ slots ───────┘         │ credits, backlog, FIFOs, options
//! ```
#![forbid(unsafe_code)]

pub(crate) mod backoff;
mod bound;
mod counters;
pub(crate) mod credits;
pub(crate) mod datagram;
mod keyed;
mod listener;
pub(crate) mod options;
mod requests;
pub(crate) mod room;
pub(crate) mod slots;
pub(crate) mod udp;
mod wheel;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use dmm_port::Instant;
use dmm_port::flow::Flow;
use dmm_proto::Breach;
use dmm_proto::op::{How, SocketOption};
use nix::errno::Errno;

use crate::config::StackConfig;
use crate::ip::groups::Groups;
use crate::ip::net::Net;
use crate::{Event, Fifos, SocketId, SocketReport};
use bound::Bound;
pub(crate) use counters::{Counters, MEANINGS};
use keyed::Keyed;
use options::Options;
use slots::{Place, Slot, SlotIndex, Slots};

/// How long a handshake that the peer began may take: three retransmissions of our SYN at 1, 2 and
/// 4 seconds, and as long again.
pub(crate) const HALF_OPEN_LIFE: Duration = Duration::from_secs(15);

/// How long a handshake may take that the peer began when others wait for its place: longer than
/// nearly every round trip (RFC 6298 section 2.1 begins with 1 s).
const HALF_OPEN_FAIR: Duration = Duration::from_secs(1);

/// How long one takes that somebody completes, and is near: a full backlog of longer ones is a flood's.
const HALF_OPEN_USUAL: Duration = Duration::from_millis(100);

/// How long a neighbour may not answer before a connection attempt fails (RFC 4861 section 10:
/// three solicitations, one a second).
pub(crate) const NEIGHBOUR_PATIENCE: Duration = Duration::from_secs(3);

/// Sockets that one trim looks at, at most: ten times a second, so that 10,000 are through in a
/// second.
const TRIMMED_PER_CALL: usize = 1024;

/// Who a connection belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A listener, until a credit takes it.
    Backlog(SlotIndex),
    /// A socket of the caller's.
    Socket(SocketId),
    /// A socket that was closed and is not gone.
    Orphan(SocketId),
    /// Nobody: it only sends its reset.
    Nobody,
}

/// What a close leaves of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Something is still to be sent or waited for.
    Something,
    /// Nothing: it goes at once.
    Nothing,
}

/// A kind's TCP connection, as its owner uses it.
pub(crate) trait Connection {
    /// Both ends.
    fn flow(&self) -> Flow;

    /// Whose it is.
    fn owner(&self) -> Owner;

    /// Makes it somebody else's.
    fn set_owner(&mut self, owner: Owner);

    /// A credit takes it: it has FIFOs from now on.
    fn adopt(&mut self, now: Instant, fifos: Fifos);

    /// The writer wrote, or wants room.
    fn send(&mut self);

    /// The reader made room after a stall.
    fn receive(&mut self);

    /// Shuts down one or both directions.
    fn shut_down(&mut self, how: How);

    /// Sets an option.
    fn set_option(&mut self, option: SocketOption, value: u32) -> Result<(), Errno>;

    /// Its owner, which it has no more, is done with it; with `abort`, at once.
    fn close(&mut self, now: Instant, abort: bool) -> Rest;

    /// Ends it with a reset.
    fn abort(&mut self);

    /// Ends it with a reset, and touches its FIFOs never again.
    fn disown(&mut self);

    /// Whether its SYN waits for what its owner writes first.
    fn is_deferred(&self) -> bool {
        false
    }

    /// The number from which a connection with the same ends may begin that takes its place, if it is in
    /// TIME-WAIT and one may (RFC 6191).
    fn succession(&self, _now: Instant) -> Option<u32> {
        None
    }

    /// How long its handshake has taken so far; nothing of one that is complete.
    fn opening_for(&self, now: Instant) -> Option<Duration>;

    /// Gives chunks back if nothing moved since the last call.
    fn trim(&mut self) -> Result<(), Breach>;

    /// As `ss` would show it.
    fn report(&self) -> SocketReport;
}

/// What moving bytes brought about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    /// The reader has new bytes.
    pub(crate) readable: bool,
    /// The writer has room that it wished for.
    pub(crate) writable: bool,
    /// The peer's FIN was reached.
    pub(crate) ended: bool,
}

/// All sockets of an instance.
pub(crate) struct Sockets<C> {
    /// The network that they are on.
    pub(crate) net: Net,
    /// Themselves.
    pub(crate) slots: Slots<C>,
    flows: HashMap<Flow, SlotIndex, Keyed>,
    listeners: HashMap<SocketAddr, SlotIndex, Keyed>,
    datagrams: HashMap<SocketAddr, Bound, Keyed>,
    /// The groups that they are members of, if this kind knows groups.
    pub(crate) groups: Option<Groups>,
    /// Room for a list of them.
    scratch: Vec<SlotIndex>,
    /// Sockets that wait for a neighbour's Ethernet address.
    waiting: Vec<SlotIndex>,
    /// What is to be told.
    pub(crate) events: Vec<Event>,
    /// Counts.
    pub(crate) counters: Counters,
    /// Options of new sockets.
    options: Options,
    /// Where the next trim goes on.
    trim_from: usize,
}

impl<C: Connection> Sockets<C> {
    /// No sockets yet.
    pub(crate) fn new(config: &StackConfig, net: Net) -> Self {
        let keyed = Keyed(config.seed);
        Self {
            net,
            slots: Slots::new(config.sockets_max),
            flows: HashMap::with_hasher(keyed),
            listeners: HashMap::with_hasher(keyed),
            datagrams: HashMap::with_hasher(keyed),
            groups: None,
            scratch: Vec::new(),
            waiting: Vec::new(),
            events: Vec::new(),
            counters: Counters::default(),
            options: Options::new(&config.tcp),
            trim_from: 0,
        }
    }

    /// The connection of a flow.
    pub(crate) fn of_flow(&self, flow: &Flow) -> Option<SlotIndex> {
        self.flows.get(flow).copied()
    }

    /// The listener for a local end: one on the very address, else one on any of its family.
    pub(crate) fn listener_for(&self, local: SocketAddr) -> Option<SlotIndex> {
        self.listeners.get(&local).or_else(|| self.listeners.get(&any_address(local))).copied()
    }

    /// The UDP socket for what comes from a flow's remote end to its local one, which is ours: one on the very
    /// address, else one on any of its family.
    pub(crate) fn datagram_for(&self, flow: &Flow) -> Option<SlotIndex> {
        let hash = || self.datagrams.hasher().hash_one(flow);
        let choose = |at| self.datagrams.get(&at)?.choose(flow.remote, hash);
        choose(flow.local).or_else(|| choose(any_address(flow.local)))
    }

    /// All UDP sockets that receive what goes to many at `local`.
    pub(crate) fn datagrams_at(&self, local: SocketAddr) -> impl Iterator<Item = SlotIndex> {
        let bound = [local, any_address(local)].map(|at| self.datagrams.get(&at));
        bound.into_iter().flatten().flat_map(Bound::iter)
    }

    /// The number from which a new connection may begin in the place of one in TIME-WAIT that nobody has any
    /// more.
    pub(crate) fn succession(&self, now: Instant, flow: &Flow) -> Option<u32> {
        let Slot::Connection(connection) = self.slots.get(self.of_flow(flow)?)? else {
            return None;
        };
        let owned = matches!(connection.owner(), Owner::Socket(_));
        connection.succession(now).filter(|_| !owned)
    }

    /// Whether a connection in TIME-WAIT may make way for a new one: nobody has it any more, who
    /// might not have read all of it, and the new one will be taken.
    pub(crate) fn may_reopen(&mut self, index: SlotIndex, local: SocketAddr) -> bool {
        let connection = self.slots.connection(index);
        let owned = connection.is_none_or(|c| matches!(c.owner(), Owner::Socket(_)));
        let listener = self.listener_for(local);
        let listener = listener.and_then(|listener| self.slots.listener(listener));
        !owned && listener.is_some_and(|listener| listener.has_room())
    }

    /// Whether a listener's backlog is full of handshakes that may never be completed, while those that are
    /// would still find room.
    pub(crate) fn is_flooded(&mut self, now: Instant, index: SlotIndex) -> bool {
        let age = self.oldest_handshake(now, index);
        let Some(listener) = self.slots.listener(index) else { return false };
        let slow = age.is_some_and(|age| (HALF_OPEN_USUAL..HALF_OPEN_FAIR).contains(&age));
        slow && !listener.has_room() && listener.takes_completed()
    }

    /// How long the oldest handshake at a listener has taken so far.
    fn oldest_handshake(&mut self, now: Instant, index: SlotIndex) -> Option<Duration> {
        let oldest = self.slots.listener(index)?.half_open.first().copied()?;
        self.slots.connection(oldest)?.opening_for(now)
    }

    /// Whether a listener would take a handshake that is complete, and there is a place for the connection.
    pub(crate) fn takes_completed(&mut self, index: SlotIndex) -> Option<Options> {
        let room = self.slots.has_room();
        let listener = self.slots.listener(index)?;
        (room && listener.takes_completed()).then_some(listener.options)
    }

    /// Makes room at a listener for a handshake that begins. Returns the options of its connections,
    /// unless there is no room.
    pub(crate) fn admit(&mut self, now: Instant, index: SlotIndex) -> Option<Options> {
        let age = self.oldest_handshake(now, index);
        let listener = self.slots.listener(index)?;
        if !listener.has_room() {
            // A handshake that had its time may be nobody's, and makes way.
            let oldest = listener.half_open.first().copied();
            let late = age.is_some_and(|age| age >= HALF_OPEN_FAIR);
            let Some(oldest) = oldest.filter(|_| late) else {
                self.counters.drop_backlog += 1;
                return None;
            };
            self.counters.drop_half_open_evicted += 1;
            self.discard(oldest);
        }
        if !self.slots.has_room() {
            self.counters.drop_sockets += 1;
            return None;
        }
        self.slots.listener(index).map(|listener| listener.options)
    }

    /// Takes in a connection whose peer began the handshake.
    pub(crate) fn insert_half_open(&mut self, listener: SlotIndex, connection: C) -> SlotIndex {
        let flow = connection.flow();
        let slot = self.slots.insert(Slot::Connection(Box::new(connection)));
        self.flows.insert(flow, slot);
        if let Some(listener) = self.slots.listener(listener) {
            listener.half_open.push(slot);
        }
        self.slots.mark(slot);
        slot
    }

    /// Whether a listener would take a connection with its SYN (RFC 7413 section 5): so many at most wait
    /// for the end of their handshakes.
    pub(crate) fn takes_fast(&mut self, now: Instant, index: SlotIndex) -> bool {
        let Some(listener) = self.slots.listener(index) else { return false };
        let mut fast = std::mem::take(&mut listener.fast);
        fast.retain(|index| {
            let connection = self.slots.connection(*index);
            connection.is_some_and(|connection| connection.opening_for(now).is_some())
        });
        let Some(listener) = self.slots.listener(index) else { return false };
        listener.fast = fast;
        listener.takes_fast()
    }

    /// Hands a connection out that was taken with its SYN.
    pub(crate) fn established_fast(&mut self, now: Instant, index: SlotIndex) {
        let Some(connection) = self.slots.connection(index) else { return };
        if let Owner::Backlog(listener) = connection.owner()
            && let Some(listener) = self.slots.listener(listener)
        {
            listener.fast.push(index);
        }
        self.established(now, index);
    }

    /// A handshake is complete.
    pub(crate) fn established(&mut self, now: Instant, index: SlotIndex) {
        let Some(connection) = self.slots.connection(index) else { return };
        match connection.owner() {
            Owner::Socket(socket) => {
                self.counters.connected += 1;
                self.events.push(Event::Connected { socket, result: Ok(()) });
            }
            Owner::Backlog(listener) => {
                self.counters.accepted += 1;
                if let Some(listener) = self.slots.listener(listener) {
                    listener.established(index);
                }
                self.hand_out(now, listener);
            }
            Owner::Orphan(_) | Owner::Nobody => {}
        }
    }

    /// The peer refused a connection of ours.
    pub(crate) fn refused(&mut self, index: SlotIndex) {
        self.failed(index, Errno::ECONNREFUSED);
    }

    /// A connection of ours cannot be.
    pub(crate) fn failed(&mut self, index: SlotIndex, errno: Errno) {
        self.counters.refused += 1;
        if let Some(socket) = self.owner_of(index) {
            self.events.push(Event::Connected { socket, result: Err(errno) });
        }
    }

    /// The peer reset a connection, whose last bytes are delivered.
    pub(crate) fn reset(&mut self, index: SlotIndex) {
        self.counters.resets += 1;
        let Some(connection) = self.slots.connection(index) else { return };
        match connection.owner() {
            Owner::Socket(socket) => {
                self.events.push(Event::Broken { socket, errno: Errno::ECONNRESET });
            }
            Owner::Backlog(_) => drop(self.discard(index)),
            Owner::Orphan(_) | Owner::Nobody => {}
        }
    }

    /// Gives a connection up, whose handshake was under way if `opening`.
    pub(crate) fn give_up(&mut self, index: SlotIndex, opening: bool, errno: Errno) {
        let Some(connection) = self.slots.connection(index) else { return };
        connection.abort();
        match connection.owner() {
            Owner::Socket(socket) if opening => {
                self.counters.timeouts += 1;
                self.events.push(Event::Connected { socket, result: Err(errno) });
            }
            Owner::Socket(socket) => {
                self.counters.timeouts += 1;
                self.events.push(Event::Broken { socket, errno });
            }
            Owner::Orphan(_) => self.counters.timeouts += 1,
            Owner::Backlog(_) => {
                self.counters.drop_half_open += 1;
                self.leave_backlog(index);
            }
            Owner::Nobody => {}
        }
    }

    /// Tells the owner of a connection what moved.
    pub(crate) fn tell(&mut self, index: SlotIndex, moved: Moved) {
        let Some(socket) = self.owner_of(index) else { return };
        if moved.readable {
            self.events.push(Event::Readable { socket });
        }
        if moved.writable {
            self.events.push(Event::Writable { socket });
        }
        if moved.ended {
            self.events.push(Event::Ended { socket });
        }
    }

    /// The socket that a connection belongs to, while it has one.
    fn owner_of(&mut self, index: SlotIndex) -> Option<SocketId> {
        match self.slots.connection(index)?.owner() {
            Owner::Socket(socket) => Some(socket),
            _ => None,
        }
    }

    /// Ends a socket whose owner broke the contract, as far as the network can tell.
    pub(crate) fn breach(&mut self, index: SlotIndex, breach: Breach) {
        let socket = match self.slots.get_mut(index) {
            Some(Slot::Connection(connection)) => {
                connection.disown();
                let Owner::Socket(socket) = connection.owner() else { return };
                socket
            }
            Some(Slot::Datagram(datagram)) => {
                (datagram.rx, datagram.tx) = (None, None);
                datagram.id
            }
            _ => return,
        };
        self.slots.mark(index);
        self.events.push(Event::Breach { socket, breach });
    }

    /// Takes a connection out of every table, and tells a former owner.
    pub(crate) fn remove(&mut self, index: SlotIndex) -> Option<Box<C>> {
        let Some(Slot::Connection(connection)) = self.slots.remove(index) else { return None };
        self.flows.remove(&connection.flow());
        self.waiting.retain(|waiting| *waiting != index);
        if let Owner::Orphan(socket) | Owner::Socket(socket) = connection.owner() {
            self.gone(socket);
        }
        Some(connection)
    }

    /// Takes a connection out, of which nobody is told.
    pub(crate) fn take_out(&mut self, socket: SocketId, index: SlotIndex) -> Option<Box<C>> {
        let Some(Slot::Connection(connection)) = self.slots.remove(index) else { return None };
        self.flows.remove(&connection.flow());
        self.waiting.retain(|waiting| *waiting != index);
        self.slots.assign(socket, Place::Free);
        Some(connection)
    }

    /// Puts a connection in that was taken out elsewhere.
    pub(crate) fn put_in(&mut self, socket: SocketId, connection: C) -> Result<&mut C, Errno> {
        let flow = connection.flow();
        if !self.slots.is_free(socket) || !self.slots.has_room() {
            return Err(Errno::EINVAL);
        }
        if !self.net.is_own(flow.local.ip()) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        if self.flows.contains_key(&flow) {
            return Err(Errno::EADDRINUSE);
        }
        let index = self.slots.insert(Slot::Connection(Box::new(connection)));
        self.slots.assign(socket, Place::Slot(index));
        self.flows.insert(flow, index);
        self.slots.mark(index);
        self.slots.connection(index).ok_or(Errno::EINVAL)
    }

    /// Removes a connection that died before anybody took it.
    pub(crate) fn discard(&mut self, index: SlotIndex) -> Option<Box<C>> {
        self.leave_backlog(index);
        self.remove(index)
    }

    fn leave_backlog(&mut self, index: SlotIndex) {
        let Some(connection) = self.slots.connection(index) else { return };
        if let Owner::Backlog(listener) = connection.owner() {
            connection.set_owner(Owner::Nobody);
            if let Some(listener) = self.slots.listener(listener) {
                listener.forget(index);
            }
        }
    }

    /// Gives waiting connections to waiting credits.
    fn hand_out(&mut self, now: Instant, index: SlotIndex) {
        while let Some(listener) = self.slots.listener(index)
            && let Some((waiting, socket, mut fifos)) = listener.match_up()
        {
            let listener = listener.id;
            let Some(connection) = self.slots.connection(waiting) else { continue };
            fifos.tx.grant();
            connection.set_owner(Owner::Socket(socket));
            connection.adopt(now, fifos);
            let Flow { local, remote: peer } = connection.flow();
            self.slots.assign(socket, Place::Slot(waiting));
            self.slots.mark(waiting);
            self.events.push(Event::Accepted { listener, socket, local, peer });
        }
    }

    /// Lets a socket wait for a neighbour.
    pub(crate) fn wait_for_neighbour(&mut self, index: SlotIndex) {
        if !self.waiting.contains(&index) {
            self.waiting.push(index);
        }
    }

    /// Marks the sockets that wait for a neighbour who is known now.
    pub(crate) fn wake_waiting(&mut self, learned: IpAddr) {
        for index in std::mem::take(&mut self.waiting) {
            // What a UDP socket waits for is in its FIFO; it looks itself.
            let hop = |flow: Flow| self.net.next_hop(flow.remote.ip());
            match self.slots.connection(index).map(|connection| hop(connection.flow())) {
                Some(hop) if hop != Some(learned) => self.waiting.push(index),
                _ => self.slots.mark(index),
            }
        }
    }

    /// Gives chunks back that idle sockets hold. Bounded.
    pub(crate) fn trim(&mut self) {
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

    /// Shows each socket.
    pub(crate) fn report(&self, show: &mut dyn FnMut(SocketReport)) {
        for slot in self.slots.iter() {
            show(match slot {
                Slot::Connection(connection) => connection.report(),
                Slot::Datagram(datagram) => datagram.report(),
                Slot::Listener(listener) => listener.report(),
            });
        }
    }
}

/// The unspecified address of the same family, with the same port.
pub(crate) fn any_address(local: SocketAddr) -> SocketAddr {
    let any = match local {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(any, local.port())
}
