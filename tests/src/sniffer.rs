//! What passes the interfaces of a namespace: each segment of TCP, read by an independent parser.
//!
//! A packet socket sees what comes before the firewall does, and what goes after. What the firewall loses is not seen.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::deadline::eventually;
use crate::firewall::NOBODY;
use crate::namespace::Namespace;

/// Memory for what is not read yet: some 50,000 frames.
const QUEUE_BYTES: usize = 128 << 20;

/// A segment of TCP.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// Its sequence number.
    pub sequence: u32,
    /// What it acknowledges.
    pub acknowledgement: u32,
    /// Its flags.
    pub flags: Flags,
    /// Its window, as it stands there.
    pub window: u16,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Its options.
    pub options: Options,
    /// IPv4's type of service or IPv6's traffic class.
    pub class: u8,
    /// Its hop limit.
    pub hop_limit: u8,
}

/// Flags of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "so they stand in the header")]
pub struct Flags {
    /// It opens.
    pub syn: bool,
    /// It acknowledges.
    pub ack: bool,
    /// It ends.
    pub fin: bool,
    /// It breaks off.
    pub rst: bool,
    /// It ends what was written.
    pub psh: bool,
    /// It tells of a mark (RFC 3168).
    pub ece: bool,
    /// It tells of a smaller window (RFC 3168).
    pub cwr: bool,
}

/// Options of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The largest segment.
    pub mss: Option<u16>,
    /// By how many bits windows are shifted.
    pub shift: Option<u8>,
    /// SACK may be used.
    pub sack_permitted: bool,
    /// The ranges of SACK.
    pub sacks: Vec<(u32, u32)>,
    /// The timestamp and what it echoes.
    pub timestamps: Option<(u32, u32)>,
    /// The cookie of Fast Open; empty if it is asked for.
    pub cookie: Option<Vec<u8>>,
}

impl Packet {
    /// The ECN field (RFC 3168 section 5): 2 for ECT(0), 3 for CE.
    #[must_use]
    pub const fn ecn(&self) -> u8 {
        self.class & 3
    }

    /// Bytes of payload.
    #[must_use]
    pub fn len(&self) -> u32 {
        u32::try_from(self.payload.len()).expect("a packet is short")
    }

    /// Whether it has no payload.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// The number behind its payload.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.sequence.wrapping_add(self.len())
    }

    fn read(frame: &[u8]) -> Option<Self> {
        if frame.starts_with(&NOBODY) {
            return None;
        }
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { return None };
        let (from, to, class, hop_limit) = match packet.net? {
            NetSlice::Ipv4(ip) => {
                let ip = ip.header();
                let class = ip.dcp().value() << 2 | ip.ecn().value();
                let (from, to) = (ip.source_addr(), ip.destination_addr());
                (IpAddr::from(from), IpAddr::from(to), class, ip.ttl())
            }
            NetSlice::Ipv6(ip) => {
                let ip = ip.header();
                let (from, to) = (ip.source_addr(), ip.destination_addr());
                (from.into(), to.into(), ip.traffic_class(), ip.hop_limit())
            }
            NetSlice::Arp(_) => return None,
        };
        Some(Self {
            from: SocketAddr::new(from, tcp.source_port()),
            to: SocketAddr::new(to, tcp.destination_port()),
            sequence: tcp.sequence_number(),
            acknowledgement: tcp.acknowledgment_number(),
            flags: Flags {
                syn: tcp.syn(),
                ack: tcp.ack(),
                fin: tcp.fin(),
                rst: tcp.rst(),
                psh: tcp.psh(),
                ece: tcp.ece(),
                cwr: tcp.cwr(),
            },
            window: tcp.window_size(),
            payload: tcp.payload().to_vec(),
            options: Options::read(tcp.options())?,
            class,
            hop_limit,
        })
    }
}

