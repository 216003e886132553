//! Packets put together from their fragments, IPv4 (RFC 791 section 3.2, RFC 815) and IPv6
//! (RFC 8200 section 4.5).
//!
//! Owns: the pieces of packets that are not complete, and how many pieces were lost, by reason.
//! Called by a kind of stack for each fragment and when the time comes; what is complete is given
//! back as one whole Ethernet frame without a trace of its fragments. Must never: read a clock,
//! hold more than its bounds, or let a flood of unfinished packets keep a good one out: it is the
//! oldest that goes, and first the oldest of a sender who holds more than a share.
//!
//! ```text
//!   fragment ─▶ Piece ─▶ packets, oldest first: [ head, pieces by offset ] ─ complete ─▶ frame
//!                          │ 30 s: timeout    │ too many: evicted    │ contradiction: void
//! ```
#![forbid(unsafe_code)]

mod piece;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use dmm_port::Instant;
use dmm_port::flow::{self, FragmentKey, Traffic};

use piece::{Head, Piece};

/// Packets in progress at most.
const PACKETS_MAX: usize = 64;
/// Packets in progress at most that come from one address.
const PACKETS_PER_SOURCE: usize = PACKETS_MAX / 4;
/// Bytes held at most, with [`PIECE_COST_BYTES`] for each piece: 14 of the largest packets.
const BYTES_MAX: usize = 1 << 20;
/// Bytes held at most that came from one address.
const BYTES_PER_SOURCE: usize = BYTES_MAX / 4;
/// What a piece costs beyond its payload: its record, and the allocator's.
const PIECE_COST_BYTES: usize = 64;
/// Pieces of one packet at most: 65,535 bytes over the least path that RFC 791 section 3.2 lets a
/// host count on, 576 bytes, are 119.
const PIECES_MAX: usize = 128;
/// How long a packet may take (RFC 8200 section 4.5 says 60 s; Linux waits 30 s).
const LIFE: Duration = Duration::from_secs(30);
/// The longest IPv4 packet, and the longest IPv6 payload (RFC 791 section 3.1, RFC 8200 section 3).
const LEN_MAX: usize = 65_535;

// A packet alone never exceeds its sender's share.
const _: () = assert!(LEN_MAX + PIECES_MAX * PIECE_COST_BYTES <= BYTES_PER_SOURCE);

/// Pieces lost, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    /// The rest of their packet did not come in time.
    pub(crate) timeout: u64,
    /// Their packet gave way to a newer one.
    pub(crate) evicted: u64,
    /// They, or others of their packet, overlap or contradict each other.
    pub(crate) overlap: u64,
    /// They cannot be pieces of a packet, or are too many.
    pub(crate) malformed: u64,
}

/// The packets in progress.
#[derive(Default)]
pub(crate) struct Reassembler {
    /// The oldest first.
    packets: VecDeque<Packet>,
    losses: Losses,
}

impl Reassembler {
    /// Takes the frame of a fragment. Returns the whole packet's frame if this completes it; it is
    /// none of a fragment again.
    pub(crate) fn receive(&mut self, now: Instant, frame: &[u8]) -> Option<Vec<u8>> {
        self.expire(now);
        let Some(piece) = Piece::parse(frame) else {
            self.losses.malformed += 1;
            return None;
        };
        let key = piece.key;
        let packet = self.packet(now, key)?;
        let fit = packet.insert(&piece);
        match fit {
            Fit::Kept => self.make_room(key),
            Fit::Duplicate => {}
            Fit::Void { pieces, why } => self.losses.add(why, pieces),
        }
        let at = self.packets.iter().position(|packet| packet.key == key)?;
        if !self.packets[at].is_complete() {
            return None;
        }
        let packet = self.packets.remove(at)?;
        let pieces = packet.pieces.len();
        let whole = packet.into_frame().filter(|whole| {
            // RFC 8200 section 4.1: a packet is cut once.
            !matches!(flow::parse(whole), Traffic::Fragment { .. })
        });
        if whole.is_none() {
            self.losses.add(Why::Malformed, pieces);
        }
        whole
    }

    /// Gives up what takes too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(oldest) = self.packets.front()
            && now.since(oldest.since) >= LIFE
        {
            self.losses.timeout += oldest.pieces.len() as u64;
            self.packets.pop_front();
        }
    }

    /// When [`Reassembler::expire`] has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.packets.front().map(|oldest| oldest.since + LIFE)
    }

    /// What was lost since the last call.
    pub(crate) fn take_losses(&mut self) -> Losses {
        std::mem::take(&mut self.losses)
    }

    /// The packet of `key`, a new one if need be. There is one whatever was evicted for it.
    fn packet(&mut self, now: Instant, key: FragmentKey) -> Option<&mut Packet> {
        if let Some(at) = self.packets.iter().position(|packet| packet.key == key) {
            return self.packets.get_mut(at);
        }
        let theirs = self.packets.iter().filter(|packet| packet.key.remote == key.remote).count();
        if theirs >= PACKETS_PER_SOURCE {
            self.evict(key, Some(key.remote));
        } else if self.packets.len() >= PACKETS_MAX {
            self.evict(key, None);
        }
        self.packets.push_back(Packet::new(now, key));
        self.packets.back_mut()
    }

    /// Keeps to the bounds on bytes without touching the packet of `key`.
    fn make_room(&mut self, key: FragmentKey) {
        let of_source = |packet: &&Packet| packet.key.remote == key.remote;
        while self.packets.iter().filter(of_source).map(Packet::cost).sum::<usize>()
            > BYTES_PER_SOURCE
        {
            self.evict(key, Some(key.remote));
        }
        while self.packets.iter().map(Packet::cost).sum::<usize>() > BYTES_MAX {
            self.evict(key, None);
        }
    }

    /// Gives up the oldest packet, of `source` if that is given, but not that of `key`.
    fn evict(&mut self, key: FragmentKey, source: Option<IpAddr>) {
        let at = self.packets.iter().position(|packet| {
            packet.key != key && source.is_none_or(|source| packet.key.remote == source)
        });
        if let Some(packet) = at.and_then(|at| self.packets.remove(at)) {
            self.losses.evicted += packet.pieces.len() as u64;
        }
    }
}

