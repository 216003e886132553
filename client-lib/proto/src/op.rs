//! What travels in the rings: submissions to the daemon, completions to the client.
//!
//! Both are typed values here and 64-byte entries in the ring. Decoding a submission is where
//! foreign words become a value or a [`Breach`]; nothing downstream sees the words.
//!
//! ```text
//!  word 0: code:8 | small:24 | slot:32     word 1: generation:32 | number:32
//!  words 2-4: an address                   words 5-7: another address
//! ```
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::breach::Breach;
use crate::info;
use crate::ring::Entry;

/// A socket as a client names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket {
    /// The slot that the client chose, below the session's quota.
    pub slot: u32,
    /// Counts the sockets that this slot has held, so that a late word about an earlier one is
    /// recognised.
    pub generation: u32,
}

/// An IP address, port and IPv6 scope, which pack into three words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address(pub SocketAddr);

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self(address)
    }
}

impl Address {
    /// The shared form: address bytes in two words, then port, family (4 or 6) and scope.
    #[must_use]
    pub fn encode(self) -> [u64; 3] {
        let (bytes, family, scope) = match self.0 {
            SocketAddr::V4(v4) => {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&v4.ip().octets());
                (bytes, 4_u64, 0)
            }
            SocketAddr::V6(v6) => (v6.ip().octets(), 6, v6.scope_id()),
        };
        let word = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
        let last = u64::from(self.0.port()) | family << 16 | u64::from(scope) << 32;
        [word(0), word(8), last]
    }

    /// The shared form of an address that may be absent.
    #[must_use]
    pub fn encode_option(address: Option<Self>) -> [u64; 3] {
        address.map_or([0; 3], Self::encode)
    }

    /// From the shared form.
    pub fn decode(words: [u64; 3]) -> Result<Self, Breach> {
        Self::decode_option(words)?.ok_or(Breach::Address)
    }

    /// From the shared form of an address that may be absent.
    pub fn decode_option(words: [u64; 3]) -> Result<Option<Self>, Breach> {
        let port = words[2] as u16;
        let scope = (words[2] >> 32) as u32;
        match (words[2] >> 16) as u16 {
            0 => Ok(None),
            4 => {
                let ip = Ipv4Addr::from((words[0] >> 32) as u32);
                Ok(Some(Self(SocketAddr::new(IpAddr::V4(ip), port))))
            }
            6 => {
                let ip = Ipv6Addr::from(u128::from(words[0]) << 64 | u128::from(words[1]));
                Ok(Some(Self(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)))))
            }
            _ => Err(Breach::Address),
        }
    }
}

/// Which directions to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `SHUT_RD`.
    Read,
    /// `SHUT_WR`.
    Write,
    /// `SHUT_RDWR`.
    Both,
}

/// Options that a stack can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketOption {
    /// `TCP_NODELAY`: 0 or 1.
    NoDelay,
    /// `SO_KEEPALIVE` with `TCP_KEEPIDLE`: seconds, 0 for off.
    KeepAlive,
    /// `IP_TTL` / `IPV6_UNICAST_HOPS`: 1 to 255.
    HopLimit,
    /// `TCP_USER_TIMEOUT`: milliseconds, 0 for the stack's default.
    UserTimeout,
    /// `SO_LINGER` with a time of 0: 1 makes close send a reset.
    ResetOnClose,
    /// `TCP_CORK`: 0 or 1; 2 is that of `MSG_MORE`, which says that more follows.
    Cork,
    /// `MSG_EOR`: a record ends here, and shares no segment with what follows. Here is a position of the tx
    /// FIFO, in its lower 32 bits: the bytes ever written there, those of the record included.
    RecordEnd,
    /// `IP_TOS` / `IPV6_TCLASS`: 0 to 255.
    TrafficClass,
    /// `TCP_MAXSEG`: 88 to 32,767 bytes, 0 for the link's; of a connection, before it is opened.
    MaxSegment,
    /// `TCP_FASTOPEN`: of a listener, connections whose SYN had payload and whose handshake is not complete,
    /// at most; of a connection before its SYN, 1 if that is to carry what is written, or to ask for the
    /// cookie that this takes (RFC 7413).
    FastOpen,
    /// `TCP_CONGESTION`: the number of a [`crate::congestion::CongestionControl`].
    CongestionControl,
    /// `SO_MAX_PACING_RATE`: bytes per second, `u32::MAX` for no bound.
    PacingRate,
    /// `SO_BROADCAST`: 0 or 1.
    Broadcast,
    /// `IP_MULTICAST_TTL` / `IPV6_MULTICAST_HOPS`: 0 to 255.
    GroupHops,
    /// `IP_MULTICAST_LOOP` / `IPV6_MULTICAST_LOOP`: 0 or 1; broadcasts come back in any case.
    GroupLoop,
    /// What was written up to now goes out in trains of its own; with 1 its last segment has PSH whatever follows.
    TrainEnd,
}

