//! A scripted client: its ends of a socket's FIFOs, and the operations that a library would do.
//!
//! Owns: [`Client`] and the memory behind it. Used by scenarios. Must never: look into a stack.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dmm_proto::arena::{Arena, ChunkPool};
use dmm_proto::fifo::{ClientLine, DaemonLine, FifoParts, RxFifo, RxReader, TxFifo, TxWriter};
use dmm_proto::op::How;
use dmm_proto::shared::Shared;
use dmm_proto::sync::AtomicU32;
use nix::errno::Errno;

use super::{End, Pair, Seen};
use crate::{Fifos, Request, SocketId};

/// Bytes of a scripted client's FIFOs, each way, unless a scenario says otherwise.
const FIFO_BYTES: u32 = 1 << 18;

/// The arena of one client, shared by its sockets.
#[derive(Clone)]
pub struct Quota {
    arena: Arena,
    links: Shared<[AtomicU32]>,
    /// The free chunks.
    pub pool: Arc<ChunkPool>,
    /// Bytes that each FIFO holds at most.
    fifo_bytes: u32,
}

impl Quota {
    /// An arena of `chunks`.
    #[must_use]
    pub fn new(chunks: u32) -> Self {
        Self {
            arena: Arena::heap(chunks),
            links: Shared::heap_slice((0..chunks).map(|_| AtomicU32::new(0)).collect()),
            pool: Arc::new(ChunkPool::new(chunks)),
            fifo_bytes: FIFO_BYTES,
        }
    }

    /// The same with FIFOs that hold so many bytes each.
    #[must_use]
    pub fn with_fifos(chunks: u32, fifo_bytes: u32) -> Self {
        Self { fifo_bytes, ..Self::new(chunks) }
    }

    /// A socket's memory: the stack's ends and the client's.
    #[must_use]
    pub fn open(&self, end: End, socket: SocketId, capacity: u32) -> (Fifos, Client) {
        self.open_sized(end, socket, (capacity, capacity))
    }

    /// The same, with different capacities to receive and to send.
    #[must_use]
    pub fn open_sized(&self, end: End, socket: SocketId, (rx, tx): (u32, u32)) -> (Fifos, Client) {
        let parts = FifoParts {
            daemon: Shared::heap(DaemonLine::default()),
            client: Shared::heap(ClientLine::default()),
            arena: self.arena.clone(),
            links: self.links.clone(),
        };
        parts.daemon.reset(rx);
        parts.client.reset();
        let fifos = Fifos {
            rx: RxFifo::new(&parts, Arc::clone(&self.pool), rx),
            tx: TxFifo::new(&parts, Arc::clone(&self.pool), tx),
        };
        let (reader, writer) = (RxReader::new(&parts), TxWriter::new(&parts));
        let client =
            Client { end, socket, parts, reader, writer, sent: 0, received: 0, waits_beyond: None };
        (fifos, client)
    }
}

/// A client's socket.
pub struct Client {
    /// Whose client.
    pub end: End,
    /// The socket.
    pub socket: SocketId,
    /// The shared memory, for clients that break the contract.
    pub parts: FifoParts,
    /// The reading end.
    pub reader: RxReader,
    /// The writing end.
    pub writer: TxWriter,
    /// Bytes of the pattern sent.
    pub sent: u64,
    /// Bytes of the pattern received.
    pub received: u64,
    /// It waits to hear of room once more than so many times.
    waits_beyond: Option<u32>,
}

/// The byte at a position of the pattern that scenarios send: SplitMix64's mixing of it.
#[must_use]
pub const fn byte_at(position: u64) -> u8 {
    let mixed = position.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 56) as u8
}

impl Pair {
    /// Listens on a port of any address.
    pub fn listen(&mut self, end: End, socket: u32, local: SocketAddr, backlog: u32) {
        self.submit(end, Request::Listen { socket: SocketId(socket), local, backlog });
    }

    /// Opens a connection. The caller waits for it.
    pub fn connect(
        &mut self,
        end: End,
        quota: &Quota,
        socket: u32,
        (local, remote): (SocketAddr, SocketAddr),
    ) -> Client {
        let socket = SocketId(socket);
        let (fifos, client) = quota.open(end, socket, quota.fifo_bytes);
        self.forget(end, socket);
        self.submit(end, Request::Connect { socket, local, remote, fifos });
        client
    }

    /// Gives a listener a credit.
    pub fn credit(&mut self, end: End, quota: &Quota, listener: u32, socket: u32) -> Client {
        let socket = SocketId(socket);
        let (fifos, client) = quota.open(end, socket, quota.fifo_bytes);
        self.forget(end, socket);
        self.submit(end, Request::Accept { listener: SocketId(listener), socket, fifos });
        client
    }

    /// Opens a UDP socket.
    pub fn bind(&mut self, end: End, quota: &Quota, socket: u32, local: SocketAddr) -> Client {
        self.bind_as(end, quota, socket, (local, false)).unwrap_or_else(|errno| panic!("{errno}"))
    }

