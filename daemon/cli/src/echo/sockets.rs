//! The one abstraction over the library's sockets and the kernel's.
//!
//! Both have the same shape; what differs is who makes them. Called by the server and the client,
//! which know nothing of either.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use dmm_admin::config::KERNEL;
use nix::sys::socket::{getsockopt, sockopt};
use serde::Serialize;

use super::{PATIENCE, STALL};

/// Over what a run goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// The kernel's sockets.
    Kernel,
    /// The daemon's first stack, whatever its name.
    First,
    /// The daemon's stack of this name.
    Stack(String),
}

impl FromStr for Via {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err(format!("name a stack, or write {KERNEL}")),
            KERNEL => Ok(Self::Kernel),
            name => Ok(Self::Stack(name.to_owned())),
        }
    }
}

impl std::fmt::Display for Via {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Kernel => KERNEL,
            Self::First => "the first stack",
            Self::Stack(name) => name,
        })
    }
}

/// Where sockets come from.
pub(super) struct Network {
    maker: Maker,
    polling: bool,
}

enum Maker {
    Kernel,
    Dmm { client: dmm::Client, stack: Option<String> },
}

impl Network {
    /// Attaches to the daemon at `socket`, unless the kernel is meant. `polling`: sockets never
    /// wait, once they are connected.
    pub(super) fn open(via: &Via, socket: &Path, polling: bool) -> anyhow::Result<Self> {
        let stack = match via {
            Via::Kernel => return Ok(Self { maker: Maker::Kernel, polling }),
            Via::First => None,
            Via::Stack(name) => Some(name.clone()),
        };
        let config = dmm::Config { socket: socket.to_owned(), ..dmm::Config::from_env()? };
        let client = dmm::Client::attach_with(&config)?;
        Ok(Self { maker: Maker::Dmm { client, stack }, polling })
    }

    /// Listens; never waits in `accept` when polling.
    pub(super) fn listen(&self, on: SocketAddr) -> io::Result<Listener> {
        let listener = match &self.maker {
            Maker::Kernel => {
                let listener = std::net::TcpListener::bind(on)?;
                listener.set_nonblocking(self.polling)?;
                Listener::Kernel(listener)
            }
            Maker::Dmm { client, stack } => {
                let listener = client.listen(stack.as_deref(), on)?;
                listener.set_nonblocking(self.polling)?;
                Listener::Dmm(listener)
            }
        };
        Ok(listener)
    }

    /// Connects, within [`STALL`].
    pub(super) fn connect(&self, to: SocketAddr) -> io::Result<Stream> {
        let stream = match &self.maker {
            Maker::Kernel => Stream::Kernel(std::net::TcpStream::connect_timeout(&to, STALL)?),
            Maker::Dmm { client, stack } => {
                Stream::Dmm(client.connect_timeout(stack.as_deref(), &to, STALL)?)
            }
        };
        self.prepare(stream)
    }

    /// Binds a datagram socket.
    pub(super) fn bind(&self, on: SocketAddr) -> io::Result<Datagram> {
        let datagram = match &self.maker {
            Maker::Kernel => Datagram::Kernel(std::net::UdpSocket::bind(on)?),
            Maker::Dmm { client, stack } => Datagram::Dmm(client.bind_udp(stack.as_deref(), on)?),
        };
        match &datagram {
            Datagram::Kernel(socket) => socket.set_nonblocking(self.polling)?,
            Datagram::Dmm(socket) => socket.set_nonblocking(self.polling)?,
        }
        Ok(datagram)
    }

