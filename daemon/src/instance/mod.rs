//! An instance: one shard of a stack, with the queue pair that it drives and the clients that use it.
//!
//! Owned and run by one worker. A turn takes frames and submissions in, lets the stack work, and
//! gives completions and frames out; every loop in it is bounded.
//!
//! ```text
//!   rx queue ─▶ steering ─▶ stack.receive ─┐
//!   inbox ────────────────▶                ├─ stack.poll ─▶ settle ─▶ completions, doorbells
//!   channels ─▶ submit ───▶ stack.submit ──┘            └─▶ tx queue
//! ```
#![forbid(unsafe_code)]

pub mod attachment;
pub mod binding;
pub mod inbox;
mod ports;
mod settle;
pub mod socket;
pub mod steering;
mod submit;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dmm_port::pcap::Way;
use dmm_port::{BURST, Instant, RxFrame, RxQueue, TxQueue};
use dmm_proto::Breach;
use dmm_stack::{Event, Ping, Pong, SocketId, Stack};
use nix::errno::Errno;

use crate::capture::Tap;
use crate::counters::InstanceCounters;
use crate::session::{Session, SessionId};
use attachment::Attachment;
use binding::Bindings;
use inbox::Inbox;
use socket::Sockets;
use steering::{Owner, Steering};

/// Operations taken from one channel in a turn: a client with a full ring waits four turns.
pub const OPERATIONS_PER_TURN: usize = 64;
/// Rounds of poll and transmit in a turn: 4 times [`dmm_port::TX_SLOTS`] frames.
const POLLS_PER_TURN: usize = 4;
/// How often idle FIFOs are looked for.
const TRIM_EVERY: Duration = Duration::from_millis(100);

/// How an instance is named and bounded.
pub struct InstanceConfig {
    /// Its stack's name.
    pub stack: String,
    /// Its index among all instances of the daemon.
    pub index: u32,
    /// Its shard of the stack.
    pub shard: usize,
    /// The first instance of the stack among all.
    pub first_instance: u32,
    /// Bytes of a connection's rx and tx FIFO.
    pub tcp_buffers: (u32, u32),
    /// Bytes of a UDP socket's rx and tx FIFO.
    pub udp_buffers: (u32, u32),
    /// Connections that may wait for a listener, whatever it asks for.
    pub backlog_max: u32,
    /// Sockets in all.
    pub sockets_max: u32,
}

/// One shard of a stack at work.
pub struct Instance {
    config: InstanceConfig,
    stack: Box<dyn Stack>,
    rx: Box<dyn RxQueue>,
    tx: Box<dyn TxQueue>,
    steering: Steering,
    /// The inboxes of all shards of the stack, by shard.
    inboxes: Arc<[Inbox]>,
    bindings: Arc<Bindings>,
    counters: Arc<InstanceCounters>,
    attachments: Vec<Option<Attachment>>,
    sockets: Sockets,
    /// Ends of connections opened from here, which must stay unique.
    flows: HashMap<(SocketAddr, SocketAddr), SocketId>,
    /// Where the next search for a free port begins.
    port_cursor: u16,
    events: Vec<Event>,
    /// Attachments with completions to publish.
    dirty: Vec<usize>,
    /// Attachments whose clients broke the contract in this turn.
    breaches: Vec<(usize, Breach)>,
    /// Echo requests that came to their ends since the worker last asked.
    pongs: Vec<(u64, Result<Pong, Errno>)>,
    /// Captures that are shown what passes.
    taps: Vec<Tap>,
    next_trim: Instant,
}

/// What an instance is put together from.
pub struct InstanceParts {
    /// Names and bounds.
    pub config: InstanceConfig,
    /// The shard's stack.
    pub stack: Box<dyn Stack>,
    /// The receiving half of its queue pair.
    pub rx: Box<dyn RxQueue>,
    /// The sending half.
    pub tx: Box<dyn TxQueue>,
    /// The stack's inboxes, one a shard.
    pub inboxes: Arc<[Inbox]>,
    /// The stack's ports.
    pub bindings: Arc<Bindings>,
    /// Where it counts.
    pub counters: Arc<InstanceCounters>,
    /// Seed of what need not be guessed.
    pub seed: u64,
}

impl Instance {
    /// Puts an instance together.
    pub fn new(parts: InstanceParts) -> Self {
        let InstanceParts { config, stack, rx, tx, inboxes, bindings, counters, seed } = parts;
        Self {
            steering: Steering::new(config.shard, inboxes.len(), Arc::clone(&bindings)),
            sockets: Sockets::new(config.sockets_max),
            config,
            stack,
            rx,
            tx,
            inboxes,
            bindings,
            counters,
            attachments: Vec::new(),
            flows: HashMap::new(),
            port_cursor: seed as u16,
            events: Vec::with_capacity(4 * BURST),
            dirty: Vec::new(),
            breaches: Vec::new(),
            pongs: Vec::new(),
            taps: Vec::new(),
            next_trim: Instant::ZERO,
        }
    }

