//! Submission channels: one ring to each instance, and the worker's doorbell behind it.
//!
//! Owned by the client; any thread submits. What must not wait (a close from `Drop`, whatever a
//! drain brings about) is deferred when the ring is full and goes out, in order, before anything
//! else does. Must never: block, or be called with a producer's lock held.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use dmm_proto::Breach;
use dmm_proto::doorbell::WorkerBell;
use dmm_proto::layout::{Pending, WorkerLine};
use dmm_proto::op::Submission;
use dmm_proto::ring::Producer;
use dmm_proto::session::{Beacon, Memory};
use dmm_proto::shared::Shared;

use crate::waiter::lock;

/// The context that this library uses.
pub(crate) const CONTEXT: u32 = 0;

/// The channels of a client's context.
pub(crate) struct Channels {
    channels: Vec<Channel>,
    bells: Vec<WorkerBell>,
    /// Deferred submissions over all channels.
    deferred: AtomicUsize,
}

struct Channel {
    sending: Mutex<Sending>,
    pending: Shared<Pending>,
    worker: usize,
    worker_line: Shared<WorkerLine>,
}

struct Sending {
    producer: Producer,
    /// Bounded: at most one close and one credit for each of the session's slots.
    deferred: VecDeque<Submission>,
}

impl Channels {
    /// The channels of a session just opened. `None` if its tables contradict themselves.
    pub(crate) fn new(memory: &Memory, beacon: &Beacon, bells: Vec<OwnedFd>) -> Option<Self> {
        let geometry = &memory.geometry;
        let bells: Vec<WorkerBell> = bells.into_iter().map(WorkerBell::from_fd).collect();
        let mut channels = Vec::new();
        for instance in 0..geometry.instances {
            let worker = memory.worker_of(instance);
            if worker as usize >= bells.len() {
                return None;
            }
            let parts = memory.submissions(geometry.channel(CONTEXT, instance));
            let sending = Sending { producer: Producer::new(parts), deferred: VecDeque::new() };
            channels.push(Channel {
                sending: Mutex::new(sending),
                pending: memory.pending(instance),
                worker: worker as usize,
                worker_line: beacon.worker(worker),
            });
        }
        Some(Self { channels, bells, deferred: AtomicUsize::new(0) })
    }

    /// Submits now. `Ok(false)` means that the ring is full.
    pub(crate) fn submit(&self, instance: u32, submission: &Submission) -> Result<bool, Breach> {
        let channel = &self.channels[instance as usize];
        let mut sending = lock(&channel.sending);
        let clear = self.stage_deferred(&mut sending)?;
        let sent = clear && sending.producer.stage(&submission.encode())?;
        self.publish(channel, &mut sending);
        Ok(sent)
    }

    /// Submits now or, if the ring is full, as soon as it is not.
    pub(crate) fn defer(&self, instance: u32, submission: Submission) -> Result<(), Breach> {
        let channel = &self.channels[instance as usize];
        let mut sending = lock(&channel.sending);
        sending.deferred.push_back(submission);
        self.deferred.fetch_add(1, Ordering::AcqRel);
        self.stage_deferred(&mut sending)?;
        self.publish(channel, &mut sending);
        Ok(())
    }

    /// Submits what was deferred as far as the rings allow. Returns whether something is left.
    pub(crate) fn flush(&self) -> Result<bool, Breach> {
        if self.deferred.load(Ordering::Acquire) == 0 {
            return Ok(false);
        }
        for channel in &self.channels {
            let mut sending = lock(&channel.sending);
            self.stage_deferred(&mut sending)?;
            self.publish(channel, &mut sending);
        }
        Ok(self.deferred.load(Ordering::Acquire) > 0)
    }

    /// Stages what was deferred. Returns whether nothing is left.
    fn stage_deferred(&self, sending: &mut Sending) -> Result<bool, Breach> {
        while let Some(first) = sending.deferred.front() {
            if !sending.producer.stage(&first.encode())? {
                return Ok(false);
            }
            sending.deferred.pop_front();
            self.deferred.fetch_sub(1, Ordering::AcqRel);
        }
        Ok(true)
    }

    /// Publishes what was staged, marks the context as pending and rings if the worker sleeps.
    fn publish(&self, channel: &Channel, sending: &mut Sending) {
        if sending.producer.publish() {
            channel.pending.contexts.fetch_or(1 << CONTEXT, Ordering::AcqRel);
            self.ring(channel);
        }
    }

    /// How far the heart of each instance's worker has beaten.
    pub(crate) fn heartbeats(&self) -> impl Iterator<Item = u64> {
        self.channels.iter().map(|channel| channel.worker_line.heartbeat.load(Ordering::Relaxed))
    }

    fn ring(&self, channel: &Channel) {
        if channel.worker_line.asleep.is_up() {
            // A worker that is gone shows at our own doorbell's end of file.
            self.bells[channel.worker].ring();
        }
    }
}