    /// Datagrams to and from `to` only.
    pub(super) fn connect_datagram(&self, to: SocketAddr) -> io::Result<Datagram> {
        let any = match to {
            SocketAddr::V4(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            SocketAddr::V6(_) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
        };
        let datagram = self.bind(any)?;
        match &datagram {
            Datagram::Kernel(socket) => socket.connect(to)?,
            Datagram::Dmm(socket) => socket.connect(to)?,
        }
        Ok(datagram)
    }

    /// No Nagle: a message is not to wait for the one before. A peer that stalls is an error, and
    /// no endless wait.
    fn prepare(&self, stream: Stream) -> io::Result<Stream> {
        match &stream {
            Stream::Kernel(socket) => {
                socket.set_nodelay(true)?;
                socket.set_write_timeout(Some(PATIENCE))?;
                socket.set_nonblocking(self.polling)?;
            }
            Stream::Dmm(socket) => {
                socket.set_nodelay(true)?;
                socket.set_write_timeout(Some(PATIENCE))?;
                socket.set_nonblocking(self.polling)?;
            }
        }
        Ok(stream)
    }

    /// Whether sockets never wait.
    pub(super) const fn is_polling(&self) -> bool {
        self.polling
    }

    /// Takes the next connection.
    pub(super) fn accept(&self, listener: &Listener) -> io::Result<Stream> {
        let stream = match listener {
            Listener::Kernel(listener) => Stream::Kernel(listener.accept()?.0),
            Listener::Dmm(listener) => Stream::Dmm(listener.accept()?.0),
        };
        self.prepare(stream)
    }
}

/// A listener of either world.
pub(super) enum Listener {
    Kernel(std::net::TcpListener),
    Dmm(dmm::TcpListener),
}

impl Listener {
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Kernel(listener) => listener.local_addr(),
            Self::Dmm(listener) => listener.local_addr(),
        }
    }
}

/// A connection of either world.
pub(super) enum Stream {
    Kernel(std::net::TcpStream),
    Dmm(dmm::TcpStream),
}

impl Stream {
    /// Bounds a blocking read by [`PATIENCE`].
    pub(super) fn bound_reads(&self) -> io::Result<()> {
        match self {
            Self::Kernel(stream) => stream.set_read_timeout(Some(PATIENCE)),
            Self::Dmm(stream) => stream.set_read_timeout(Some(PATIENCE)),
        }
    }

    /// Sends no more.
    pub(super) fn finish(&self) -> io::Result<()> {
        match self {
            Self::Kernel(stream) => stream.shutdown(Shutdown::Write),
            Self::Dmm(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// What the kernel says about its socket; the daemon's `dmm status` says it for a stack.
    pub(super) fn facts(&self) -> Option<Facts> {
        let Self::Kernel(stream) = self else { return None };
        let congestion = getsockopt(stream, sockopt::TcpCongestion).ok()?;
        Some(Facts {
            receive_buffer_bytes: getsockopt(stream, sockopt::RcvBuf).ok()?,
            send_buffer_bytes: getsockopt(stream, sockopt::SndBuf).ok()?,
            mss_bytes: getsockopt(stream, sockopt::TcpMaxSeg).ok()?,
            congestion: congestion.to_string_lossy().trim_end_matches('\0').to_owned(),
        })
    }
}

/// How a kernel socket is set, as getsockopt(2) tells.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Facts {
    receive_buffer_bytes: usize,
    send_buffer_bytes: usize,
    mss_bytes: u32,
    congestion: String,
}

impl Facts {
    pub(super) fn render(&self) -> String {
        format!(
            "buffers {} in, {} out; mss {}; {}",
            self.receive_buffer_bytes, self.send_buffer_bytes, self.mss_bytes, self.congestion
        )
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Kernel(stream) => stream.read(bytes),
            Self::Dmm(stream) => stream.read(bytes),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Kernel(stream) => stream.write(bytes),
            Self::Dmm(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A datagram socket of either world.
pub(super) enum Datagram {
    Kernel(std::net::UdpSocket),
    Dmm(dmm::UdpSocket),
}

impl Datagram {
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Kernel(socket) => socket.local_addr(),
            Self::Dmm(socket) => socket.local_addr(),
        }
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Kernel(socket) => socket.send(bytes),
            Self::Dmm(socket) => socket.send(bytes),
        }
    }

    pub(super) fn recv(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Kernel(socket) => socket.recv(bytes),
            Self::Dmm(socket) => socket.recv(bytes),
        }
    }

    pub(super) fn recv_from(&self, bytes: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match self {
            Self::Kernel(socket) => socket.recv_from(bytes),
            Self::Dmm(socket) => socket.recv_from(bytes),
        }
    }

    pub(super) fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        match self {
            Self::Kernel(socket) => socket.send_to(bytes, to),
            Self::Dmm(socket) => socket.send_to(bytes, to),
        }
    }

    /// Bounds a blocking receive.
    pub(super) fn set_read_timeout(&self, timeout: std::time::Duration) -> io::Result<()> {
        match self {
            Self::Kernel(socket) => socket.set_read_timeout(Some(timeout)),
            Self::Dmm(socket) => socket.set_read_timeout(Some(timeout)),
        }
    }
}

/// Whether a call found nothing to do and may be tried again: it would wait, or waited long enough,
/// or a signal came (signal(7)).
pub(super) fn is_idle(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}