    /// One turn. Returns whether there was anything to do.
    pub fn turn(&mut self, now: Instant) -> bool {
        let mut worked = self.receive(now);
        worked |= self.receive_from_shards(now);
        worked |= self.drain_clients(now);
        for _ in 0..POLLS_PER_TURN {
            self.stack.poll(now, &mut self.tx.burst(), &mut self.events);
            worked |= !self.events.is_empty();
            self.settle();
            if !self.transmit(now) {
                break;
            }
            worked = true;
        }
        self.trim(now);
        self.flush_clients();
        worked
    }

    /// When the next turn is due without new frames, operations or messages.
    pub fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let mut deadline = self.stack.deadline(now);
        let mut sooner = |at: Instant| deadline = Some(deadline.map_or(at, |d| d.min(at)));
        if let Some(at) = self.rx.deadline() {
            sooner(at);
        }
        if self.sockets.count() > 0 {
            sooner(self.next_trim);
        }
        if self.attachments.iter().flatten().any(Attachment::has_waiting) {
            // Nothing tells that a client made room in its ring.
            sooner(now + Duration::from_millis(1));
        }
        deadline
    }

    /// Whether work waits that no descriptor tells of: for the look before sleeping.
    pub fn has_work(&self) -> bool {
        !self.breaches.is_empty()
            || !self.inboxes[self.config.shard].is_empty()
            || self.attachments.iter().flatten().any(Attachment::has_work)
    }

    /// The receiving half, for the worker's sleep.
    pub fn rx_queue(&mut self) -> &mut dyn RxQueue {
        self.rx.as_mut()
    }

    /// The instance's names and bounds.
    pub fn config(&self) -> &InstanceConfig {
        &self.config
    }

    /// The stack, for reports.
    pub fn stack(&self) -> &dyn Stack {
        self.stack.as_ref()
    }

    /// The sockets, for reports.
    pub fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// The client of an attachment, for reports.
    pub fn session_of(&self, owner: usize) -> Option<&Arc<Session>> {
        Some(&self.attachments.get(owner)?.as_ref()?.session)
    }

    /// Frames that the device did not take.
    pub fn tx_dropped(&self) -> u64 {
        self.tx.dropped()
    }

    /// Serves a new client.
    pub fn attach(&mut self, session: Arc<Session>) {
        let attachment = Attachment::new(session, self.config.index);
        match self.attachments.iter().position(Option::is_none) {
            Some(free) => self.attachments[free] = Some(attachment),
            None => self.attachments.push(Some(attachment)),
        }
    }

    /// Lets go of a client that is gone: takes its last operations, then closes its sockets as
    /// exit(2) would, or aborts them if it broke the contract.
    pub fn detach(&mut self, now: Instant, id: SessionId) {
        let of_session = |a: &Option<Attachment>| a.as_ref().is_some_and(|a| a.session.id == id);
        let Some(owner) = self.attachments.iter().position(of_session) else { return };
        let session = self.attachments[owner].as_ref().map(|a| Arc::clone(&a.session));
        let broken = session.and_then(|session| session.breach()).is_some();
        if !broken {
            // A ring's length of operations may wait on each of its contexts.
            for _ in 0..=dmm_proto::layout::RING_ENTRIES as usize / OPERATIONS_PER_TURN {
                self.drain_attachment(now, owner);
            }
        }
        let abort = broken || self.breaches.iter().any(|(of, _)| *of == owner);
        self.breaches.retain(|(of, _)| *of != owner);
        for socket in self.sockets.owned_by(owner) {
            self.counters.sockets_reclaimed.add(1);
            self.let_go(now, socket, abort);
        }
        self.attachments[owner] = None;
        self.dirty.retain(|of| *of != owner);
    }

    /// Sends an echo request for an operator.
    pub fn ping(&mut self, now: Instant, ping: &Ping) {
        if let Err(errno) = self.stack.ping(now, ping) {
            self.pongs.push((ping.token, Err(errno)));
        }
    }

    /// What came of echo requests since the last call.
    pub fn take_pongs(&mut self) -> std::vec::Drain<'_, (u64, Result<Pong, Errno>)> {
        self.pongs.drain(..)
    }

    /// Shows a capture what passes, until nobody records it any more.
    pub fn capture(&mut self, tap: Tap) {
        self.taps.push(tap);
    }

    /// Closes every socket: the daemon is about to end.
    pub fn close_all(&mut self, now: Instant) {
        let ids: Vec<_> = self.attachments.iter().flatten().map(|a| a.session.id).collect();
        for id in ids {
            self.detach(now, id);
        }
    }

    /// Sessions whose clients broke the contract since the last call.
    pub fn take_breaches(&mut self) -> Vec<(Arc<Session>, Breach)> {
        let breaches = std::mem::take(&mut self.breaches);
        let session_of = |owner: usize| self.session_of(owner).map(Arc::clone);
        breaches.into_iter().filter_map(|(o, breach)| Some((session_of(o)?, breach))).collect()
    }

    fn receive(&mut self, now: Instant) -> bool {
        let frames = self.rx.burst(now);
        if frames.is_empty() {
            return false;
        }
        self.counters.rx_frames.add(frames.len() as u64);
        self.counters.rx_bytes.add(frames.iter().map(|frame| frame.bytes.len() as u64).sum());
        self.taps.retain(|tap| tap.take(now, Way::In, frames.iter().map(|frame| frame.bytes)));
        if self.steering.shards == 1 {
            self.stack.receive(now, frames, &mut self.tx.burst());
            return true;
        }
        // Runs of frames that are ours go to the stack together.
        let mut run = 0;
        for (i, frame) in frames.iter().enumerate() {
            let owner = self.steering.owner(frame);
            if owner == Owner::Shard(self.config.shard) {
                continue;
            }
            if run < i {
                self.stack.receive(now, &frames[run..i], &mut self.tx.burst());
            }
            run = i + 1;
            let mut router = Router {
                now,
                shard: self.config.shard,
                steering: &mut self.steering,
                inboxes: &self.inboxes,
                stack: self.stack.as_mut(),
                tx: self.tx.as_mut(),
                counters: &self.counters,
            };
            router.route(owner, frame);
        }
        if run < frames.len() {
            self.stack.receive(now, &frames[run..], &mut self.tx.burst());
        }
        true
    }

    fn receive_from_shards(&mut self, now: Instant) -> bool {
        let mut worked = false;
        for _ in 0..BURST {
            let Some(passed) = self.inboxes[self.config.shard].take() else { break };
            worked = true;
            self.counters.shard_in.add(1);
            let frame = passed.frame();
            if passed.steered {
                self.stack.receive(now, std::slice::from_ref(&frame), &mut self.tx.burst());
            } else {
                let mut router = Router {
                    now,
                    shard: self.config.shard,
                    steering: &mut self.steering,
                    inboxes: &self.inboxes,
                    stack: self.stack.as_mut(),
                    tx: self.tx.as_mut(),
                    counters: &self.counters,
                };
                router.route(Owner::Decider, &frame);
            }
            self.inboxes[self.config.shard].give_back(passed);
        }
        worked
    }

    /// Sends what was written. Returns whether that was anything.
    fn transmit(&mut self, now: Instant) -> bool {
        let burst = self.tx.burst();
        let frames = burst.frames();
        if frames.is_empty() {
            return false;
        }
        self.counters.tx_frames.add(frames.len() as u64);
        self.counters.tx_bytes.add(frames.iter().map(|slot| slot.len() as u64).sum());
        self.taps.retain(|tap| tap.take(now, Way::Out, frames.iter().map(|slot| slot.bytes())));
        self.tx.flush(now);
        true
    }

    fn trim(&mut self, now: Instant) {
        if now >= self.next_trim {
            self.next_trim = now + TRIM_EVERY;
            self.stack.trim(now);
            self.counters.drop_fragment_timeout.add(self.steering.expire(now));
        }
    }

    fn flush_clients(&mut self) {
        for (owner, attachment) in self.attachments.iter().enumerate() {
            let waits = attachment.as_ref().is_some_and(Attachment::has_waiting);
            if waits && !self.dirty.contains(&owner) {
                self.dirty.push(owner);
            }
        }
        for owner in self.dirty.drain(..) {
            let Some(Some(attachment)) = self.attachments.get_mut(owner) else { continue };
            match attachment.flush() {
                Ok(rings) => self.counters.doorbells.add(rings),
                Err(breach) => self.breaches.push((owner, breach)),
            }
        }
    }
}

