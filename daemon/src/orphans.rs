//! Who pays for sockets that their clients have closed and the network has not.
//!
//! Owns: the counts. A closed connection holds its buffers until its peer has acknowledged the end,
//! and through `TIME-WAIT`. While its client lives it counts against that client; a client that is
//! gone leaves its orphans to its user, so that a new process does not begin with a clean slate.
//! Called by workers at every close; each orphan holds its [`Charge`] until it is gone.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The orphans of all sessions that a user has or had.
#[derive(Default)]
pub struct UserOrphans {
    orphans: AtomicU64,
    sessions: AtomicU64,
}

/// The orphans of a session: as many as its quota has sockets at most, and of all sessions of its
/// user no more than the quotas of those that live.
pub struct Orphans {
    quota: u64,
    count: AtomicU64,
    user: Arc<UserOrphans>,
}

/// A session's part in its user's allowance, given back when it is dropped.
pub struct Membership {
    /// The session's orphans.
    pub orphans: Arc<Orphans>,
}

/// An orphan that was counted, until this is dropped.
pub struct Charge(Arc<Orphans>);

impl Membership {
    /// A session of `user` whose quota is `quota` sockets.
    pub fn new(user: Arc<UserOrphans>, quota: u32) -> Self {
        user.sessions.fetch_add(1, Ordering::Relaxed);
        let orphans = Orphans { quota: quota.into(), count: AtomicU64::new(0), user };
        Self { orphans: Arc::new(orphans) }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.orphans.user.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Orphans {
    /// Counts another orphan. `None` if there are as many as there may be.
    pub fn charge(self: &Arc<Self>) -> Option<Charge> {
        let sessions = self.user.sessions.load(Ordering::Relaxed).max(1);
        if !add_below(&self.count, self.quota) {
            return None;
        }
        if !add_below(&self.user.orphans, self.quota.saturating_mul(sessions)) {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Charge(Arc::clone(self)))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        self.0.user.orphans.fetch_sub(1, Ordering::Relaxed);
    }
}

fn add_below(count: &AtomicU64, max: u64) -> bool {
    let more = |now: u64| (now < max).then_some(now + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(session: &Membership) -> Vec<Charge> {
        std::iter::from_fn(|| session.orphans.charge()).collect()
    }

    #[test]
    fn a_session_has_as_many_orphans_as_its_quota_has_sockets() {
        let session = Membership::new(Arc::default(), 3);
        let mut charges = fill(&session);
        assert_eq!(charges.len(), 3);
        charges.pop();
        assert_eq!(fill(&session).len(), 1);
    }

    #[test]
    fn what_a_session_leaves_behind_counts_against_the_next_of_its_user() {
        let user = Arc::<UserOrphans>::default();
        let first = Membership::new(Arc::clone(&user), 3);
        let mut left = fill(&first);
        drop(first);
        let second = Membership::new(Arc::clone(&user), 3);
        assert!(fill(&second).is_empty());
        left.pop();
        assert_eq!(fill(&second).len(), 1);
        // Sessions that live at once do not share a quota, and other users have their own.
        let third = Membership::new(Arc::clone(&user), 3);
        assert_eq!(fill(&third).len(), 3);
        assert_eq!(fill(&Membership::new(Arc::default(), 3)).len(), 3);
        drop(left);
        assert_eq!(user.orphans.load(Ordering::Relaxed), 0);
    }
}
