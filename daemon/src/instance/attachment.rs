//! One client on one instance: its channels, and which of its slots this instance serves.
//!
//! Everything read here was written by the client and is checked by `dmm_proto`'s types; what does
//! not fit comes out as a [`Breach`].
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dmm_proto::Breach;
use dmm_proto::layout::{ContextLine, Pending};
use dmm_proto::op::{Completion, Socket, Submission};
use dmm_proto::rehome::{Outbox, rehome};
use dmm_proto::ring::{Consumer, Producer};
use dmm_proto::shared::Shared;
use dmm_stack::SocketId;

use crate::session::Session;

/// Completions of one socket that may wait for room at a time: a `Look`, that its SYN waits, the answer to
/// its opening, what it knows of itself in three parts, and its closing. No operation is taken from a
/// channel while any wait.
const WAITING_PER_SOCKET: usize = 8;

/// A channel's daemon ends.
struct Channel {
    submissions: Consumer,
    completions: Outbox,
    context: Shared<ContextLine>,
    /// Something was added since the last flush.
    dirty: bool,
}

/// A client on an instance.
pub struct Attachment {
    /// The client.
    pub session: Arc<Session>,
    /// This instance among all of the daemon.
    instance: u32,
    pending: Shared<Pending>,
    /// A bit for each context whose submissions were not drained to the end.
    unfinished: u64,
    /// A bit for each context whose submissions wait until its completions find room.
    stalled: u64,
    channels: Vec<Option<Channel>>,
    /// The socket of each slot, as far as slots were used.
    slots: Vec<Option<SocketId>>,
}

impl Attachment {
    /// The attachment of a new session.
    pub fn new(session: Arc<Session>, instance: u32) -> Self {
        let contexts = session.memory.geometry.contexts as usize;
        Self {
            pending: session.memory.pending(instance),
            session,
            instance,
            unfinished: 0,
            stalled: 0,
            channels: (0..contexts).map(|_| None).collect(),
            slots: Vec::new(),
        }
    }

    /// Contexts that have submissions, a bit each; asking clears the client's marks.
    pub fn take_pending(&mut self) -> u64 {
        let marked = if self.pending.contexts.load(Ordering::Relaxed) == 0 {
            0
        } else {
            self.pending.contexts.swap(0, Ordering::AcqRel)
        };
        let known = u64::MAX >> (64 - self.channels.len());
        let resumed = self.take_resumed();
        std::mem::take(&mut self.unfinished) | resumed | (marked & known)
    }

    /// Stalled contexts whose completions have all found room.
    fn take_resumed(&mut self) -> u64 {
        let mut resumed = self.stalled;
        for (context, channel) in self.channels.iter().enumerate() {
            if channel.as_ref().is_some_and(|channel| channel.completions.waiting() > 0) {
                resumed &= !(1 << context);
            }
        }
        self.stalled &= !resumed;
        resumed
    }

    /// Comes back to `context` once its completions have found room.
    pub fn stall(&mut self, context: u32) {
        self.stalled |= 1 << context;
    }

    /// Comes back to `context` in the next turn: its submissions were not drained to the end.
    pub fn leave_unfinished(&mut self, context: u32) {
        self.unfinished |= 1 << context;
    }

    /// Whether work waits; for the look before sleeping.
    pub fn has_work(&self) -> bool {
        self.unfinished != 0 || self.pending.contexts.load(Ordering::Acquire) != 0
    }

    /// The next submission of a context, or `None` if there is none, or if completions wait for room.
    pub fn next_submission(&mut self, context: u32) -> Result<Option<Submission>, Breach> {
        if self.session.ringer(context).is_none() {
            return Err(Breach::Context);
        }
        let channel = self.channel(context);
        if channel.completions.waiting() > 0 {
            return Ok(None);
        }
        match channel.submissions.pop()? {
            Some(entry) => Submission::decode(&entry).map(Some),
            None => Ok(None),
        }
    }

    /// Gives the entries of drained submissions back.
    pub fn release(&mut self, context: u32) {
        if let Some(Some(channel)) = self.channels.get_mut(context as usize) {
            channel.submissions.release();
        }
    }

    /// Adds a completion, which [`Attachment::flush`] shows. Returns whether it must wait for room.
    pub fn complete(&mut self, context: u32, completion: Completion) -> Result<bool, Breach> {
        let channel = self.channel(context);
        channel.completions.push(completion)?;
        channel.dirty = true;
        Ok(channel.completions.waiting() > 0)
    }

    /// Moves a socket's completions from one context's channel to another's.
    pub fn rehome(&mut self, from: u32, to: u32, socket: Socket) -> Result<(), Breach> {
        self.channel(from);
        self.channel(to);
        if from == to {
            return self.complete(to, Completion::Rehomed { socket }).map(|_| ());
        }
        let [Some(old), Some(new)] = self
            .channels
            .get_disjoint_mut([from as usize, to as usize])
            .map_err(|_| Breach::Context)?
        else {
            return Err(Breach::Context);
        };
        (old.dirty, new.dirty) = (true, true);
        rehome(&mut old.completions, &mut new.completions, socket)
    }

    /// Whether completions wait for room in a context's ring.
    pub fn is_waiting(&self, context: u32) -> bool {
        let channel = self.channels[context as usize].as_ref();
        channel.is_some_and(|channel| channel.completions.waiting() > 0)
    }

    /// Whether completions wait for room in any ring.
    pub fn has_waiting(&self) -> bool {
        self.channels.iter().flatten().any(|channel| channel.completions.waiting() > 0)
    }

    /// Shows what was added, as far as there is room, and rings where somebody sleeps. Returns the
    /// number of rings.
    pub fn flush(&mut self) -> Result<u64, Breach> {
        let mut rings = 0;
        for (context, channel) in (0_u32..).zip(&mut self.channels) {
            let Some(channel) = channel else { continue };
            let dirty = std::mem::take(&mut channel.dirty);
            if !dirty && channel.completions.waiting() == 0 {
                continue;
            }
            // Rehoming shows what was added by itself: a dirty channel is news in any case.
            let shown = channel.completions.flush()?;
            if !shown && !dirty {
                continue;
            }
            if channel.context.asleep.is_up()
                && let Some(ringer) = self.session.ringer(context)
            {
                // A client that is gone is noticed by the control thread.
                ringer.ring();
                rings += 1;
            }
        }
        Ok(rings)
    }

    /// The socket in a slot: `Ok(None)` if the slot is free.
    pub fn slot(&self, slot: u32) -> Result<Option<SocketId>, Breach> {
        if slot >= self.session.memory.geometry.sockets {
            return Err(Breach::Slot);
        }
        Ok(self.slots.get(slot as usize).copied().flatten())
    }

    /// Puts a socket into a slot, or empties it. The slot was checked.
    pub fn set_slot(&mut self, slot: u32, id: Option<SocketId>) {
        let slot = slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, None);
        }
        self.slots[slot] = id;
    }

    fn channel(&mut self, context: u32) -> &mut Channel {
        let (memory, instance) = (&self.session.memory, self.instance);
        self.channels[context as usize].get_or_insert_with(|| {
            let channel = memory.geometry.channel(context, instance);
            let waiting_max = WAITING_PER_SOCKET * memory.geometry.sockets as usize;
            Channel {
                submissions: Consumer::new(memory.submissions(channel)),
                completions: Outbox::new(Producer::new(memory.completions(channel)), waiting_max),
                context: memory.context(context),
                dirty: false,
            }
        })
    }
}
