//! The credits of a listener: what its next connections go to, oldest first.
//!
//! Owns: their order. Called for each credit, for each connection that takes one, and when a credit
//! is closed, which a dying client does to thousands at once. Must never: look at all credits to
//! find one, or hold many more places than there are credits.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};

use crate::SocketId;

/// Places of credits that were taken back, beyond as many as there are credits, that may stay in
/// the queue until it is tidied.
const STALE_MAX: usize = 64;

/// Credits, each with a `T` for its connection.
pub(crate) struct Credits<T> {
    /// Ids in order, each with the number of its credit. One that was taken back keeps its place
    /// until it comes to the front or too many have.
    order: VecDeque<(SocketId, u64)>,
    waiting: HashMap<SocketId, (u64, T)>,
    next_number: u64,
}

impl<T> Default for Credits<T> {
    fn default() -> Self {
        Self { order: VecDeque::new(), waiting: HashMap::new(), next_number: 0 }
    }
}

impl<T> Credits<T> {
    /// Adds a credit, whose id has none.
    pub(crate) fn push(&mut self, id: SocketId, fifos: T) {
        self.next_number += 1;
        self.order.push_back((id, self.next_number));
        self.waiting.insert(id, (self.next_number, fifos));
    }

    /// Takes the oldest credit.
    pub(crate) fn pop(&mut self) -> Option<(SocketId, T)> {
        while let Some((id, number)) = self.order.pop_front() {
            if self.waiting.get(&id).is_some_and(|(current, _)| *current == number) {
                return self.waiting.remove(&id).map(|(_, fifos)| (id, fifos));
            }
        }
        None
    }

    /// Takes a credit back.
    pub(crate) fn remove(&mut self, id: SocketId) {
        self.waiting.remove(&id);
        // Tidying looks at fewer than twice as many places as were given up since the last time.
        if self.order.len() > 2 * self.waiting.len() + STALE_MAX {
            let waiting = &self.waiting;
            let current = |(id, number): &(SocketId, u64)| {
                waiting.get(id).is_some_and(|(current, _)| current == number)
            };
            self.order.retain(current);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn the_oldest_that_was_not_taken_back_comes_first() {
        let mut credits = Credits::default();
        for id in 0..4 {
            credits.push(SocketId(id), id);
        }
        credits.remove(SocketId(0));
        credits.remove(SocketId(2));
        // The same id again is a credit of its own, at the end.
        credits.push(SocketId(0), 10);
        let order: Vec<_> = std::iter::from_fn(|| credits.pop()).collect();
        assert_eq!(order, [(SocketId(1), 1), (SocketId(3), 3), (SocketId(0), 10)]);
    }

    #[test]
    fn places_given_up_are_tidied_away() {
        let mut credits = Credits::default();
        credits.push(SocketId(0), ());
        for id in 0..10_000 {
            credits.push(SocketId(1 + id % 7), ());
            credits.remove(SocketId(1 + id % 7));
            assert!(credits.order.len() <= 2 * credits.waiting.len() + STALE_MAX + 1);
        }
        assert_eq!(credits.pop(), Some((SocketId(0), ())));
    }

    /// With a search for each, half a million would take hours.
    #[test]
    fn many_are_taken_back_in_any_order() {
        const COUNT: u32 = 1 << 19;
        let mut credits = Credits::default();
        (0..COUNT).for_each(|id| credits.push(SocketId(id), ()));
        let start = Instant::now();
        for step in 0..COUNT {
            // An odd factor goes once through all.
            credits.remove(SocketId(step.wrapping_mul(77_773) % COUNT));
            assert!(start.elapsed() < Duration::from_secs(30), "{step} of {COUNT}");
        }
        assert_eq!(credits.pop(), None);
    }
}
