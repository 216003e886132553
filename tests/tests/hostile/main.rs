//! A real `dmmd` under attack by clients that attached as any other and then lie.
//!
//! Owns: the siege (thousands of seeded rounds, with a bystander whose transfer must not notice),
//! one directed attack per reason for which a client is refused, the quotas, the ports that sockets
//! hold, and clients that stop or are held.
//! The liar is `dmm_proto::mock::HostileClient`. The two stacks of the daemon are joined by a wire
//! in memory, so no device is needed.
//!
//! The other memory that a client can write, the region of a shortcut pair, is attacked where it is
//! checked: `dmm_proto::pair`'s test `no_scribbling_of_the_other_side_panics`.

#![deny(unsafe_code)]

mod actions;
mod bystander;
mod descriptors;
mod directed;
mod ground;
mod held;
mod operations;
mod orphans;
mod ports;
mod process;
mod quotas;
mod round;
mod siege;
mod stuck;
#[expect(unsafe_code, reason = "userfaultfd(2) has no safe wrapper")]
mod trap;
