//! A client that breaks the contract in every way that its memory and descriptors allow.
//!
//! Everything is drawn from a seed, and each lie is returned, so that a failure can be repeated.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl};

use super::Random;
use crate::attach::Attachment;
use crate::hello::{AttachError, FDS_MAX, Hello};
use crate::layout::{RING_ENTRIES, WorkerLine};
use crate::message::send;
use crate::op::Submission;
use crate::region::Region;
use crate::ring::{Entry, Parts};
use crate::sync::{AtomicU64, Ordering};

/// Memory that a client may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// Cursors, entries, lines and flags.
    Client,
    /// Payload.
    Arena,
}

/// A word that the daemon reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// A submission ring's tail.
    SubmissionTail {
        /// The channel.
        channel: u32,
    },
    /// One word of a submission ring's entry.
    SubmissionSlot {
        /// The channel.
        channel: u32,
        /// The entry's place in the ring.
        entry: u32,
        /// The word in the entry.
        word: u32,
    },
    /// A completion ring's head.
    CompletionHead {
        /// The channel.
        channel: u32,
    },
    /// An instance's pending contexts.
    Pending {
        /// The instance.
        instance: u32,
    },
    /// A word of a socket's client line: by its place, 32 words of 32 bits.
    Line {
        /// The socket's slot.
        slot: u32,
        /// 0-1 `rx_head`, 2-3 `tx_tail`, 4 `tx_claim`, 5 `tx_told`, 6 `rx_told`, 7 `tx_wanted`.
        word: u32,
    },
}

/// Ways to begin badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LyingHello {
    /// Of another protocol version.
    Version(u32),
    /// Cut off after so many bytes.
    Cut(usize),
    /// Longer than any packet.
    Long,
    /// Random bytes.
    Garbage,
    /// An operator's request that is none.
    Operator,
    /// A good one, with as many descriptors as a packet can hold.
    Descriptors,
    /// None at all, but a request.
    Request,
}

impl LyingHello {
    /// One of each.
    pub const ALL: [Self; 8] = [
        Self::Version(u32::MAX),
        Self::Cut(0),
        Self::Cut(20),
        Self::Long,
        Self::Garbage,
        Self::Operator,
        Self::Descriptors,
        Self::Request,
    ];

    /// Sends it on a connected socket.
    pub fn send(self, socket: BorrowedFd<'_>, random: &mut Random) -> io::Result<()> {
        let hello = Hello { name: "hostile".into() };
        let mut noise: Vec<u8> = (0..4096).map(|_| random.next() as u8).collect();
        match self {
            Self::Version(version) => hello.send_version(socket, version),
            Self::Cut(len) => send(socket, &hello.packet()[..len], &[]),
            Self::Long => send(socket, &noise, &[]),
            Self::Garbage => {
                noise.truncate(1 + random.below(300) as usize);
                send(socket, &noise, &[])
            }
            Self::Operator => send(socket, b"{\"request\": [[[[[[[[", &[]),
            Self::Descriptors => {
                let packet = hello.packet();
                send(socket, &packet, &vec![socket; FDS_MAX])
            }
            Self::Request => crate::request::Request::Identify.send(socket),
        }
    }
}

/// A client that attached as any other and then lies.
pub struct HostileClient {
    /// What it got.
    pub attachment: Attachment,
    /// Its session socket.
    pub socket: OwnedFd,
    /// Where its lies come from.
    pub random: Random,
}

impl HostileClient {
    /// Attaches over a connected socket as a client should.
    pub fn attach(socket: OwnedFd, seed: u64) -> Result<Self, AttachError> {
        let hello = Hello { name: "hostile".into() };
        let attachment = Attachment::new(socket.as_fd(), &hello)?;
        Ok(Self { attachment, socket, random: Random::new(seed) })
    }