impl SocketOption {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::NoDelay,
        Self::KeepAlive,
        Self::HopLimit,
        Self::UserTimeout,
        Self::ResetOnClose,
        Self::Cork,
        Self::RecordEnd,
        Self::TrafficClass,
        Self::MaxSegment,
        Self::FastOpen,
        Self::CongestionControl,
        Self::PacingRate,
        Self::Broadcast,
        Self::GroupHops,
        Self::GroupLoop,
        Self::TrainEnd,
    ];
}

/// What the first SYN of a socket depends on: a [`Submission::SetOption`] might come when it is out, or answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// [`SocketOption::MaxSegment`]; 0 for the link's.
    pub max_segment: u16,
    /// [`SocketOption::TrafficClass`].
    pub traffic_class: u8,
    /// [`SocketOption::HopLimit`]; 0 for the stack's default.
    pub hop_limit: u8,
    /// [`SocketOption::FastOpen`], of a connection 0 or 1. With a cookie, its SYN waits for what is written
    /// first.
    pub fast_open: u32,
    /// [`SocketOption::CongestionControl`]; 0 for the stack's.
    pub congestion: u8,
}

impl Opening {
    /// Those that are not the default.
    pub fn options(self) -> impl Iterator<Item = (SocketOption, u32)> {
        let all = [
            (SocketOption::MaxSegment, u32::from(self.max_segment)),
            (SocketOption::TrafficClass, u32::from(self.traffic_class)),
            (SocketOption::HopLimit, u32::from(self.hop_limit)),
            (SocketOption::FastOpen, self.fast_open),
            (SocketOption::CongestionControl, u32::from(self.congestion)),
        ];
        all.into_iter().filter(|(_, value)| *value != 0)
    }

    /// The shared form: what its packets have. Fast Open and congestion control stand beside it.
    fn encode(self) -> u32 {
        u32::from(self.max_segment)
            | u32::from(self.traffic_class) << 16
            | u32::from(self.hop_limit) << 24
    }

    /// From the shared form.
    const fn decode(word: u32, fast_open: u32, congestion: u8) -> Self {
        Self {
            max_segment: word as u16,
            traffic_class: (word >> 16) as u8,
            hop_limit: (word >> 24) as u8,
            fast_open,
            congestion,
        }
    }
}

