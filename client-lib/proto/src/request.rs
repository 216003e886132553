//! What a client asks on the session socket after its hello, and what the daemon answers.
//!
//! One packet each, with descriptors where the operation says so. A refusal is the same packet as
//! that of a hello. Parsing is where a client's bytes become a value or nothing at all.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::breach::Breach;
use crate::hello::{AttachError, parse_welcome};
use crate::lease::{Heir, LeaseId, ProcessId};
use crate::message::{receive, send};
use crate::op::{Address, Socket};
use crate::pair::{PairGeometry, Side};

const REQUEST_MAGIC: [u8; 8] = *b"DMMreqst";
const REPLY_MAGIC: [u8; 8] = *b"DMMreply";

/// A buffer of this size holds every packet of a client and shows when one is too long.
pub const PACKET_BYTES_MAX: usize = 256;

/// A later packet of the client.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct RequestPacket {
    magic: [u8; 8],
    code: u32,
    argument: u32,
    slot: u32,
    generation: u32,
    process: u64,
}

/// The daemon's answer to a request.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct ReplyPacket {
    magic: [u8; 8],
    code: u32,
    argument: u32,
    words: [u64; 6],
}

/// What a client asks on the session socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Opens a context; the reply is a welcome that carries its doorbell.
    OpenContext {
        /// Which: below the session's quota, and not open yet.
        context: u32,
    },
    /// Asks for this session's number. Answered by [`Reply::Identified`].
    Identify,
    /// Grants a lease for a socket whose placeholder comes with the packet. Answered by
    /// [`Reply::Leased`].
    Lease {
        /// The socket.
        socket: Socket,
        /// Who may claim it.
        heir: Heir,
    },
    /// Takes a lease back. Answered by [`Reply::Withdrawn`].
    Withdraw {
        /// The lease.
        lease: LeaseId,
    },
    /// Claims the socket whose placeholder comes with the packet. Answered by [`Reply::Claimed`].
    Claim {
        /// The free slot for it, in the claimant's session.
        socket: Socket,
        /// The context that its completions shall come to.
        context: u32,
    },
}

/// What kind of socket was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// A TCP connection.
    Stream,
    /// A TCP listener.
    Listener,
    /// A UDP socket.
    Datagram,
}

impl SocketKind {
    const ALL: [Self; 3] = [Self::Stream, Self::Listener, Self::Datagram];
}

/// What the daemon answers, or, for [`Reply::Pair`], says unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The session's number.
    Identified {
        /// How leases name this process.
        process: ProcessId,
    },
    /// A lease is out.
    Leased {
        /// Its name.
        lease: LeaseId,
    },
    /// A lease was taken back.
    Withdrawn,
    /// The socket is the claimant's: its FIFOs lie in the slot named, its unread bytes in rx.
    Claimed {
        /// The instance that runs it.
        instance: u32,
        /// What it is.
        kind: SocketKind,
        /// This end's address.
        local: Option<Address>,
        /// The peer's address, of a stream.
        peer: Option<Address>,
    },
    /// There is a shortcut to another client. Descriptors: the region, a listener for each of this
    /// side's contexts, a ringer for each of the other's.
    Pair {
        /// Which, among this session's pairs.
        pair: u32,
        /// Which side this client is.
        side: Side,
        /// What is where.
        geometry: PairGeometry,
    },
}

impl Request {
    /// Sends the request, with the placeholder if it is about one.
    pub fn send(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        send(socket, self.packet().as_bytes(), &[])
    }

    /// Sends the request with the placeholder that it is about.
    pub fn send_with(&self, socket: BorrowedFd<'_>, placeholder: BorrowedFd<'_>) -> io::Result<()> {
        send(socket, self.packet().as_bytes(), &[placeholder])
    }

