//! Which shard of a stack owns a frame.
//!
//! TCP goes by the hash of its 4-tuple, UDP to the home of its port, news about neighbours to all.
//! Fragments go to shard 0, which learns from the first piece of a packet where the rest belongs.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dmm_port::flow::{Flow, FragmentKey, Ports, Traffic, Transport, parse, shard_of, toeplitz};
use dmm_port::{Instant, RxFrame};

use super::binding::Bindings;

/// Packets whose fragments are on their way at most; beyond, the oldest gives way.
const PACKETS_MAX: usize = 256;
/// Bytes of pieces that wait at most; beyond, the oldest packet gives way.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Pieces that may wait for a packet's first: 64 KiB in 1,480-byte pieces, rounded up.
const PIECES_MAX: usize = 48;
/// How long pieces wait (RFC 8200 section 4.5 allows 60 s; Linux waits 30 s).
const PATIENCE: Duration = Duration::from_secs(30);

/// Who gets a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// One shard.
    Shard(usize),
    /// Every shard.
    All,
    /// Shard 0 must decide.
    Decider,
}

/// The steering of one shard.
pub struct Steering {
    /// This shard.
    pub shard: usize,
    /// How many there are.
    pub shards: usize,
    bindings: Arc<Bindings>,
    fragments: Fragments,
}

impl Steering {
    /// The steering of `shard` of `shards`.
    pub fn new(shard: usize, shards: usize, bindings: Arc<Bindings>) -> Self {
        Self { shard, shards, bindings, fragments: Fragments::default() }
    }

    /// Who gets `frame`.
    pub fn owner(&self, frame: &RxFrame<'_>) -> Owner {
        if self.shards == 1 {
            return Owner::Shard(0);
        }
        match parse(frame.bytes) {
            Traffic::Tcp(flow) => Owner::Shard(self.by_hash(&flow)),
            Traffic::Udp(flow) => Owner::Shard(self.by_port(&flow)),
            Traffic::Fragment { .. } => Owner::Decider,
            Traffic::Arp { request: false } | Traffic::Ndp { solicitation: false } => Owner::All,
            // Each answers for its own sockets' groups.
            Traffic::Membership => Owner::All,
            Traffic::IcmpError { embedded: Some((transport, flow)) } => match transport {
                Transport::Tcp => Owner::Shard(self.by_hash(&flow)),
                Transport::Udp => Owner::Shard(self.by_port(&flow)),
            },
            // One shard answers for the whole stack.
            _ => Owner::Shard(0),
        }
    }

    fn by_hash(&self, flow: &Flow) -> usize {
        shard_of(toeplitz(flow), self.shards)
    }

    fn by_port(&self, flow: &Flow) -> usize {
        self.bindings.udp_home(flow.local.port()).unwrap_or_else(|| self.by_hash(flow))
    }

    /// For shard 0: decides about a fragment. `Ok(Some(shard))` if the owner is known; the pieces
    /// that waited follow by [`Steering::release`]. `Ok(None)` if the piece was kept. `Err` if it is
    /// dropped.
    pub fn decide(&mut self, now: Instant, frame: &RxFrame<'_>) -> Result<Option<usize>, Overflow> {
        let Traffic::Fragment { key, first, ports } = parse(frame.bytes) else {
            return Ok(Some(0));
        };
        if first {
            let owner = self.owner_of_first(&key, ports);
            self.fragments.learn(now, key, owner);
            return Ok(Some(owner));
        }
        self.fragments.look_up(now, key, frame)
    }

    fn owner_of_first(&self, key: &FragmentKey, ports: Option<Ports>) -> usize {
        let Some(ports) = ports else { return 0 };
        let flow = Flow {
            local: (key.local, ports.local).into(),
            remote: (key.remote, ports.remote).into(),
        };
        match key.protocol {
            17 => self.by_port(&flow),
            _ => self.by_hash(&flow),
        }
    }

    /// The pieces that waited for an owner that is known now.
    pub fn release(&mut self) -> Vec<(usize, Vec<u8>)> {
        std::mem::take(&mut self.fragments.released)
    }