/// What a client asks of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submission {
    /// Opens a TCP connection to `remote`. Answered by [`Completion::Connected`]; before that, by
    /// [`Completion::Deferred`] if its SYN waits for what it is to carry.
    Connect {
        /// A slot that is free.
        socket: Socket,
        /// Address and port to come from; unspecified or 0 leaves the choice to the stack.
        local: Address,
        /// Where to.
        remote: Address,
        /// What its SYN depends on.
        opening: Opening,
    },
    /// Opens a TCP listener. Answered by [`Completion::Bound`].
    Listen {
        /// A slot that is free on this instance.
        socket: Socket,
        /// Address and port; port 0 leaves the choice to the stack.
        local: Address,
        /// Connections that may wait to be accepted.
        backlog: u32,
        /// What its answers to SYNs depend on.
        opening: Opening,
    },
    /// A credit: the listener may put one connection into a free slot. Answered by
    /// [`Completion::Accepted`], or by [`Completion::Closed`] for the new slot if the listener
    /// closes first.
    Accept {
        /// The listener.
        listener: Socket,
        /// The free slot for the connection.
        socket: Socket,
    },
    /// Opens a UDP socket. Answered by [`Completion::Bound`].
    Bind {
        /// A slot that is free.
        socket: Socket,
        /// Address and port; port 0 leaves the choice to the stack.
        local: Address,
        /// Other sockets of this user that say so may have them as well (`SO_REUSEPORT`).
        shares: bool,
    },
    /// Sets or clears the peer of a UDP socket. Answered by [`Completion::Bound`].
    SetPeer {
        /// A UDP socket.
        socket: Socket,
        /// The only peer from now on; `None` dissolves the association.
        peer: Option<Address>,
    },
    /// Makes a UDP socket a member of a group, or one no longer. Answered by [`Completion::Bound`], without an
    /// address.
    Group {
        /// A UDP socket.
        socket: Socket,
        /// The group; its port means nothing.
        group: Address,
        /// Whether it joins.
        joins: bool,
    },
    /// The tx FIFO holds more, or the client wants room in it.
    Send {
        /// A TCP connection or UDP socket.
        socket: Socket,
    },
    /// The client made room in the rx FIFO after the daemon had stalled.
    Receive {
        /// A TCP connection or UDP socket.
        socket: Socket,
    },
    /// Shuts down one or both directions of a TCP connection.
    Shutdown {
        /// A TCP connection.
        socket: Socket,
        /// Which directions.
        how: How,
    },
    /// Sets an option. A value that the stack refuses is answered by [`Completion::Refused`].
    SetOption {
        /// Any socket.
        socket: Socket,
        /// Which.
        option: SocketOption,
        /// Its value, in the option's unit.
        value: u32,
    },
    /// The client is done with the socket. What it wrote is still sent. Answered by
    /// [`Completion::Closed`], after which the slot is free; not answered if the slot is free already
    /// or holds a later socket, since a refusal or redirection may have crossed it.
    Close {
        /// Any socket.
        socket: Socket,
    },
    /// Moves the socket's completions to another context of the session. Answered, on the new
    /// context's channel, by [`Completion::Rehomed`]; nothing about the socket follows on the old.
    Rehome {
        /// Any socket.
        socket: Socket,
        /// The context to move to.
        context: u32,
    },
    /// Asks what a TCP socket knows of itself. Answered by [`Completion::Info`], when all that was submitted before
    /// is done.
    Inform {
        /// A TCP connection or listener.
        socket: Socket,
        /// What the answer is to be known by.
        number: u32,
    },
}

