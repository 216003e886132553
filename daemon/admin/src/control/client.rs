//! The operator's half: connect, ask, and read the document, from a daemon that may be absent,
//! stuck or something else altogether.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::de::DeserializeOwned;

use super::passing::{Packet, receive};
use super::server::seals;
use super::{DOCUMENT_BYTES_MAX, Ping, REPLY_BYTES_MAX, ReplyPacket, Request};
use crate::report::{Drops, Pong, Ports, Sockets, Stats, Status};

/// How long to wait for the daemon to take a connection or to answer, in seconds.
const TIMEOUT_S: i64 = 10;

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody listens at the path.
    #[error("no daemon answers on {}: start dmmd or set {}", path.display(), crate::SOCKET_ENV)]
    NotRunning {
        /// The socket's path.
        path: PathBuf,
    },
    /// The socket's file mode or the daemon forbids it.
    #[error(
        "not allowed to use {}: run as root, or have clients.mode, users and groups of the \
         configuration allow this user",
        path.display()
    )]
    Forbidden {
        /// The socket's path.
        path: PathBuf,
    },
    /// The path is too long, or is no socket of this protocol.
    #[error("{} is not the socket of a dmmd: set {} to the right path", path.display(),
        crate::SOCKET_ENV)]
    NotOurs {
        /// The socket's path.
        path: PathBuf,
    },
    /// The daemon did not answer in time.
    #[error(
        "the daemon did not answer within {TIMEOUT_S} s: see its log, restart it if it is stuck"
    )]
    Timeout,
    /// The daemon closed the connection instead of answering.
    #[error(
        "the daemon closed the connection without an answer: see its log for the reason, and \
         compare `dmmd --version` with `dmm --version`"
    )]
    Closed,
    /// The daemon refused the request.
    #[error("the daemon refuses: {0}")]
    Refused(String),
    /// The answer breaks the protocol.
    #[error(
        "the daemon's answer is not understood ({0}): compare `dmmd --version` with `dmm --version`"
    )]
    Protocol(String),
    /// A system call failed.
    #[error("cannot talk to the daemon: {0}")]
    Io(io::Error),
}

// Not by the derive: that would make it the source of a text that tells it already.
impl From<io::Error> for AdminError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A connection to the daemon for requests.
#[derive(Debug)]
pub struct Admin {
    socket: OwnedFd,
}

