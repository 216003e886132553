//! A round: some actions of one client, and how it goes.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use dmm_proto::mock::{HostileClient, LyingHello, Random};
use dmm_tests::deadline::eventually;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::actions;
use crate::ground::{reach, try_attach};

/// Actions of one client at most.
pub const ACTIONS_MAX: u64 = 6;

/// Clients and silent connections that outlive their round at most.
const LINGERING_MAX: usize = 4;

/// How long some clients look whether they were thrown out, before they leave by themselves.
const LOOK_MS: u8 = 3;

/// The rounds of one thread, and what is left of earlier ones.
#[derive(Default)]
pub struct Rounds {
    clients: Vec<HostileClient>,
    silent: Vec<OwnedFd>,
}

impl Rounds {
    /// One round.
    pub fn run(&mut self, socket: &Path, seed: u64) {
        let mut random = Random::new(seed);
        match random.below(12) {
            0 => {
                let lie = LyingHello::ALL[random.below(LyingHello::ALL.len() as u64) as usize];
                // The daemon may have hung up on it for want of places.
                let _ = lie.send(reach(socket).as_fd(), &mut random);
            }
            1 => self.silent.extend((0..1 + random.below(3)).map(|_| reach(socket))),
            _ => {}
        }
        // Others of this siege may have all places: those that were thrown out leave soon.
        let mut client = eventually("a place", || {
            try_attach(socket, random.next()).ok_or_else(|| "all are taken".to_owned())
        });
        for _ in 0..1 + random.below(ACTIONS_MAX) {
            act(&mut client);
        }
        match random.below(4) {
            0 => drop(client),
            1 => self.clients.push(client),
            _ => look(&client),
        }
        if self.clients.len() > LINGERING_MAX {
            let at = random.below(self.clients.len() as u64) as usize;
            let mut client = self.clients.swap_remove(at);
            act(&mut client);
        }
        if self.silent.len() > LINGERING_MAX {
            self.silent.swap_remove(0);
        }
    }
}

/// One action of a client, whether the daemon still listens or not.
pub fn act(client: &mut HostileClient) {
    let action = match client.random.below(40) {
        0..=5 => actions::lie_at_an_edge,
        6..=8 => actions::lie_somewhere,
        9..=11 => actions::scribble,
        12 | 13 => actions::confuse_sleep,
        14..=18 => actions::submit,
        19..=21 => actions::operate,
        22 | 23 => actions::share_a_slot,
        24..=26 => actions::malform_datagrams,
        27..=29 => actions::converse,
        30 | 31 => actions::punch_holes,
        32 => actions::overreach,
        33 | 34 => actions::abuse_bells,
        35 | 36 => actions::flood_operations,
        37 => actions::flood_requests,
        38 => actions::send_garbage,
        _ => actions::open_contexts,
    };
    action(client);
}

/// Gives the daemon a moment to find out.
fn look(client: &HostileClient) {
    let mut fds = [PollFd::new(client.socket.as_fd(), PollFlags::empty())];
    let _ = poll(&mut fds, PollTimeout::from(LOOK_MS));
}
