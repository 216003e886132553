//! A native stack in virtual time, clients that do as they are told, and a peer that may send anything.
//!
//! Owns: the stack, its clients' memory, and what the peer knows of numbers. Must never: call a run good that
//! leaves a socket, a timer or a chunk behind.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use arbitrary::Arbitrary;
use dmm_port::wire::{WireConfig, WirePort};
use dmm_port::{Instant, Port, RxChecksum, RxFrame, RxQueue, TxQueue};
use dmm_proto::op::{How, SocketOption};
use dmm_stack::pair::{Client, End, Quota, address_v4, config};
use dmm_stack::{Event, Request, SocketId, Stack};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

/// Where the peer's connections come from and lead to: one each may be established.
const PORTS: u16 = 4;
const SERVER: u16 = 80;
/// Steps of a run at most, and turns at one point in time.
const STEPS_MAX: usize = 400;
const TURNS_MAX: usize = 10_000;

/// One thing that happens.
#[derive(Arbitrary, Debug)]
pub enum Step {
    /// A segment comes whose numbers are what the stack expects, or off by something.
    Segment {
        /// Of which connection.
        port: u8,
        flags: u8,
        sequence_off: i8,
        /// In steps that leave the window.
        sequence_far: bool,
        acknowledgement_off: i8,
        window: u16,
        options: Vec<u8>,
        payload: u16,
    },
    /// A frame comes, whatever is in it.
    Frame(Vec<u8>),
    /// So many milliseconds pass.
    Wait(u16),
    /// A client writes.
    Write { port: u8, bytes: u16 },
    /// A client reads all there is.
    Read(u8),
    /// A client sets an option.
    Set { port: u8, option: u8, value: u32 },
    /// A client shuts down.
    Shut { port: u8, how: u8 },
    /// A client closes, at once if `abort`.
    Close { port: u8, abort: bool },
    /// A client connects to the peer.
    Connect(u8),
    /// The listener gets a credit.
    Accept,
}

/// What the stack last said of a connection: the number of its next byte, and what it expects.
#[derive(Clone, Copy, Default)]
struct Heard {
    next: u32,
    expected: u32,
}

/// The stack, and what is around it.
pub struct World {
    now: Instant,
    stack: Box<dyn Stack>,
    near: (Box<dyn RxQueue>, Box<dyn TxQueue>),
    far: Box<dyn RxQueue>,
    quota: Quota,
    /// Sockets that were not closed, by id.
    clients: HashMap<u32, Client>,
    next_id: u32,
    heard: HashMap<u16, Heard>,
}

impl World {
    /// A stack with a listener, and UDP sockets of both families.
    ///
    /// # Panics
    /// If the stack cannot be built.
    pub fn new() -> Self {
        let wire = WireConfig { in_flight_limit: 4096, ..WireConfig::default() };
        let (mut near, mut far) = WirePort::pair(&wire).expect("a sound wire");
        let mut config = config(2);
        config.neighbours =
            vec![dmm_stack::config::Neighbour { address: address_v4(1), mac: [2, 0, 0, 0, 0, 1] }];
        config.tcp.ecn = dmm_stack::config::Ecn::On;
        let mut world = Self {
            now: Instant::from_micros(1_000_000),
            stack: dmm_stack::build("native", &config).expect("a sound configuration"),
            near: near.queue_pair(0).expect("the first queue"),
            far: far.queue_pair(0).expect("the first queue").0,
            quota: Quota::new(256),
            clients: HashMap::new(),
            next_id: 1,
            heard: HashMap::new(),
        };
        let local = SocketAddr::new(address_v4(2), SERVER);
        let _ = world
            .stack
            .submit(world.now, Request::Listen { socket: SocketId(0), local, backlog: 8 });
        world.ask(Request::SetOption {
            socket: SocketId(0),
            option: SocketOption::FastOpen,
            value: 4,
        });
        // Each a member of a group; the first has a peer.
        for any in ["0.0.0.0:53", "[::]:53"] {
            let (socket, fifos) = world.open();
            let local: SocketAddr = any.parse().expect("an address");
            world.give(socket, Request::Bind { socket, local, shares: false, fifos });
            let group = if local.is_ipv4() { "239.1.2.3" } else { "ff05::1:3" };
            let group = group.parse().expect("an address");
            world.ask(Request::Group { socket, group, joins: true });
        }
        let peer = Some(SocketAddr::new(address_v4(1), 53));
        world.ask(Request::SetPeer { socket: SocketId(1), peer });
        world
    }

