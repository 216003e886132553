//! Re-homing: a socket's completions move from one channel of a session to another, in order.
//!
//! Called by whoever fills completion rings. What it guarantees: nothing about the socket follows
//! on the old channel once [`rehome`] has returned, and a client that has seen `Rehomed` on the new
//! channel and then drains the old one a last time has seen everything that came before.
//!
//! ```text
//!   old ring  ... Look(s) │ published first          (completions of s that waited
//!   new ring              └─▶ Rehomed(s), then these, for room in the old ring)
//! ```
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};

use crate::breach::Breach;
use crate::op::{Completion, Socket};
use crate::ring::Producer;

/// Completions of one socket that may wait at a time: what moving it costs at most. Operations on a
/// context are not taken while any completion waits there, so that only those which come from other
/// contexts pile up, and whoever sends these waits for their answers.
const WAITING_PER_SOCKET_MAX: usize = 16;

/// The completions of one channel: a ring, and what waits for room in it.
///
/// ```text
///   waiting   [Some(a)] [Some(b)] [ None  ] [Some(a)] ...     None: moved to another channel
///   places    a: first, first + 3   b: first + 1
/// ```
pub struct Outbox {
    ring: Producer,
    /// What waits, and gaps; the first is none.
    waiting: VecDeque<Option<Completion>>,
    waiting_max: usize,
    /// The number of the place at the front of `waiting`.
    first: u64,
    /// Completions among `waiting`.
    left: usize,
    /// The numbers of each socket's places, in order.
    places: HashMap<Socket, VecDeque<u64>>,
}

impl Outbox {
    /// An outbox in which `waiting_max` completions may wait for room: as many as a client can
    /// cause without taking any out.
    #[must_use]
    pub fn new(ring: Producer, waiting_max: usize) -> Self {
        let (waiting, places) = (VecDeque::new(), HashMap::new());
        Self { ring, waiting, waiting_max, first: 0, left: 0, places }
    }

    /// Adds a completion behind all others. [`Outbox::flush`] shows it. A client that lets too many
    /// pile up is in breach.
    pub fn push(&mut self, completion: Completion) -> Result<(), Breach> {
        if self.waiting.is_empty() && self.ring.stage(&completion.encode())? {
            return Ok(());
        }
        // Gaps count: who moves sockets away again and again takes nothing out either.
        if self.waiting.len() == self.waiting_max {
            return Err(Breach::Flood);
        }
        let places = self.places.entry(completion.socket()).or_default();
        let same = |place: &u64| self.waiting[index(self.first, *place)] == Some(completion);
        if matches!(completion, Completion::Look { .. }) && places.iter().any(same) {
            // The client will look when it comes to that one.
            return Ok(());
        }
        if places.len() == WAITING_PER_SOCKET_MAX {
            return Err(Breach::Flood);
        }
        places.push_back(self.first + self.waiting.len() as u64);
        self.waiting.push_back(Some(completion));
        self.left += 1;
        Ok(())
    }

    /// Stages what waits as far as there is room, and shows everything staged. Returns whether
    /// there was anything new to show: time to look at the client's sleep flag.
    pub fn flush(&mut self) -> Result<bool, Breach> {
        while let Some(Some(completion)) = self.waiting.front() {
            if !self.ring.stage(&completion.encode())? {
                break;
            }
            let socket = completion.socket();
            self.waiting[0] = None;
            self.left -= 1;
            if let Some(places) = self.places.get_mut(&socket) {
                places.pop_front();
                if places.is_empty() {
                    self.places.remove(&socket);
                }
            }
            self.close_gap();
        }
        Ok(self.ring.publish())
    }

    /// Completions that wait for room. Take no more submissions from this channel meanwhile.
    #[must_use]
    pub const fn waiting(&self) -> usize {
        self.left
    }

    /// Takes back what waits about a socket, in order.
    fn withdraw(&mut self, socket: Socket) -> Vec<Completion> {
        let places = self.places.remove(&socket).unwrap_or_default();
        let taken = places.iter().filter_map(|p| self.waiting[index(self.first, *p)].take());
        let taken = Vec::from_iter(taken);
        self.left -= taken.len();
        self.close_gap();
        taken
    }

    /// Lets something that waits be at the front again, if there is anything.
    fn close_gap(&mut self) {
        while let Some(None) = self.waiting.front() {
            self.waiting.pop_front();
            self.first += 1;
        }
    }
}

/// Where a place is, if `first` is at the front.
fn index(first: u64, place: u64) -> usize {
    usize::try_from(place - first).expect("what waits fits memory")
}

