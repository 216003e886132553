//! The seam to the library: one interface, driven frame by frame.
//!
//! Owns: the library's [`Interface`], and the neighbours that frames go to. Called for each frame
//! in and for each socket that may send.
//! Must never: let the library loop over sockets or frames by itself: each socket stands in a set
//! of its own, so that the work for a frame does not grow with the number of sockets.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use ::smoltcp::iface::{Config, Interface, SocketSet};
use ::smoltcp::phy::{Checksum, DeviceCapabilities, Medium};
use ::smoltcp::time::Instant as LibraryInstant;
use ::smoltcp::wire::{EthernetAddress, HardwareAddress};
use dmm_port::{Instant, TxBurst};

use super::device::{Device, Outcome};
use super::introductions::{Introduction, Introductions};
use super::memory::Lent;
use super::network;
use super::sequence::Sequence;
use crate::config::StackConfig;
use crate::ip::discovery::Mac;
use crate::ip::fragment::{self, Identifications};
use crate::ip::neighbours::{Neighbours, Purpose, Way};
use crate::ip::net::Net;
use crate::ip::{Counters, Sent, Write};

/// Bytes of an Ethernet header without tags (IEEE 802.3 clause 3.1).
const ETHERNET_HEADER_BYTES: usize = 14;

/// A socket, on its turn.
pub(super) struct Socket<'a> {
    /// A set with the library's socket alone in it.
    pub(super) sockets: Lent<'a>,
    /// How far it has sent, if it is a TCP socket.
    pub(super) sequence: Option<&'a mut Sequence>,
}

/// The library's interface and its device.
pub(super) struct Link {
    iface: Box<Interface>,
    neighbours: Neighbours,
    introductions: Introductions,
    mac: Mac,
    identifications: Identifications,
    capabilities: DeviceCapabilities,
    /// Where answers go that have no transmit slot.
    scratch: Vec<u8>,
    /// A set without sockets.
    nobody: SocketSet<'static>,
}

impl Link {
    /// An interface with the addresses of `net`.
    pub(super) fn new(config: &StackConfig, net: &Net) -> Self {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(config.mtu) + ETHERNET_HEADER_BYTES;
        // Received ones are verified before (`checksum`): where the port has done so, the packet itself
        // may hold none (net_vhost).
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities.checksum.udp = Checksum::Tx;
        let address = HardwareAddress::Ethernet(EthernetAddress(config.mac));
        let mut library = Config::new(address);
        library.random_seed = config.seed;
        let mut scratch = Vec::new();
        let mut outcome = Outcome::default();
        let mut device = Device {
            capabilities: &capabilities,
            frame: None,
            out: None,
            scratch: &mut scratch,
            outcome: &mut outcome,
            sequence: None,
        };
        let mut iface = Box::new(Interface::new(library, &mut device, LibraryInstant::ZERO));
        network::configure(&mut iface, net, config.mac);
        let neighbours = Neighbours::new(config, net);
        let introductions = Introductions::new(config.mac, net);
        let nobody = SocketSet::new(Vec::new());
        let (mac, identifications) = (config.mac, Identifications::new(config.seed));
        Self {
            iface,
            neighbours,
            introductions,
            mac,
            identifications,
            capabilities,
            scratch,
            nobody,
        }
    }

    /// The library's interface, for what its sockets ask of it.
    pub(super) fn iface(&mut self) -> &mut Interface {
        &mut self.iface
    }

    /// Gives the library a frame that is for `socket` or for no socket at all. Its answer goes to
    /// `out`, or nowhere.
    pub(super) fn feed(
        &mut self,
        now: Instant,
        frame: &[u8],
        out: Option<&mut TxBurst<'_>>,
        socket: Option<Socket<'_>>,
        counters: &mut Counters,
    ) {
        let sender = out.is_some().then(|| sender(frame)).flatten();
        let stranger = sender.filter(|sender| !self.opens_back(now, *sender));
        if let Some(stranger) = stranger {
            self.feed_unanswered(now, (frame, stranger), socket, counters);
            return;
        }
        let wanted = out.is_some();
        let outcome = self.ingress(now, frame, out, socket);
        counters.tx_frames += u64::from(outcome.written);
        counters.drop_tx_full += u64::from(wanted && outcome.lost);
    }

    /// Gives the library a frame whose sender's Ethernet address is not known. Its answer goes
    /// nowhere, but makes us ask.
    fn feed_unanswered(
        &mut self,
        now: Instant,
        (frame, stranger): (&[u8], IpAddr),
        socket: Option<Socket<'_>>,
        counters: &mut Counters,
    ) {
        let others_wait = self.fragments_wait(now);
        if !self.ingress(now, frame, None, socket).lost {
            return;
        }
        // Of an answer in fragments, the others must not follow.
        while !others_wait && self.fragments_wait(now) {
            self.egress(now, None, None);
        }
        counters.drop_answer_no_neighbour += 1;
        self.neighbours.answer_lost(now, stranger);
    }

