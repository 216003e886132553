//! The hello: how a client attaches to a daemon over its unix socket (SOCK_SEQPACKET).
//!
//! ```text
//!  client                                   daemon
//!    │── Hello {version, contexts, name} ─────▶│  checks SO_PEERCRED, quotas
//!    │◀─ Welcome {geometry} + descriptors ─────│  beacon, regions, doorbells
//!    │── Request {open context} ──────────────▶│
//!    │◀─ Reply + the context's doorbell ───────│
//!    ╎   (the socket stays open: its end tells the daemon that the client is gone)
//! ```
//!
//! Every packet begins with a magic number and its version; the first byte is never `{`, which
//! marks an operator's request on the same socket.
#![forbid(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::Geometry;

const HELLO_MAGIC: [u8; 8] = *b"DMMhello";
const WELCOME_MAGIC: [u8; 8] = *b"DMMwelco";
const REQUEST_MAGIC: [u8; 8] = *b"DMMreqst";

/// Bytes of the text that comes with a refusal.
pub const TEXT_BYTES: usize = 192;

/// Descriptors of a packet at most (`SCM_MAX_FD`).
pub const FDS_MAX: usize = 253;

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

/// A later packet of the client.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct RequestPacket {
    magic: [u8; 8],
    code: u32,
    argument: u32,
}

/// What a client says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The program's name, for reports.
    pub name: String,
}

/// What a client asks on the session socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Opens a context; the reply carries its doorbell.
    OpenContext {
        /// Which: below the session's quota, and not open yet.
        context: u32,
    },
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
        let mut name = [0; 32];
        let len = self.name.len().min(31);
        name[..len].copy_from_slice(&self.name.as_bytes()[..len]);
        let bytes = u32::try_from(size_of::<HelloPacket>()).expect("small");
        let packet = HelloPacket { magic: HELLO_MAGIC, version, bytes, name };
        send(socket, packet.as_bytes(), &[])
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

impl Request {
    /// Sends the request.
    pub fn send(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let (code, argument) = match *self {
            Self::OpenContext { context } => (1, context),
        };
        let packet = RequestPacket { magic: REQUEST_MAGIC, code, argument };
        send(socket, packet.as_bytes(), &[])
    }

    /// Reads a request from a packet; `None` if it is none.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let packet = RequestPacket::read_from_bytes(packet).ok()?;
        match (packet.magic == REQUEST_MAGIC, packet.code) {
            (true, 1) => Some(Self::OpenContext { context: packet.argument }),
            _ => None,
        }
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
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    send(socket, packet.as_bytes(), &fds)
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

/// Receives the daemon's answer: the geometry and descriptors, checked for their number.
pub fn receive_welcome(socket: BorrowedFd<'_>) -> Result<(Geometry, Vec<OwnedFd>), AttachError> {
    let mut bytes = [0; size_of::<WelcomePacket>()];
    let (len, fds) = receive(socket, &mut bytes)?;
    if len == 0 {
        return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
    }
    let packet = WelcomePacket::read_from_bytes(&bytes[..len]).map_err(|_| AttachError::Malformed)?;
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
    Ok((geometry, fds))
}

/// Sends one packet with descriptors.
fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Receives one packet with its descriptors, which are closed on exec. A packet that does not fit
/// is cut, and its parser will refuse it.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; FDS_MAX]);
    let mut slices = [IoSliceMut::new(bytes)];
    let message = loop {
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            fds.extend(received.into_iter().map(crate::region::own));
        }
    }
    Ok((message.bytes, fds))
}

fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
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
}
