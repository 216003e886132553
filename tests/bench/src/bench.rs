//! What every row gets: the options of the run, and where the programs are.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};

/// How much a run does.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Runs of each side of a comparison, which take turns.
    pub runs: usize,
    /// How long one run measures.
    pub span: Duration,
    /// How long it runs before that.
    pub warmup: Duration,
    /// How long an idle daemon is watched.
    pub idle: Duration,
    /// Connections of the row that counts memory.
    pub connections: usize,
    /// Clients of the row that kills them.
    pub kills: usize,
}

impl Effort {
    /// A whole run: below 10 minutes.
    pub const FULL: Self = Self {
        runs: 5,
        span: Duration::from_secs(1),
        warmup: Duration::from_millis(300),
        idle: Duration::from_secs(5),
        connections: 1000,
        kills: 20,
    };

    /// Enough to see that every row runs: below 2 minutes.
    pub const QUICK: Self = Self {
        runs: 2,
        span: Duration::from_millis(300),
        warmup: Duration::from_millis(100),
        idle: Duration::from_secs(2),
        connections: 100,
        kills: 3,
    };
}

/// The path of a program that was built beside this one.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe()?;
    let folder = here.parent().context("a program lies in a folder")?;
    let path = folder.join(name);
    ensure!(
        path.exists(),
        "{} is missing: build it with the same profile, as scripts/bench does",
        path.display()
    );
    Ok(path)
}
