//! The link: frames out, to neighbours and to ourselves.
//!
//! Owns: the neighbours, and frames on their way back to us. Called for each frame to be sent. Must never:
//! send a frame to a station whose address it only guesses.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

use dmm_port::{Instant, TxBurst};

use crate::config::StackConfig;
use crate::ip::discovery::{self, Mac};
use crate::ip::fragment::{Identifications, Packet};
use crate::ip::neighbours::{Neighbours, Purpose, Way};
use crate::ip::net::Net;
use crate::ip::vlan::{self, TAG_BYTES};
use crate::ip::{Counters, Sent};
use crate::sockets::udp::Carried;

/// Frames to ourselves that may wait: as many as a row of transmit slots holds.
const LOOPED_MAX: usize = dmm_port::TX_SLOTS;

/// The way of one frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    /// Our station and the next. They may be the same: a TAP's both ends have one address.
    macs: (Mac, Mac),
    reach: Reach,
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// To other stations.
    Others,
    /// Back to us.
    Home,
    /// Both, as a frame to many may (RFC 1112 section 6.2, IP_MULTICAST_LOOP in ip(7)).
    Everybody,
}

/// The link.
pub(super) struct Link {
    mac: Mac,
    mtu: usize,
    vlan: Option<u16>,
    net: Net,
    neighbours: Neighbours,
    identifications: Identifications,
    looped: VecDeque<Vec<u8>>,
    /// Counts.
    pub(super) counters: Counters,
}

