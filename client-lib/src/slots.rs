//! The slot table: which socket each slot of the session holds, and how completions reach it.
//!
//! Owned by the client, behind one lock that is held for a batch of completions or for one
//! allotment. A slot is reused only after the daemon said that it is done with it, and every use
//! has a new generation, so that a late word about an earlier socket is recognised.
//!
//! ```text
//!            open                      close                 Closed from all
//!  Free ───────────────▶ Socket ───────────────▶ Closing ─────────────────────▶ Free
//!    │                      ├──── refused out of hand: Closed without a close ─────▲
//!    │ credit               ▲ Accepted              ▲ listener closed meanwhile
//!    └────────▶ Credit ─────┴───────────────────────┘
//! ```

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use dmm_proto::Breach;
use dmm_proto::op::{Completion, Opening, Socket, SocketOption, Submission};
use dmm_proto::session::Memory;
use nix::errno::Errno;

use crate::channel::Channels;
use crate::error::os;
use crate::socket::{Accepted, Core, Phase, Role};
use crate::waiter::lock;

pub(crate) struct Slots {
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// The session's quota.
    limit: u32,
    memory: Memory,
    /// Listeners that found no slot for a credit, with the instance: as many as their credits.
    starving: VecDeque<(Weak<Core>, u32)>,
}

struct Entry {
    generation: u32,
    holder: Holder,
}

enum Holder {
    Free,
    Socket(Arc<Core>),
    /// A credit that `instance` holds for `listener`.
    Credit {
        listener: Arc<Core>,
        instance: u32,
    },
    /// Closed by the program; `due` instances have not confirmed it yet. Somebody may wait for
    /// the last one.
    Closing {
        due: u32,
        waiting: Option<Arc<Core>>,
    },
}

impl Slots {
    pub(crate) fn new(memory: Memory) -> Self {
        let limit = memory.geometry.sockets;
        Self { entries: Vec::new(), free: Vec::new(), limit, memory, starving: VecDeque::new() }
    }

    /// Puts a new socket into a free slot.
    pub(crate) fn open(&mut self, instance: u32, role: Role) -> io::Result<Arc<Core>> {
        let socket = self.allot().ok_or_else(|| os(Errno::EMFILE))?;
        let core = Core::new(socket, instance, role, self.memory.fifo(socket.slot));
        self.entries[socket.slot as usize].holder = Holder::Socket(Arc::clone(&core));
        Ok(core)
    }

    /// Puts a credit for `listener` into a free slot and hands it to `instance`; if there is none, as
    /// soon as there is.
    pub(crate) fn credit(
        &mut self,
        listener: &Arc<Core>,
        instance: u32,
        channels: &Channels,
    ) -> Result<(), Breach> {
        let Some(socket) = self.allot() else {
            self.starving.push_back((Arc::downgrade(listener), instance));
            return Ok(());
        };
        let Role::Listener(backlog) = &listener.role else { return Err(Breach::Kind) };
        lock(backlog).credits[(instance - listener.instance()) as usize] += 1;
        let holder = Holder::Credit { listener: Arc::clone(listener), instance };
        self.entries[socket.slot as usize].holder = holder;
        channels.defer(instance, Submission::Accept { listener: listener.socket(), socket })
    }

    /// Takes the socket from its slot, which is free when `due` instances have confirmed the close.
    pub(crate) fn close(&mut self, core: &Arc<Core>, due: u32) {
        let waiting = Some(Arc::clone(core));
        self.entries[core.slot as usize].holder = Holder::Closing { due, waiting };
        self.starving.retain(|(listener, _)| !std::ptr::eq(listener.as_ptr(), Arc::as_ptr(core)));
        if due == 0 {
            self.release(core.slot);
        }
    }

    /// Whether nobody holds the closed socket any more.
    pub(crate) fn is_closed(&self, core: &Core) -> bool {
        match &self.entries[core.slot as usize].holder {
            Holder::Closing { waiting: Some(closed), .. } => {
                !std::ptr::eq(Arc::as_ptr(closed), core)
            }
            _ => true,
        }
    }

    /// Every socket in use.
    pub(crate) fn cores(&self) -> Vec<Arc<Core>> {
        let held = self.entries.iter().filter_map(|entry| match &entry.holder {
            Holder::Socket(core) => Some(Arc::clone(core)),
            _ => None,
        });
        held.collect()
    }

