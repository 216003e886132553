//! Sockets for tokio, or any other executor that takes wakers.
//!
//! Shaped like those of `tokio::net`. A thread of the library's own waits for all of them; a runtime
//! needs neither its I/O nor its time driver.
//!
//! ```no_run
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # async fn example() -> std::io::Result<()> {
//! let mut stream = dmm_async::tokio::TcpStream::connect("10.1.0.9:80".parse().unwrap()).await?;
//! stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
//! let mut page = String::new();
//! stream.read_to_string(&mut page).await?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use dmm::Client;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::reactor::{Watched, Way};

/// A TCP connection.
pub struct TcpStream {
    watched: Arc<Watched<dmm::TcpStream>>,
}

/// A TCP listener.
pub struct TcpListener {
    watched: Arc<Watched<dmm::TcpListener>>,
}

/// A UDP socket.
pub struct UdpSocket {
    watched: Arc<Watched<dmm::UdpSocket>>,
}

impl TcpStream {
    /// Connects over the first stack of the process's daemon.
    ///
    /// # Errors
    /// As [`dmm::TcpStream::connect`].
    pub async fn connect(to: SocketAddr) -> io::Result<Self> {
        Self::connect_with(&Client::global()?, None, to).await
    }

    /// Connects over the named stack of the process's daemon.
    ///
    /// # Errors
    /// As [`dmm::TcpStream::connect_via`].
    pub async fn connect_via(stack: &str, to: SocketAddr) -> io::Result<Self> {
        Self::connect_with(&Client::global()?, Some(stack), to).await
    }

    /// Connects over a stack of `client`'s daemon, the first if none is named.
    ///
    /// # Errors
    /// As [`dmm::Client::connect`].
    pub async fn connect_with(
        client: &Client,
        stack: Option<&str>,
        to: SocketAddr,
    ) -> io::Result<Self> {
        let stream = Self::from_dmm(client.start_connect(stack, None, to)?)?;
        poll_fn(|context| {
            stream.watched.poll_io(Way::Out, context, |socket| match socket.is_connecting() {
                true => Err(io::ErrorKind::WouldBlock.into()),
                false => socket.take_error()?.map_or(Ok(()), Err),
            })
        })
        .await?;
        Ok(stream)
    }

    /// Takes over a connection, which becomes non-blocking.
    ///
    /// # Errors
    /// If there can be no thread to wait for it.
    pub fn from_dmm(stream: dmm::TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { watched: Watched::new(stream)? })
    }

    /// The connection, for its options and addresses.
    #[must_use]
    pub fn get_ref(&self) -> &dmm::TcpStream {
        self.watched.socket()
    }

    /// This end's address.
    ///
    /// # Errors
    /// As [`dmm::TcpStream::local_addr`].
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.get_ref().local_addr()
    }

    /// The other end's address.
    ///
    /// # Errors
    /// As [`dmm::TcpStream::peer_addr`].
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.get_ref().peer_addr()
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.watched.poll_io(Way::In, context, |mut socket| {
            let len = socket.read(buffer.initialize_unfilled())?;
            buffer.advance(len);
            Ok(())
        })
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.watched.poll_io(Way::Out, context, |mut socket| socket.write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.watched.poll_io(Way::Out, context, |mut socket| socket.write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What is written is with the daemon.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = self.get_ref().shutdown(Shutdown::Write);
        Poll::Ready(match shut {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            other => other,
        })
    }
}

impl TcpListener {
    /// Listens on the first stack of the process's daemon.
    ///
    /// # Errors
    /// As [`dmm::TcpListener::bind`].
    pub fn bind(on: SocketAddr) -> io::Result<Self> {
        Self::from_dmm(dmm::TcpListener::bind(on)?)
    }

    /// Takes over a listener, which becomes non-blocking.
    ///
    /// # Errors
    /// If there can be no thread to wait for it.
    pub fn from_dmm(listener: dmm::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { watched: Watched::new(listener)? })
    }

    /// Takes the next connection.
    ///
    /// # Errors
    /// As [`dmm::TcpListener::accept`].
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let accept = |context: &mut Context<'_>| {
            self.watched.poll_io(Way::In, context, dmm::TcpListener::accept)
        };
        let (stream, peer) = poll_fn(accept).await?;
        Ok((TcpStream::from_dmm(stream)?, peer))
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// As [`dmm::TcpListener::local_addr`].
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.watched.socket().local_addr()
    }
}

impl UdpSocket {
    /// Binds on the first stack of the process's daemon.
    ///
    /// # Errors
    /// As [`dmm::UdpSocket::bind`].
    pub fn bind(on: SocketAddr) -> io::Result<Self> {
        Self::from_dmm(dmm::UdpSocket::bind(on)?)
    }

    /// Takes over a socket, which becomes non-blocking.
    ///
    /// # Errors
    /// If there can be no thread to wait for it.
    pub fn from_dmm(socket: dmm::UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { watched: Watched::new(socket)? })
    }

    /// Sets the only peer.
    ///
    /// # Errors
    /// As [`dmm::UdpSocket::connect`].
    pub fn connect(&self, to: SocketAddr) -> io::Result<()> {
        self.get_ref().connect(to)
    }

    /// Sends a datagram to the peer.
    ///
    /// # Errors
    /// As [`dmm::UdpSocket::send`].
    pub async fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|context| self.watched.poll_io(Way::Out, context, |s| s.send(bytes))).await
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// As [`dmm::UdpSocket::send_to`].
    pub async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        poll_fn(|context| self.watched.poll_io(Way::Out, context, |s| s.send_to(bytes, to))).await
    }

    /// Receives a datagram.
    ///
    /// # Errors
    /// As [`dmm::UdpSocket::recv`].
    pub async fn recv(&self, bytes: &mut [u8]) -> io::Result<usize> {
        self.recv_from(bytes).await.map(|(len, _)| len)
    }

    /// Receives a datagram, and says from whom.
    ///
    /// # Errors
    /// As [`dmm::UdpSocket::recv_from`].
    pub async fn recv_from(&self, bytes: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        poll_fn(|context| self.watched.poll_io(Way::In, context, |s| s.recv_from(bytes))).await
    }

    /// The socket, for its options and addresses.
    #[must_use]
    pub fn get_ref(&self) -> &dmm::UdpSocket {
        self.watched.socket()
    }
}
