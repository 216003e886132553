//! One direction of the wire: from the transmit queues of one port to the receive queues of the
//! other.
//!
//! Owns: the frames in flight, the pool of spare buffers, the counters, and the doorbells of
//! sleeping receivers. Called by both ends' queues, from two threads or one. Must never: hold its
//! lock across a system call, or allocate once the pool has grown to what is in flight.
//!
//! ```text
//!  TxRow ──send──▶ Impairments ──▶ lane 0: heap by due time ──receive──▶ RxRow
//!    ▲                  └────────▶ lane 1: heap by due time ──receive──▶ RxRow
//!    └───────────── spare buffers ◀──────────────────────────────────────┘
//! ```

#![forbid(unsafe_code)]

use std::cmp::{Ordering as Order, Reverse};
use std::collections::BinaryHeap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::fate::{Fate, Impairments};
use super::mark::mark;
use super::{WireConfig, WireError, WireStats};
use crate::buffer::{FrameBuffer, RxRow, TxRow};
use crate::flow::{self, Traffic};
use crate::{BURST, Instant};

/// [`Lane::next_due`] of a lane without frames.
const NEVER: u64 = u64::MAX;

pub(super) struct Direction {
    state: Mutex<State>,
    lanes: Vec<Lane>,
    /// Whether the link is up; frames sent while it is not are lost.
    up: AtomicBool,
    /// Bytes of a frame at most; longer ones are lost.
    longest: AtomicU32,
    rss: bool,
    frame_capacity: u32,
}

/// What a receiver can see without the lock.
struct Lane {
    /// When the first frame in the lane's heap is due, in nanoseconds. Written under the lock.
    next_due: AtomicU64,
    /// Whether the receiver is about to sleep, or sleeps.
    armed: AtomicBool,
    doorbell: EventFd,
}

struct State {
    impairments: Impairments,
    heaps: Vec<BinaryHeap<Reverse<InFlight>>>,
    in_flight: usize,
    in_flight_limit: usize,
    /// Counts frames, so that those due at the same time arrive in the order sent.
    sequence: u64,
    spare: Vec<FrameBuffer>,
    traffic: DirectionStats,
}

/// Counters of one direction.
#[derive(Clone, Copy, Default)]
pub(super) struct DirectionStats {
    pub(super) frames: WireStats,
    pub(super) sent_bytes: u64,
    pub(super) delivered_bytes: u64,
}

struct InFlight {
    due: Instant,
    sequence: u64,
    hash: Option<u32>,
    buffer: FrameBuffer,
}