    /// Brings a completion to whom it concerns. An error means a daemon that breaks the contract.
    pub(crate) fn complete(
        &mut self,
        completion: Completion,
        channels: &Channels,
    ) -> Result<(), Breach> {
        let socket = completion.socket();
        let entry = self.entries.get(socket.slot as usize).ok_or(Breach::Slot)?;
        if entry.generation != socket.generation {
            // A late word about an earlier socket of this slot.
            return Ok(());
        }
        match (&entry.holder, completion) {
            (Holder::Socket(core), Completion::Look { .. }) => {
                // Before the cursors are read: whatever comes later brings another `Look`.
                core.parts.client.rx_told.swap(0, Ordering::AcqRel);
                core.notify();
            }
            (
                Holder::Socket(core),
                Completion::Connected { errno, local, .. } | Completion::Bound { errno, local, .. },
            ) => {
                core.answer(errno, local.map(|address| address.0));
                if core.phase() == Phase::Open {
                    for (option, value) in core.take_early() {
                        let set = Submission::SetOption { socket, option, value };
                        channels.defer(core.instance(), set)?;
                    }
                }
            }
            (Holder::Socket(core), Completion::Deferred { .. }) => core.defer(),
            (Holder::Socket(core), Completion::Refused { errno, .. }) => core.refuse(errno),
            (Holder::Socket(core), Completion::Info { number, errno, part, words, .. }) => {
                core.told(number, errno, part, words);
            }
            (Holder::Socket(core), Completion::Redirected { instance, .. }) => {
                let core = Arc::clone(core);
                self.redirect(&core, instance, channels)?;
            }
            // An attempt that was refused out of hand leaves nothing to be closed.
            (Holder::Socket(core), Completion::Closed { .. }) if core.phase() == Phase::Failed => {
                self.release(socket.slot);
            }
            (Holder::Closing { .. }, Completion::Redirected { .. }) => self.release(socket.slot),
            (Holder::Credit { .. }, Completion::Accepted { local, peer, .. }) => {
                self.accepted(socket, local.0, peer.0, channels)?;
            }
            (Holder::Closing { due, .. }, Completion::Closed { .. }) if *due < 2 => {
                self.release(socket.slot);
            }
            (Holder::Closing { .. }, Completion::Closed { .. }) => {
                let holder = &mut self.entries[socket.slot as usize].holder;
                if let Holder::Closing { due, .. } = holder {
                    *due -= 1;
                }
            }
            (Holder::Credit { .. }, Completion::Closed { .. }) => self.release(socket.slot),
            // Words that crossed the program's close on their way.
            _ => {}
        }
        self.feed_starving(channels)
    }

    /// Asks the instance that owns the addresses, as a new socket of the same slot.
    fn redirect(
        &mut self,
        core: &Arc<Core>,
        instance: u32,
        channels: &Channels,
    ) -> Result<(), Breach> {
        if instance >= self.memory.geometry.instances {
            return Err(Breach::Operation);
        }
        let socket = self.renew(core.slot);
        core.redirect(instance, socket.generation);
        let again = match core.role {
            Role::Stream { local, remote, opening } => {
                let (local, remote) = (local.into(), remote.into());
                Submission::Connect { socket, local, remote, opening }
            }
            Role::Datagram { local, shares } => {
                Submission::Bind { socket, local: local.into(), shares }
            }
            Role::Listener(_) => return Err(Breach::Kind),
        };
        channels.defer(instance, again)
    }

    /// Makes a credit's slot that of a connection; nobody's, if the listener was closed meanwhile.
    fn accepted(
        &mut self,
        socket: Socket,
        local: std::net::SocketAddr,
        peer: std::net::SocketAddr,
        channels: &Channels,
    ) -> Result<(), Breach> {
        let slot = socket.slot as usize;
        let closing = Holder::Closing { due: 1, waiting: None };
        let holder = std::mem::replace(&mut self.entries[slot].holder, closing);
        let Holder::Credit { listener, instance } = holder else { return Ok(()) };
        let Role::Listener(backlog) = &listener.role else { return Ok(()) };
        if !self.holds(&listener) {
            channels.defer(instance, reset_on_close(socket))?;
            return channels.defer(instance, Submission::Close { socket });
        }
        let role = Role::Stream { local, remote: peer, opening: Opening::default() };
        let core = Core::new(socket, instance, role, self.memory.fifo(socket.slot));
        core.options.inherit(&listener.options);
        core.set_phase(Phase::Open);
        self.entries[slot].holder = Holder::Socket(Arc::clone(&core));
        let mut backlog = lock(backlog);
        backlog.credits[(instance - listener.instance()) as usize] -= 1;
        backlog.accepted.push_back(Accepted { core, local, peer });
        drop(backlog);
        listener.notify();
        Ok(())
    }

    /// Whether the socket is still in its slot.
    pub(crate) fn holds(&self, core: &Core) -> bool {
        let holder = &self.entries[core.slot as usize].holder;
        matches!(holder, Holder::Socket(held) if std::ptr::eq(Arc::as_ptr(held), core))
    }

    fn feed_starving(&mut self, channels: &Channels) -> Result<(), Breach> {
        while !self.starving.is_empty() && self.has_free() {
            let Some((listener, instance)) = self.starving.pop_front() else { break };
            if let Some(listener) = listener.upgrade() {
                self.credit(&listener, instance, channels)?;
            }
        }
        Ok(())
    }

    fn has_free(&self) -> bool {
        !self.free.is_empty() || self.entries.len() < self.limit as usize
    }

    fn allot(&mut self) -> Option<Socket> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.has_free() => {
                self.entries.push(Entry { generation: 0, holder: Holder::Free });
                u32::try_from(self.entries.len() - 1).expect("below the quota")
            }
            None => return None,
        };
        Some(self.renew(slot))
    }

    /// A new generation of a slot, its line as the opening operation wants it.
    fn renew(&mut self, slot: u32) -> Socket {
        let entry = &mut self.entries[slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        self.memory.client_line(slot).reset();
        Socket { slot, generation: entry.generation }
    }

    fn release(&mut self, slot: u32) {
        let holder = std::mem::replace(&mut self.entries[slot as usize].holder, Holder::Free);
        self.free.push(slot);
        if let Holder::Closing { waiting: Some(core), .. } = holder {
            core.notify();
        }
    }
}

/// Makes the close of a connection a reset: nobody has seen it, and its peer is to know (as Linux
/// does with what a listener held, inet_csk_listen_stop).
pub(crate) const fn reset_on_close(socket: Socket) -> Submission {
    Submission::SetOption { socket, option: SocketOption::ResetOnClose, value: 1 }
}
