//! Sans-IO protocol stacks behind one trait.
//!
//! Owns: the [`Stack`] trait and the kinds that come with the daemon. Called by a worker, once per
//! burst, for each of its instances; and by simulations in virtual time. Must never: read a clock,
//! start a thread, take a lock, log, or touch a global: a stack is given `now`, frames and
//! requests, and gives frames, events and its next deadline.
//!
//! ```text
//!            frames in ──▶ receive ─┐                ┌─▶ frames out (TxBurst)
//!   requests (submit) ───▶          ├─ state, FIFOs ─┤
//!                 now ──▶ poll ─────┘                └─▶ events, deadline
//! ```
//!
//! Payload never passes through this interface: a stack owns its ends of each socket's FIFOs and
//! copies between them and frames.
#![deny(unsafe_code)]

pub mod config;
mod counters;
mod ip;
pub mod kinds;
mod native;
pub mod pair;
mod smoltcp;
mod sockets;
mod test;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dmm_port::flow::Flow;
use dmm_port::{Instant, RxFrame, TxBurst};
use dmm_proto::Breach;
use dmm_proto::fifo::{RxFifo, TxFifo};
use dmm_proto::op::{How, SocketOption};
use nix::errno::Errno;

pub use dmm_proto::info::TcpInfo;
pub use kinds::{BuildError, build};

/// A socket of one instance: a small dense number that the caller chooses and may use again after
/// [`Event::Gone`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u32);

/// The stack's ends of a socket's FIFOs.
pub struct Fifos {
    /// Where received bytes (or framed datagrams) go.
    pub rx: RxFifo,
    /// Where bytes (or framed datagrams) to send come from.
    pub tx: TxFifo,
}

/// A connection that was taken out of a stack, to go on in another one of the same kind.
pub struct Saved {
    /// What the stack knew of it, in a form of its own. It is to be trusted: whoever can write it can
    /// forge the connection's segments.
    pub state: Vec<u8>,
    /// The ends of its FIFOs, which the stack had.
    pub fifos: Box<Fifos>,
}

/// What is asked of a stack. Arguments were checked: ids are in the state that the request needs,
/// and addresses are of a family.
pub enum Request {
    /// Opens a TCP connection; answered by [`Event::Connected`].
    Connect {
        /// A free id.
        socket: SocketId,
        /// This end, complete: see [`Stack::source_for`] for the address.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
        /// The connection's FIFOs.
        fifos: Fifos,
    },
    /// Opens a TCP listener on an address (which may be unspecified) and a port.
    Listen {
        /// A free id.
        socket: SocketId,
        /// Where to listen.
        local: SocketAddr,
        /// Connections that may wait for credits; a SYN beyond is dropped and counted.
        backlog: u32,
    },
    /// A credit: the listener's next connection goes to `socket`. Answered, perhaps at once, by
    /// [`Event::Accepted`]; or by [`Event::Gone`] if the listener closes first.
    Accept {
        /// The listener.
        listener: SocketId,
        /// A free id.
        socket: SocketId,
        /// The connection's FIFOs.
        fifos: Fifos,
    },
    /// Opens a UDP socket on an address (which may be unspecified) and a port.
    Bind {
        /// A free id.
        socket: SocketId,
        /// Where to receive; a group or broadcast address receives that alone.
        local: SocketAddr,
        /// Others that say so may have the same address and port (`SO_REUSEPORT`). Whose they are, the
        /// caller has checked.
        shares: bool,
        /// The socket's FIFOs, which hold framed datagrams.
        fifos: Fifos,
    },
    /// Sets or clears the only peer of a UDP socket.
    SetPeer {
        /// A UDP socket.
        socket: SocketId,
        /// The peer, or nobody.
        peer: Option<SocketAddr>,
    },
    /// Makes a UDP socket a member of a group, or one no longer. A closed socket leaves its groups.
    Group {
        /// A UDP socket.
        socket: SocketId,
        /// The group.
        group: IpAddr,
        /// Whether it joins.
        joins: bool,
    },
    /// The tx FIFO holds more, or its writer wants room.
    Send {
        /// A connection or UDP socket.
        socket: SocketId,
    },
    /// The reader of the rx FIFO made room after a stall.
    Receive {
        /// A connection or UDP socket.
        socket: SocketId,
    },
    /// Shuts down one or both directions of a connection.
    Shutdown {
        /// A connection.
        socket: SocketId,
        /// Which.
        how: How,
    },
    /// Sets an option.
    SetOption {
        /// Any socket.
        socket: SocketId,
        /// Which.
        option: SocketOption,
        /// Its value, in the option's unit.
        value: u32,
    },
    /// The owner is done with the socket. From now on the stack touches neither of the owner's
    /// shared lines (it seals the tx FIFO and drops the rx FIFO before it returns); what was written
    /// is still sent. Unread received bytes make it a reset (RFC 2525 section 2.17). Waiting
    /// connections and credits of a listener go with it. Answered by [`Event::Gone`].
    Close {
        /// Any socket.
        socket: SocketId,
    },
    /// Ends the socket at once, with a reset if there is a peer. Answered by [`Event::Gone`].
    Abort {
        /// Any socket.
        socket: SocketId,
    },
}