impl Options {
    fn read(mut bytes: &[u8]) -> Option<Self> {
        let mut options = Self::default();
        loop {
            let (kind, len) = match bytes {
                [] | [0, ..] => return Some(options),
                [1, rest @ ..] => {
                    bytes = rest;
                    continue;
                }
                [kind, len, ..] => (*kind, usize::from(*len)),
                [_] => return None,
            };
            let body = bytes.get(2..len)?;
            bytes = &bytes[len..];
            let words: Vec<u32> =
                body.as_chunks().0.iter().map(|word| u32::from_be_bytes(*word)).collect();
            match (kind, body, &words[..]) {
                (2, [high, low], _) => options.mss = Some(u16::from_be_bytes([*high, *low])),
                (3, [shift], _) => options.shift = Some(*shift),
                (4, [], _) => options.sack_permitted = true,
                (5, _, edges) => {
                    options.sacks.extend(edges.as_chunks::<2>().0.iter().map(|[a, b]| (*a, *b)))
                }
                (8, _, [value, echo]) => options.timestamps = Some((*value, *echo)),
                (34, cookie, _) => options.cookie = Some(cookie.to_vec()),
                _ => {}
            }
        }
    }
}

impl fmt::Debug for Packet {
    /// In one line, as tcpdump has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, sequence, acknowledgement, flags, window, options, .. } = self;
        let letters = [
            (flags.syn, 'S'),
            (flags.fin, 'F'),
            (flags.rst, 'R'),
            (flags.psh, 'P'),
            (flags.ece, 'E'),
            (flags.cwr, 'W'),
            (flags.ack, '.'),
        ];
        let letters: String = letters.iter().filter(|(set, _)| *set).map(|(_, c)| c).collect();
        let (len, class, hops) = (self.len(), self.class, self.hop_limit);
        write!(
            f,
            "{from} > {to} [{letters}] {sequence}:{len} ack {acknowledgement} win {window} "
        )?;
        write!(f, "class {class:#04x} hops {hops} {options:?}")
    }
}

/// Looks at what passes, until dropped.
pub struct Sniffer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Packet>>,
    stop: AtomicBool,
    /// How often somebody asked for all that had passed, and the last time for which that is so.
    asked: AtomicU64,
    answered: AtomicU64,
}

impl Sniffer {
    /// Looks at all interfaces of a namespace from now on.
    ///
    /// # Panics
    /// Without root.
    #[must_use]
    pub fn start(namespace: &Namespace) -> Self {
        let socket = namespace.within(open).expect("we are root");
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let mut frame = vec![0; 1 << 16];
            while !theirs.stop.load(Ordering::Relaxed) {
                let asked = theirs.asked.load(Ordering::Relaxed);
                match recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                    Ok(len) => {
                        if let Some(packet) = Packet::read(&frame[..len]) {
                            theirs.seen.lock().expect("nobody panics with it").push(packet);
                        }
                    }
                    // Nothing is left that came before it was asked.
                    Err(Errno::EAGAIN) => theirs.answered.store(asked, Ordering::Relaxed),
                    Err(error) => assert_eq!(error, Errno::EINTR),
                }
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// Waits until `look` finds something among all that was seen so far.
    ///
    /// # Panics
    /// If that does not come.
    pub fn wait<T>(&self, what: &str, mut look: impl FnMut(&[Packet]) -> Option<T>) -> T {
        eventually(what, || {
            let seen = self.shared.seen.lock().expect("nobody panics with it");
            look(&seen).ok_or_else(|| {
                let last = &seen[seen.len().saturating_sub(20)..];
                format!("the last of {} are {last:#?}", seen.len())
            })
        })
    }

    /// All that passed before.
    ///
    /// # Panics
    /// If looking ended.
    #[must_use]
    pub fn packets(&self) -> Vec<Packet> {
        let asked = self.shared.asked.fetch_add(1, Ordering::Relaxed) + 1;
        eventually("a look at all that passed", || {
            let answered = self.shared.answered.load(Ordering::Relaxed);
            if answered >= asked { Ok(()) } else { Err(format!("{answered} of {asked}")) }
        });
        self.shared.seen.lock().expect("nobody panics with it").clone()
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
    setsockopt(&socket, sockopt::RcvBufForce, &QUEUE_BYTES)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(5))?;
    Ok(socket)
}