    fn packet(&self) -> RequestPacket {
        let packet = RequestPacket { magic: REQUEST_MAGIC, ..RequestPacket::default() };
        let of =
            |code, Socket { slot, generation }| RequestPacket { code, slot, generation, ..packet };
        match *self {
            Self::OpenContext { context } => RequestPacket { code: 1, argument: context, ..packet },
            Self::Identify => RequestPacket { code: 2, ..packet },
            Self::Lease { socket, heir: Heir::Bearer } => of(3, socket),
            Self::Lease { socket, heir: Heir::Process(process) } => {
                RequestPacket { argument: 1, process: process.0, ..of(3, socket) }
            }
            Self::Withdraw { lease: LeaseId { slot, generation } } => {
                of(4, Socket { slot, generation })
            }
            Self::Claim { socket, context } => RequestPacket { argument: context, ..of(5, socket) },
        }
    }

    /// Reads a request from a packet; `None` if it is none.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let packet = RequestPacket::read_from_bytes(packet).ok()?;
        if packet.magic != REQUEST_MAGIC {
            return None;
        }
        let (slot, generation) = (packet.slot, packet.generation);
        let socket = Socket { slot, generation };
        match (packet.code, packet.argument) {
            (1, context) => Some(Self::OpenContext { context }),
            (2, _) => Some(Self::Identify),
            (3, 0) => Some(Self::Lease { socket, heir: Heir::Bearer }),
            (3, 1) => Some(Self::Lease { socket, heir: Heir::Process(ProcessId(packet.process)) }),
            (4, _) => Some(Self::Withdraw { lease: LeaseId { slot, generation } }),
            (5, context) => Some(Self::Claim { socket, context }),
            _ => None,
        }
    }

    /// Descriptors that come with it: exactly so many, or it is refused.
    #[must_use]
    pub const fn descriptors(&self) -> usize {
        match self {
            Self::Lease { .. } | Self::Claim { .. } => 1,
            Self::OpenContext { .. } | Self::Identify | Self::Withdraw { .. } => 0,
        }
    }
}

impl Reply {
    /// Sends the reply with its descriptors.
    pub fn send(&self, socket: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(socket, self.packet().as_bytes(), fds)
    }

    /// Receives a reply with its descriptors, whose number the caller checks; a refusal is an error.
    pub fn receive(socket: BorrowedFd<'_>) -> Result<(Self, Vec<OwnedFd>), AttachError> {
        let mut bytes = [0; PACKET_BYTES_MAX];
        let (len, fds) = receive(socket, &mut bytes)?;
        if len == 0 {
            return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
        }
        Self::parse(&bytes[..len]).map(|reply| (reply, fds))
    }

    fn packet(&self) -> ReplyPacket {
        let mut words = [0; 6];
        let (code, argument) = match *self {
            Self::Identified { process } => {
                words[0] = process.0;
                (1, 0)
            }
            Self::Leased { lease } => {
                words[0] = u64::from(lease.slot) | u64::from(lease.generation) << 32;
                (2, 0)
            }
            Self::Withdrawn => (3, 0),
            Self::Claimed { instance, kind, local, peer } => {
                words[..3].copy_from_slice(&Address::encode_option(local));
                words[3..].copy_from_slice(&Address::encode_option(peer));
                (4 + kind as u32, instance)
            }
            Self::Pair { pair, side, geometry } => {
                words = geometry.encode();
                (7 + side as u32, pair)
            }
        };
        ReplyPacket { magic: REPLY_MAGIC, code, argument, words }
    }

    fn parse(bytes: &[u8]) -> Result<Self, AttachError> {
        let Ok(packet) = ReplyPacket::read_from_bytes(bytes) else {
            // A refusal looks as that of a hello does; a welcome is no reply.
            return Err(parse_welcome(bytes).err().unwrap_or(AttachError::Malformed));
        };
        if packet.magic != REPLY_MAGIC {
            return Err(AttachError::Malformed);
        }
        packet.decode().ok_or(AttachError::Malformed)
    }
}

