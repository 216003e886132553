//! Loopback: connects find listeners of the same session and instance, datagrams find bound ports.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use dmm_proto::arena::ChunkPool;
use dmm_proto::fifo::{DaemonLine, FifoParts, RxFifo, State, TxFifo};
use dmm_proto::info::TcpInfo;
use dmm_proto::op::{Completion, How, Opening, Socket, SocketOption, Submission};
use dmm_proto::session::{Memory, StackInfo};
use dmm_proto::shared::Shared;
use nix::errno::Errno;
use std::sync::atomic::Ordering;

use super::fake::Setup;

/// A connect to this port is never answered.
pub const BLACK_HOLE: u16 = 9;
/// A connect to this port is refused out of hand.
pub const UNROUTABLE: u16 = 10;
/// A hop limit that no stack here accepts.
pub const REFUSED_HOPS: u32 = 77;

pub(super) type Key = (u32, u32);

pub struct World {
    memory: Memory,
    pool: Arc<ChunkPool>,
    fifo: u32,
    redirects: bool,
    openings: BTreeMap<Key, Opening>,
    stacks: Vec<StackInfo>,
    pub(super) sockets: BTreeMap<Key, Held>,
    /// What closed streams still have to send, with the reader.
    pub(super) lingering: Vec<(TxFifo, Key)>,
    pub(super) completions: Vec<VecDeque<Completion>>,
    next_port: u16,
}

pub(super) struct Held {
    pub(super) socket: Socket,
    pub(super) local: SocketAddr,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Listener {
        credits: VecDeque<Socket>,
        waiting: VecDeque<Key>,
    },
    Stream(Stream),
    Datagram {
        fifos: Fifos,
        peer: Option<SocketAddr>,
        /// It is to be told of an error.
        troubled: bool,
    },
    /// Connecting to the black hole.
    Nowhere,
}

pub(super) struct Fifos {
    pub(super) rx: RxFifo,
    pub(super) tx: TxFifo,
    /// Nothing is delivered until the client says that it made room.
    pub(super) stalled: bool,
    pub(super) daemon: Shared<DaemonLine>,
    pub(super) parts: FifoParts,
}

pub(super) struct Stream {
    pub(super) socket: Socket,
    pub(super) fifos: Fifos,
    pub(super) peer: Peer,
    /// Everything written is to be followed by a FIN.
    pub(super) finishing: bool,
    pub(super) finished: bool,
    /// Told that nobody reads any more: what arrives is dropped.
    pub(super) deaf: bool,
    pub(super) reset_on_close: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Peer {
    /// Waits for a credit.
    Awaited,
    Linked(Key),
    Gone,
}

impl World {
    pub fn new(memory: &Memory, setup: &Setup, stacks: &[StackInfo]) -> Self {
        let geometry = memory.geometry;
        Self {
            memory: memory.clone(),
            pool: Arc::new(ChunkPool::new(geometry.chunks)),
            fifo: setup.fifo,
            redirects: setup.redirects,
            openings: BTreeMap::new(),
            stacks: stacks.to_vec(),
            sockets: BTreeMap::new(),
            lingering: Vec::new(),
            completions: vec![VecDeque::new(); geometry.instances as usize],
            next_port: 40_000,
        }
    }

    pub fn live(&self) -> u64 {
        self.sockets.len() as u64
    }

    pub fn completions(&mut self) -> &mut [VecDeque<Completion>] {
        &mut self.completions
    }

