//! One client on one instance: its channels, and which of its slots this instance serves.
//!
//! Everything read here was written by the client and is checked by `dmm_proto`'s types; what does
//! not fit comes out as a [`Breach`].
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dmm_proto::Breach;
use dmm_proto::layout::{ContextLine, Pending};
use dmm_proto::op::{Completion, Socket, Submission};
use dmm_proto::ring::{Consumer, Producer};
use dmm_proto::shared::Shared;
use dmm_stack::SocketId;

use crate::session::Session;

/// A channel's daemon ends.
pub struct Channel {
    submissions: Consumer,
    completions: Producer,
    /// Completions that found no room in the ring. Bounded: a socket has one `Look` here at most,
    /// and every other completion answers an operation, of which none is taken while any waits.
    deferred: VecDeque<Deferred>,
    context: Shared<ContextLine>,
    /// Something was staged since the last publishing.
    dirty: bool,
}

/// A completion that waits for room.
pub enum Deferred {
    /// A `Look` at a socket, which may be gone when room comes.
    Look(SocketId),
    /// Anything else.
    Other(Completion),
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
        std::mem::take(&mut self.unfinished) | (marked & known)
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
        if !channel.deferred.is_empty() {
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

    /// Stages a completion, or defers it if the ring is full. Returns whether it was deferred.
    pub fn complete(&mut self, context: u32, completion: Completion) -> Result<bool, Breach> {
        let channel = self.channel(context);
        if channel.deferred.is_empty() && channel.stage(&completion)? {
            return Ok(false);
        }
        channel.deferred.push_back(Deferred::Other(completion));
        Ok(true)
    }

    /// As [`Attachment::complete`], for a `Look`. The caller sees to it that a socket has only one
    /// deferred.
    pub fn look(&mut self, context: u32, id: SocketId, name: Socket) -> Result<bool, Breach> {
        let channel = self.channel(context);
        if channel.deferred.is_empty() && channel.stage(&Completion::Look { socket: name })? {
            return Ok(false);
        }
        channel.deferred.push_back(Deferred::Look(id));
        Ok(true)
    }

    /// Takes deferred completions while there is room for them; `stage` returns false when not.
    pub fn has_deferred(&self) -> bool {
        self.channels.iter().flatten().any(|channel| !channel.deferred.is_empty())
    }

    /// Stages deferred completions as far as there is room. `look` clears a socket's mark and says
    /// whether, and under which name, it still wants its `Look`.
    pub fn retry(
        &mut self,
        mut look: impl FnMut(SocketId) -> Option<Socket>,
    ) -> Result<(), Breach> {
        for channel in self.channels.iter_mut().flatten() {
            while !channel.deferred.is_empty() && channel.completions.free()? > 0 {
                let completion = match channel.deferred.pop_front() {
                    Some(Deferred::Look(id)) => match look(id) {
                        Some(socket) => Completion::Look { socket },
                        None => continue,
                    },
                    Some(Deferred::Other(completion)) => completion,
                    None => break,
                };
                channel.stage(&completion)?;
            }
        }
        Ok(())
    }

    /// Publishes what was staged and rings where somebody sleeps. Returns the number of rings.
    pub fn flush(&mut self) -> u64 {
        let mut rings = 0;
        for (context, channel) in (0_u32..).zip(&mut self.channels) {
            let Some(channel) = channel else { continue };
            if !std::mem::take(&mut channel.dirty) || !channel.completions.publish() {
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
        rings
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
            Channel {
                submissions: Consumer::new(memory.submissions(channel)),
                completions: Producer::new(memory.completions(channel)),
                deferred: VecDeque::new(),
                context: memory.context(context),
                dirty: false,
            }
        })
    }
}

impl Channel {
    fn stage(&mut self, completion: &Completion) -> Result<bool, Breach> {
        let staged = self.completions.stage(&completion.encode())?;
        self.dirty |= staged;
        Ok(staged)
    }
}
