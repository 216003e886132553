//! The library's TCP sockets, with their buffers in memory mappings of their own.
//!
//! Owns: [`Memory`], an anonymous mapping for one connection's two buffers, of which the kernel
//! backs only the pages that were written to; [`Tcp`], a library socket that borrows it; and the
//! promise that no socket outlives its mapping. Called when connections begin and end, and through
//! [`Lent`] whenever the library works on a socket. Must never: hand out a library socket, or a set
//! of them, as `&mut`: whoever has that could exchange it for another and keep it.
//!
//! A heap would not do: glibc serves what was mapped and freed once from its arenas afterwards
//! (mallopt(3), `M_MMAP_THRESHOLD`), where zeroing touches every page and nothing is given back.
#![allow(unsafe_code, reason = "the library borrows its buffers for as long as a lifetime can say")]

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::ptr;
use std::time::Duration;

use ::smoltcp::iface::{Context, Interface, SocketHandle, SocketSet};
use ::smoltcp::phy::Device;
use ::smoltcp::socket::tcp;
use ::smoltcp::time::Duration as LibraryDuration;
use ::smoltcp::time::Instant as LibraryInstant;
use ::smoltcp::wire::IpListenEndpoint;
use memmap2::{Advice, MmapMut};

use crate::sockets::options::Options;

/// Memory for both buffers of a connection: zero, and without pages until it is written to.
pub(super) struct Memory(MmapMut);

impl Memory {
    /// A mapping of so many bytes, which are not 0. An error if the process has too much memory, or
    /// too many mappings: neighbouring ones count as one (proc(5), `max_map_count`), so that
    /// connections take half as many as there are of them at the very most.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let memory = MmapMut::map_anon(bytes)?;
        // A huge page would be taken for the first byte of any of several connections. A kernel
        // without them refuses, and need not be told.
        let _ = memory.advise(Advice::NoHugePage);
        Ok(Self(memory))
    }

    /// Its length.
    pub(super) fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// A library TCP socket and its memory.
pub(super) struct Tcp {
    /// A set with the one socket in it. Dropped before the memory: fields are in their order.
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    memory: Memory,
}

impl Tcp {
    /// A closed socket that receives into the first `rx_bytes` of `memory` and sends from the rest.
    pub(super) fn new(
        mut memory: Memory,
        rx_bytes: usize,
        congestion: tcp::CongestionControl,
    ) -> Self {
        let (rx, tx) = memory.0.split_at_mut(rx_bytes);
        // SAFETY: the mapping is as long, stays where it is when `memory` moves, and is used by
        // nobody else before it is taken back in `into_memory`, after the socket was dropped; the
        // socket does not outlive it, since it never leaves this type, which drops it first.
        let rx: &'static mut [u8] = unsafe { &mut *ptr::from_mut(rx) };
        // SAFETY: as above; the two parts do not overlap.
        let tx: &'static mut [u8] = unsafe { &mut *ptr::from_mut(tx) };
        let mut socket = tcp::Socket::new(tcp::SocketBuffer::new(rx), tcp::SocketBuffer::new(tx));
        socket.set_congestion_control(congestion);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self { sockets, handle, memory }
    }

    /// Its memory, with what it last held. The socket is gone.
    pub(super) fn into_memory(self) -> Memory {
        let Self { sockets, memory, .. } = self;
        drop(sockets);
        memory
    }

    /// The set that it stands in alone, to be looked at.
    pub(super) const fn sockets(&self) -> &SocketSet<'static> {
        &self.sockets
    }

    /// Itself, for the library to work on.
    pub(super) const fn lend(&mut self) -> Lent<'_> {
        Lent(&mut self.sockets)
    }

    /// Tells the library those options that it carries out.
    pub(super) fn set_options(&mut self, options: &Options) {
        // Timeouts are not among them: the library's own would end idle connections.
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let keep_alive = options.keep_alive.map(|span| LibraryDuration::from_micros(micros(span)));
        let socket = self.socket();
        socket.set_nagle_enabled(!options.no_delay);
        socket.set_hop_limit(options.hop_limit);
        socket.set_keep_alive(keep_alive);
    }

    /// See [`tcp::Socket::listen`].
    pub(super) fn listen(&mut self, local: IpListenEndpoint) -> Result<(), tcp::ListenError> {
        self.socket().listen(local)
    }

    /// See [`tcp::Socket::connect`].
    pub(super) fn connect(
        &mut self,
        context: &mut Context,
        remote: SocketAddr,
        local: SocketAddr,
    ) -> Result<(), tcp::ConnectError> {
        self.socket().connect(context, remote, local)
    }

    /// See [`tcp::Socket::close`].
    pub(super) fn close(&mut self) {
        self.socket().close();
    }

    /// See [`tcp::Socket::abort`].
    pub(super) fn abort(&mut self) {
        self.socket().abort();
    }

    /// See [`tcp::Socket::recv`].
    pub(super) fn recv<'b, R>(
        &'b mut self,
        read: impl FnOnce(&'b mut [u8]) -> (usize, R),
    ) -> Result<R, tcp::RecvError> {
        self.socket().recv(read)
    }

    /// See [`tcp::Socket::send`].
    pub(super) fn send<'b, R>(
        &'b mut self,
        write: impl FnOnce(&'b mut [u8]) -> (usize, R),
    ) -> Result<R, tcp::SendError> {
        self.socket().send(write)
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }
}

impl Deref for Tcp {
    type Target = tcp::Socket<'static>;

    fn deref(&self) -> &Self::Target {
        self.sockets.get(self.handle)
    }
}

/// A set of sockets, for the library to work on and for nothing else.
pub(super) struct Lent<'a>(&'a mut SocketSet<'static>);

impl<'a> Lent<'a> {
    /// A set whose sockets own their buffers.
    pub(super) const fn owned(sockets: &'a mut SocketSet<'static>) -> Self {
        Self(sockets)
    }

    /// The set, to be looked at.
    pub(super) const fn sockets(&self) -> &SocketSet<'static> {
        self.0
    }

    /// Lets the library take the device's one frame.
    pub(super) fn ingress(
        self,
        iface: &mut Interface,
        now: LibraryInstant,
        device: &mut impl Device,
    ) {
        iface.poll_ingress_single(now, device, self.0);
    }

    /// Lets the library send.
    pub(super) fn egress(
        self,
        iface: &mut Interface,
        now: LibraryInstant,
        device: &mut impl Device,
    ) {
        iface.poll_egress(now, device, self.0);
    }
}
