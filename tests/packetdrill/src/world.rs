//! The stack under test, its clock, and the far end of its link.
//!
//! Owns: [`World`]. Driven by the calls of a script: time passes when one sleeps, waits for a packet, or asks
//! for the time. Must never: read a real clock.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::thread::ThreadId;
use std::time::Duration;

use dmm_port::wire::{WireConfig, WirePort};
use dmm_port::{Instant, Port, RxChecksum, RxFrame, RxQueue, TxQueue};
use dmm_proto::congestion::CongestionControl;
use dmm_stack::config::{
    Congestion, Ecn, Features, Neighbour, Prefix, Route, StackConfig, TRAIN_MIN, TcpConfig,
    UdpConfig,
};
use dmm_stack::pair::Quota;
use dmm_stack::{Event, Request, SocketId, Stack, TcpInfo};
use nix::errno::Errno;

use crate::buffer::LIMIT_MAX;
use crate::socket::{Role, Socket};

/// Whom scripts call the local host, the usual one first, and where they send from.
const OWN: [IpAddr; 3] = [own(1), own(2), own(3)];
const GATEWAY: IpAddr = own(254);
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// What public scripts set `net.ipv4.tcp_fastopen_key` to: in general, and some of them.
const FAST_OPEN_KEYS: [[u8; 16]; 2] = [
    [
        0xa1, 0xa1, 0xa1, 0xa1, 0xb2, 0xb2, 0xb2, 0xb2, 0xc3, 0xc3, 0xc3, 0xc3, 0xd4, 0xd4, 0xd4,
        0xd4,
    ],
    [
        0xf7, 0x63, 0xbf, 0xa0, 0x81, 0x3d, 0x80, 0xed, 0x30, 0x1d, 0x64, 0xcd, 0x90, 0x4a, 0xbc,
        0xce,
    ],
];

const ETHERNET_BYTES: usize = 14;
/// What Linux gives a socket to send in the beginning.
const SNDBUF_BYTES: u64 = 1 << 18;
/// Turns at one point in time before the stack is taken to spin.
const TURNS_AT_ONCE: u32 = 10_000;
/// Chunks for all sockets: 16 MiB.
const CHUNKS: u32 = 1024;

const fn own(station: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 168, 0, station))
}

/// The stack and what is around it.
pub struct World {
    /// The time.
    pub now: Instant,
    stack: Box<dyn Stack>,
    near: (Box<dyn RxQueue>, Box<dyn TxQueue>),
    far: Box<dyn RxQueue>,
    /// Packets that the stack sent, and when.
    pub sent: VecDeque<(Instant, Vec<u8>)>,
    /// Memory of sockets.
    pub quota: Quota,
    /// Sockets by descriptor.
    pub sockets: BTreeMap<i32, Socket>,
    /// Listeners take payload on SYNs without asking for it.
    pub fast_open: bool,
    /// Bytes of a new socket's send buffer.
    pub send_buffer: u64,
    /// `tcp_notsent_lowat`.
    pub low_water: Option<u32>,
    next_id: u32,
    next_port: u16,
    /// Calls that are blocked, and how many of them have not looked at the latest news.
    pub blocked: u32,
    /// See above.
    pub to_look: u32,
    /// The thread of a blocked call that returns and has not asked for the time.
    pub returning: Option<ThreadId>,
}

impl World {
    /// A stack without sockets, and without the parts of TCP whose names stand in `without`, at a time
    /// that no script notices to be virtual. With `ecn` there it is with ECN, with `ecn-passive` if the peer
    /// asks for it, with `key` it makes Fast Open cookies of the second key, with `holes` it looks for
    /// black holes of path MTU, with `congestion=` and a name it has another than CUBIC; without `fastopen` listeners must ask for that. `train=`, `wmem=` and `lowat=`
    /// with a number stand for `tcp_min_tso_segs`, the middle of `tcp_wmem`, and `tcp_notsent_lowat`.
    pub fn new(without: &str) -> Self {
        let has = |part: &str| !without.split(',').any(|name| name == part);
        let value =
            |name| without.split(',').find_map(|word| word.strip_prefix(name)?.parse().ok());
        let features = Features {
            sack: has("sack"),
            rack: has("rack"),
            prr: has("prr"),
            frto: has("frto"),
            paws: has("paws"),
            stamps: has("stamps"),
            // As on Linux, unless it is asked for (`tcp_mtu_probing`).
            black_holes: !has("holes"),
        };
        let config = StackConfig {
            mac: OWN_MAC,
            mtu: 1500,
            vlan: None,
            rx_checksum: false,
            addresses: OWN.map(|address| Prefix { address, len: 24 }).to_vec(),
            routes: vec![Route {
                to: Prefix { address: Ipv4Addr::UNSPECIFIED.into(), len: 0 },
                via: GATEWAY,
            }],
            neighbours: vec![Neighbour { address: GATEWAY, mac: GATEWAY_MAC }],
            tcp: TcpConfig {
                rx_buffer: 1 << 24,
                tx_buffer: LIMIT_MAX as u32,
                congestion: CongestionControl::ALL
                    .into_iter()
                    .find(|control| !has(&format!("congestion={}", control.name())))
                    .map_or(Congestion::Cubic, Congestion::from),
                user_timeout_s: 900,
                keepalive_s: None,
                features,
                fast_open_key: Some(FAST_OPEN_KEYS[usize::from(!has("key"))]),
                // packetdrill's scripts expect none unless they say so.
                ecn: match (has("ecn"), has("ecn-passive")) {
                    (false, _) => Ecn::On,
                    (_, false) => Ecn::Passive,
                    _ => Ecn::Off,
                },
                train_min: value("train=")
                    .and_then(|v: u64| v.try_into().ok())
                    .unwrap_or(TRAIN_MIN),
            },
            udp: UdpConfig { rx_buffer: 1 << 18, tx_buffer: 1 << 18 },
            sockets_max: 4096,
            seed: 1,
        };
        let (mut near, mut far) = WirePort::pair(&WireConfig::default()).expect("a sound wire");
        let stack = dmm_stack::build("native", &config).expect("a sound configuration");
        let near = near.queue_pair(0).expect("the first queue");
        let (far, _) = far.queue_pair(0).expect("the first queue");
        Self {
            now: Instant::from_micros(1_000_000_000),
            stack,
            near,
            far,
            sent: VecDeque::new(),
            quota: Quota::new(CHUNKS),
            sockets: BTreeMap::new(),
            fast_open: has("fastopen"),
            low_water: value("lowat=").and_then(|v: u64| v.try_into().ok()),
            send_buffer: value("wmem=").unwrap_or(SNDBUF_BYTES),
            next_id: 0,
            next_port: 40_000,
            blocked: 0,
            to_look: 0,
            returning: None,
        }
    }