impl Admin {
    /// Connects to the daemon that listens at `path`.
    ///
    /// # Errors
    /// If there is none, or it may not be used.
    pub fn connect(path: &Path) -> Result<Self, AdminError> {
        let path = path.to_owned();
        let Ok(address) = UnixAddr::new(&path) else {
            return Err(AdminError::NotOurs { path });
        };
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
            .map_err(io::Error::from)?;
        let admin = Self::over(socket)?;
        match connect(admin.socket.as_raw_fd(), &address) {
            Ok(()) => Ok(admin),
            Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENOTDIR) => {
                Err(AdminError::NotRunning { path })
            }
            Err(Errno::EACCES | Errno::EPERM) => Err(AdminError::Forbidden { path }),
            // EPROTOTYPE: somebody listens there, with another type of socket (unix(7)).
            Err(Errno::EPROTOTYPE) => Err(AdminError::NotOurs { path }),
            // A full accept queue makes connect wait for as long as the send timeout.
            Err(Errno::EAGAIN) => Err(AdminError::Timeout),
            Err(e) => Err(io::Error::from(e).into()),
        }
    }

    /// Uses a connected SOCK_SEQPACKET socket.
    ///
    /// # Errors
    /// If its timeouts cannot be set.
    pub fn over(socket: OwnedFd) -> Result<Self, AdminError> {
        Self::with_timeout(socket, TimeVal::seconds(TIMEOUT_S))
    }

    pub(super) fn with_timeout(socket: OwnedFd, timeout: TimeVal) -> Result<Self, AdminError> {
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout).map_err(io::Error::from)?;
        setsockopt(&socket, sockopt::SendTimeout, &timeout).map_err(io::Error::from)?;
        Ok(Self { socket })
    }

    /// Asks for the daemon's status.
    ///
    /// # Errors
    /// See [`Admin::request`].
    pub fn status(&self) -> Result<Status, AdminError> {
        self.request(&Request::Status {})
    }

    /// Asks for everything that is counted.
    ///
    /// # Errors
    /// See [`Admin::request`].
    pub fn stats(&self) -> Result<Stats, AdminError> {
        self.request(&Request::Stats {})
    }

    /// Asks for the list of sockets.
    ///
    /// # Errors
    /// See [`Admin::request`].
    pub fn sockets(&self) -> Result<Sockets, AdminError> {
        self.request(&Request::Sockets {})
    }

    /// Asks for all there is to know of the ports.
    ///
    /// # Errors
    /// See [`Admin::request`].
    pub fn ports(&self) -> Result<Ports, AdminError> {
        self.request(&Request::Ports {})
    }

    /// Asks for the drops by reason.
    ///
    /// # Errors
    /// See [`Admin::request`].
    pub fn drops(&self) -> Result<Drops, AdminError> {
        self.request(&Request::Drops {})
    }

    /// Has a stack send an echo request, and waits for what comes of it.
    ///
    /// # Errors
    /// See [`Admin::request`].
    pub fn ping(&self, ping: Ping) -> Result<Pong, AdminError> {
        self.request(&Request::Ping(ping))
    }

    /// Starts a capture of a port, as pcapng to be read from the pipe that is returned. It ends when
    /// that is closed.
    ///
    /// # Errors
    /// See [`Admin::request`].
    pub fn capture(&self, port: &str) -> Result<File, AdminError> {
        let pipe = self.ask(&Request::Capture { port: port.to_owned() })?;
        Ok(pipe.into())
    }

    /// Sends `request` and reads the document that answers it.
    ///
    /// # Errors
    /// If the daemon does not answer within 10 s, refuses, closes the connection, or answers
    /// against the protocol.
    pub fn request<T: DeserializeOwned>(&self, request: &Request) -> Result<T, AdminError> {
        read_document(self.ask(request)?)
    }

    /// Sends `request` and returns the descriptor that answers it.
    fn ask(&self, request: &Request) -> Result<OwnedFd, AdminError> {
        let bytes = serde_json::to_vec(request).map_err(io::Error::from)?;
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL).map_err(from_errno)?;
        let mut buffer = [0; REPLY_BYTES_MAX];
        let packet = receive(self.socket.as_fd(), &mut buffer)
            .map_err(|e| from_errno(Errno::from_raw(e.raw_os_error().unwrap_or(0))))?;
        descriptor_of(packet, &buffer)
    }
}

fn from_errno(error: Errno) -> AdminError {
    match error {
        Errno::EAGAIN => AdminError::Timeout,
        Errno::EPIPE | Errno::ECONNRESET => AdminError::Closed,
        e => AdminError::Io(e.into()),
    }
}

/// The one descriptor of a good reply.
fn descriptor_of(packet: Packet, buffer: &[u8]) -> Result<OwnedFd, AdminError> {
    let broken = |why: &str| Err(AdminError::Protocol(why.to_owned()));
    if packet.len == 0 {
        return Err(AdminError::Closed);
    }
    if packet.truncated {
        return broken("the packet is too long");
    }
    let reply: ReplyPacket = serde_json::from_slice(&buffer[..packet.len])
        .map_err(|e| AdminError::Protocol(format!("not a reply: {e}")))?;
    let mut fds = packet.fds.into_iter();
    match (reply.ok, reply.error, fds.next(), fds.next()) {
        (None, Some(message), None, _) => Err(AdminError::Refused(message)),
        (Some(true), None, Some(memfd), None) => Ok(memfd),
        (Some(true), None, ..) => broken("a reply has one descriptor"),
        _ => broken("neither ok nor error"),
    }
}

/// Reads the document once it is certain that nobody can change it meanwhile.
fn read_document<T: DeserializeOwned>(memfd: OwnedFd) -> Result<T, AdminError> {
    let broken = |why: String| AdminError::Protocol(why);
    // Anything but a memfd answers EINVAL (fcntl(2)).
    let found = fcntl(&memfd, FcntlArg::F_GET_SEALS).map_err(|_| broken("not a memfd".into()))?;
    if !SealFlag::from_bits_truncate(found).contains(seals()) {
        return Err(broken("the document is not sealed".into()));
    }
    let mut file = File::from(memfd);
    let bytes = file.metadata()?.len();
    if bytes > DOCUMENT_BYTES_MAX {
        return Err(broken(format!("the document has {bytes} bytes")));
    }
    // The descriptor shares its position with the daemon's, which stands at the end.
    file.rewind()?;
    serde_json::from_reader(BufReader::new(file.take(bytes)))
        .map_err(|e| broken(format!("not the document asked for: {e}")))
}
