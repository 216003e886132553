//! Thousands of rounds by hostile clients, while a bystander moves bytes and must not notice.
//!
//! 5,000 rounds, or as many as `DMM_TEST_HOSTILE_ROUNDS` says (100,000 on demand). The seed of the
//! whole is printed, and can be given as `DMM_TEST_HOSTILE_SEED`; that of a round is the sum of both.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use dmm_proto::mock::Random;
use serde_json::json;

use crate::bystander::Bystander;
use crate::directed::{
    breaches, come_as_a_stranger, commit_every_breach, tell_every_lie_at_the_hello,
};
use crate::ground::Ground;
use crate::process::{Process, Role};
use crate::round::Rounds;

/// Rounds in CI.
const ROUNDS: u64 = 5_000;
/// Attackers at a time.
const ATTACKERS: u64 = 2;
/// One round in so many is a process that is killed in the midst of its attack.
const KILLED_ONE_IN: u64 = 50;
/// One round in so many asks the daemon how it is.
const ASKED_ONE_IN: u64 = 500;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

#[test]
fn a_siege_is_not_noticed() {
    let rounds = number("DMM_TEST_HOSTILE_ROUNDS").unwrap_or(ROUNDS);
    let seed = number("DMM_TEST_HOSTILE_SEED").unwrap_or(0x5eed);
    println!("{rounds} rounds, DMM_TEST_HOSTILE_SEED={seed}");
    let ground =
        Ground::new(&json!({"max_sessions": 64, "sockets": 64, "contexts": 4, "bytes": 16 << 20}));
    let daemon = &ground.daemon;
    let (before, pid, turns) = (ground.holdings(), daemon.status().pid, turns(&ground));
    let bystander = Bystander::start(daemon);
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..ATTACKERS {
            scope.spawn(|| {
                let mut attacker = Attacker { rounds: Rounds::default(), failed: &failed };
                loop {
                    let round = next.fetch_add(1, Ordering::Relaxed);
                    if round >= rounds || failed.load(Ordering::Relaxed) {
                        return;
                    }
                    attacker.run(&ground, round, seed.wrapping_add(round));
                }
            });
        }
    });
    // What chance may have missed, with the bystander still at it.
    commit_every_breach(&ground);
    tell_every_lie_at_the_hello(&ground);
    come_as_a_stranger(&ground);
    let took = started.elapsed();
    let bytes = bystander.finish();
    println!("{rounds} rounds in {took:.1?}; the bystander moved {bytes} bytes each way");
    let counters = daemon.stats().counters;
    counters.iter().filter(|(name, _)| name.starts_with("refused.")).for_each(|(name, count)| {
        println!("{name}: {count}");
    });
    for name in breaches().map(|breach| breach.name()).chain(["hello", "version", "access"]) {
        assert!(counters[&format!("refused.{name}")] > 0, "nobody was refused for {name}");
    }
    assert_eq!(counters["refused.memory"], 0, "a client made the daemon's memory unusable");
    assert_eq!((daemon.status().pid, daemon.pid()), (pid, pid));
    assert!(turns.iter().zip(self::turns(&ground)).all(|(before, now)| now > *before));
    ground.wait_for_holdings(&before);
    ground.wait_for_sleeps();
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

struct Attacker<'a> {
    rounds: Rounds,
    failed: &'a AtomicBool,
}

impl Attacker<'_> {
    fn run(&mut self, ground: &Ground, round: u64, seed: u64) {
        let socket = ground.daemon.socket();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if round.is_multiple_of(KILLED_ONE_IN) {
                be_killed(&socket, seed);
            } else {
                self.rounds.run(&socket, seed);
            }
            if round.is_multiple_of(ASKED_ONE_IN) {
                let status = ground.daemon.status();
                assert_eq!(status.pid, ground.daemon.pid());
            }
        }));
        if let Err(panic) = result {
            self.failed.store(true, Ordering::Relaxed);
            eprintln!("round {round} failed: DMM_TEST_HOSTILE_SEED={}", seed.wrapping_sub(round));
            std::panic::resume_unwind(panic);
        }
    }
}

/// A process attacks, and is killed wherever it is after so many attacks.
fn be_killed(socket: &Path, seed: u64) {
    let mut process = Process::start(Role::Attack, socket, seed);
    for _ in 0..1 + Random::new(seed).below(12) {
        assert_eq!(process.next().as_deref(), Some("attacked"), "the attacker failed");
    }
}

/// Turns of each worker so far.
fn turns(ground: &Ground) -> Vec<u64> {
    ground.daemon.status().workers.iter().map(|worker| worker.turns).collect()
}