    /// An id that no socket has had.
    pub const fn new_id(&mut self) -> SocketId {
        self.next_id += 1;
        SocketId(self.next_id)
    }

    /// A port of our choice.
    pub const fn new_port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }

    /// What the connection of a descriptor knows of itself.
    pub fn info(&mut self, fd: i32) -> Result<TcpInfo, Errno> {
        let socket = self.stream(fd)?.client.socket;
        self.stack.tcp_info(self.now, socket).ok_or(Errno::ENOTCONN)
    }

    /// Bytes that a SYN to `remote` may carry.
    pub fn fast_open_room(&self, remote: IpAddr) -> Option<usize> {
        self.stack.fast_open_room(remote).map(usize::from)
    }

    /// The address to come from when talking to `remote`.
    pub fn source_for(&self, remote: IpAddr) -> Result<IpAddr, Errno> {
        self.stack.source_for(remote).ok_or(Errno::ENETUNREACH)
    }

    /// Asks the stack for something, and lets it act.
    pub fn submit(&mut self, request: Request) -> Result<(), Errno> {
        self.ask(request)?;
        self.act();
        Ok(())
    }

    /// Asks the stack for something, as one of several things.
    pub fn ask(&mut self, request: Request) -> Result<(), Errno> {
        self.stack.submit(self.now, request)
    }

    /// Gives the stack a packet, which takes its time to get there.
    pub fn receive(&mut self, packet: &[u8]) {
        self.pass(self.now + Duration::from_micros(2));
        let mut frame = Vec::with_capacity(ETHERNET_BYTES + packet.len());
        frame.extend_from_slice(&OWN_MAC);
        frame.extend_from_slice(&GATEWAY_MAC);
        let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
        frame.extend_from_slice(if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
        frame.extend_from_slice(packet);
        let received = RxFrame { bytes: &frame, checksum: RxChecksum::Unknown, hash: None };
        self.stack.receive(self.now, &[received], &mut self.near.1.burst());
        self.act();
    }

    /// Lets time pass up to `until`.
    pub fn pass(&mut self, until: Instant) {
        while let Some(at) = self.stack.deadline(self.now)
            && at <= until
        {
            self.now = self.now.max(at);
            self.act();
        }
        self.now = self.now.max(until);
    }

    /// Lets time pass until the stack sends a packet. Returns whether it does within `span`.
    pub fn pass_to_packet(&mut self, span: Duration) -> bool {
        let end = self.now + span;
        while self.sent.is_empty() {
            match self.stack.deadline(self.now) {
                Some(at) if at <= end => self.pass(at),
                _ => {
                    self.pass(end);
                    break;
                }
            }
        }
        !self.sent.is_empty()
    }

    /// Lets the stack do what is due now.
    pub fn act(&mut self) {
        let mut events = Vec::new();
        for _ in 0..TURNS_AT_ONCE {
            let due = self.stack.deadline(self.now).is_some_and(|at| at <= self.now);
            if due {
                self.stack.poll(self.now, &mut self.near.1.burst(), &mut events);
            }
            self.near.1.flush(self.now);
            for frame in self.far.burst(self.now) {
                if frame.bytes[12..14] != [0x08, 0x06] {
                    self.sent.push_back((self.now, frame.bytes[ETHERNET_BYTES..].to_vec()));
                }
            }
            for event in events.drain(..) {
                self.note(event);
            }
            self.look();
            if !due {
                return;
            }
        }
        panic!("the stack spins");
    }

    /// Lets sockets look at what the stack did.
    pub fn look(&mut self) {
        for socket in self.sockets.values_mut() {
            if let Role::Stream(stream) = &socket.role
                && let Some(info) = self.stack.tcp_info(self.now, stream.client.socket)
            {
                socket.look(self.now, &info);
            }
        }
    }

    fn note(&mut self, event: Event) {
        let Some(id) = event.socket() else { return };
        for socket in self.sockets.values_mut() {
            if socket.note(id, event) {
                return;
            }
        }
    }
}