/// What an instance tells a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Something about the socket changed: its cursors and state say what.
    Look {
        /// The socket.
        socket: Socket,
    },
    /// A connection attempt ended.
    Connected {
        /// The socket. After an error it is still open, unless `Closed` follows at once: the attempt
        /// was refused out of hand and its slot is free again.
        socket: Socket,
        /// 0, or the errno.
        errno: u32,
        /// This end's address.
        local: Option<Address>,
    },
    /// The SYN of a `Connect` waits for the next `Send`, to carry what was written until then (RFC 7413).
    /// There is room in the tx FIFO.
    Deferred {
        /// The socket.
        socket: Socket,
    },
    /// The 4-tuple of a `Connect`, or the UDP port of a `Bind`, belongs to another instance of the
    /// stack. The slot is free again.
    Redirected {
        /// The socket.
        socket: Socket,
        /// The instance to ask, as an index among all instances.
        instance: u32,
    },
    /// A `Listen`, `Bind`, `SetPeer` or `Group` ended.
    Bound {
        /// The socket. After an error of `Listen` or `Bind` its slot is free again.
        socket: Socket,
        /// 0, or the errno.
        errno: u32,
        /// This end's address.
        local: Option<Address>,
    },
    /// A connection was accepted into the slot of a credit.
    Accepted {
        /// The new connection.
        socket: Socket,
        /// The listener's slot.
        listener: u32,
        /// This end's address.
        local: Address,
        /// The peer's address.
        peer: Address,
    },
    /// An option was refused.
    Refused {
        /// The socket.
        socket: Socket,
        /// Which.
        option: SocketOption,
        /// The errno.
        errno: u32,
    },
    /// The daemon is done with the slot: it is free.
    Closed {
        /// The socket that was there.
        socket: Socket,
    },
    /// The socket's completions come on this channel from now on.
    Rehomed {
        /// The socket.
        socket: Socket,
    },
    /// A part of the answer to an `Inform`; parts come in order. After an error there is but one.
    Info {
        /// The socket.
        socket: Socket,
        /// The question's.
        number: u32,
        /// 0, or the errno: `EOPNOTSUPP` if this kind of stack cannot tell, or the socket is a listener.
        errno: u16,
        /// Which: below [`info::PARTS`].
        part: u32,
        /// It.
        words: [u64; info::PART_WORDS],
    },
}

/// Words before they are an entry, and after.
#[derive(Default)]
struct Words {
    code: u8,
    small: u32,
    socket: Option<Socket>,
    number: u32,
    first: [u64; 3],
    second: [u64; 3],
}

impl Words {
    fn new(code: u8, socket: Socket) -> Self {
        Self { code, socket: Some(socket), ..Self::default() }
    }

    fn pack(self) -> Entry {
        let socket = self.socket.unwrap_or(Socket { slot: 0, generation: 0 });
        [
            u64::from(self.code) | u64::from(self.small) << 8 | u64::from(socket.slot) << 32,
            u64::from(socket.generation) | u64::from(self.number) << 32,
            self.first[0],
            self.first[1],
            self.first[2],
            self.second[0],
            self.second[1],
            self.second[2],
        ]
    }
}

fn socket_of(entry: &Entry) -> Socket {
    Socket { slot: (entry[0] >> 32) as u32, generation: entry[1] as u32 }
}

fn small_of(entry: &Entry) -> u32 {
    (entry[0] >> 8) as u32 & 0xff_ffff
}

fn flag_of(entry: &Entry) -> Result<bool, Breach> {
    match small_of(entry) {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Breach::Operation),
    }
}

fn number_of(entry: &Entry) -> u32 {
    (entry[1] >> 32) as u32
}

fn first_of(entry: &Entry) -> [u64; 3] {
    [entry[2], entry[3], entry[4]]
}

fn second_of(entry: &Entry) -> [u64; 3] {
    [entry[5], entry[6], entry[7]]
}