impl ReplyPacket {
    fn decode(&self) -> Option<Reply> {
        let [first, second, third, fourth, fifth, sixth] = self.words;
        match self.code {
            1 => Some(Reply::Identified { process: ProcessId(first) }),
            2 => {
                let lease = LeaseId { slot: first as u32, generation: (first >> 32) as u32 };
                Some(Reply::Leased { lease })
            }
            3 => Some(Reply::Withdrawn),
            code @ 4..=6 => {
                let address = |words| -> Result<_, Breach> { Address::decode_option(words) };
                Some(Reply::Claimed {
                    instance: self.argument,
                    kind: SocketKind::ALL[code as usize - 4],
                    local: address([first, second, third]).ok()?,
                    peer: address([fourth, fifth, sixth]).ok()?,
                })
            }
            code @ 7..=8 => {
                let side = if code == 7 { Side::First } else { Side::Second };
                let geometry = PairGeometry::decode(self.words)?;
                Some(Reply::Pair { pair: self.argument, side, geometry })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> impl Strategy<Value = Request> {
        let socket = || {
            (any::<u32>(), any::<u32>()).prop_map(|(slot, generation)| Socket { slot, generation })
        };
        let heir = prop::option::of(any::<u64>()).prop_map(|heir| {
            heir.map_or(Heir::Bearer, |process| Heir::Process(ProcessId(process)))
        });
        prop_oneof![
            any::<u32>().prop_map(|context| Request::OpenContext { context }),
            Just(Request::Identify),
            (socket(), heir).prop_map(|(socket, heir)| Request::Lease { socket, heir }),
            (any::<u32>(), any::<u32>()).prop_map(|(slot, generation)| Request::Withdraw {
                lease: LeaseId { slot, generation }
            }),
            (socket(), any::<u32>())
                .prop_map(|(socket, context)| Request::Claim { socket, context }),
        ]
    }

    fn reply() -> impl Strategy<Value = Reply> {
        let address = || {
            prop::option::of((any::<u128>(), any::<u16>())).prop_map(|a| {
                a.map(|(ip, port)| {
                    Address::from(std::net::SocketAddr::new(
                        std::net::Ipv6Addr::from(ip).into(),
                        port,
                    ))
                })
            })
        };
        prop_oneof![
            any::<u64>().prop_map(|process| Reply::Identified { process: ProcessId(process) }),
            (any::<u32>(), any::<u32>()).prop_map(|(slot, generation)| Reply::Leased {
                lease: LeaseId { slot, generation }
            }),
            Just(Reply::Withdrawn),
            (any::<u32>(), 0..3_usize, address(), address()).prop_map(
                |(instance, kind, local, peer)| {
                    Reply::Claimed { instance, kind: SocketKind::ALL[kind], local, peer }
                }
            ),
            (any::<u32>(), any::<bool>(), 1..100_u32, 1..64_u32, 1..64_u32).prop_map(
                |(pair, first, connections, ours, theirs)| Reply::Pair {
                    pair,
                    side: if first { Side::First } else { Side::Second },
                    geometry: PairGeometry { connections, contexts: [ours, theirs], chunks: 4 },
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn requests_and_replies_survive_the_socket(request in request(), reply in reply()) {
            prop_assert_eq!(Request::parse(request.packet().as_bytes()), Some(request));
            prop_assert_eq!(Reply::parse(reply.packet().as_bytes()).ok(), Some(reply));
        }

        #[test]
        fn arbitrary_packets_never_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..PACKET_BYTES_MAX),
            magic in prop::sample::select(vec![Some(REQUEST_MAGIC), Some(REPLY_MAGIC), None]),
            code in 0..16_u8,
        ) {
            if let Some(magic) = magic {
                let len = if magic == REQUEST_MAGIC { size_of::<RequestPacket>() } else { size_of::<ReplyPacket>() };
                bytes.resize(len, 0x5a);
                bytes[..8].copy_from_slice(&magic);
                bytes[8..12].copy_from_slice(&[code, 0, 0, 0]);
            }
            if let Some(request) = Request::parse(&bytes) {
                prop_assert_eq!(Request::parse(request.packet().as_bytes()), Some(request));
            }
            if let Ok(Reply::Pair { geometry, .. }) = Reply::parse(&bytes) {
                prop_assert!(geometry.is_sane());
            }
        }
    }
}