/// Moves a socket from `old` to `new`, shows what was staged on `old`, and adds `Rehomed` to `new`,
/// behind which comes what waited. The caller has seen that the contexts differ, clears
/// `ClientLine::rx_told` (a `Look` on the old channel may have been under way), and flushes `new`.
/// What it costs does not depend on what waits about other sockets.
pub fn rehome(old: &mut Outbox, new: &mut Outbox, socket: Socket) -> Result<(), Breach> {
    // What is staged stays on the old channel, so it must be there before `Rehomed` can be seen:
    // this release store comes before the one that shows `Rehomed`.
    old.ring.publish();
    new.push(Completion::Rehomed { socket })?;
    old.withdraw(socket).into_iter().try_for_each(|completion| new.push(completion))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::ring::{Consumer, pair};

    const MOVED: Socket = Socket { slot: 1, generation: 1 };
    const OTHER: Socket = Socket { slot: 2, generation: 1 };

    fn drain(ring: &mut Consumer) -> Vec<Completion> {
        let popped = std::iter::from_fn(|| ring.pop().unwrap());
        let all = popped.map(|entry| Completion::decode(&entry).unwrap()).collect();
        ring.release();
        all
    }

    #[test]
    fn nothing_about_the_socket_follows_on_the_old_channel() {
        let ((old, mut old_theirs), (new, mut new_theirs)) = (pair(2), pair(2));
        let (mut old, mut new) = (Outbox::new(old, 8), Outbox::new(new, 8));
        let look = |socket| Completion::Look { socket };
        let refused = |errno| {
            let option = crate::op::SocketOption::NoDelay;
            Completion::Refused { socket: MOVED, option, errno }
        };
        for socket in [OTHER, MOVED, OTHER, MOVED] {
            old.push(look(socket)).unwrap();
        }
        for completion in [refused(1), Completion::Closed { socket: OTHER }, refused(2)] {
            old.push(completion).unwrap();
        }
        assert_eq!(old.waiting(), 5);
        rehome(&mut old, &mut new, MOVED).unwrap();
        assert_eq!(drain(&mut new_theirs), [], "not before it is flushed");
        // The client sees `Rehomed`, drains the old channel a last time: all from before is there.
        new.flush().unwrap();
        let rehomed = Completion::Rehomed { socket: MOVED };
        let mut moved = drain(&mut new_theirs);
        while new.flush().unwrap() {
            moved.extend(drain(&mut new_theirs));
        }
        assert_eq!(moved, [rehomed, look(MOVED), refused(1), refused(2)]);
        assert_eq!(drain(&mut old_theirs), [look(OTHER), look(MOVED)]);
        let mut rest = Vec::new();
        while old.flush().unwrap() {
            rest.extend(drain(&mut old_theirs));
        }
        assert_eq!(rest, [look(OTHER), Completion::Closed { socket: OTHER }]);
        assert_eq!(old.waiting() + new.waiting(), 0);
    }

    /// An outbox whose ring is full, and behind which a completion for each of `count` sockets waits.
    fn clogged(count: u32, waiting_max: usize) -> (Outbox, Consumer) {
        let (ring, theirs) = pair(1);
        let mut outbox = Outbox::new(ring, waiting_max);
        for slot in 0..=count {
            let socket = Socket { slot: 10 + slot, generation: 1 };
            outbox.push(Completion::Closed { socket }).unwrap();
        }
        (outbox, theirs)
    }

    #[test]
    fn a_client_that_takes_nothing_out_is_in_breach() {
        let (mut outbox, _theirs) = clogged(2, 2);
        assert_eq!(outbox.push(Completion::Look { socket: OTHER }), Err(Breach::Flood));
        // One socket has its own bound, in which looks count once.
        let (mut outbox, _theirs) = clogged(1, 1000);
        for _ in 0..100 {
            outbox.push(Completion::Look { socket: OTHER }).unwrap();
        }
        let mut more = |_| outbox.push(Completion::Closed { socket: OTHER }).is_ok();
        assert_eq!((0..100).filter(|n| more(*n)).count(), WAITING_PER_SOCKET_MAX - 1);
    }

    #[test]
    fn moving_to_and_fro_leaves_gaps_that_count() {
        let ((mut old, mut theirs), (new, _new_theirs)) = (clogged(1, 100), pair(1024));
        let mut new = Outbox::new(new, 100);
        let mut there_and_back = || {
            rehome(&mut new, &mut old, MOVED)?;
            rehome(&mut old, &mut new, MOVED)
        };
        let times = (0..1000).take_while(|_| there_and_back().is_ok()).count();
        assert_eq!(times, 99, "what waits is not bounded");
        assert_eq!(old.waiting(), 1);
        drain(&mut theirs);
        assert!(old.flush().unwrap());
        assert_eq!((old.waiting(), old.waiting.len(), old.places.len()), (0, 0, 0));
    }

    #[test]
    fn moving_a_socket_costs_the_same_however_many_others_wait() {
        let nanos = |others| {
            let times = (0..5).map(|_| {
                let ((mut old, _theirs), (new, _new_theirs)) =
                    (clogged(others, 1 << 20), pair(1024));
                let mut new = Outbox::new(new, 100);
                let start = std::time::Instant::now();
                for _ in 0..200 {
                    rehome(&mut new, &mut old, MOVED).unwrap();
                    rehome(&mut old, &mut new, MOVED).unwrap();
                }
                start.elapsed().as_nanos()
            });
            times.min().expect("five")
        };
        let (few, many) = (nanos(4), nanos(60_000));
        // Three orders of magnitude, were all of them looked at.
        assert!(many < 50 * few.max(1000), "{few} ns beside 4 others, {many} ns beside 60,000");
    }
}