impl Submission {
    /// As an entry of the submission ring.
    #[must_use]
    pub fn encode(&self) -> Entry {
        let words = match *self {
            Self::Connect { socket, local, remote, opening } => {
                let number = opening.encode();
                let small = u32::from(opening.fast_open != 0) | u32::from(opening.congestion) << 8;
                let (first, second) = (local.encode(), remote.encode());
                Words { small, number, first, second, ..Words::new(1, socket) }
            }
            Self::Listen { socket, local, backlog, opening } => {
                let (word, fast) = (opening.encode().into(), opening.fast_open.into());
                let (first, second) = (local.encode(), [word, fast, opening.congestion.into()]);
                Words { number: backlog, first, second, ..Words::new(2, socket) }
            }
            Self::Accept { listener, socket } => Words {
                first: [u64::from(socket.slot), u64::from(socket.generation), 0],
                ..Words::new(3, listener)
            },
            Self::Bind { socket, local, shares } => {
                Words { small: shares.into(), first: local.encode(), ..Words::new(4, socket) }
            }
            Self::SetPeer { socket, peer } => {
                Words { second: Address::encode_option(peer), ..Words::new(5, socket) }
            }
            Self::Send { socket } => Words::new(6, socket),
            Self::Receive { socket } => Words::new(7, socket),
            Self::Shutdown { socket, how } => {
                let small = match how {
                    How::Read => 0,
                    How::Write => 1,
                    How::Both => 2,
                };
                Words { small, ..Words::new(8, socket) }
            }
            Self::SetOption { socket, option, value } => {
                Words { small: option as u32, number: value, ..Words::new(9, socket) }
            }
            Self::Close { socket } => Words::new(10, socket),
            Self::Rehome { socket, context } => Words { number: context, ..Words::new(11, socket) },
            Self::Inform { socket, number } => Words { number, ..Words::new(12, socket) },
            Self::Group { socket, group, joins } => {
                Words { small: joins.into(), first: group.encode(), ..Words::new(13, socket) }
            }
        };
        words.pack()
    }

    /// From an entry that was copied out of the ring.
    pub fn decode(entry: &Entry) -> Result<Self, Breach> {
        let socket = socket_of(entry);
        Ok(match entry[0] as u8 {
            1 => Self::Connect {
                socket,
                local: Address::decode(first_of(entry))?,
                remote: Address::decode(second_of(entry))?,
                opening: match small_of(entry).to_le_bytes() {
                    [fast @ 0..=1, congestion, 0, 0] => {
                        Opening::decode(number_of(entry), fast.into(), congestion)
                    }
                    _ => return Err(Breach::Operation),
                },
            },
            2 => Self::Listen {
                socket,
                local: Address::decode(first_of(entry))?,
                backlog: number_of(entry),
                opening: match second_of(entry).map(u32::try_from) {
                    [Ok(word), Ok(fast), Ok(congestion @ 0..=0xff)] => {
                        Opening::decode(word, fast, congestion as u8)
                    }
                    _ => return Err(Breach::Operation),
                },
            },
            3 => {
                let word = |word: u64| u32::try_from(word).map_err(|_| Breach::Operation);
                Self::Accept {
                    listener: socket,
                    socket: Socket { slot: word(entry[2])?, generation: word(entry[3])? },
                }
            }
            4 => Self::Bind {
                socket,
                local: Address::decode(first_of(entry))?,
                shares: flag_of(entry)?,
            },
            5 => Self::SetPeer { socket, peer: Address::decode_option(second_of(entry))? },
            6 => Self::Send { socket },
            7 => Self::Receive { socket },
            8 => {
                let how = match small_of(entry) {
                    0 => How::Read,
                    1 => How::Write,
                    2 => How::Both,
                    _ => return Err(Breach::Operation),
                };
                Self::Shutdown { socket, how }
            }
            9 => {
                let option = SocketOption::ALL.get(small_of(entry) as usize);
                let option = *option.ok_or(Breach::Operation)?;
                Self::SetOption { socket, option, value: number_of(entry) }
            }
            10 => Self::Close { socket },
            11 => Self::Rehome { socket, context: number_of(entry) },
            12 => Self::Inform { socket, number: number_of(entry) },
            13 => Self::Group {
                socket,
                group: Address::decode(first_of(entry))?,
                joins: flag_of(entry)?,
            },
            _ => return Err(Breach::Operation),
        })
    }

    /// The socket that the operation is about: for `Accept`, the listener.
    #[must_use]
    pub const fn socket(&self) -> Socket {
        match *self {
            Self::Connect { socket, .. }
            | Self::Listen { socket, .. }
            | Self::Accept { listener: socket, .. }
            | Self::Bind { socket, .. }
            | Self::SetPeer { socket, .. }
            | Self::Send { socket }
            | Self::Receive { socket }
            | Self::Shutdown { socket, .. }
            | Self::SetOption { socket, .. }
            | Self::Close { socket }
            | Self::Rehome { socket, .. }
            | Self::Inform { socket, .. }
            | Self::Group { socket, .. } => socket,
        }
    }
}

