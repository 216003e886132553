//! A UDP socket, and the two library sockets that all UDP sockets share.
//!
//! Owns: [`Datagram`], the addresses and FIFOs of a socket; and [`Carrier`], which lets the
//! library check and take apart, or put together and fragment, one datagram at a time. Payload
//! waits in the FIFOs alone. Must never: send from an address that is not ours.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use ::smoltcp::iface::{SocketHandle, SocketSet};
use ::smoltcp::phy::PacketMeta;
use ::smoltcp::socket::udp;
use ::smoltcp::storage::PacketMetadata;
use ::smoltcp::wire::IpListenEndpoint;
use dmm_port::{Instant, TxBurst};
use dmm_proto::Breach;
use dmm_proto::fifo::datagram::Header;
use dmm_proto::fifo::{RxFifo, TxFifo};
use dmm_proto::op::Address;

use super::counters::Counters;
use super::fragment;
use super::link::{Link, Sent, Socket};
use super::memory::Lent;
use super::options::Options;
use crate::backoff::Backoff;
use crate::net::{Net, is_unicast};
use crate::room::Room;
use crate::{Fifos, SocketId, SocketReport};

/// Bytes of a shared socket's buffer: the longest datagram (RFC 768).
const CARRIER_BYTES: usize = 65_535;

/// How long a datagram waits for its neighbour's address before it is dropped: time for three
/// questions, one a second.
pub(super) const NEIGHBOUR_PATIENCE: Duration = Duration::from_millis(2_500);

/// Bytes of an IPv6 header and a UDP header (RFC 8200 section 3, RFC 768).
const HEADERS_V6: usize = 40 + 8;

/// A UDP socket.
pub(super) struct Datagram {
    /// The caller's id.
    pub(super) id: SocketId,
    /// Where it receives; the address may be unspecified.
    pub(super) local: SocketAddr,
    /// The only peer, if it has one.
    pub(super) peer: Option<SocketAddr>,
    /// Where received datagrams go, while it has an owner that kept the contract.
    pub(super) rx: Option<RxFifo>,
    /// Where datagrams to send come from, while the owner kept the contract.
    pub(super) tx: Option<TxFifo>,
    /// It was closed: what is queued is still sent.
    pub(super) closing: bool,
    /// Its options.
    pub(super) options: Options,
    /// What the writer wants.
    pub(super) room: Room,
    /// When to look again for chunks.
    pub(super) backoff: Backoff,
    /// Since when its next datagram waits for a neighbour.
    pub(super) neighbour_since: Option<Instant>,
    /// The neighbour that was given up last, and how many bytes of the FIFO were written before that:
    /// what is in them for the same neighbour does not wait again.
    pub(super) given_up: Option<(IpAddr, u64)>,
    /// Bytes moved since the last trim.
    pub(super) active: bool,
    /// Datagrams were delivered that are not published yet.
    pub(super) delivered: bool,
}

impl Datagram {
    /// A socket just bound.
    pub(super) fn new(id: SocketId, local: SocketAddr, fifos: Fifos, options: Options) -> Self {
        Self {
            id,
            local,
            peer: None,
            rx: Some(fifos.rx),
            tx: Some(fifos.tx),
            closing: false,
            options,
            room: Room::default(),
            backoff: Backoff::default(),
            neighbour_since: None,
            given_up: None,
            active: true,
            delivered: false,
        }
    }

    /// Where a datagram goes from and to, or `None` if it cannot go.
    pub(super) fn route(&self, header: &Header, net: &Net) -> Option<(IpAddr, SocketAddr)> {
        let to = header.peer.map(|Address(peer)| peer).or(self.peer)?;
        if to.port() == 0 || to.ip().is_unspecified() {
            return None;
        }
        let chosen = header.local.map(|Address(local)| local.ip());
        let from = chosen
            .filter(|ip| !ip.is_unspecified())
            .or_else(|| Some(self.local.ip()).filter(|ip| !ip.is_unspecified()))
            .or_else(|| net.source_for(to.ip()))?;
        // The library takes an address of ours for granted, and both of one family.
        let fits = net.is_own(from) && from.is_ipv4() == to.is_ipv4();
        let leads_there = net.source_for(to.ip()).is_some() || !is_unicast(to.ip());
        (fits && leads_there).then_some((from, to))
    }

    /// Gives chunks back if nothing moved since the last call.
    pub(super) fn trim(&mut self) -> Result<(), Breach> {
        let idle = !std::mem::take(&mut self.active);
        if let (true, Some(rx)) = (idle, &mut self.rx) {
            rx.let_go()?;
        }
        if let (true, false, Some(tx)) = (idle, self.room.hungry, &mut self.tx) {
            tx.let_go()?;
        }
        Ok(())
    }

