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

use std::collections::VecDeque;

use crate::breach::Breach;
use crate::op::{Completion, Socket};
use crate::ring::Producer;

/// The completions of one channel: a ring, and what waits for room in it.
pub struct Outbox {
    ring: Producer,
    waiting: VecDeque<Completion>,
    waiting_max: usize,
}

impl Outbox {
    /// An outbox in which `waiting_max` completions may wait for room: as many as a client can
    /// cause without taking any out.
    #[must_use]
    pub const fn new(ring: Producer, waiting_max: usize) -> Self {
        Self { ring, waiting: VecDeque::new(), waiting_max }
    }

    /// Adds a completion behind all others. [`Outbox::flush`] shows it. A client that lets too many
    /// pile up is in breach.
    pub fn push(&mut self, completion: Completion) -> Result<(), Breach> {
        if self.waiting.is_empty() && self.ring.stage(&completion.encode())? {
            return Ok(());
        }
        if self.waiting.len() == self.waiting_max {
            return Err(Breach::Flood);
        }
        self.waiting.push_back(completion);
        Ok(())
    }

    /// Stages what waits as far as there is room, and shows everything staged. Returns whether
    /// there was anything new to show: time to look at the client's sleep flag.
    pub fn flush(&mut self) -> Result<bool, Breach> {
        while let Some(completion) = self.waiting.front() {
            if !self.ring.stage(&completion.encode())? {
                break;
            }
            self.waiting.pop_front();
        }
        Ok(self.ring.publish())
    }

    /// Completions that wait for room. Take no more submissions from this channel meanwhile.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

/// Moves a socket from `old` to `new`, shows what was staged on `old`, and adds `Rehomed` to `new`,
/// behind which comes what waited. The caller has seen that the contexts differ, clears
/// `ClientLine::rx_told` (a `Look` on the old channel may have been under way), and flushes `new`.
pub fn rehome(old: &mut Outbox, new: &mut Outbox, socket: Socket) -> Result<(), Breach> {
    // What is staged stays on the old channel, so it must be there before `Rehomed` can be seen:
    // this release store comes before the one that shows `Rehomed`.
    old.ring.publish();
    new.push(Completion::Rehomed { socket })?;
    for _ in 0..old.waiting.len() {
        let Some(completion) = old.waiting.pop_front() else { break };
        if completion.socket() == socket {
            new.push(completion)?;
        } else {
            old.waiting.push_back(completion);
        }
    }
    Ok(())
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
        for socket in [OTHER, MOVED, OTHER, MOVED, OTHER] {
            old.push(look(socket)).unwrap();
        }
        old.push(Completion::Closed { socket: OTHER }).unwrap();
        rehome(&mut old, &mut new, MOVED).unwrap();
        assert_eq!(drain(&mut new_theirs), [], "not before it is flushed");
        // The client sees `Rehomed`, drains the old channel a last time: all from before is there.
        new.flush().unwrap();
        assert_eq!(drain(&mut new_theirs), [Completion::Rehomed { socket: MOVED }, look(MOVED)]);
        assert_eq!(drain(&mut old_theirs), [look(OTHER), look(MOVED)]);
        let mut rest = Vec::new();
        while old.flush().unwrap() {
            rest.extend(drain(&mut old_theirs));
        }
        assert_eq!(rest, [look(OTHER), look(OTHER), Completion::Closed { socket: OTHER }]);
        assert_eq!(old.waiting() + new.waiting(), 0);
    }

    #[test]
    fn a_client_that_takes_nothing_out_is_in_breach() {
        let (ring, _theirs) = pair(1);
        let mut outbox = Outbox::new(ring, 2);
        for _ in 0..3 {
            outbox.push(Completion::Look { socket: OTHER }).unwrap();
        }
        assert_eq!(outbox.push(Completion::Look { socket: OTHER }), Err(Breach::Flood));
    }
}
