//! What the control thread and the workers say to each other.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use dmm_admin::report::SocketRow;
use dmm_proto::Breach;
use dmm_stack::Pong;
use nix::errno::Errno;

use super::waker::Waker;
use crate::capture::Tap;
use crate::session::{Session, SessionId};

/// To a worker.
pub enum ToWorker {
    /// Serve a new client.
    Attach(Arc<Session>),
    /// Let go of a client; answered by [`FromWorker::Detached`].
    Detach(SessionId),
    /// Report what only the worker knows.
    Report {
        /// Whether sockets are wanted too.
        sockets: bool,
        /// Where to.
        to: Sender<WorkerReport>,
    },
    /// Send an echo request; answered by [`FromWorker::Ponged`].
    Ping {
        /// The instance among all.
        instance: u32,
        /// The request's token.
        token: u64,
        /// To whom.
        to: IpAddr,
        /// Bytes of payload.
        bytes: u16,
        /// When to give it up.
        timeout: Duration,
    },
    /// Show a capture what passes an instance.
    Capture {
        /// The instance among all.
        instance: u32,
        /// Where to.
        tap: Tap,
    },
    /// Close every socket, and end the thread once nothing but `TIME-WAIT` is left, or patience is.
    Close,
}

/// From a worker.
pub enum FromWorker {
    /// A client broke the contract.
    Condemned(SessionId, Breach),
    /// The worker has let go of a client.
    Detached(SessionId),
    /// An echo request, by its token, came to its end.
    Ponged(u64, Result<Pong, Errno>),
    /// The worker has ended.
    Ended,
}

/// What a worker knows of its instances.
#[derive(Default)]
pub struct WorkerReport {
    /// One an instance.
    pub instances: Vec<InstanceReport>,
}

/// What a worker knows of one instance.
#[derive(Default)]
pub struct InstanceReport {
    /// The instance among all.
    pub index: u32,
    /// The stack's counters.
    pub counters: Vec<(&'static str, u64)>,
    /// Frames dropped because the device's transmit ring was full.
    pub tx_dropped: u64,
    /// Sockets, orphans included.
    pub sockets: u64,
    /// Orphans.
    pub orphans: u64,
    /// The sockets themselves, if they were asked for.
    pub rows: Vec<SocketRow>,
}

/// The control thread's end of a worker.
#[derive(Clone)]
pub struct WorkerHandle {
    /// The core that it is pinned to.
    pub core: u16,
    /// Its messages.
    pub messages: Sender<ToWorker>,
    /// Its waker.
    pub waker: Waker,
}

impl WorkerHandle {
    /// Sends a message.
    pub fn tell(&self, message: ToWorker) {
        // A worker that has ended needs no message.
        let _ = self.messages.send(message);
        self.waker.wake_if_asleep();
    }
}

/// A worker's end.
pub struct WorkerEnds {
    /// Messages to it.
    pub messages: Receiver<ToWorker>,
    /// Its answers.
    pub answers: Sender<FromWorker>,
    /// Wakes the control thread.
    pub control: Arc<nix::sys::eventfd::EventFd>,
    /// What others wake it by.
    pub waker: Waker,
}

impl WorkerEnds {
    /// Answers the control thread.
    pub fn answer(&self, answer: FromWorker) {
        let _ = self.answers.send(answer);
        let _ = self.control.write(1);
    }
}