    /// As `ss` would show it.
    pub(super) fn report(&self) -> SocketReport {
        SocketReport {
            socket: Some(self.id),
            protocol: "udp",
            state: if self.peer.is_some() { "ESTAB" } else { "UNCONN" },
            local: self.local,
            remote: self.peer,
            rx_queued: self.rx.as_ref().map_or(0, RxFifo::unread),
            tx_queued: self.tx.as_ref().map_or(0, TxFifo::queued),
        }
    }
}

/// A library socket that carries one datagram at a time for whoever needs it.
pub(super) struct Carrier {
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    payload: Vec<u8>,
    mtu: usize,
}

impl Carrier {
    /// A carrier on a link of `mtu` bytes.
    pub(super) fn new(mtu: u16) -> Self {
        let buffer = || udp::PacketBuffer::new(vec![PacketMetadata::EMPTY], vec![0; CARRIER_BYTES]);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(udp::Socket::new(buffer(), buffer()));
        Self { sockets, handle, payload: vec![0; CARRIER_BYTES], mtu: usize::from(mtu) }
    }

    /// Lets the library check a frame that should hold a datagram for `port`.
    /// Returns its payload and both ends, if it does.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        link: &mut Link,
        frame: &[u8],
        port: u16,
        counters: &mut Counters,
    ) -> Option<(&[u8], SocketAddr, SocketAddr)> {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.handle);
        socket.close();
        socket.bind(port).ok()?;
        let turn = Socket { sockets: Lent::owned(&mut self.sockets), sequence: None };
        link.feed(now, frame, None, Some(turn), counters);
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.handle);
        let (payload, meta) = socket.recv().ok()?;
        let local = SocketAddr::new(meta.local_address?.into(), port);
        Some((payload, local, SocketAddr::new(meta.endpoint.addr.into(), meta.endpoint.port)))
    }

    /// Sends the next datagram of `datagram`, which goes from and to the addresses given.
    pub(super) fn send(
        &mut self,
        now: Instant,
        link: &mut Link,
        tx: &mut TxBurst<'_>,
        datagram: &Datagram,
        (header, (from, to)): (&Header, (IpAddr, SocketAddr)),
        counters: &mut Counters,
    ) -> Carried {
        let Some(fifo) = &datagram.tx else { return Carried::Nowhere };
        if let (IpAddr::V6(from), SocketAddr::V6(to)) = (from, to)
            && header.len + HEADERS_V6 > self.mtu
        {
            let from = SocketAddrV6::new(from, datagram.local.port(), 0, 0);
            let bytes = &mut self.payload[..fragment::UDP_BYTES + header.len];
            fifo.copy_payload(&mut bytes[fragment::UDP_BYTES..]);
            fragment::head(&from, &to, bytes);
            let Some(parts) = fragment::parts(bytes.len(), self.mtu) else {
                return Carried::TooBig;
            };
            let hop_limit = datagram.options.hop_limit;
            let packet = fragment::Packet { from, to, hop_limit, datagram: bytes };
            return link.send_in_fragments(now, tx, (&packet, parts), counters).into();
        }
        // Taking the socket out and in again forgets the neighbour that it waited for.
        let socket = self.sockets.remove(self.handle);
        let ::smoltcp::socket::Socket::Udp(mut socket) = socket else {
            unreachable!("the set holds the one UDP socket that it was made with")
        };
        socket.close();
        socket.set_hop_limit(datagram.options.hop_limit);
        let bound = socket.bind(IpListenEndpoint::from(datagram.local.port()));
        let meta = udp::UdpMetadata {
            endpoint: to.into(),
            local_address: Some(from.into()),
            meta: PacketMeta::default(),
        };
        let payload = &mut self.payload[..header.len];
        fifo.copy_payload(payload);
        let queued = bound.is_ok() && socket.send_slice(payload, meta).is_ok();
        self.handle = self.sockets.add(socket);
        if !queued {
            return Carried::Nowhere;
        }
        let turn = Socket { sockets: Lent::owned(&mut self.sockets), sequence: None };
        link.send(now, tx, (turn, to.ip()), counters).into()
    }
}

/// What became of a datagram to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    /// It is on its way, as a whole or as fragments.
    Sent,
    /// There is no transmit slot.
    NoSlot,
    /// The neighbour's Ethernet address is not known yet.
    NoNeighbour,
    /// It would take more fragments than a row of transmit slots holds.
    TooBig,
    /// There is no way to its destination.
    Nowhere,
}

impl From<Sent> for Carried {
    fn from(sent: Sent) -> Self {
        match sent {
            Sent::Frame => Self::Sent,
            Sent::NoSlot => Self::NoSlot,
            Sent::NoNeighbour => Self::NoNeighbour,
            Sent::Nothing => Self::Nowhere,
        }
    }
}