impl Completion {
    /// As an entry of the completion ring.
    #[must_use]
    pub fn encode(&self) -> Entry {
        let words = match *self {
            Self::Look { socket } => Words::new(1, socket),
            Self::Connected { socket, errno, local } => Words {
                number: errno,
                first: Address::encode_option(local),
                ..Words::new(2, socket)
            },
            Self::Redirected { socket, instance } => {
                Words { number: instance, ..Words::new(3, socket) }
            }
            Self::Bound { socket, errno, local } => Words {
                number: errno,
                first: Address::encode_option(local),
                ..Words::new(4, socket)
            },
            Self::Accepted { socket, listener, local, peer } => Words {
                number: listener,
                first: local.encode(),
                second: peer.encode(),
                ..Words::new(5, socket)
            },
            Self::Refused { socket, option, errno } => {
                Words { small: option as u32, number: errno, ..Words::new(6, socket) }
            }
            Self::Closed { socket } => Words::new(7, socket),
            Self::Rehomed { socket } => Words::new(8, socket),
            Self::Deferred { socket } => Words::new(9, socket),
            Self::Info { socket, number, errno, part, words } => {
                let [first, second] = [0, 3].map(|at| std::array::from_fn(|i| words[at + i]));
                let small = u32::from(errno) | part << 16;
                Words { small, number, first, second, ..Words::new(10, socket) }
            }
        };
        words.pack()
    }

    /// From an entry that was copied out of the ring. An error means a daemon of another kind.
    pub fn decode(entry: &Entry) -> Result<Self, Breach> {
        let socket = socket_of(entry);
        Ok(match entry[0] as u8 {
            1 => Self::Look { socket },
            2 => Self::Connected {
                socket,
                errno: number_of(entry),
                local: Address::decode_option(first_of(entry))?,
            },
            3 => Self::Redirected { socket, instance: number_of(entry) },
            4 => Self::Bound {
                socket,
                errno: number_of(entry),
                local: Address::decode_option(first_of(entry))?,
            },
            5 => Self::Accepted {
                socket,
                listener: number_of(entry),
                local: Address::decode(first_of(entry))?,
                peer: Address::decode(second_of(entry))?,
            },
            6 => {
                let option = SocketOption::ALL.get(small_of(entry) as usize);
                let option = *option.ok_or(Breach::Operation)?;
                Self::Refused { socket, option, errno: number_of(entry) }
            }
            7 => Self::Closed { socket },
            8 => Self::Rehomed { socket },
            9 => Self::Deferred { socket },
            10 => {
                let (part, errno) = (small_of(entry) >> 16, small_of(entry) as u16);
                if part as usize >= info::PARTS {
                    return Err(Breach::Operation);
                }
                let words = std::array::from_fn(|at| entry[2 + at]);
                Self::Info { socket, number: number_of(entry), errno, part, words }
            }
            _ => return Err(Breach::Operation),
        })
    }

    /// The socket that the completion is about.
    #[must_use]
    pub const fn socket(&self) -> Socket {
        match *self {
            Self::Look { socket }
            | Self::Connected { socket, .. }
            | Self::Redirected { socket, .. }
            | Self::Bound { socket, .. }
            | Self::Accepted { socket, .. }
            | Self::Refused { socket, .. }
            | Self::Closed { socket }
            | Self::Rehomed { socket }
            | Self::Deferred { socket }
            | Self::Info { socket, .. } => socket,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = Address> {
        prop_oneof![
            (any::<u32>(), any::<u16>()).prop_map(|(ip, port)| Address::from(SocketAddr::new(
                Ipv4Addr::from(ip).into(),
                port
            ))),
            (any::<u128>(), any::<u16>(), any::<u32>()).prop_map(|(ip, port, scope)| {
                Address::from(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope)))
            }),
        ]
    }

