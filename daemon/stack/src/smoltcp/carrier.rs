//! The library socket that all UDP sockets share.
//!
//! Owns: [`Carrier`], which lets the library check and take apart, or put together and fragment, one
//! datagram at a time. Payload waits in the FIFOs alone. Must never: keep a datagram.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use ::smoltcp::iface::{SocketHandle, SocketSet};
use ::smoltcp::phy::PacketMeta;
use ::smoltcp::socket::udp;
use ::smoltcp::storage::PacketMetadata;
use ::smoltcp::wire::IpListenEndpoint;
use dmm_port::{Instant, TxBurst};
use dmm_proto::fifo::datagram::Header;

use super::link::{Link, Socket};
use super::memory::Lent;
use crate::ip::fragment::Packet;
use crate::ip::packet::{self, UDP_BYTES};
use crate::ip::{Counters, Sent};
use crate::sockets::datagram::Datagram;
use crate::sockets::udp::Carried;

/// Bytes of a shared socket's buffer: the longest datagram (RFC 768).
const CARRIER_BYTES: usize = 65_535;

/// Bytes of an IPv6 header and a UDP header (RFC 8200 section 3, RFC 768).
const HEADERS_V6: usize = 40 + 8;

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
            let from = SocketAddr::new(from.into(), datagram.local.port());
            let bytes = &mut self.payload[..UDP_BYTES + header.len];
            fifo.copy_payload(&mut bytes[UDP_BYTES..]);
            packet::write_udp(from, to.into(), bytes);
            let packet = Packet {
                from: from.ip(),
                to: (*to.ip()).into(),
                protocol: packet::protocol::UDP,
                hop_limit: datagram.options.hop_limit,
                class: datagram.options.class,
                payload: bytes,
            };
            let Some(parts) = packet.parts(self.mtu) else { return Carried::TooBig };
            return link.send_in_fragments(now, tx, (&packet, parts), counters).into();
        }
        // Taking the socket out and in again forgets the neighbour that it waited for.
        let socket = self.sockets.remove(self.handle);
        let ::smoltcp::socket::Socket::Udp(mut socket) = socket else {
            unreachable!("the set holds the one UDP socket that it was made with")
        };
        socket.close();
        let hops = match to.ip().is_multicast() {
            // The library takes no 0.
            true => Some(datagram.options.group_hops.max(1)),
            false => datagram.options.hop_limit,
        };
        socket.set_hop_limit(hops);
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