    pub fn submit(&mut self, instance: u32, submission: Submission) {
        let socket = submission.socket();
        let key = (instance, socket.slot);
        let opens = matches!(
            submission,
            Submission::Connect { .. } | Submission::Listen { .. } | Submission::Bind { .. }
        );
        match self.sockets.get(&key) {
            Some(held) => assert!(
                !opens && held.socket == socket,
                "{submission:?} for a slot that holds {:?}",
                held.socket
            ),
            // A close may cross a redirection or a refusal on its way.
            None if matches!(submission, Submission::Close { .. }) => return,
            None => assert!(opens, "{submission:?} for a free slot"),
        }
        match submission {
            Submission::Connect { local, remote, opening, .. } => {
                self.openings.insert(key, opening);
                self.connect(key, socket, local.0, remote.0)
            }
            Submission::Listen { local, .. } => self.listen(key, socket, local.0),
            Submission::Accept { socket, .. } => self.accept(key, socket),
            Submission::Bind { local, .. } => self.bind(key, socket, local.0),
            Submission::SetPeer { peer, .. } => self.set_peer(key, peer.map(|peer| peer.0)),
            Submission::Group { .. } => {
                let errno = Errno::EOPNOTSUPP as u32;
                self.complete(key, Completion::Bound { socket, errno, local: None });
            }
            Submission::Send { .. } => {
                if let Some(fifos) = self.fifos(key) {
                    fifos.tx.hear().unwrap();
                }
            }
            Submission::Receive { .. } => {
                if let Some(fifos) = self.fifos(key) {
                    fifos.stalled = false;
                }
            }
            Submission::Rehome { .. } => {}
            Submission::Inform { number, .. } => self.inform(key, socket, number),
            Submission::Shutdown { how, .. } => self.shutdown(key, how),
            Submission::SetOption { option, value, .. } => self.set_option(key, option, value),
            Submission::Close { .. } => self.close(key),
        }
    }

    /// A connection knows of what it was opened with, and nothing else.
    fn inform(&mut self, key: Key, socket: Socket, number: u32) {
        let Some(opening) = self.openings.get(&key).copied() else {
            let (errno, words) = (Errno::EOPNOTSUPP as u16, Default::default());
            self.complete(key, Completion::Info { socket, number, errno, part: 0, words });
            return;
        };
        let info = TcpInfo { adv_mss: opening.max_segment.into(), ..TcpInfo::default() };
        for (part, words) in (0..).zip(info.encode()) {
            self.complete(key, Completion::Info { socket, number, errno: 0, part, words });
        }
    }

    fn connect(&mut self, key: Key, socket: Socket, local: SocketAddr, remote: SocketAddr) {
        let owner = self.owner(key.0, remote.port());
        if owner != key.0 {
            self.complete(key, Completion::Redirected { socket, instance: owner });
            return;
        }
        if remote.port() == UNROUTABLE {
            let errno = Errno::ENETUNREACH as u32;
            self.complete(key, Completion::Connected { socket, errno, local: None });
            self.complete(key, Completion::Closed { socket });
            return;
        }
        let local = self.complete_address(local);
        if remote.port() == BLACK_HOLE {
            self.sockets.insert(key, Held { socket, local, kind: Kind::Nowhere });
            return;
        }
        let listener = self.sockets.iter().find(|(other, held)| {
            other.0 == key.0
                && matches!(held.kind, Kind::Listener { .. })
                && held.local.port() == remote.port()
        });
        let listener = listener.map(|(key, _)| *key);
        let kind = Kind::Stream(self.stream(key, socket));
        self.sockets.insert(key, Held { socket, local, kind });
        let errno = if listener.is_some() { 0 } else { Errno::ECONNREFUSED as u32 };
        self.complete(key, Completion::Connected { socket, errno, local: Some(local.into()) });
        if let Some(listener) = listener {
            self.open(key);
            if let Kind::Listener { waiting, .. } = &mut self.held(listener).kind {
                waiting.push_back(key);
            }
            self.match_credits(listener);
        }
    }

    fn owner(&self, instance: u32, port: u16) -> u32 {
        if !self.redirects {
            return instance;
        }
        let all = self.stacks.iter();
        let mut own =
            all.filter(|s| (s.first_instance..s.first_instance + s.instances).contains(&instance));
        let stack = own.next().unwrap();
        stack.first_instance + u32::from(port) % stack.instances
    }