/// Brings a frame that is not simply this shard's to its owner.
struct Router<'a> {
    now: Instant,
    shard: usize,
    steering: &'a mut Steering,
    inboxes: &'a [Inbox],
    stack: &'a mut dyn Stack,
    tx: &'a mut dyn TxQueue,
    counters: &'a InstanceCounters,
}

impl Router<'_> {
    fn route(&mut self, owner: Owner, frame: &RxFrame<'_>) {
        match owner {
            Owner::Shard(shard) => self.give(shard, frame),
            Owner::All => (0..self.inboxes.len()).for_each(|shard| self.give(shard, frame)),
            Owner::Decider if self.shard != 0 => self.pass(0, frame, false),
            Owner::Decider => self.decide(frame),
        }
    }

    fn decide(&mut self, frame: &RxFrame<'_>) {
        match self.steering.decide(self.now, frame) {
            Ok(Some(shard)) => self.give(shard, frame),
            Ok(None) => {}
            Err(steering::Overflow) => self.counters.drop_fragment_overflow.add(1),
        }
        self.counters.drop_fragment_overflow.add(self.steering.evicted());
        for (shard, bytes) in self.steering.release() {
            let piece = RxFrame { bytes: &bytes, checksum: frame.checksum, hash: None };
            self.give(shard, &piece);
        }
    }

    fn give(&mut self, shard: usize, frame: &RxFrame<'_>) {
        if shard == self.shard {
            self.stack.receive(self.now, std::slice::from_ref(frame), &mut self.tx.burst());
        } else {
            self.pass(shard, frame, true);
        }
    }

    fn pass(&self, shard: usize, frame: &RxFrame<'_>, steered: bool) {
        if self.inboxes[shard].pass(frame, steered) {
            self.counters.shard_out.add(1);
        } else {
            self.counters.drop_shard_full.add(1);
        }
    }
}
