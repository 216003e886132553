//! A UDP socket: its addresses, its FIFOs and what its owner waits for.
//!
//! Owns: [`Datagram`]. Kept by every kind that has UDP. Must never: send from an address that is not ours.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dmm_port::Instant;
use dmm_proto::Breach;
use dmm_proto::fifo::datagram::Header;
use dmm_proto::fifo::{RxFifo, TxFifo};
use dmm_proto::op::Address;
use nix::errno::Errno;

use crate::ip::net::{Net, is_unicast};
use crate::sockets::backoff::Backoff;
use crate::sockets::options::Options;
use crate::sockets::room::Room;
use crate::{Fifos, SocketId, SocketReport};

/// How long a datagram waits for its neighbour's address before it is dropped: time for three
/// questions, one a second.
pub(crate) const NEIGHBOUR_PATIENCE: Duration = Duration::from_millis(2_500);

/// A UDP socket.
pub(crate) struct Datagram {
    /// The caller's id.
    pub(crate) id: SocketId,
    /// Where it receives; the address may be unspecified.
    pub(crate) local: SocketAddr,
    /// The only peer, if it has one.
    pub(crate) peer: Option<SocketAddr>,
    /// The groups that it is a member of.
    pub(crate) groups: Vec<IpAddr>,
    /// Where received datagrams go, while it has an owner that kept the contract.
    pub(crate) rx: Option<RxFifo>,
    /// Where datagrams to send come from, while the owner kept the contract.
    pub(crate) tx: Option<TxFifo>,
    /// It was closed: what is queued is still sent.
    pub(crate) closing: bool,
    /// Its options.
    pub(crate) options: Options,
    /// What the writer wants.
    pub(crate) room: Room,
    /// When to look again for chunks.
    pub(crate) backoff: Backoff,
    /// Since when its next datagram waits for a neighbour.
    pub(crate) neighbour_since: Option<Instant>,
    /// The neighbour that was given up last, and how many bytes of the FIFO were written before that:
    /// what is in them for the same neighbour does not wait again.
    pub(crate) given_up: Option<(IpAddr, u64)>,
    /// Bytes moved since the last trim.
    pub(crate) active: bool,
    /// Datagrams were delivered that are not published yet.
    pub(crate) delivered: bool,
    /// Something was sent to the peer that it has now.
    pub(crate) sent_to_peer: bool,
    /// What was said of it, and its owner was not told yet.
    pub(crate) trouble: Option<Errno>,
}

impl Datagram {
    /// A socket just bound.
    pub(crate) fn new(id: SocketId, local: SocketAddr, fifos: Fifos, options: Options) -> Self {
        Self {
            id,
            local,
            peer: None,
            groups: Vec::new(),
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
            sent_to_peer: false,
            trouble: None,
        }
    }

    /// Where a datagram goes from and to, or `None` if it cannot go.
    pub(crate) fn route(&self, header: &Header, net: &Net) -> Option<(IpAddr, SocketAddr)> {
        let to = header.peer.map(|Address(peer)| peer).or(self.peer)?;
        if to.port() == 0 || to.ip().is_unspecified() {
            return None;
        }
        let chosen = header.local.map(|Address(local)| local.ip());
        let from = chosen
            .filter(|ip| !ip.is_unspecified())
            .or_else(|| Some(self.local.ip()).filter(|ip| net.is_own(*ip)))
            .or_else(|| net.source_for(to.ip()))?;
        // Both of one family, and this end ours.
        let fits = net.is_own(from) && from.is_ipv4() == to.is_ipv4();
        let leads_there = net.source_for(to.ip()).is_some() || !is_unicast(to.ip());
        (fits && leads_there).then_some((from, to))
    }

    /// Gives chunks back if nothing moved since the last call: room to send only where chunks are scarce, since a
    /// program that does not wait would lose the datagram that it writes next.
    pub(crate) fn trim(&mut self) -> Result<(), Breach> {
        let idle = !std::mem::take(&mut self.active);
        if let (true, Some(rx)) = (idle, &mut self.rx) {
            rx.let_go()?;
        }
        if let (true, false, Some(tx)) = (idle, self.room.hungry, &mut self.tx)
            && tx.chunks_are_scarce()
        {
            tx.let_go()?;
        }
        Ok(())
    }

    /// As `ss` would show it.
    pub(crate) fn report(&self) -> SocketReport {
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