    /// Writes `value` into `word`: all of a 64-bit word, the low half of a 32-bit one.
    ///
    /// # Panics
    /// If there is no such word: the test's own numbers.
    pub fn lie(&self, word: Word, value: u64) {
        let memory = &self.attachment.memory;
        let half = value as u32;
        match word {
            Word::SubmissionTail { channel } => {
                memory.submissions(channel).tail.count.store(half, Ordering::Release);
            }
            Word::SubmissionSlot { channel, entry, word } => {
                let parts = memory.submissions(channel);
                parts.slots[entry as usize].store_word(word as usize, value);
            }
            Word::CompletionHead { channel } => {
                memory.completions(channel).head.count.store(half, Ordering::Release);
            }
            Word::Pending { instance } => {
                memory.pending(instance).contexts.store(value, Ordering::Release);
            }
            Word::Line { slot, word } => {
                let line = memory.client_line(slot);
                match word {
                    0 | 1 => line.rx_head.store(value, Ordering::Release),
                    2 | 3 => line.tx_tail.store(value, Ordering::Release),
                    4 => line.tx_claim.store(half, Ordering::Release),
                    5 => line.tx_told.store(half, Ordering::Release),
                    6 => line.rx_told.store(half, Ordering::Release),
                    _ => line.tx_wanted.store(half, Ordering::Release),
                }
            }
        }
    }

    /// Writes a lie into any of the words, of the first `slots` sockets. Returns what and where.
    pub fn lie_somewhere(&mut self, slots: u32) -> (Word, u64) {
        let g = self.attachment.memory.geometry;
        let mut below = |bound: u32| self.random.below(u64::from(bound)) as u32;
        let channel = below(g.channels());
        let word = match below(8) {
            0 => Word::SubmissionTail { channel },
            1 => Word::SubmissionSlot { channel, entry: below(RING_ENTRIES), word: below(8) },
            2 => Word::CompletionHead { channel },
            3 => Word::Pending { instance: below(g.instances) },
            _ => Word::Line { slot: below(slots), word: below(8) },
        };
        let value = self.random.lie();
        self.lie(word, value);
        (word, value)
    }

    /// Writes `count` lies to random places of an area.
    pub fn scribble(&mut self, area: Area, count: usize) {
        let region = self.region(area).clone();
        let words = (region.range().len() / 8) as u64;
        for _ in 0..count {
            let (at, lie) = (self.random.below(words), self.random.lie());
            region.shared::<AtomicU64>(8 * at).store(lie, Ordering::Relaxed);
        }
    }

    /// Writes `value` at an offset of an area.
    ///
    /// # Panics
    /// If the offset leaves the area or is no multiple of 8.
    pub fn scribble_at(&self, area: Area, offset: u64, value: u64) {
        self.region(area).shared::<AtomicU64>(offset).store(value, Ordering::Relaxed);
    }