    fn listen(&mut self, key: Key, socket: Socket, local: SocketAddr) {
        let port = local.port();
        let taken = |(other, held): (&Key, &Held)| {
            other.0 == key.0
                && matches!(held.kind, Kind::Listener { .. })
                && held.local.port() == port
        };
        if self.sockets.iter().any(taken) {
            let errno = Errno::EADDRINUSE as u32;
            self.complete(key, Completion::Bound { socket, errno, local: None });
            return;
        }
        let local = self.complete_address(local);
        let kind = Kind::Listener { credits: VecDeque::new(), waiting: VecDeque::new() };
        self.sockets.insert(key, Held { socket, local, kind });
        self.complete(key, Completion::Bound { socket, errno: 0, local: Some(local.into()) });
    }

    fn accept(&mut self, listener: Key, socket: Socket) {
        assert!(!self.sockets.contains_key(&(listener.0, socket.slot)), "credit for a slot in use");
        match &mut self.held(listener).kind {
            Kind::Listener { credits, .. } => credits.push_back(socket),
            _ => panic!("credit for something that does not listen"),
        }
        self.match_credits(listener);
    }

    fn match_credits(&mut self, at: Key) {
        loop {
            let local = self.held(at).local;
            let Kind::Listener { credits, waiting } = &mut self.held(at).kind else { return };
            if credits.is_empty() || waiting.is_empty() {
                return;
            }
            let (socket, connector) = (credits.pop_front().unwrap(), waiting.pop_front().unwrap());
            let held = self.held(connector);
            let peer = held.local;
            let key = (at.0, socket.slot);
            if let Kind::Stream(stream) = &mut held.kind {
                stream.peer = Peer::Linked(key);
            }
            let mut stream = self.stream(key, socket);
            stream.peer = Peer::Linked(connector);
            self.sockets.insert(key, Held { socket, local, kind: Kind::Stream(stream) });
            self.open(key);
            self.complete(
                key,
                Completion::Accepted {
                    socket,
                    listener: at.1,
                    local: local.into(),
                    peer: peer.into(),
                },
            );
        }
    }

    fn bind(&mut self, key: Key, socket: Socket, local: SocketAddr) {
        let owner = self.owner(key.0, local.port());
        if owner != key.0 {
            self.complete(key, Completion::Redirected { socket, instance: owner });
            return;
        }
        let taken = |held: &Held| {
            matches!(held.kind, Kind::Datagram { .. }) && held.local.port() == local.port()
        };
        if self.sockets.values().any(taken) {
            let errno = Errno::EADDRINUSE as u32;
            self.complete(key, Completion::Bound { socket, errno, local: None });
            return;
        }
        let local = self.complete_address(local);
        let kind = Kind::Datagram { fifos: self.make_fifos(key), peer: None, troubled: false };
        self.sockets.insert(key, Held { socket, local, kind });
        self.open(key);
        self.complete(key, Completion::Bound { socket, errno: 0, local: Some(local.into()) });
    }

    fn set_peer(&mut self, key: Key, to: Option<SocketAddr>) {
        let held = self.held(key);
        let (socket, local) = (held.socket, held.local);
        if let Kind::Datagram { peer, .. } = &mut held.kind {
            *peer = to;
        }
        self.complete(key, Completion::Bound { socket, errno: 0, local: Some(local.into()) });
    }

    fn shutdown(&mut self, key: Key, how: How) {
        if let Kind::Stream(stream) = &mut self.held(key).kind {
            stream.finishing |= matches!(how, How::Write | How::Both);
            stream.deaf |= matches!(how, How::Read | How::Both);
        }
    }

    fn set_option(&mut self, key: Key, option: SocketOption, value: u32) {
        let held = self.held(key);
        let socket = held.socket;
        match (option, &mut held.kind) {
            (SocketOption::HopLimit, _) if value == REFUSED_HOPS => {
                let errno = Errno::EINVAL as u32;
                self.complete(key, Completion::Refused { socket, option, errno });
            }
            (SocketOption::ResetOnClose, Kind::Stream(stream)) => {
                stream.reset_on_close = value == 1
            }
            _ => {}
        }
    }