impl Link {
    /// A link with the addresses of `net`.
    pub(super) fn new(config: &StackConfig, net: &Net) -> Self {
        Self {
            mac: config.mac,
            mtu: usize::from(config.mtu),
            vlan: config.vlan,
            net: net.clone(),
            neighbours: Neighbours::new(config, net),
            identifications: Identifications::new(config.seed),
            looped: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Our station.
    pub(super) const fn mac(&self) -> Mac {
        self.mac
    }

    /// The VLAN that its frames are in.
    pub(super) const fn vlan(&self) -> Option<u16> {
        self.vlan
    }

    /// The network that it is a link of.
    pub(super) const fn net(&self) -> &Net {
        &self.net
    }

    /// Bytes of a packet at most.
    pub(super) const fn mtu(&self) -> usize {
        self.mtu
    }

    /// Opens the way to `to` for one frame, which goes to other stations alone if they are many. A neighbour
    /// that is not known is asked for.
    pub(super) fn open(
        &mut self,
        now: Instant,
        tx: &mut TxBurst<'_>,
        to: IpAddr,
        purpose: Purpose,
    ) -> Result<Opened, Sent> {
        if self.net.is_own(to) {
            let opened = Opened { macs: (self.mac, self.mac), reach: Reach::Home };
            return if self.looped.len() < LOOPED_MAX { Ok(opened) } else { Err(Sent::NoSlot) };
        }
        if tx.free() == 0 {
            return Err(Sent::NoSlot);
        }
        let next = match self.neighbours.way(now, to, purpose) {
            Way::Known(_, mac) => mac,
            Way::Many => group_mac(to),
            Way::Unknown(_) => {
                if purpose == Purpose::Answer {
                    self.counters.drop_answer_no_neighbour += 1;
                    self.neighbours.answer_lost(now, to);
                }
                self.ask_neighbours(now, tx);
                return Err(Sent::NoNeighbour);
            }
        };
        Ok(Opened { macs: (self.mac, next), reach: Reach::Others })
    }

    /// As [`Link::open`], with `reach` for what goes to many.
    pub(super) fn open_to_many(
        &mut self,
        now: Instant,
        tx: &mut TxBurst<'_>,
        to: IpAddr,
        reach: Reach,
    ) -> Result<Opened, Sent> {
        let opened = self.open(now, tx, to, Purpose::Socket)?;
        Ok(if self.net.is_many(to) { Opened { reach, ..opened } } else { opened })
    }

    /// Puts a frame of `len` bytes on the way that [`Link::open`] opened.
    pub(super) fn put(
        &mut self,
        tx: &mut TxBurst<'_>,
        (Opened { macs, reach }, len): (Opened, usize),
        write: impl FnOnce(&mut [u8], (Mac, Mac)),
    ) -> Sent {
        if reach == Reach::Home {
            let mut frame = vec![0; len];
            write(&mut frame, macs);
            self.loop_back(frame);
        } else {
            let tag_bytes = if self.vlan.is_some() { TAG_BYTES } else { 0 };
            let Some(frame) = tx.next(len + tag_bytes) else { return Sent::NoSlot };
            write(&mut frame[tag_bytes..], macs);
            let copy = (reach == Reach::Everybody).then(|| frame[tag_bytes..].to_vec());
            if let Some(vlan) = self.vlan {
                vlan::insert(frame, vlan);
            }
            if let Some(copy) = copy {
                self.loop_back(copy);
            }
        }
        self.counters.tx_frames += 1;
        Sent::Frame
    }

    fn loop_back(&mut self, frame: Vec<u8>) {
        // Who sends to us alone waits for room; what goes to many waits for nobody.
        if self.looped.len() < LOOPED_MAX {
            self.looped.push_back(frame);
        } else {
            self.counters.drop_loop_full += 1;
        }
    }

    /// Sends a frame of `len` bytes towards `to`.
    pub(super) fn send(
        &mut self,
        now: Instant,
        tx: &mut TxBurst<'_>,
        (to, len, purpose): (IpAddr, usize, Purpose),
        write: impl FnOnce(&mut [u8], (Mac, Mac)),
    ) -> Sent {
        match self.open(now, tx, to, purpose) {
            Ok(opened) => self.put(tx, (opened, len), write),
            Err(sent) => sent,
        }
    }

    /// Sends a packet, in fragments if it must be; to other stations alone if they are many.
    pub(super) fn send_packet(
        &mut self,
        now: Instant,
        tx: &mut TxBurst<'_>,
        packet: &Packet<'_>,
        purpose: Purpose,
    ) -> Carried {
        self.send_parts(tx, packet, |link, tx| link.open(now, tx, packet.to, purpose))
    }

    /// Sends a packet, in fragments if it must be, on the way that `open` opens for them.
    pub(super) fn send_parts(
        &mut self,
        tx: &mut TxBurst<'_>,
        packet: &Packet<'_>,
        open: impl FnOnce(&mut Self, &mut TxBurst<'_>) -> Result<Opened, Sent>,
    ) -> Carried {
        let Some(parts) = packet.parts(self.mtu) else { return Carried::TooBig };
        let room =
            if self.net.is_own(packet.to) { LOOPED_MAX - self.looped.len() } else { tx.free() };
        if room < parts.len() {
            return Carried::NoSlot;
        }
        let opened = match open(self, tx) {
            Ok(opened) => opened,
            Err(Sent::NoNeighbour) => return Carried::NoNeighbour,
            Err(_) => return Carried::NoSlot,
        };
        let id = if parts.len() > 1 { self.identifications.next() } else { 0 };
        for part in parts {
            let write = |frame: &mut [u8], macs| packet.write(&part, id, macs, frame);
            if self.put(tx, (opened, packet.frame_bytes(&part)), write) != Sent::Frame {
                return Carried::NoSlot;
            }
        }
        Carried::Sent
    }

    /// Takes an ARP or neighbour discovery frame. Returns the neighbour that it makes known.
    pub(super) fn hear_neighbour(
        &mut self,
        now: Instant,
        frame: &[u8],
        tx: &mut TxBurst<'_>,
    ) -> Option<IpAddr> {
        let reaction = self.neighbours.hear(now, frame);
        self.counters.add_neighbours_dropped(self.neighbours.take_dropped());
        if let Some(answer) = reaction.answer
            && !copy(tx, (answer.bytes(), self.vlan), &mut self.counters)
        {
            self.counters.drop_tx_full += 1;
        }
        reaction.learned
    }

    /// Asks for the neighbours that are due.
    pub(super) fn ask_neighbours(&mut self, now: Instant, tx: &mut TxBurst<'_>) {
        let (counters, vlan) = (&mut self.counters, self.vlan);
        self.neighbours.ask(now, |question| copy(tx, (question, vlan), counters));
    }

    /// When that is due next.
    pub(super) const fn question_at(&self) -> Option<Instant> {
        self.neighbours.question_at()
    }

    /// The next frame to ourselves.
    pub(super) fn take_looped(&mut self) -> Option<Vec<u8>> {
        self.looped.pop_front()
    }

    /// How many there are.
    pub(super) fn looped(&self) -> usize {
        self.looped.len()
    }
}

/// Writes a frame into a slot. Returns whether there was one.
fn copy(
    tx: &mut TxBurst<'_>,
    (frame, vlan): (&[u8], Option<u16>),
    counters: &mut Counters,
) -> bool {
    let tag_bytes = if vlan.is_some() { TAG_BYTES } else { 0 };
    let Some(slot) = tx.next(frame.len() + tag_bytes) else { return false };
    slot[tag_bytes..].copy_from_slice(frame);
    if let Some(vlan) = vlan {
        vlan::insert(slot, vlan);
    }
    counters.tx_frames += 1;
    true
}

/// Where frames to many stations go (RFC 1112 section 6.4, RFC 2464 section 7).
fn group_mac(to: IpAddr) -> Mac {
    match to {
        IpAddr::V4(group) if group.is_multicast() => {
            let [_, b, c, d] = Ipv4Addr::octets(&group);
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V4(_) => [0xff; 6],
        IpAddr::V6(group) => discovery::group_mac(group),
    }
}
