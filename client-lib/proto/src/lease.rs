//! Leases: who may take over a socket whose owner forks, execs or passes it on.
//!
//! The daemon's table, plain data without references or clocks. A lease keeps a socket alive until
//! it is claimed or its *holder* exits. The holder is the process on whose life it depends: the
//! child for a fork, the process itself for an exec, the sender for `SCM_RIGHTS`. Possession is the
//! right to claim: whoever shows the descriptor, whose `SO_COOKIE` the daemon reads itself, and is
//! whom the lease names. Called by the control thread only. Must never: believe a cookie that a
//! client wrote, or grow beyond its bounds.
//!
//! ```text
//!   owner ──grant(cookie, holder, heir)──▶ lease ──claim(cookie, claimant)──▶ claimant owns
//!                                            │
//!                                            ├──withdraw(id)───▶ owner still owns (exec failed)
//!                                            └──expire(holder)─▶ daemon closes the socket
//! ```
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

/// A process as the daemon knows it: its session's number, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u64);

/// A kernel descriptor's `SO_COOKIE` (socket(7)), as the daemon read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cookie(pub u64);

/// Who may claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heir {
    /// One process: a child whose session its parent opened, or the same process after exec.
    Process(ProcessId),
    /// Whoever shows the descriptor: it was passed to somebody unknown.
    Bearer,
}

/// Names a lease; a late word about an earlier one in the same place is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId {
    /// The place in the table.
    pub slot: u32,
    /// Counts the leases that this place has held.
    pub generation: u32,
}

/// A lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The socket's placeholder.
    pub cookie: Cookie,
    /// The process whose exit ends the lease.
    pub holder: ProcessId,
    /// Who may claim.
    pub heir: Heir,
}

/// Why a lease was not granted, claimed or withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The table is full.
    #[error("all {0} leases of the daemon are out: raise the limit or claim what was passed on")]
    Full(u32),
    /// One process holds too many.
    #[error("the process holds {0} leases, its limit: claim what was passed on")]
    Quota(u32),
    /// No such lease, or not any more.
    #[error("no such lease: it was claimed, withdrawn, or its holder exited")]
    Unknown,
    /// The descriptor is of no socket that this process may claim.
    #[error("the descriptor is of no socket that was passed to this process")]
    NotLeased,
}

/// A place in the table. The generation grows whenever a lease leaves it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    generation: u32,
    lease: Option<Lease>,
}

/// All leases of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseTable {
    places: Vec<Place>,
    free: Vec<u32>,
    by_cookie: BTreeSet<(Cookie, u32)>,
    by_holder: BTreeSet<(ProcessId, u32)>,
    held: BTreeMap<ProcessId, u32>,
    most: u32,
    most_each: u32,
}