    fn close(&mut self, key: Key) {
        let Held { socket, kind, .. } = self.sockets.remove(&key).unwrap();
        match kind {
            Kind::Stream(mut stream) => {
                stream.fifos.tx.seal().unwrap();
                for held in self.sockets.values_mut() {
                    if let Kind::Listener { waiting, .. } = &mut held.kind {
                        waiting.retain(|connector| *connector != key);
                    }
                }
                if let Peer::Linked(peer) = stream.peer {
                    if stream.reset_on_close {
                        self.break_off(peer, Errno::ECONNRESET);
                    } else if !stream.finished {
                        self.lingering.push((stream.fifos.tx, peer));
                    }
                    if let Some(Held { kind: Kind::Stream(other), .. }) =
                        self.sockets.get_mut(&peer)
                    {
                        other.peer = Peer::Gone;
                    }
                }
            }
            Kind::Listener { credits, waiting } => {
                for connector in waiting {
                    self.break_off(connector, Errno::ECONNRESET);
                }
                for credit in credits {
                    self.complete(key, Completion::Closed { socket: credit });
                }
            }
            Kind::Datagram { .. } | Kind::Nowhere => {}
        }
        self.complete(key, Completion::Closed { socket });
    }

    fn break_off(&mut self, key: Key, errno: Errno) {
        if let Some(fifos) = self.sockets.get_mut(&key).and_then(Held::fifos) {
            fifos.daemon.error.store(errno as u32, Ordering::Relaxed);
            fifos.daemon.raise(State::BROKEN);
            self.look(key);
        }
    }

    pub(super) fn finish(&mut self, key: Key) {
        if let Some(fifos) = self.fifos(key) {
            fifos.daemon.raise(State::RX_ENDED);
            self.look(key);
        }
    }

    fn open(&mut self, key: Key) {
        if let Some(fifos) = self.fifos(key) {
            fifos.daemon.raise(State::OPEN);
            fifos.tx.grant();
        }
    }

    fn stream(&self, key: Key, socket: Socket) -> Stream {
        Stream {
            socket,
            fifos: self.make_fifos(key),
            peer: Peer::Awaited,
            finishing: false,
            finished: false,
            deaf: false,
            reset_on_close: false,
        }
    }

    fn make_fifos(&self, key: Key) -> Fifos {
        let parts = self.memory.fifo(key.1);
        parts.daemon.reset(self.fifo);
        Fifos {
            rx: RxFifo::new(&parts, Arc::clone(&self.pool), self.fifo),
            tx: TxFifo::new(&parts, Arc::clone(&self.pool), self.fifo),
            stalled: false,
            daemon: parts.daemon.clone(),
            parts,
        }
    }

    fn complete_address(&mut self, address: SocketAddr) -> SocketAddr {
        if address.port() != 0 {
            return address;
        }
        self.next_port += 1;
        SocketAddr::new(address.ip(), self.next_port)
    }

    fn held(&mut self, key: Key) -> &mut Held {
        self.sockets.get_mut(&key).expect("checked on submission")
    }

    fn fifos(&mut self, key: Key) -> Option<&mut Fifos> {
        self.sockets.get_mut(&key)?.fifos()
    }

    pub(super) fn look(&mut self, key: Key) {
        let Some(held) = self.sockets.get_mut(&key) else { return };
        let socket = held.socket;
        if let Some(fifos) = held.fifos() {
            tell(&mut self.completions, key, socket, fifos);
        }
    }

    fn complete(&mut self, key: Key, completion: Completion) {
        self.completions[key.0 as usize].push_back(completion);
    }
}

/// One `Look` at a time.
pub(super) fn tell(
    completions: &mut [VecDeque<Completion>],
    key: Key,
    socket: Socket,
    fifos: &Fifos,
) {
    if fifos.parts.client.rx_told.swap(1, Ordering::AcqRel) == 0 {
        completions[key.0 as usize].push_back(Completion::Look { socket });
    }
}

impl Held {
    pub(super) fn fifos(&mut self) -> Option<&mut Fifos> {
        match &mut self.kind {
            Kind::Stream(stream) => Some(&mut stream.fifos),
            Kind::Datagram { fifos, .. } => Some(fifos),
            Kind::Listener { .. } | Kind::Nowhere => None,
        }
    }
}
