//! The hello: how a client attaches to a daemon over its unix socket (SOCK_SEQPACKET).
//!
//! ```text
//!  client                                   daemon
//!    │── Hello {version, name} ───────────────▶│  checks SO_PEERCRED, quotas
//!    │◀─ Welcome {geometry} + descriptors ─────│  beacon, regions, doorbells
//!    │── Request {open context} ──────────────▶│
//!    │◀─ Reply + the context's doorbell ───────│
//!    ╎   (the socket stays open: its end tells the daemon that the client is gone)
//! ```
//!
//! Every packet begins with a magic number and its version; the first byte is never `{`, which
//! marks an operator's request on the same socket.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::Geometry;
use crate::message::send;

pub use crate::message::{FDS_MAX, receive};
pub use crate::request::Request;

const HELLO_MAGIC: [u8; 8] = *b"DMMhello";
const WELCOME_MAGIC: [u8; 8] = *b"DMMwelco";

/// Bytes of the text that comes with a refusal.
pub const TEXT_BYTES: usize = 192;

/// Descriptors of a welcome that come before the workers' doorbells: beacon, daemon region, client
/// region, arena, and the listener of context 0.
pub const WELCOME_FDS: usize = 5;

/// A client's first packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct HelloPacket {
    magic: [u8; 8],
    version: u32,
    bytes: u32,
    name: [u8; 32],
}

/// The daemon's answer to a hello, or to a request.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct WelcomePacket {
    magic: [u8; 8],
    version: u32,
    errno: u32,
    sockets: u32,
    contexts: u32,
    instances: u32,
    workers: u32,
    chunks: u32,
    reserved: u32,
    text: [u8; TEXT_BYTES],
}

/// What a client says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The program's name, for reports.
    pub name: String,
}

/// Why a hello is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Not a packet of this protocol.
    #[error("not a hello of this protocol")]
    Malformed,
    /// Another version of it.
    #[error(
        "the client speaks protocol version {theirs}, this daemon version {ours}: \
         install the client library that came with the daemon and restart the program"
    )]
    Version {
        /// The client's.
        theirs: u32,
        /// The daemon's.
        ours: u32,
    },
}

/// Why attaching failed.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The daemon said no.
    #[error("the daemon refused: {text}")]
    Refused {
        /// The errno that describes it best.
        errno: i32,
        /// The daemon's words.
        text: String,
    },
    /// Whatever answers is no daemon of this version.
    #[error(
        "what answers speaks protocol version {theirs}, this library version {ours}: \
         restart the program after the upgrade"
    )]
    Version {
        /// The daemon's.
        theirs: u32,
        /// The library's.
        ours: u32,
    },
    /// Whatever answers is no daemon.
    #[error("what answers is no dmmd: check DMM_SOCKET")]
    Malformed,
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Hello {
    /// Sends the hello.
    pub fn send(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.send_version(socket, crate::VERSION)
    }

    /// Sends a hello of another version: for tests of the refusal.
    pub fn send_version(&self, socket: BorrowedFd<'_>, version: u32) -> io::Result<()> {
        send(socket, self.packet_of(version).as_bytes(), &[])
    }

    /// The packet of this version: for a mock that sends it with more than belongs to it.
    pub(crate) fn packet(&self) -> Vec<u8> {
        self.packet_of(crate::VERSION).as_bytes().to_vec()
    }

    fn packet_of(&self, version: u32) -> HelloPacket {
        let mut name = [0; 32];
        let len = self.name.len().min(31);
        name[..len].copy_from_slice(&self.name.as_bytes()[..len]);
        let bytes = u32::try_from(size_of::<HelloPacket>()).expect("small");
        HelloPacket { magic: HELLO_MAGIC, version, bytes, name }
    }

    /// Reads a hello from a packet.
    pub fn parse(packet: &[u8]) -> Result<Self, HelloError> {
        // A later version may be longer: magic and version come first in all.
        let (magic, rest) = packet.split_first_chunk::<8>().ok_or(HelloError::Malformed)?;
        let (version, _) = rest.split_first_chunk::<4>().ok_or(HelloError::Malformed)?;
        if *magic != HELLO_MAGIC {
            return Err(HelloError::Malformed);
        }
        let theirs = u32::from_le_bytes(*version);
        if theirs != crate::VERSION {
            return Err(HelloError::Version { theirs, ours: crate::VERSION });
        }
        let packet = HelloPacket::read_from_bytes(packet).map_err(|_| HelloError::Malformed)?;
        if packet.bytes as usize != size_of::<HelloPacket>() {
            return Err(HelloError::Malformed);
        }
        Ok(Self { name: text_of(&packet.name) })
    }
}

/// Sends a welcome, or the reply to a request, with its descriptors.
pub fn send_welcome(
    socket: BorrowedFd<'_>,
    geometry: &Geometry,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let packet = WelcomePacket {
        magic: WELCOME_MAGIC,
        version: crate::VERSION,
        errno: 0,
        sockets: geometry.sockets,
        contexts: geometry.contexts,
        instances: geometry.instances,
        workers: geometry.workers,
        chunks: geometry.chunks,
        reserved: 0,
        text: [0; TEXT_BYTES],
    };
    send(socket, packet.as_bytes(), fds)
}

/// Refuses a hello or a request with an errno and words.
pub fn send_refusal(socket: BorrowedFd<'_>, errno: Errno, words: &str) -> io::Result<()> {
    let mut text = [0; TEXT_BYTES];
    let mut len = words.len().min(TEXT_BYTES - 1);
    while !words.is_char_boundary(len) {
        len -= 1;
    }
    text[..len].copy_from_slice(&words.as_bytes()[..len]);
    let packet = WelcomePacket {
        magic: WELCOME_MAGIC,
        version: crate::VERSION,
        errno: errno as u32,
        sockets: 0,
        contexts: 0,
        instances: 0,
        workers: 0,
        chunks: 0,
        reserved: 0,
        text,
    };
    send(socket, packet.as_bytes(), &[])
}