    /// How many waiting pieces gave way to newer ones since the last call.
    pub fn evicted(&mut self) -> u64 {
        std::mem::take(&mut self.fragments.evicted)
    }

    /// Forgets packets whose pieces waited too long. Returns how many pieces that were.
    pub fn expire(&mut self, now: Instant) -> u64 {
        self.fragments.expire(now)
    }
}

/// Too many fragments of the same packet are waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

struct Packet {
    since: Instant,
    owner: Option<usize>,
    pieces: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Fragments {
    packets: HashMap<FragmentKey, Packet>,
    /// The keys of all packets, the oldest first.
    order: VecDeque<FragmentKey>,
    /// Bytes of the pieces that wait.
    waiting_bytes: usize,
    evicted: u64,
    released: Vec<(usize, Vec<u8>)>,
}

impl Fragments {
    fn learn(&mut self, now: Instant, key: FragmentKey, owner: usize) {
        let packet = self.packet(now, key);
        packet.owner = Some(owner);
        let pieces = std::mem::take(&mut packet.pieces);
        self.waiting_bytes -= total_len(&pieces);
        self.released.extend(pieces.into_iter().map(|piece| (owner, piece)));
    }

    fn look_up(
        &mut self,
        now: Instant,
        key: FragmentKey,
        frame: &RxFrame<'_>,
    ) -> Result<Option<usize>, Overflow> {
        let packet = self.packet(now, key);
        if packet.owner.is_some() {
            return Ok(packet.owner);
        }
        if packet.pieces.len() == PIECES_MAX {
            return Err(Overflow);
        }
        packet.pieces.push(frame.bytes.to_vec());
        self.waiting_bytes += frame.bytes.len();
        while self.waiting_bytes > WAITING_BYTES_MAX {
            self.evicted += self.forget_oldest();
        }
        Ok(None)
    }

    /// The packet of `key`, a new one if need be. A new one always gets in: the oldest goes, so a
    /// flood of lone pieces keeps nobody out.
    fn packet(&mut self, now: Instant, key: FragmentKey) -> &mut Packet {
        if !self.packets.contains_key(&key) {
            if self.packets.len() >= PACKETS_MAX {
                self.evicted += self.forget_oldest();
            }
            self.order.push_back(key);
        }
        let fresh = || Packet { since: now, owner: None, pieces: Vec::new() };
        self.packets.entry(key).or_insert_with(fresh)
    }

    fn expire(&mut self, now: Instant) -> u64 {
        let mut lost = 0;
        while let Some(oldest) = self.order.front()
            && now.since(self.packets[oldest].since) >= PATIENCE
        {
            lost += self.forget_oldest();
        }
        lost
    }