/// What a stack tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection attempt ended.
    Connected {
        /// The socket, which stays open either way until it is closed.
        socket: SocketId,
        /// Why it failed, as connect(2) says it.
        result: Result<(), Errno>,
    },
    /// A SYN waits for the next [`Request::Send`], to carry what was written until then (RFC 7413). There is
    /// room in the tx FIFO.
    Deferred {
        /// The socket.
        socket: SocketId,
    },
    /// A credit was used.
    Accepted {
        /// The listener.
        listener: SocketId,
        /// The connection, established.
        socket: SocketId,
        /// This end.
        local: SocketAddr,
        /// The other end.
        peer: SocketAddr,
    },
    /// The rx FIFO was published with more in it.
    Readable {
        /// The socket.
        socket: SocketId,
    },
    /// The tx FIFO has room that its writer wished for.
    Writable {
        /// The socket.
        socket: SocketId,
    },
    /// The peer's FIN arrived, and everything before it is published.
    Ended {
        /// The connection.
        socket: SocketId,
    },
    /// The connection broke after it was established.
    Broken {
        /// The connection, which stays open until it is closed.
        socket: SocketId,
        /// As recv(2) and send(2) say it: `ECONNRESET`, `ETIMEDOUT`.
        errno: Errno,
    },
    /// Somebody said that a datagram of a connected UDP socket, which goes on, did not get there.
    Troubled {
        /// The socket.
        socket: SocketId,
        /// As udp(7) has it: `ECONNREFUSED`, `EHOSTUNREACH`, `EMSGSIZE`, ...
        errno: Errno,
    },
    /// The owner of the socket broke the contract of shared memory.
    Breach {
        /// The socket.
        socket: SocketId,
        /// How.
        breach: Breach,
    },
    /// Nothing of the socket is left, `TIME-WAIT` included: the id may be used again.
    Gone {
        /// The socket that was.
        socket: SocketId,
    },
    /// An echo request came to its end.
    Ponged {
        /// The request's.
        token: u64,
        /// The answer, or why there is none: `EHOSTUNREACH` if the neighbour did not answer either,
        /// `ETIMEDOUT`.
        result: Result<Pong, Errno>,
    },
}

/// An echo request to be sent (RFC 792, RFC 4443 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// What its end is told by.
    pub token: u64,
    /// To whom.
    pub to: IpAddr,
    /// Bytes of payload.
    pub bytes: u16,
    /// When to give up.
    pub until: Instant,
}

/// The answer to an echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong {
    /// From the request's being sent to the answer's being received.
    pub round_trip: Duration,
    /// Hops that the answer might still have made: the IP header's TTL or hop limit.
    pub hop_limit: u8,
}

impl Event {
    /// The socket that it is about, if it is about one: of an accepted connection, the connection's.
    #[must_use]
    pub const fn socket(&self) -> Option<SocketId> {
        match *self {
            Self::Connected { socket, .. }
            | Self::Deferred { socket }
            | Self::Accepted { socket, .. }
            | Self::Readable { socket }
            | Self::Writable { socket }
            | Self::Ended { socket }
            | Self::Broken { socket, .. }
            | Self::Troubled { socket, .. }
            | Self::Breach { socket, .. }
            | Self::Gone { socket } => Some(socket),
            Self::Ponged { .. } => None,
        }
    }
}