    fn opening(fast: impl Strategy<Value = u32>) -> impl Strategy<Value = Opening> {
        let parts = (any::<u16>(), any::<u8>(), any::<u8>(), fast, any::<u8>());
        parts.prop_map(|(max_segment, traffic_class, hop_limit, fast_open, congestion)| Opening {
            max_segment,
            traffic_class,
            hop_limit,
            fast_open,
            congestion,
        })
    }

    fn submission() -> impl Strategy<Value = Submission> {
        let socket = || {
            (any::<u32>(), any::<u32>()).prop_map(|(slot, generation)| Socket { slot, generation })
        };
        prop_oneof![
            (socket(), address(), address(), opening(0..2_u32)).prop_map(
                |(socket, local, remote, opening)| Submission::Connect {
                    socket,
                    local,
                    remote,
                    opening
                }
            ),
            (socket(), address(), any::<u32>(), opening(any::<u32>())).prop_map(
                |(socket, local, backlog, opening)| Submission::Listen {
                    socket,
                    local,
                    backlog,
                    opening
                }
            ),
            (socket(), socket())
                .prop_map(|(listener, socket)| Submission::Accept { listener, socket }),
            (socket(), address(), any::<bool>())
                .prop_map(|(socket, local, shares)| Submission::Bind { socket, local, shares }),
            (socket(), prop::option::of(address()))
                .prop_map(|(socket, peer)| Submission::SetPeer { socket, peer }),
            socket().prop_map(|socket| Submission::Send { socket }),
            socket().prop_map(|socket| Submission::Receive { socket }),
            (socket(), prop::sample::select(vec![How::Read, How::Write, How::Both]))
                .prop_map(|(socket, how)| Submission::Shutdown { socket, how }),
            (socket(), prop::sample::select(SocketOption::ALL.to_vec()), any::<u32>()).prop_map(
                |(socket, option, value)| Submission::SetOption { socket, option, value }
            ),
            socket().prop_map(|socket| Submission::Close { socket }),
            (socket(), any::<u32>())
                .prop_map(|(socket, context)| Submission::Rehome { socket, context }),
            (socket(), any::<u32>())
                .prop_map(|(socket, number)| Submission::Inform { socket, number }),
            (socket(), address(), any::<bool>())
                .prop_map(|(socket, group, joins)| Submission::Group { socket, group, joins }),
        ]
    }

    proptest! {
        #[test]
        fn submissions_survive_the_ring(submission in submission()) {
            prop_assert_eq!(Submission::decode(&submission.encode()), Ok(submission));
        }

        #[test]
        fn arbitrary_words_never_panic(words in any::<[u64; 8]>(), code in 0_u64..16) {
            let mut words = words;
            let _ = Submission::decode(&words);
            words[0] = words[0] & !0xff | code;
            if let Ok(submission) = Submission::decode(&words) {
                prop_assert_eq!(Submission::decode(&submission.encode()), Ok(submission));
            }
            let _ = Completion::decode(&words);
        }

        #[test]
        fn parts_survive_the_ring(
            number in any::<u32>(),
            errno in any::<u16>(),
            part in 0..info::PARTS as u32,
            words in any::<[u64; info::PART_WORDS]>(),
        ) {
            let socket = Socket { slot: number ^ 9, generation: number };
            let completion = Completion::Info { socket, number, errno, part, words };
            prop_assert_eq!(Completion::decode(&completion.encode()), Ok(completion));
        }

        #[test]
        fn accepted_survives_the_ring(local in address(), peer in address(), slot in any::<u32>()) {
            let socket = Socket { slot, generation: slot ^ 7 };
            let completion = Completion::Accepted { socket, listener: 5, local, peer };
            prop_assert_eq!(Completion::decode(&completion.encode()), Ok(completion));
        }
    }
}