    /// Forgets the oldest packet. Returns how many pieces waited for its first.
    fn forget_oldest(&mut self) -> u64 {
        let oldest = self.order.pop_front().and_then(|key| self.packets.remove(&key));
        let pieces = oldest.map(|packet| packet.pieces).unwrap_or_default();
        self.waiting_bytes -= total_len(&pieces);
        pieces.len() as u64
    }
}

fn total_len(pieces: &[Vec<u8>]) -> usize {
    pieces.iter().map(Vec::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::binding::Holder;
    use crate::session::SessionId;

    fn ipv4(protocol: u8, fragment_word: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
        frame.extend_from_slice(&u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(&[0x12, 0x34]);
        frame.extend_from_slice(&fragment_word.to_be_bytes());
        frame.extend_from_slice(&[64, protocol, 0, 0, 10, 0, 0, 9, 10, 0, 0, 1]);
        frame.extend_from_slice(payload);
        frame
    }

    fn frame(bytes: &[u8]) -> RxFrame<'_> {
        RxFrame { bytes, checksum: dmm_port::RxChecksum::Unknown, hash: None }
    }

    fn steering_with_udp_53_on(shard: usize) -> Steering {
        let bindings = Arc::new(Bindings::default());
        let holder = Holder { session: SessionId(1), slot: 0, generation: 1 };
        let local = "0.0.0.0:53".parse().unwrap();
        bindings.bind(Transport::Udp, (local, None), holder, shard, 0).unwrap();
        Steering::new(0, 4, bindings)
    }

    const UDP_TO_53: [u8; 16] = [0x12, 0x34, 0, 53, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

    #[test]
    fn udp_goes_home_from_every_source() {
        let steering = steering_with_udp_53_on(3);
        let datagram = ipv4(17, 0, &UDP_TO_53);
        assert_eq!(steering.owner(&frame(&datagram)), Owner::Shard(3));
    }

    #[test]
    fn what_routers_ask_of_groups_goes_to_all() {
        let steering = steering_with_udp_53_on(3);
        assert_eq!(steering.owner(&frame(&ipv4(2, 0, &[0x11, 1, 0, 0, 0, 0, 0, 0]))), Owner::All);
    }

    #[test]
    fn later_pieces_follow_the_first_in_any_order() {
        let mut steering = steering_with_udp_53_on(3);
        let (first, last) = (ipv4(17, 0x2000, &UDP_TO_53), ipv4(17, 2, &[9; 8]));
        assert_eq!(steering.owner(&frame(&last)), Owner::Decider);
        assert_eq!(steering.decide(Instant::ZERO, &frame(&last)), Ok(None));
        assert_eq!(steering.decide(Instant::ZERO, &frame(&first)), Ok(Some(3)));
        assert_eq!(steering.release(), vec![(3, last.clone())]);
        assert_eq!(steering.decide(Instant::ZERO, &frame(&last)), Ok(Some(3)));
        assert!(steering.release().is_empty());
    }

    #[test]
    fn pieces_without_a_first_are_bounded_and_expire() {
        let mut steering = steering_with_udp_53_on(3);
        let last = ipv4(17, 2, &[9; 8]);
        for _ in 0..PIECES_MAX {
            assert_eq!(steering.decide(Instant::ZERO, &frame(&last)), Ok(None));
        }
        assert_eq!(steering.decide(Instant::ZERO, &frame(&last)), Err(Overflow));
        assert_eq!(steering.expire(Instant::ZERO + PATIENCE), PIECES_MAX as u64);
        assert_eq!(steering.decide(Instant::ZERO, &frame(&last)), Ok(None));
    }

    #[test]
    fn lone_pieces_give_way_to_a_packet_that_is_complete() {
        let mut steering = steering_with_udp_53_on(3);
        let lone = |id: u16, len: usize| {
            let mut piece = ipv4(17, 2, &vec![9; len]);
            piece[18..20].copy_from_slice(&id.to_be_bytes());
            piece
        };
        let flood = PACKETS_MAX as u16 + 10;
        for id in 0..flood {
            assert_eq!(steering.decide(Instant::ZERO, &frame(&lone(id, 8))), Ok(None));
        }
        assert_eq!(steering.evicted(), 10);
        // The good packet's pieces come in the wrong order, and others between them.
        let (first, last) = (ipv4(17, 0x2000, &UDP_TO_53), ipv4(17, 2, &[9; 8]));
        assert_eq!(steering.decide(Instant::ZERO, &frame(&last)), Ok(None));
        for id in 0x2000..0x2000 + PACKETS_MAX as u16 - 1 {
            assert_eq!(steering.decide(Instant::ZERO, &frame(&lone(id, 8))), Ok(None));
        }
        assert_eq!(steering.decide(Instant::ZERO, &frame(&first)), Ok(Some(3)));
        assert_eq!(steering.release(), vec![(3, last)]);
        assert_eq!(steering.evicted(), PACKETS_MAX as u64);
        // Bytes are bounded too: 30,034 of each piece.
        for id in 0..200 {
            steering.decide(Instant::ZERO, &frame(&lone(id, 30_000))).unwrap();
            assert!(steering.fragments.waiting_bytes <= WAITING_BYTES_MAX);
        }
        let kept = steering.fragments.packets.len();
        assert_eq!(kept, WAITING_BYTES_MAX / 30_034);
        assert_eq!(steering.evicted(), PACKETS_MAX as u64 - 1 + 200 - kept as u64);
        assert_eq!(steering.expire(Instant::ZERO + PATIENCE), kept as u64);
        assert_eq!(steering.fragments.waiting_bytes, 0);
    }
}