    /// Plays a run, and checks that nothing is left of it.
    ///
    /// # Panics
    /// If something is.
    pub fn play(mut self, steps: &[Step]) {
        for step in steps.iter().take(STEPS_MAX) {
            self.step(step);
        }
        let ids: Vec<u32> = self.clients.keys().copied().chain([0]).collect();
        for id in ids {
            self.ask(Request::Close { socket: SocketId(id) });
        }
        self.clients.clear();
        // Longer than any patience: 30 s without progress, and TIME-WAIT.
        for _ in 0..30 {
            self.pass(Duration::from_secs(20));
        }
        let mut left = Vec::new();
        self.stack.sockets(&mut |report| left.push(report));
        assert!(left.is_empty(), "sockets are left: {left:?}");
        assert_eq!(self.quota.pool.used(), 0, "chunks are left");
        let deadline = self.stack.deadline(self.now);
        assert!(deadline.is_none_or(|at| at > self.now), "an empty stack is due");
    }

    /// Gives the stack a frame whose payload's checksum a port has verified.
    pub fn receive(&mut self, bytes: &[u8]) {
        let frame = RxFrame { bytes, checksum: RxChecksum::Good, hash: None };
        self.stack.receive(self.now, &[frame], &mut self.near.1.burst());
        self.act();
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Segment { port, flags, options, window, payload, .. } => {
                let port = 5000 + u16::from(*port) % PORTS;
                let heard = self.heard.get(&port).copied().unwrap_or_default();
                let (sequence, acknowledgement) = numbers(step, heard);
                let mut header = etherparse::TcpHeader::new(port, SERVER, sequence, *window);
                header.fin = flags & 1 != 0;
                header.syn = flags & 2 != 0;
                header.rst = flags & 4 != 0;
                header.psh = flags & 8 != 0;
                header.ack = flags & 16 != 0;
                header.urg = flags & 32 != 0;
                header.ece = flags & 64 != 0;
                header.cwr = flags & 128 != 0;
                header.acknowledgment_number = acknowledgement;
                let mut options = options[..options.len().min(40)].to_vec();
                options.resize(options.len().next_multiple_of(4), 0);
                let _ = header.set_options_raw(&options);
                let payload = vec![0x5a; usize::from(*payload) % 1461];
                let mut frame = Vec::new();
                PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
                    .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                    .tcp_header(header)
                    .write(&mut frame, &payload)
                    .expect("memory takes all");
                self.receive(&frame);
            }
            Step::Frame(bytes) => self.receive(bytes),
            Step::Wait(millis) => self.pass(Duration::from_millis((*millis).into())),
            Step::Write { port, bytes } => {
                let Some((id, client)) = self.client(*port) else { return };
                client.writer.write(&[&vec![0x5a; usize::from(*bytes)]], false);
                client.writer.want_room();
                self.ask(Request::Send { socket: SocketId(id) });
            }
            Step::Read(port) => {
                let Some((id, client)) = self.client(*port) else { return };
                let mut bytes = [0; 4096];
                while client.reader.read(&mut bytes) > 0 {}
                if client.reader.owes_receive() {
                    self.ask(Request::Receive { socket: SocketId(id) });
                }
            }
            Step::Set { port, option, value } => {
                let Some((id, _)) = self.client(*port) else { return };
                let option = SocketOption::ALL[usize::from(*option) % SocketOption::ALL.len()];
                // Patience that ends within a run's time.
                let patience =
                    matches!(option, SocketOption::UserTimeout | SocketOption::KeepAlive);
                let value = if patience { *value % 40 } else { *value };
                self.ask(Request::SetOption { socket: SocketId(id), option, value });
            }
            Step::Shut { port, how } => {
                let Some((id, _)) = self.client(*port) else { return };
                let how = [How::Read, How::Write, How::Both][usize::from(*how) % 3];
                self.ask(Request::Shutdown { socket: SocketId(id), how });
            }
            Step::Close { port, abort } => {
                let Some((id, _)) = self.client(*port) else { return };
                self.clients.remove(&id);
                let socket = SocketId(id);
                self.ask(if *abort {
                    Request::Abort { socket }
                } else {
                    Request::Close { socket }
                });
            }
            Step::Connect(port) => {
                let (socket, fifos) = self.open();
                let local = SocketAddr::new(address_v4(2), SERVER);
                let remote = SocketAddr::new(address_v4(1), 5000 + u16::from(*port) % PORTS);
                self.give(socket, Request::Connect { socket, local, remote, fifos });
            }
            Step::Accept => {
                let (socket, fifos) = self.open();
                self.give(socket, Request::Accept { listener: SocketId(0), socket, fifos });
            }
        }
    }

    fn client(&mut self, number: u8) -> Option<(u32, &mut Client)> {
        let mut ids: Vec<u32> = self.clients.keys().copied().collect();
        ids.sort_unstable();
        let id = *ids.get(usize::from(number).checked_rem(ids.len())?)?;
        Some((id, self.clients.get_mut(&id)?))
    }

    fn open(&mut self) -> (SocketId, dmm_stack::Fifos) {
        let socket = SocketId(self.next_id);
        self.next_id += 1;
        let (fifos, client) = self.quota.open(End::Right, socket, 1 << 16);
        self.clients.insert(socket.0, client);
        (socket, fifos)
    }

    /// Asks for a new socket, which is forgotten if the stack refuses it.
    fn give(&mut self, socket: SocketId, request: Request) {
        if self.stack.submit(self.now, request).is_err() {
            self.clients.remove(&socket.0);
        }
        self.act();
    }

    fn ask(&mut self, request: Request) {
        let _ = self.stack.submit(self.now, request);
        self.act();
    }

    fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        for turn in 0.. {
            let Some(at) = self.stack.deadline(self.now).filter(|at| *at <= until) else { break };
            assert!(turn < TURNS_MAX, "the stack spins");
            self.now = self.now.max(at);
            self.act();
        }
        self.now = self.now.max(until);
    }

    /// Lets the stack do what is due now, and listens to what it sends.
    fn act(&mut self) {
        let mut events: Vec<Event> = Vec::new();
        for turn in 0.. {
            let due = self.stack.deadline(self.now).is_some_and(|at| at <= self.now);
            if due {
                self.stack.poll(self.now, &mut self.near.1.burst(), &mut events);
            }
            self.near.1.flush(self.now);
            for frame in self.far.burst(self.now) {
                let Ok(packet) = SlicedPacket::from_ethernet(frame.bytes) else { continue };
                if let Some(TransportSlice::Tcp(tcp)) = packet.transport {
                    let heard = self.heard.entry(tcp.destination_port()).or_default();
                    let numbers = tcp.payload().len() + usize::from(tcp.syn() || tcp.fin());
                    heard.next = tcp.sequence_number().wrapping_add(numbers as u32);
                    if tcp.ack() {
                        heard.expected = tcp.acknowledgment_number();
                    }
                }
            }
            if !due {
                return;
            }
            assert!(turn < TURNS_MAX, "the stack spins");
        }
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

fn numbers(step: &Step, heard: Heard) -> (u32, u32) {
    let Step::Segment { sequence_off, sequence_far, acknowledgement_off, .. } = step else {
        return (0, 0);
    };
    let scale = if *sequence_far { 100_000 } else { 100 };
    let off = |by: i8, scale: i32| (i32::from(by) * scale).cast_unsigned();
    let sequence = heard.expected.wrapping_add(off(*sequence_off, scale));
    (sequence, heard.next.wrapping_add(off(*acknowledgement_off, 100)))
}