/// Why pieces of a packet that is not too old are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Overlap,
    Malformed,
}

impl Losses {
    fn add(&mut self, why: Why, pieces: usize) {
        match why {
            Why::Overlap => self.overlap += pieces as u64,
            Why::Malformed => self.malformed += pieces as u64,
        }
    }
}

/// What became of a piece.
enum Fit {
    /// It is held.
    Kept,
    /// It was there already.
    Duplicate,
    /// It is lost, and with it its packet's others, `pieces` in all.
    Void { pieces: usize, why: Why },
}

/// A packet in progress.
struct Packet {
    key: FragmentKey,
    since: Instant,
    /// Everything before the payload, once the first piece is here.
    head: Option<Head>,
    /// By offset, without overlaps.
    pieces: Vec<Held>,
    /// Bytes of them.
    held_bytes: usize,
    /// The payload's length, once the last piece is here.
    end: Option<usize>,
    /// It was given up, and what still comes of it is lost for the same reason.
    void: Option<Why>,
}

struct Held {
    offset: usize,
    data: Vec<u8>,
    more: bool,
}

impl Held {
    fn end(&self) -> usize {
        self.offset + self.data.len()
    }
}

impl Packet {
    fn new(since: Instant, key: FragmentKey) -> Self {
        Self { key, since, head: None, pieces: Vec::new(), held_bytes: 0, end: None, void: None }
    }

    /// Bytes that it counts for.
    fn cost(&self) -> usize {
        self.held_bytes + self.pieces.len() * PIECE_COST_BYTES
    }

    fn is_complete(&self) -> bool {
        // Pieces do not overlap and do not reach beyond the end: their sum leaves no hole.
        self.end == Some(self.held_bytes)
    }

    fn insert(&mut self, piece: &Piece<'_>) -> Fit {
        if let Some(why) = self.void {
            return Fit::Void { pieces: 1, why };
        }
        let at = self.pieces.partition_point(|held| held.offset < piece.offset);
        if let Some(held) = self.pieces.get(at)
            && (held.offset, held.more, &held.data[..]) == (piece.offset, piece.more, piece.data)
        {
            // RFC 8200 section 4.5: exact duplicates come from the network, not from an attacker.
            return Fit::Duplicate;
        }
        if self.contradicts(at, piece) {
            return self.give_up(Why::Overlap);
        }
        if self.pieces.len() == PIECES_MAX {
            return self.give_up(Why::Malformed);
        }
        if piece.offset == 0 {
            self.head = Some(piece.head());
        }
        if !piece.more {
            self.end = Some(piece.end());
        }
        self.held_bytes += piece.data.len();
        let held = Held { offset: piece.offset, data: piece.data.to_vec(), more: piece.more };
        self.pieces.insert(at, held);
        Fit::Kept
    }

    /// Whether a piece, whose place is `at`, overlaps others or disagrees with them about the end.
    fn contradicts(&self, at: usize, piece: &Piece<'_>) -> bool {
        let overlaps_before = at.checked_sub(1).is_some_and(|at| {
            let before = &self.pieces[at];
            before.end() > piece.offset
        });
        let overlaps_after = self.pieces.get(at).is_some_and(|after| piece.end() > after.offset);
        let beyond_end = self.end.is_some_and(|end| piece.end() > end || !piece.more);
        let before_others = !piece.more && at < self.pieces.len();
        overlaps_before || overlaps_after || beyond_end || before_others
    }

    /// RFC 5722 section 4: the packet goes, and with it the pieces that are not here yet. RFC 1858
    /// and RFC 3128 show why IPv4 is no different.
    fn give_up(&mut self, why: Why) -> Fit {
        let pieces = self.pieces.len() + 1;
        *self = Self { void: Some(why), ..Self::new(self.since, self.key) };
        Fit::Void { pieces, why }
    }

    /// The frame of a complete packet, unless it is too long with its first piece's header.
    fn into_frame(self) -> Option<Vec<u8>> {
        let mut frame = self.head?.of_whole(self.held_bytes)?;
        frame.reserve_exact(self.held_bytes);
        for held in &self.pieces {
            frame.extend_from_slice(&held.data);
        }
        Some(frame)
    }
}
