//! The operators' connections.
//!
//! Owns: who may ask again, and how many answers may lie unread. An answer is a sealed memory file
//! in the queue of a socket; until its reader takes it, or closes its socket, that memory is the
//! daemon's. So an operator gets an answer only when the last was taken, and the connections whose
//! answers were not taken count against their user even after the daemon has hung up on them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{Shutdown, shutdown};

use crate::descriptor;

/// Connections of all users at most.
pub const OPERATORS_MAX: usize = 64;
/// Connections of one user at most: a `dmm` for each of a few terminals and a collector.
const PER_USER_MAX: usize = 16;

/// A connection that was answered.
pub struct Operator {
    /// The connection.
    pub connection: OwnedFd,
    /// Its user.
    pub uid: u32,
    /// The stack whose echo request it waits for, if it waits for one.
    pub awaits: Option<String>,
}

impl Operator {
    /// Whether its last answer is to come, or lies unread (`SIOCOUTQ`, unix(7)). If that cannot be told,
    /// it does.
    pub fn owes(&self) -> bool {
        if self.awaits.is_some() {
            return true;
        }
        descriptor::unsent(self.connection.as_fd()).is_none_or(|bytes| bytes > 0)
    }
}

/// The connections, by number, oldest first.
#[derive(Default)]
pub struct Operators {
    asking: BTreeMap<u64, Operator>,
    /// Those that the daemon has hung up on, and whose last answer lies unread.
    owing: Vec<Operator>,
}

impl Operators {
    /// Takes a connection that says something out of the table.
    pub fn take(&mut self, number: u64) -> Option<Operator> {
        self.asking.remove(&number)
    }

    /// Makes room for a connection of `uid`, if need be at the cost of the oldest that owes nothing.
    /// Returns whether there is room, and those to be closed in any case.
    pub fn make_room(&mut self, uid: u32) -> (bool, Vec<OwnedFd>) {
        let paid = self.owing.extract_if(.., |operator| !operator.owes());
        let mut closed: Vec<_> = paid.map(|operator| operator.connection).collect();
        let mine = |operator: &&Operator| operator.uid == uid;
        let of_user =
            self.asking.values().filter(mine).count() + self.owing.iter().filter(mine).count();
        let user_is_full = of_user >= PER_USER_MAX;
        if user_is_full || self.asking.len() + self.owing.len() >= OPERATORS_MAX {
            let idle = self
                .asking
                .iter()
                .find(|(_, operator)| (operator.uid == uid || !user_is_full) && !operator.owes());
            let idle = idle.map(|(number, _)| *number);
            let Some(operator) = idle.and_then(|number| self.asking.remove(&number)) else {
                return (false, closed);
            };
            closed.push(operator.connection);
        }
        (true, closed)
    }

    /// Keeps a connection that was answered.
    pub fn keep(&mut self, number: u64, operator: Operator) {
        self.asking.insert(number, operator);
    }

    /// Lets go of a connection, and returns it if it is to be closed now.
    pub fn hang_up(&mut self, operator: Operator) -> Option<OwnedFd> {
        // An answer that is to come finds nobody.
        let operator = Operator { awaits: None, ..operator };
        if !operator.owes() {
            return Some(operator.connection);
        }
        // Closing would not take the answer back: it is counted until it is taken or gone.
        let _ = shutdown(operator.connection.as_raw_fd(), Shutdown::Both);
        self.owing.push(operator);
        None
    }

    /// All connections, at the daemon's end.
    pub fn into_connections(self) -> impl Iterator<Item = OwnedFd> {
        self.asking.into_values().chain(self.owing).map(|operator| operator.connection)
    }
}
