//! Sockets of the kernel and of the library under one name each, so that every program is written
//! once. Nothing here does more than call the one or the other.

use std::io::{self, Read, Write};
use std::net::{self, Shutdown, SocketAddr};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

/// Whose sockets a program uses.
#[derive(Clone, Debug)]
pub enum Net {
    /// The kernel's.
    Kernel,
    /// The library's, on the stack of that name or the daemon's first.
    Dmm(Option<String>),
}

/// A listening TCP socket.
pub enum Listener {
    /// The kernel's.
    Kernel(net::TcpListener),
    /// The library's.
    Dmm(dmm::TcpListener),
}

/// A TCP connection.
pub enum Stream {
    /// The kernel's.
    Kernel(net::TcpStream),
    /// The library's.
    Dmm(dmm::TcpStream),
}

/// A UDP socket.
pub enum Datagrams {
    /// The kernel's.
    Kernel(net::UdpSocket),
    /// The library's.
    Dmm(dmm::UdpSocket),
}

impl Net {
    /// Listens at `address`.
    ///
    /// # Errors
    /// As bind(2) and listen(2).
    pub fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        match self {
            Self::Kernel => net::TcpListener::bind(address).map(Listener::Kernel),
            Self::Dmm(stack) => {
                let client = dmm::Client::global()?;
                client.listen(stack.as_deref(), address).map(Listener::Dmm)
            }
        }
    }

    /// Connects to `address`, giving up after `timeout` if there is one.
    ///
    /// # Errors
    /// As connect(2).
    pub fn connect(&self, address: SocketAddr, timeout: Option<Duration>) -> io::Result<Stream> {
        match (self, timeout) {
            (Self::Kernel, None) => net::TcpStream::connect(address).map(Stream::Kernel),
            (Self::Kernel, Some(timeout)) => {
                net::TcpStream::connect_timeout(&address, timeout).map(Stream::Kernel)
            }
            (Self::Dmm(stack), timeout) => {
                let (client, stack) = (dmm::Client::global()?, stack.as_deref());
                let stream = match timeout {
                    None => client.connect(stack, address),
                    Some(timeout) => client.connect_timeout(stack, &address, timeout),
                };
                stream.map(Stream::Dmm)
            }
        }
    }

    /// Opens a UDP socket at `address`.
    ///
    /// # Errors
    /// As bind(2).
    pub fn bind_udp(&self, address: SocketAddr) -> io::Result<Datagrams> {
        match self {
            Self::Kernel => net::UdpSocket::bind(address).map(Datagrams::Kernel),
            Self::Dmm(stack) => {
                let client = dmm::Client::global()?;
                client.bind_udp(stack.as_deref(), address).map(Datagrams::Dmm)
            }
        }
    }
}

impl Listener {
    /// Takes the next connection.
    ///
    /// # Errors
    /// As accept(2).
    pub fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Kernel(listener) => listener.accept().map(|(stream, _)| Stream::Kernel(stream)),
            Self::Dmm(listener) => listener.accept().map(|(stream, _)| Stream::Dmm(stream)),
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// As getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Kernel(listener) => listener.local_addr(),
            Self::Dmm(listener) => listener.local_addr(),
        }
    }
}

impl Stream {
    /// Ends one direction or both.
    ///
    /// # Errors
    /// As shutdown(2).
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Kernel(stream) => stream.shutdown(how),
            Self::Dmm(stream) => stream.shutdown(how),
        }
    }

    /// Resets the connection.
    ///
    /// # Errors
    /// As setsockopt(2).
    pub fn reset(self) -> io::Result<()> {
        match self {
            Self::Kernel(stream) => {
                let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                Ok(setsockopt(&stream, sockopt::Linger, &linger)?)
            }
            Self::Dmm(stream) => stream.set_linger(Some(Duration::ZERO)),
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Kernel(stream) => (&*stream).read(bytes),
            Stream::Dmm(stream) => (&*stream).read(bytes),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Kernel(stream) => (&*stream).write(bytes),
            Stream::Dmm(stream) => (&*stream).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Datagrams {
    /// Where it is bound.
    ///
    /// # Errors
    /// As getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Kernel(socket) => socket.local_addr(),
            Self::Dmm(socket) => socket.local_addr(),
        }
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// As sendto(2).
    pub fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        match self {
            Self::Kernel(socket) => socket.send_to(bytes, to),
            Self::Dmm(socket) => socket.send_to(bytes, to),
        }
    }

    /// Receives one datagram.
    ///
    /// # Errors
    /// As recvfrom(2); `EAGAIN` after the time set by [`Datagrams::set_read_timeout`].
    pub fn recv_from(&self, bytes: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match self {
            Self::Kernel(socket) => socket.recv_from(bytes),
            Self::Dmm(socket) => socket.recv_from(bytes),
        }
    }

    /// How long [`Datagrams::recv_from`] waits.
    ///
    /// # Errors
    /// As setsockopt(2).
    pub fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Kernel(socket) => socket.set_read_timeout(Some(timeout)),
            Self::Dmm(socket) => socket.set_read_timeout(Some(timeout)),
        }
    }
}