    /// Opens a UDP socket that shares its address and port, or not.
    ///
    /// # Errors
    /// What the stack answers.
    pub fn bind_as(
        &mut self,
        end: End,
        quota: &Quota,
        socket: u32,
        (local, shares): (SocketAddr, bool),
    ) -> Result<Client, Errno> {
        let socket = SocketId(socket);
        let (fifos, client) = quota.open(end, socket, quota.fifo_bytes);
        self.forget(end, socket);
        self.try_submit(end, Request::Bind { socket, local, shares, fifos })?;
        Ok(client)
    }

    /// A connection from the left to a listener on the right, established: sockets 1 and, of
    /// listener 0, 1.
    pub fn joined(&mut self, quotas: [&Quota; 2], to: (IpAddr, IpAddr)) -> (Client, Client) {
        let server = SocketAddr::new(to.1, 80);
        self.listen(End::Right, 0, server, 8);
        let right = self.credit(End::Right, quotas[1], 0, 1);
        let left = self.connect(End::Left, quotas[0], 1, (SocketAddr::new(to.0, 50_000), server));
        self.expect(Duration::from_secs(60), "the handshake", |pair| {
            pair.of(&left).connected == Some(Ok(())) && pair.of(&right).accepted.is_some()
        });
        (left, right)
    }

    /// What was told of a client's socket.
    pub fn of(&mut self, client: &Client) -> Seen {
        self.seen(client.end, client.socket)
    }

    /// Writes the pattern as far as there is room, up to position `until`, and tells the stack. A
    /// client that found no room does nothing until it has heard of some.
    pub fn write_until(&mut self, client: &mut Client, until: u64) {
        let heard = self.of(client).writable;
        let waits = client.waits_beyond.is_some_and(|before| before == heard);
        if waits || client.sent >= until {
            return;
        }
        client.waits_beyond = None;
        while client.sent < until {
            let len = usize::try_from(until - client.sent).unwrap_or(usize::MAX).min(8192);
            let bytes: Vec<u8> = (client.sent..).take(len).map(byte_at).collect();
            let written = client.writer.write(&[&bytes], false);
            client.sent += written as u64;
            if written == 0 {
                client.writer.want_room();
                if client.writer.room(1) == 0 {
                    client.waits_beyond = Some(heard);
                    break;
                }
            }
        }
        if client.writer.must_tell() {
            self.submit(client.end, Request::Send { socket: client.socket });
        }
    }

    /// Reads everything that is there and checks it against the pattern.
    ///
    /// # Panics
    /// At the first byte that differs, with the seed.
    pub fn read_all(&mut self, client: &mut Client) {
        let mut bytes = [0; 8192];
        loop {
            let len = client.reader.read(&mut bytes);
            for byte in &bytes[..len] {
                if *byte != byte_at(client.received) {
                    self.fail(&format!("byte {} of {:?} differs", client.received, client.socket));
                }
                client.received += 1;
            }
            if client.reader.owes_receive() {
                self.submit(client.end, Request::Receive { socket: client.socket });
            }
            if len == 0 {
                return;
            }
        }
    }

    /// Sends `bytes.0` bytes from `one` to `other` and `bytes.1` the other way, both at once.
    ///
    /// # Panics
    /// If they have not arrived within `span`.
    pub fn exchange(
        &mut self,
        span: Duration,
        one: &mut Client,
        other: &mut Client,
        bytes: (u64, u64),
    ) {
        let (sent, received) = (one.sent + bytes.0, one.received + bytes.1);
        let (other_sent, other_received) = (other.sent + bytes.1, other.received + bytes.0);
        let arrived = self.run_until(span, |pair| {
            pair.write_until(one, sent);
            pair.write_until(other, other_sent);
            pair.read_all(one);
            pair.read_all(other);
            one.received == received && other.received == other_received
        });
        if !arrived {
            let (there, back) = ((other.received, one.sent, sent), (one.received, other.sent));
            self.fail(&format!(
                "received, sent and to be sent after {span:?}: {there:?}; back: {back:?} of {other_sent}"
            ));
        }
    }

    /// Shuts a client's socket down.
    pub fn shutdown(&mut self, client: &Client, how: How) {
        self.submit(client.end, Request::Shutdown { socket: client.socket, how });
    }

    /// Closes a client's socket.
    pub fn close(&mut self, client: &Client) {
        self.submit(client.end, Request::Close { socket: client.socket });
    }

    /// Closes sockets, waits until they are gone, and checks that nothing is left of them.
    ///
    /// # Panics
    /// If something is.
    pub fn clean_up(&mut self, clients: &[&Client], listeners: &[(End, u32)], quotas: &[&Quota]) {
        for client in clients {
            if !self.of(client).gone {
                self.close(client);
            }
        }
        for (end, socket) in listeners {
            self.submit(*end, Request::Close { socket: SocketId(*socket) });
        }
        self.expect(Duration::from_secs(120), "the end of all sockets", |pair| {
            pair.sockets(End::Left).is_empty() && pair.sockets(End::Right).is_empty()
        });
        for client in clients {
            assert!(self.of(client).gone, "{:?} of {:?} is not gone", client.socket, client.end);
        }
        for quota in quotas {
            assert_eq!(quota.pool.used(), 0, "chunks are left");
        }
        let now = self.now;
        for end in [End::Left, End::Right] {
            assert!(
                self.stack(end).deadline(now).is_none_or(|at| at > now),
                "an empty stack is due"
            );
        }
    }
}
