//! The table of sockets, with who wants service and when.
//!
//! Owns: every listener, connection and UDP socket of the instance, also those that the caller has
//! no id for (waiting in a backlog) or has closed (flushing, `TIME-WAIT`). Called on every path.
//! Must never: hold more than its limit, or look at all sockets to find one.
//!
//! ```text
//!  SocketId ──ids──▶ SlotIndex ──slots──▶ socket
//!                        ▲  ▲
//!         dirty: served now  timers: served when the time comes
//! ```
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use dmm_port::Instant;

use crate::SocketId;
use crate::sockets::datagram::Datagram;
use crate::sockets::listener::Listener;
use crate::sockets::wheel::Wheel;

/// Where a socket stands in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SlotIndex(u32);

impl SlotIndex {
    /// Before all others.
    pub(crate) const FIRST: Self = Self(0);
}

/// A socket of any sort. `C` is the kind's connection.
pub(crate) enum Slot<C> {
    /// A TCP listener.
    Listener(Box<Listener>),
    /// A TCP connection in any state.
    Connection(Box<C>),
    /// A UDP socket.
    Datagram(Box<Datagram>),
}

/// What an id of the caller's stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing.
    #[default]
    Free,
    /// A socket.
    Slot(SlotIndex),
    /// A credit that waits at this listener.
    Credit(SlotIndex),
}

/// The table.
pub(crate) struct Slots<C> {
    slots: Vec<Option<Slot<C>>>,
    free: Vec<SlotIndex>,
    /// For each slot, whether it is in `dirty`.
    queued: Vec<bool>,
    dirty: VecDeque<SlotIndex>,
    timers: Wheel,
    ids: Vec<Place>,
    most: usize,
}

impl<C> Slots<C> {
    /// A table for at most `most` sockets.
    pub(crate) fn new(most: u32) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            queued: Vec::new(),
            dirty: VecDeque::new(),
            timers: Wheel::new(),
            ids: Vec::new(),
            most: most as usize,
        }
    }

    /// Whether there is room for another socket.
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty() || self.slots.len() < self.most
    }

    /// Puts a socket into the table, which has room.
    pub(crate) fn insert(&mut self, slot: Slot<C>) -> SlotIndex {
        if let Some(index) = self.free.pop() {
            self.slots[index.0 as usize] = Some(slot);
            return index;
        }
        debug_assert!(self.has_room());
        let index = SlotIndex(u32::try_from(self.slots.len()).expect("most was a u32"));
        self.slots.push(Some(slot));
        self.queued.push(false);
        index
    }

    /// Takes a socket out of the table.
    pub(crate) fn remove(&mut self, index: SlotIndex) -> Option<Slot<C>> {
        let slot = self.slots[index.0 as usize].take()?;
        self.timers.unset(index.0);
        self.free.push(index);
        Some(slot)
    }

    /// The socket there, if there is one.
    pub(crate) fn get_mut(&mut self, index: SlotIndex) -> Option<&mut Slot<C>> {
        self.slots[index.0 as usize].as_mut()
    }

    /// The socket there, to look at.
    pub(crate) fn get(&self, index: SlotIndex) -> Option<&Slot<C>> {
        self.slots[index.0 as usize].as_ref()
    }

    /// The connection there, if it is one.
    pub(crate) fn connection(&mut self, index: SlotIndex) -> Option<&mut C> {
        match self.get_mut(index) {
            Some(Slot::Connection(connection)) => Some(connection),
            _ => None,
        }
    }

    /// The listener there, if it is one.
    pub(crate) fn listener(&mut self, index: SlotIndex) -> Option<&mut Listener> {
        match self.get_mut(index) {
            Some(Slot::Listener(listener)) => Some(listener),
            _ => None,
        }
    }

    /// The UDP socket there, if it is one.
    pub(crate) fn datagram(&mut self, index: SlotIndex) -> Option<&mut Datagram> {
        match self.get_mut(index) {
            Some(Slot::Datagram(datagram)) => Some(datagram),
            _ => None,
        }
    }

    /// All sockets.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot<C>> {
        self.slots.iter().flatten()
    }

    /// Up to `count` places from number `from` on, and the number to go on from, 0 at the end.
    pub(crate) fn some(&self, from: usize, count: usize) -> (Vec<SlotIndex>, usize) {
        let end = self.slots.len().min(from.saturating_add(count));
        let number = |at: usize| SlotIndex(u32::try_from(at).unwrap_or(u32::MAX));
        let next = if end == self.slots.len() { 0 } else { end };
        ((from..end).map(number).collect(), next)
    }

    /// What `id` stands for.
    pub(crate) fn place(&self, id: SocketId) -> Place {
        self.ids.get(id.0 as usize).copied().unwrap_or_default()
    }

    /// Whether `id` is within bounds and stands for nothing.
    pub(crate) fn is_free(&self, id: SocketId) -> bool {
        (id.0 as usize) < self.most && self.place(id) == Place::Free
    }

    /// Lets `id`, which is within bounds, stand for `place`.
    pub(crate) fn assign(&mut self, id: SocketId, place: Place) {
        let at = id.0 as usize;
        if at >= self.ids.len() {
            self.ids.resize(at + 1, Place::Free);
        }
        self.ids[at] = place;
    }

    /// Asks for service at the next opportunity.
    pub(crate) fn mark(&mut self, index: SlotIndex) {
        if !std::mem::replace(&mut self.queued[index.0 as usize], true) {
            self.dirty.push_back(index);
        }
    }

    /// Asks for service before anybody else.
    pub(crate) fn mark_first(&mut self, index: SlotIndex) {
        if !std::mem::replace(&mut self.queued[index.0 as usize], true) {
            self.dirty.push_front(index);
        }
    }

    /// Who is to be served next.
    pub(crate) fn next_dirty(&mut self) -> Option<SlotIndex> {
        let index = self.dirty.pop_front()?;
        self.queued[index.0 as usize] = false;
        Some(index)
    }

    /// How many ask for service.
    pub(crate) fn dirty_count(&self) -> usize {
        self.dirty.len()
    }

    /// Sets when to serve a socket if nothing else happens: then at the latest. A time that was set
    /// before and comes sooner stays, since most are put off again and again before they come; who is
    /// served too soon says anew when.
    pub(crate) fn wake_at(&mut self, index: SlotIndex, wake: Option<Instant>) {
        let Some(wake) = wake else { return };
        if self.timers.get(index.0).is_none_or(|before| wake < before) {
            self.timers.set(index.0, wake);
        }
    }

    /// The earliest time at which a socket is to be served, or one a little before it.
    pub(crate) fn next_wake(&mut self) -> Option<Instant> {
        self.timers.earliest()
    }

    /// Marks up to `count` sockets whose time has come.
    pub(crate) fn expire(&mut self, now: Instant, count: usize) {
        let Self { timers, queued, dirty, .. } = self;
        timers.expire(now, count, |index| {
            if !std::mem::replace(&mut queued[index as usize], true) {
                dirty.push_back(SlotIndex(index));
            }
        });
    }
}