    /// Takes the pages of an area away under the daemon, which seals do not prevent.
    pub fn punch_hole(&self, area: Area) -> io::Result<()> {
        let region = self.region(area);
        let len = i64::try_from(region.range().len()).map_err(io::Error::other)?;
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(region.fd(), flags, 0, len)?)
    }

    /// What it can do to memory that it must not write or resize, by name: nothing, if the seals
    /// are as they should be.
    #[must_use]
    pub fn forbidden_powers(&self) -> Vec<String> {
        let memory = &self.attachment.memory;
        let mut powers = Vec::new();
        let areas = [
            ("beacon", self.attachment.beacon.region(), false),
            ("daemon region", &memory.daemon, false),
            ("client region", &memory.client, true),
            ("arena", &memory.arena, true),
        ];
        for (name, region, writable) in areas {
            for how in powers_over(region, writable) {
                powers.push(format!("{how} the {name}"));
            }
        }
        powers
    }

    /// Submits something, well-formed or not, as a client should: publish, mark, ring.
    pub fn submit(&mut self, context: u32, instance: u32, entry: &Entry) {
        self.submit_many(context, instance, entry, 1);
    }

    /// As [`HostileClient::submit`] of an operation.
    pub fn operate(&mut self, context: u32, instance: u32, operation: &Submission) {
        self.submit(context, instance, &operation.encode());
    }

    /// Submits the same entry `count` times without asking whether there is room.
    pub fn submit_many(&mut self, context: u32, instance: u32, entry: &Entry, count: u32) {
        let memory = &self.attachment.memory;
        let Parts { tail, slots, .. } =
            memory.submissions(memory.geometry.channel(context, instance));
        let mut at = tail.count.load(Ordering::Relaxed);
        for _ in 0..count {
            let slot = &slots[(at % RING_ENTRIES) as usize];
            for (i, word) in entry.iter().enumerate() {
                slot.store_word(i, *word);
            }
            at = at.wrapping_add(1);
        }
        tail.count.store(at, Ordering::Release);
        memory.pending(instance).contexts.fetch_or(1 << context, Ordering::AcqRel);
        self.ring(memory.worker_of(instance));
    }

    /// Rings a worker whether it sleeps or not.
    pub fn ring(&self, worker: u32) {
        self.attachment.workers[worker as usize].ring();
    }

    /// Fills a worker's doorbell to the brim.
    pub fn fill_bell(&self, worker: u32) {
        // An eventfd counts up to 2^64 - 2 (eventfd(2)), in one step if it is empty.
        let _ = self.drain_bell(worker);
        let bell = &self.attachment.workers[worker as usize];
        let _ = nix::unistd::write(bell, &(u64::MAX - 1).to_ne_bytes());
    }

    /// Steals from a worker's doorbell what was rung. Returns how many rings there were.
    pub fn drain_bell(&self, worker: u32) -> io::Result<u64> {
        let mut count = [0; 8];
        nix::unistd::read(&self.attachment.workers[worker as usize], &mut count)?;
        Ok(u64::from_ne_bytes(count))
    }

    /// Lets calls on a worker's doorbell block, or not: the daemon's too, if it made any.
    pub fn let_bell_block(&self, worker: u32, blocks: bool) -> io::Result<()> {
        let flags = if blocks { OFlag::empty() } else { OFlag::O_NONBLOCK };
        fcntl(&self.attachment.workers[worker as usize], FcntlArg::F_SETFL(flags))?;
        Ok(())
    }

    /// Sends a packet on the session socket that may look like a request, with up to three
    /// descriptors.
    pub fn send_garbage(&mut self) -> io::Result<()> {
        let mut bytes: Vec<u8> = (0..32).map(|_| self.random.next() as u8).collect();
        if self.random.below(2) == 0 {
            bytes[..8].copy_from_slice(b"DMMreqst");
            bytes[8..12].copy_from_slice(&[self.random.below(8) as u8, 0, 0, 0]);
        }
        let fds = vec![self.socket.as_fd(); self.random.below(4) as usize];
        send(self.socket.as_fd(), &bytes, &fds)
    }

    const fn region(&self, area: Area) -> &Region {
        match area {
            Area::Client => &self.attachment.memory.client,
            Area::Arena => &self.attachment.memory.arena,
        }
    }
}

/// What can be done to a region that must not be.
fn powers_over(region: &Region, writable: bool) -> Vec<&'static str> {
    let len = region.range().len() as u64;
    let mut powers = Vec::new();
    let mut fds = Vec::from_iter(region.fd().try_clone_to_owned());
    // A descriptor that was opened read-only can be opened anew for writing.
    let reopened = OpenOptions::new().read(true).write(true).open(reopenable(region.fd()));
    fds.extend(reopened.map(OwnedFd::from));
    for fd in &fds {
        for size in [0, len / 2, len * 2] {
            let size = i64::try_from(size).unwrap_or(i64::MAX);
            if nix::unistd::ftruncate(fd, size).is_ok() {
                powers.push("resize");
            }
        }
        if writable {
            continue;
        }
        if fd.try_clone().map(std::fs::File::from).and_then(|mut f| f.write(b"x")).is_ok() {
            powers.push("write to");
        }
        let same = fd.try_clone();
        if same.and_then(|fd| Region::open(fd, size_of::<WorkerLine>() as u64, true)).is_ok() {
            powers.push("map for writing");
        }
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if fallocate(fd, flags, 0, 4096).is_ok() {
            powers.push("punch a hole into");
        }
    }
    powers
}

fn reopenable(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