impl LeaseTable {
    /// An empty table for `most` leases, and `most_each` of one holder.
    #[must_use]
    pub const fn new(most: u32, most_each: u32) -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            by_cookie: BTreeSet::new(),
            by_holder: BTreeSet::new(),
            held: BTreeMap::new(),
            most,
            most_each,
        }
    }

    /// Grants a lease. The caller has seen that the one who asks owns the socket of that cookie.
    pub fn grant(
        &mut self,
        cookie: Cookie,
        holder: ProcessId,
        heir: Heir,
    ) -> Result<LeaseId, LeaseError> {
        let held = self.held.get(&holder).copied().unwrap_or(0);
        if held >= self.most_each {
            return Err(LeaseError::Quota(self.most_each));
        }
        let slot = self.place()?;
        let place = &mut self.places[slot as usize];
        place.lease = Some(Lease { cookie, holder, heir });
        self.by_cookie.insert((cookie, slot));
        self.by_holder.insert((holder, slot));
        self.held.insert(holder, held + 1);
        Ok(LeaseId { slot, generation: place.generation })
    }

    /// Claims the socket of a descriptor that `claimant` has shown: a lease that names it goes
    /// before one for any bearer. The lease is used up.
    pub fn claim(&mut self, cookie: Cookie, claimant: ProcessId) -> Result<Lease, LeaseError> {
        let heir_of = |slot: u32| self.places[slot as usize].lease.map(|lease| lease.heir);
        let of_cookie = || self.by_cookie.range((cookie, 0)..=(cookie, u32::MAX));
        let find = |heir| of_cookie().find(|&&(_, slot)| heir_of(slot) == Some(heir));
        let found = find(Heir::Process(claimant)).or_else(|| find(Heir::Bearer));
        let slot = found.map(|&(_, slot)| slot).ok_or(LeaseError::NotLeased)?;
        self.remove(slot).ok_or(LeaseError::NotLeased)
    }

    /// Takes a lease back: the fork or exec that it was for did not happen.
    pub fn withdraw(&mut self, id: LeaseId) -> Result<Lease, LeaseError> {
        match self.places.get(id.slot as usize) {
            Some(place) if place.generation == id.generation => {
                self.remove(id.slot).ok_or(LeaseError::Unknown)
            }
            _ => Err(LeaseError::Unknown),
        }
    }

    /// Ends the leases that `holder` held, because it exited. A socket among them that nobody owns
    /// and no other lease is for ([`LeaseTable::is_leased`]) is to be closed.
    pub fn expire(&mut self, holder: ProcessId) -> Vec<Lease> {
        let held = self.by_holder.range((holder, 0)..=(holder, u32::MAX));
        let slots: Vec<u32> = held.map(|&(_, slot)| slot).collect();
        slots.into_iter().filter_map(|slot| self.remove(slot)).collect()
    }

    /// Whether a lease is out for the socket of this cookie.
    #[must_use]
    pub fn is_leased(&self, cookie: Cookie) -> bool {
        self.by_cookie.range((cookie, 0)..=(cookie, u32::MAX)).next().is_some()
    }

    /// Leases that are out.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_cookie.len()
    }

    /// Whether none is out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_cookie.is_empty()
    }

    fn place(&mut self) -> Result<u32, LeaseError> {
        if let Some(slot) = self.free.pop() {
            return Ok(slot);
        }
        let slot = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        if slot >= self.most {
            return Err(LeaseError::Full(self.most));
        }
        self.places.push(Place { generation: 0, lease: None });
        Ok(slot)
    }

    fn remove(&mut self, slot: u32) -> Option<Lease> {
        let place = self.places.get_mut(slot as usize)?;
        let lease = place.lease.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(slot);
        self.by_cookie.remove(&(lease.cookie, slot));
        self.by_holder.remove(&(lease.holder, slot));
        if let Some(held) = self.held.get_mut(&lease.holder) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&lease.holder);
            }
        }
        Some(lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PARENT: ProcessId = ProcessId(1);
    const CHILD: ProcessId = ProcessId(2);
    const OTHER: ProcessId = ProcessId(3);
    const COOKIE: Cookie = Cookie(77);

    #[test]
    fn a_childs_lease_outlives_its_parent_and_is_claimed_once() {
        let mut table = LeaseTable::new(8, 8);
        table.grant(COOKIE, CHILD, Heir::Process(CHILD)).unwrap();
        assert!(table.expire(PARENT).is_empty());
        assert_eq!(table.claim(COOKIE, OTHER), Err(LeaseError::NotLeased));
        assert_eq!(table.claim(Cookie(78), CHILD), Err(LeaseError::NotLeased));
        assert_eq!(table.claim(COOKIE, CHILD).map(|lease| lease.cookie), Ok(COOKIE));
        assert_eq!(table.claim(COOKIE, CHILD), Err(LeaseError::NotLeased));
        assert!(table.is_empty() && !table.is_leased(COOKIE));
    }

    #[test]
    fn the_holders_exit_ends_a_lease_and_its_name() {
        let mut table = LeaseTable::new(8, 8);
        let id = table.grant(COOKIE, PARENT, Heir::Bearer).unwrap();
        assert_eq!(table.expire(PARENT).len(), 1);
        assert_eq!(table.claim(COOKIE, OTHER), Err(LeaseError::NotLeased));
        let next = table.grant(COOKIE, PARENT, Heir::Bearer).unwrap();
        assert_eq!(table.withdraw(id), Err(LeaseError::Unknown), "the place holds another lease");
        assert!(table.withdraw(next).is_ok());
        assert_eq!(table.withdraw(LeaseId { slot: 9, generation: 0 }), Err(LeaseError::Unknown));
    }

    #[test]
    fn a_lease_that_names_the_claimant_goes_first() {
        let mut table = LeaseTable::new(8, 8);
        table.grant(COOKIE, PARENT, Heir::Bearer).unwrap();
        table.grant(COOKIE, CHILD, Heir::Process(CHILD)).unwrap();
        assert_eq!(table.claim(COOKIE, CHILD).unwrap().heir, Heir::Process(CHILD));
        assert_eq!(table.claim(COOKIE, CHILD).unwrap().heir, Heir::Bearer);
    }

    #[test]
    fn the_table_and_each_holder_are_bounded() {
        let mut table = LeaseTable::new(3, 2);
        for _ in 0..2 {
            table.grant(COOKIE, PARENT, Heir::Bearer).unwrap();
        }
        assert_eq!(table.grant(COOKIE, PARENT, Heir::Bearer), Err(LeaseError::Quota(2)));
        table.grant(COOKIE, CHILD, Heir::Bearer).unwrap();
        assert_eq!(table.grant(COOKIE, OTHER, Heir::Bearer), Err(LeaseError::Full(3)));
        table.claim(COOKIE, OTHER).unwrap();
        assert!(table.grant(COOKIE, OTHER, Heir::Bearer).is_ok());
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Grant(u64, u64, Option<u64>),
        Claim(u64, u64),
        Withdraw(usize),
        Expire(u64),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            3 => (0..4_u64, 0..4_u64, prop::option::of(0..4_u64))
                .prop_map(|(cookie, holder, heir)| Operation::Grant(cookie, holder, heir)),
            2 => (0..4_u64, 0..4_u64).prop_map(|(cookie, who)| Operation::Claim(cookie, who)),
            1 => (0..64_usize).prop_map(Operation::Withdraw),
            1 => (0..4_u64).prop_map(Operation::Expire),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_a_list(operations in prop::collection::vec(operation(), 0..120)) {
            let (mut table, mut ids) = (LeaseTable::new(6, 3), Vec::new());
            let mut model: Vec<(LeaseId, Lease)> = Vec::new();
            for operation in operations {
                match operation {
                    Operation::Grant(cookie, holder, heir) => {
                        let heir = heir.map_or(Heir::Bearer, |p| Heir::Process(ProcessId(p)));
                        let lease = Lease { cookie: Cookie(cookie), holder: ProcessId(holder), heir };
                        let held = model.iter().filter(|(_, l)| l.holder == lease.holder).count();
                        let granted = table.grant(lease.cookie, lease.holder, heir);
                        prop_assert_eq!(granted.is_ok(), held < 3 && model.len() < 6);
                        if let Ok(id) = granted {
                            prop_assert!(!ids.contains(&id), "a name is never used twice");
                            ids.push(id);
                            model.push((id, lease));
                        }
                    }
                    Operation::Claim(cookie, who) => {
                        let fits = |(_, l): &&(LeaseId, Lease)| l.cookie == Cookie(cookie)
                            && (l.heir == Heir::Bearer || l.heir == Heir::Process(ProcessId(who)));
                        let claimed = table.claim(Cookie(cookie), ProcessId(who));
                        prop_assert_eq!(claimed.is_ok(), model.iter().any(|l| fits(&l)));
                        if let Ok(lease) = claimed {
                            let at = model.iter().position(|(_, l)| *l == lease);
                            prop_assert!(at.is_some());
                            // Leases that are equal differ in their names only: take those away
                            // that the table does not know any more.
                            let gone = model.iter().position(|(id, l)| {
                                *l == lease && table.clone().withdraw(*id).is_err()
                            });
                            model.remove(gone.unwrap());
                        }
                    }
                    Operation::Withdraw(n) => {
                        let Some(&id) = ids.get(n) else { continue };
                        let at = model.iter().position(|(known, _)| *known == id);
                        prop_assert_eq!(table.withdraw(id).ok(), at.map(|at| model.remove(at).1));
                    }
                    Operation::Expire(holder) => {
                        let (gone, kept) = model.into_iter().partition(|(_, l)| l.holder.0 == holder);
                        model = kept;
                        let gone: Vec<(LeaseId, Lease)> = gone;
                        prop_assert_eq!(table.expire(ProcessId(holder)).len(), gone.len());
                    }
                }
                prop_assert_eq!(table.len(), model.len());
            }
        }
    }
}