    fn ingress(
        &mut self,
        now: Instant,
        frame: &[u8],
        out: Option<&mut TxBurst<'_>>,
        socket: Option<Socket<'_>>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let (sockets, sequence) = match socket {
            Some(Socket { sockets, sequence }) => (sockets, sequence),
            None => (Lent::owned(&mut self.nobody), None),
        };
        let mut device = Device {
            capabilities: &self.capabilities,
            frame: Some(frame),
            out,
            scratch: &mut self.scratch,
            outcome: &mut outcome,
            sequence,
        };
        sockets.ingress(&mut self.iface, to_library(now), &mut device);
        outcome
    }

    /// Whether an answer gets to `remote`; the library can make one in any case.
    fn opens_back(&mut self, now: Instant, remote: IpAddr) -> bool {
        match self.way(now, remote, Purpose::Answer) {
            Ok(()) => true,
            Err(hop) => {
                if let Some(stand_in) = self.introductions.stand_in(hop) {
                    self.introduce(now, &stand_in);
                }
                false
            }
        }
    }

    /// Opens the way to `remote`, or says which neighbour is unknown.
    fn way(&mut self, now: Instant, remote: IpAddr, purpose: Purpose) -> Result<(), IpAddr> {
        if self.introductions.is_open(now, remote, purpose) {
            return Ok(());
        }
        match self.neighbours.way(now, remote, purpose) {
            Way::Many => return Ok(()),
            Way::Unknown(hop) => return Err(hop),
            Way::Known(hop, mac) => {
                if let Some(introduction) = self.introductions.of(now, hop, mac) {
                    self.introduce(now, &introduction);
                }
            }
        }
        self.introductions.opened(now, remote, purpose);
        Ok(())
    }

    fn introduce(&mut self, now: Instant, introduction: &Introduction) {
        if introduction.forget {
            // The library forgets its neighbours whenever its addresses may have changed.
            self.iface.update_ip_addrs(|_| ());
        }
        self.ingress(now, introduction.frame.bytes(), None, None);
    }

    /// Takes an ARP or neighbour discovery frame. Returns the neighbour that it makes known.
    pub(super) fn hear_neighbour(
        &mut self,
        now: Instant,
        frame: &[u8],
        tx: &mut TxBurst<'_>,
        counters: &mut Counters,
    ) -> Option<IpAddr> {
        self.introductions.unsettle();
        let reaction = self.neighbours.hear(now, frame);
        counters.add_neighbours_dropped(self.neighbours.take_dropped());
        if let Some(answer) = reaction.answer
            && !put(tx, answer.bytes(), counters)
        {
            counters.drop_tx_full += 1;
        }
        reaction.learned
    }

    /// Asks for the neighbours that are due.
    pub(super) fn ask_neighbours(
        &mut self,
        now: Instant,
        tx: &mut TxBurst<'_>,
        counters: &mut Counters,
    ) {
        if self.neighbours.ask(now, |question| put(tx, question, counters)) {
            self.introductions.unsettle();
        }
    }

    /// When that is due next.
    pub(super) const fn question_at(&self) -> Option<Instant> {
        self.neighbours.question_at()
    }

    /// Lets a socket send a frame to `remote`.
    pub(super) fn send(
        &mut self,
        now: Instant,
        tx: &mut TxBurst<'_>,
        (socket, remote): (Socket<'_>, IpAddr),
        counters: &mut Counters,
    ) -> Sent {
        if tx.free() == 0 || !self.flush_fragments(now, tx, counters) {
            return Sent::NoSlot;
        }
        // Only who has something to send needs a neighbour.
        if !self.introductions.is_open(now, remote, Purpose::Socket)
            && self.next_poll(now, socket.sockets.sockets()).is_none_or(|at| at > now)
        {
            return Sent::Nothing;
        }
        if !self.opens(now, remote, tx, counters) {
            return Sent::NoNeighbour;
        }
        let outcome = self.egress(now, Some(tx), Some(socket));
        counters.tx_frames += u64::from(outcome.written);
        match outcome {
            Outcome { taken: true, written: false, .. } => Sent::NoNeighbour,
            Outcome { written: true, .. } => Sent::Frame,
            Outcome { .. } => Sent::Nothing,
        }
    }

    /// Sends a packet in `parts`: all of them, if there are slots for all.
    pub(super) fn send_in_fragments(
        &mut self,
        now: Instant,
        tx: &mut TxBurst<'_>,
        (packet, parts): (&fragment::Packet<'_>, impl ExactSizeIterator<Item = Range<usize>>),
        counters: &mut Counters,
    ) -> Sent {
        if !self.flush_fragments(now, tx, counters) || tx.free() < parts.len() {
            return Sent::NoSlot;
        }
        if !self.opens(now, packet.to, tx, counters) {
            return Sent::NoNeighbour;
        }
        let Some(mac) = self.neighbours.mac_of(packet.to) else { return Sent::NoNeighbour };
        let id = self.identifications.next();
        for part in parts {
            let Some(frame) = tx.next(packet.frame_bytes(&part)) else { return Sent::NoSlot };
            packet.write(&part, id, (self.mac, mac), frame);
            counters.tx_frames += 1;
        }
        Sent::Frame
    }

    /// Sends a packet to `remote` in a frame of `len` bytes, which `write` fills in, given our and the
    /// neighbour's Ethernet address.
    pub(super) fn send_frame(
        &mut self,
        now: Instant,
        tx: &mut TxBurst<'_>,
        (remote, len): (IpAddr, usize),
        counters: &mut Counters,
        write: Write<'_>,
    ) -> Sent {
        if !self.opens(now, remote, tx, counters) {
            return Sent::NoNeighbour;
        }
        let Some(mac) = self.neighbours.mac_of(remote) else { return Sent::NoNeighbour };
        let Some(frame) = tx.next(len) else { return Sent::NoSlot };
        write(frame, (self.mac, mac));
        counters.tx_frames += 1;
        Sent::Frame
    }

    /// Whether the way to `remote` is open for a socket that has something to send; if not, the
    /// neighbour is asked for.
    fn opens(
        &mut self,
        now: Instant,
        remote: IpAddr,
        tx: &mut TxBurst<'_>,
        counters: &mut Counters,
    ) -> bool {
        let open = self.way(now, remote, Purpose::Socket).is_ok();
        if !open {
            self.ask_neighbours(now, tx, counters);
        }
        open
    }

    /// Sends the rest of a fragmented packet as far as there are slots. Returns whether all of it
    /// is sent.
    pub(super) fn flush_fragments(
        &mut self,
        now: Instant,
        tx: &mut TxBurst<'_>,
        counters: &mut Counters,
    ) -> bool {
        while self.fragments_wait(now) {
            if tx.free() == 0 {
                return false;
            }
            let outcome = self.egress(now, Some(tx), None);
            counters.tx_frames += u64::from(outcome.written);
        }
        true
    }

    /// Whether a packet is sent in part.
    pub(super) fn fragments_wait(&mut self, now: Instant) -> bool {
        // Without sockets the library has no other reason to be polled.
        self.iface.poll_at(to_library(now), &self.nobody).is_some()
    }

    /// When the one socket of `sockets` has something to do by itself.
    pub(super) fn next_poll(
        &mut self,
        now: Instant,
        sockets: &SocketSet<'static>,
    ) -> Option<Instant> {
        self.iface.poll_at(to_library(now), sockets).map(from_library)
    }

    fn egress(
        &mut self,
        now: Instant,
        tx: Option<&mut TxBurst<'_>>,
        socket: Option<Socket<'_>>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let (sockets, sequence) = match socket {
            Some(Socket { sockets, sequence }) => (sockets, sequence),
            None => (Lent::owned(&mut self.nobody), None),
        };
        let mut device = Device {
            capabilities: &self.capabilities,
            frame: None,
            out: tx,
            scratch: &mut self.scratch,
            outcome: &mut outcome,
            sequence,
        };
        sockets.egress(&mut self.iface, to_library(now), &mut device);
        outcome
    }
}

/// The library counts microseconds.
pub(super) fn to_library(now: Instant) -> LibraryInstant {
    LibraryInstant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

fn from_library(then: LibraryInstant) -> Instant {
    Instant::from_micros(u64::try_from(then.total_micros()).unwrap_or(0))
}

/// Writes a frame into a slot. Returns whether there was one.
fn put(tx: &mut TxBurst<'_>, frame: &[u8], counters: &mut Counters) -> bool {
    let Some(slot) = tx.next(frame.len()) else { return false };
    slot.copy_from_slice(frame);
    counters.tx_frames += 1;
    true
}

/// Whose IP packet a frame is.
fn sender(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x00] => Some(Ipv4Addr::from(*frame.get(26..)?.first_chunk()?).into()),
        [0x86, 0xdd] => Some(Ipv6Addr::from(*frame.get(22..)?.first_chunk::<16>()?).into()),
        _ => None,
    }
}