/// What a socket looks like from outside, as `ss` would show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketReport {
    /// The socket; `None` for a connection that waits in a listener's backlog.
    pub socket: Option<SocketId>,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The state's name in RFC 9293 section 3.3.2 as `ss` writes it (`ESTAB`, `TIME-WAIT`, ...), `UNCONN`
    /// for UDP.
    pub state: &'static str,
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: Option<SocketAddr>,
    /// Bytes received that the owner has not read.
    pub rx_queued: u64,
    /// Bytes written that the peer has not acknowledged.
    pub tx_queued: u64,
}

/// A protocol stack: one shard of one configured network.
pub trait Stack: Send {
    /// Takes a burst of frames. Answers that cannot wait are written to `tx`, which has a free slot
    /// for each frame at least.
    fn receive(&mut self, now: Instant, frames: &[RxFrame<'_>], tx: &mut TxBurst<'_>);

    /// Takes a request. An error means that nothing happened, and that its FIFOs are dropped.
    fn submit(&mut self, now: Instant, request: Request) -> Result<(), Errno>;

    /// Sends an echo request, once its neighbour is known. Answered by [`Event::Ponged`].
    ///
    /// # Errors
    /// `EOPNOTSUPP` if this kind cannot; `ENETUNREACH` without a route, `EMSGSIZE` if it does not fit
    /// the MTU, `EAGAIN` if too many are under way.
    fn ping(&mut self, _now: Instant, _ping: &Ping) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Runs timers that are due, sends as far as `tx` has free slots, and appends what happened
    /// since the last call to `events`. Bounded: what is left makes [`Stack::deadline`] due.
    fn poll(&mut self, now: Instant, tx: &mut TxBurst<'_>, events: &mut Vec<Event>);

    /// When [`Stack::poll`] has something to do without new frames or requests; a time not after
    /// `now` means at once.
    fn deadline(&mut self, now: Instant) -> Option<Instant>;

    /// Takes chunks back from FIFOs that were idle since the last call. Bounded; to be called about
    /// ten times a second.
    fn trim(&mut self, now: Instant);

    /// The address to come from when talking to `remote`, or `None` if no route leads there.
    fn source_for(&self, remote: IpAddr) -> Option<IpAddr>;

    /// Whether a connection in TIME-WAIT makes way for a new one with the same ends (RFC 6191).
    fn makes_way(&self, _now: Instant, _flow: &Flow) -> bool {
        false
    }

    /// Bytes that a SYN to `remote` may carry (RFC 7413), if its cookie is known.
    fn fast_open_room(&self, _remote: IpAddr) -> Option<u16> {
        None
    }

    /// What a TCP connection knows of itself, if this kind tells.
    fn tcp_info(&mut self, _now: Instant, _socket: SocketId) -> Option<TcpInfo> {
        None
    }

    /// Takes an established connection out of the stack: for its peer and its client nothing happens. `None`
    /// if there is none, or this kind cannot.
    fn save(&mut self, _socket: SocketId) -> Option<Saved> {
        None
    }

    /// Puts a connection that was saved into the stack, under an id that is free. Times in it are of the clock
    /// that `now` is of.
    ///
    /// # Errors
    /// With what was to be restored: `EINVAL` if the state is unsound or the id in use, `EADDRINUSE` if there
    /// is a connection with these ends, `EADDRNOTAVAIL` if the stack does not have its address, `EOPNOTSUPP`
    /// if this kind cannot.
    fn restore(
        &mut self,
        _now: Instant,
        _socket: SocketId,
        saved: Saved,
    ) -> Result<(), (Errno, Saved)> {
        Err((Errno::EOPNOTSUPP, saved))
    }

    /// Shows each named counter: drops by reason, segments, retransmissions.
    fn counters(&self, show: &mut dyn FnMut(&'static str, u64));

    /// Shows each socket.
    fn sockets(&self, show: &mut dyn FnMut(SocketReport));
}