impl Direction {
    pub(super) fn new(
        config: &WireConfig,
        seed: u64,
        frame_capacity: u32,
    ) -> Result<Self, WireError> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let lane = || -> Result<Lane, WireError> {
            let doorbell = EventFd::from_value_and_flags(0, flags)
                .map_err(|errno| WireError::Doorbell(errno.into()))?;
            Ok(Lane { next_due: AtomicU64::new(NEVER), armed: AtomicBool::new(false), doorbell })
        };
        let state = State {
            impairments: Impairments::new(config, seed)?,
            heaps: (0..config.queues).map(|_| BinaryHeap::new()).collect(),
            in_flight: 0,
            in_flight_limit: config.in_flight_limit,
            sequence: 0,
            spare: Vec::new(),
            traffic: DirectionStats::default(),
        };
        Ok(Self {
            state: Mutex::new(state),
            lanes: (0..config.queues).map(|_| lane()).collect::<Result<_, _>>()?,
            up: AtomicBool::new(true),
            longest: AtomicU32::new(u32::MAX),
            rss: config.rss,
            frame_capacity,
        })
    }

    /// Sends what `row` holds at `now`, and refills it. Returns how many frames found no room.
    pub(super) fn send(&self, row: &mut TxRow, now: Instant) -> u64 {
        let up = self.up.load(Ordering::Relaxed);
        let mut earlier_lanes = 0;
        let overflowed = {
            let mut state = self.lock();
            let before = state.traffic.frames.overflowed;
            for buffer in row.sent() {
                if let Some(lane) = state.send(buffer, now, up, self) {
                    earlier_lanes |= 1u64 << lane;
                }
            }
            self.refill_from(&mut state, row);
            state.traffic.frames.overflowed - before
        };
        self.ring(earlier_lanes);
        overflowed
    }

    /// Lays out buffers in `row`.
    pub(super) fn refill(&self, row: &mut TxRow) {
        if row.missing() > 0 {
            self.refill_from(&mut self.lock(), row);
        }
    }

    /// Replaces what `row` holds by up to [`BURST`] frames that are due in `lane`.
    pub(super) fn receive(&self, lane: usize, row: &mut RxRow, now: Instant) {
        let next_due = &self.lanes[lane].next_due;
        if row.is_empty() && next_due.load(Ordering::Acquire) > now.as_nanos() {
            return;
        }
        let state = &mut *self.lock();
        state.spare.extend(row.take());
        let heap = &mut state.heaps[lane];
        while row.len() < BURST && heap.peek().is_some_and(|Reverse(frame)| frame.due <= now) {
            let Some(Reverse(frame)) = heap.pop() else { break };
            state.traffic.frames.delivered += 1;
            state.traffic.delivered_bytes += frame.buffer.bytes().len() as u64;
            row.push(frame.buffer, frame.hash);
        }
        state.in_flight -= row.len();
        let first = heap.peek().map_or(NEVER, |Reverse(frame)| frame.due.as_nanos());
        next_due.store(first, Ordering::Release);
    }

    /// When the next frame in `lane` is due.
    pub(super) fn deadline(&self, lane: usize) -> Option<Instant> {
        match self.lanes[lane].next_due.load(Ordering::Acquire) {
            NEVER => None,
            nanos => Some(Instant::from_nanos(nanos)),
        }
    }

    /// Publishes that the receiver of `lane` is about to sleep. It looks at the lane once more
    /// after this, so either it sees a frame or the sender sees the flag.
    pub(super) fn arm(&self, lane: usize) {
        self.lanes[lane].armed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Takes that back, and silences the doorbell. A sender that took the flag just before may ring
    /// after this: that costs one needless wake-up later.
    pub(super) fn disarm(&self, lane: usize) {
        self.lanes[lane].armed.store(false, Ordering::Relaxed);
        // EAGAIN says that nobody rang; an eventfd gives no other error here.
        let _ = self.lanes[lane].doorbell.read();
    }

    pub(super) fn doorbell(&self, lane: usize) -> RawFd {
        self.lanes[lane].doorbell.as_raw_fd()
    }

    pub(super) fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
    }

    pub(super) fn set_longest(&self, bytes: Option<u32>) {
        self.longest.store(bytes.unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    pub(super) fn stats(&self) -> DirectionStats {
        let state = self.lock();
        let mut stats = state.traffic;
        stats.frames.in_flight = state.heaps.iter().map(|heap| heap.len() as u64).sum();
        stats
    }

    fn refill_from(&self, state: &mut State, row: &mut TxRow) {
        for _ in 0..row.missing() {
            row.lay_out(state.buffer(self.frame_capacity));
        }
    }

    /// Wakes the receivers of the lanes in the bitmap that sleep. The first frame of each is now
    /// due earlier than when its receiver last looked; a frame behind the first needs no bell, since
    /// the receiver sleeps no longer than until the first is due.
    fn ring(&self, earlier_lanes: u64) {
        if earlier_lanes == 0 {
            return;
        }
        fence(Ordering::SeqCst);
        for (index, lane) in self.lanes.iter().enumerate() {
            let earlier = earlier_lanes & (1 << index) != 0;
            if earlier
                && lane.armed.load(Ordering::Relaxed)
                && lane.armed.swap(false, Ordering::Relaxed)
            {
                // EAGAIN says that the counter is full of earlier rings: the descriptor is readable.
                let _ = lane.doorbell.write(1);
            }
        }
    }

    /// A panic elsewhere under the lock can at worst have lost a frame or a count.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lane for a frame, and its hash if it belongs to a flow.
    fn place(&self, frame: &[u8]) -> (usize, Option<u32>) {
        if !self.rss {
            return (0, None);
        }
        match flow::parse(frame) {
            Traffic::Tcp(flow) | Traffic::Udp(flow) => {
                let hash = flow::toeplitz(&flow);
                (flow::shard_of(hash, self.lanes.len()), Some(hash))
            }
            // Like a NIC: no ports in most fragments, so all of a packet go by its addresses.
            Traffic::Fragment { key, .. } => {
                let hash = flow::toeplitz_addresses(key.local, key.remote);
                (flow::shard_of(hash, self.lanes.len()), None)
            }
            _ => (0, None),
        }
    }
}

impl State {
    /// Sends one frame. Returns its lane if it is now the first due there.
    fn send(
        &mut self,
        mut buffer: FrameBuffer,
        now: Instant,
        up: bool,
        direction: &Direction,
    ) -> Option<usize> {
        let len = buffer.bytes().len();
        self.traffic.frames.sent += 1;
        self.traffic.sent_bytes += len as u64;
        let fate = self.impairments.decide(len, now);
        let Fate::Arrival { due, reordered, duplicated, marked, corrupt_bit } = fate else {
            match fate {
                Fate::Overflow => self.traffic.frames.overflowed += 1,
                _ => self.traffic.frames.lost += 1,
            }
            self.spare.push(buffer);
            return None;
        };
        if !up || len > direction.longest.load(Ordering::Relaxed) as usize {
            self.traffic.frames.lost += 1;
            self.spare.push(buffer);
            return None;
        }
        self.traffic.frames.marked += u64::from(marked && mark(buffer.bytes_mut()));
        if let Some(bit) = corrupt_bit {
            buffer.bytes_mut()[(bit / 8) as usize] ^= 0x80 >> (bit % 8);
            self.traffic.frames.corrupted += 1;
        }
        self.traffic.frames.reordered += u64::from(reordered);
        let copy = duplicated.then(|| {
            self.traffic.frames.duplicated += 1;
            let mut copy = self.buffer(direction.frame_capacity);
            copy.copy_from(buffer.bytes());
            copy
        });
        let (lane, hash) = direction.place(buffer.bytes());
        self.enqueue(lane, due, hash, buffer);
        if let Some(copy) = copy {
            self.enqueue(lane, due, hash, copy);
        }
        let first = self.heaps[lane].peek().map_or(NEVER, |Reverse(frame)| frame.due.as_nanos());
        let next_due = &direction.lanes[lane].next_due;
        // Only writers under the lock change it.
        let earlier = first < next_due.load(Ordering::Relaxed);
        if earlier {
            next_due.store(first, Ordering::Release);
        }
        earlier.then_some(lane)
    }

    fn enqueue(&mut self, lane: usize, due: Instant, hash: Option<u32>, buffer: FrameBuffer) {
        if self.in_flight >= self.in_flight_limit {
            self.traffic.frames.overflowed += 1;
            self.spare.push(buffer);
            return;
        }
        self.in_flight += 1;
        self.sequence += 1;
        let frame = InFlight { due, sequence: self.sequence, hash, buffer };
        self.heaps[lane].push(Reverse(frame));
    }

    /// A spare buffer, or a fresh one while the pool grows. It grows no further than the frames in
    /// flight, in the receivers' bursts and in the senders' rows, each of which is bounded.
    fn buffer(&mut self, capacity: u32) -> FrameBuffer {
        self.spare.pop().unwrap_or_else(|| FrameBuffer::new(capacity))
    }
}

impl InFlight {
    const fn order(&self) -> (u64, u64) {
        (self.due.as_nanos(), self.sequence)
    }
}

impl Ord for InFlight {
    fn cmp(&self, other: &Self) -> Order {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for InFlight {}