/// Receives the daemon's answer: the geometry, checked, and the descriptors, whose number the
/// caller checks.
pub fn receive_welcome(socket: BorrowedFd<'_>) -> Result<(Geometry, Vec<OwnedFd>), AttachError> {
    // One byte more than there should be, so that a longer packet is not taken for one of ours.
    let mut bytes = [0; size_of::<WelcomePacket>() + 1];
    let (len, fds) = receive(socket, &mut bytes)?;
    if len == 0 {
        return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
    }
    parse_welcome(&bytes[..len]).map(|geometry| (geometry, fds))
}

/// Reads a welcome, or the error that a refusal is, from a packet.
pub(crate) fn parse_welcome(bytes: &[u8]) -> Result<Geometry, AttachError> {
    let packet = WelcomePacket::read_from_bytes(bytes).map_err(|_| AttachError::Malformed)?;
    if packet.magic != WELCOME_MAGIC {
        return Err(AttachError::Malformed);
    }
    if packet.errno != 0 {
        let errno = i32::try_from(packet.errno).unwrap_or(libc::EPROTO);
        return Err(AttachError::Refused { errno, text: text_of(&packet.text) });
    }
    if packet.version != crate::VERSION {
        return Err(AttachError::Version { theirs: packet.version, ours: crate::VERSION });
    }
    let geometry = Geometry {
        sockets: packet.sockets,
        contexts: packet.contexts,
        instances: packet.instances,
        workers: packet.workers,
        chunks: packet.chunks,
    };
    if !geometry.is_sane() {
        return Err(AttachError::Malformed);
    }
    Ok(geometry)
}

fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use proptest::prelude::*;
    use std::os::fd::AsFd;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    #[test]
    fn a_hello_arrives() {
        let (client, daemon) = pair();
        let hello = Hello { name: "curl".into() };
        hello.send(client.as_fd()).unwrap();
        let mut bytes = [0; 256];
        let (len, fds) = receive(daemon.as_fd(), &mut bytes).unwrap();
        assert_eq!(Hello::parse(&bytes[..len]), Ok(hello));
        assert!(fds.is_empty());
    }

    #[test]
    fn the_next_version_is_named() {
        let (client, daemon) = pair();
        Hello { name: "x".into() }.send_version(client.as_fd(), crate::VERSION + 1).unwrap();
        let mut bytes = [0; 256];
        let (len, _) = receive(daemon.as_fd(), &mut bytes).unwrap();
        let error = Hello::parse(&bytes[..len]).unwrap_err();
        assert_eq!(error, HelloError::Version { theirs: crate::VERSION + 1, ours: crate::VERSION });
    }

    #[test]
    fn a_welcome_brings_its_descriptors_and_a_refusal_its_words() {
        let (client, daemon) = pair();
        let geometry = Geometry { sockets: 1, contexts: 2, instances: 3, workers: 4, chunks: 5 };
        send_welcome(daemon.as_fd(), &geometry, &[client.as_fd(), daemon.as_fd()]).unwrap();
        let (received, fds) = receive_welcome(client.as_fd()).unwrap();
        assert_eq!((received, fds.len()), (geometry, 2));
        send_refusal(daemon.as_fd(), Errno::EACCES, "user 7 is not listed").unwrap();
        match receive_welcome(client.as_fd()) {
            Err(AttachError::Refused { errno, text }) => {
                assert_eq!((errno, text.as_str()), (libc::EACCES, "user 7 is not listed"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn insane_numbers_and_garbage_are_refused() {
        let (client, daemon) = pair();
        let geometry = Geometry { sockets: 0, contexts: 2, instances: 3, workers: 4, chunks: 5 };
        send_welcome(daemon.as_fd(), &geometry, &[]).unwrap();
        assert!(matches!(receive_welcome(client.as_fd()), Err(AttachError::Malformed)));
        send(daemon.as_fd(), b"HTTP/1.1 400", &[]).unwrap();
        assert!(matches!(receive_welcome(client.as_fd()), Err(AttachError::Malformed)));
        for len in 0..size_of::<HelloPacket>() {
            assert!(Hello::parse(&HELLO_MAGIC.repeat(8)[..len]).is_err());
        }
    }

    proptest! {
        #[test]
        fn arbitrary_packets_never_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..400),
            magic in prop::sample::select(vec![HELLO_MAGIC, WELCOME_MAGIC, [0; 8]]),
            version in prop::bool::ANY,
            exact in prop::sample::select(vec![0, size_of::<HelloPacket>(), size_of::<WelcomePacket>()]),
        ) {
            if exact > 0 { bytes.resize(exact, 0xa5); }
            for (byte, magic) in bytes.iter_mut().zip(magic) { *byte = magic; }
            if version && bytes.len() >= 16 {
                bytes[8..12].copy_from_slice(&crate::VERSION.to_le_bytes());
                bytes[12..16].copy_from_slice(&[48, 0, 0, 0]);
            }
            if let Ok(hello) = Hello::parse(&bytes) {
                prop_assert!(bytes.len() == size_of::<HelloPacket>() && hello.name.chars().count() <= 32);
            }
            if let Ok(geometry) = parse_welcome(&bytes) {
                prop_assert!(geometry.is_sane());
                prop_assert!(geometry.daemon_bytes() < 1 << 40 && geometry.client_bytes() < 1 << 40);
            }
        }
    }
}
