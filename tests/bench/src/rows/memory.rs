//! Shared memory of connections that do nothing: the pages behind the daemon's memfds, before and
//! after a client opened them and used each once.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use dmm_proto::fifo::{ClientLine, DaemonLine};

use super::Measured;
use crate::bench::Effort;
use crate::daemon::{Daemon, WIRE, on_wire};
use crate::figure::{Better, Figure};
use crate::interrupt;
use crate::process::{PATIENCE, Process};

/// Bytes of a block as stat(2) counts.
const BLOCK_BYTES: u64 = 512;

/// Memory per connection and end.
pub fn of_idle_connections(effort: &Effort) -> anyhow::Result<Measured> {
    let connections = effort.connections;
    let daemon = Daemon::start(&on_wire([1, 1], "adaptive"), None)?;
    // What a pair of clients costs with a single connection is not the connections' doing.
    let few = footprint(&daemon, 1)?;
    let many = footprint(&daemon, connections)?;
    daemon.end()?;
    let ends = 2.0 * (connections - 1) as f64;
    let bytes_of = |footprint: &Footprint, is_arena: bool| {
        let chosen = footprint.iter().filter(|(name, _)| name.contains("arena") == is_arena);
        chosen.map(|(_, bytes)| *bytes as f64).sum::<f64>()
    };
    let mut figures = Vec::new();
    let lines = (size_of::<ClientLine>() + size_of::<DaemonLine>()) as f64;
    let name = "lines, by their layout";
    figures.push(Figure::new(name, "B/end", Better::Less, vec![lines])?);
    for (name, is_arena) in [
        ("touched pages of lines and rings", false),
        ("touched pages of the arenas, no longer in use", true),
    ] {
        let each = (bytes_of(&many, is_arena) - bytes_of(&few, is_arena)) / ends;
        figures.push(Figure::new(name, "B/end", Better::Less, vec![each])?);
    }
    let parts: Vec<_> = many.iter().map(|(name, bytes)| format!("{name} {bytes}")).collect();
    let setup = vec![
        format!(
            "{connections} connections, each used once for 64 bytes each way, less what 1 takes; an \
             end is one socket of one client; the smoltcp stacks' private buffers are not shared \
             and not counted"
        ),
        format!("bytes behind the daemon's memfds then: {}", parts.join(", ")),
    ];
    Ok(Measured { setup, figures })
}

/// Bytes of touched pages by the name of the memfd, all sessions together.
type Footprint = BTreeMap<String, u64>;

/// What two clients with so many connections between them take, once they are idle.
fn footprint(daemon: &Daemon, connections: usize) -> anyhow::Result<Footprint> {
    let before = memfds(daemon)?;
    let mut server = hold(daemon, "server", "right", connections)?;
    server.wait_for("listening")?;
    let mut client = hold(daemon, "client", "left", connections)?;
    client.wait_for("holding")?;
    server.wait_for("holding")?;
    wait_until(daemon, "the chunks are given back", |status| status.chunks_used == 0)?;
    let mut bytes = memfds(daemon)?;
    for (name, before) in before {
        let now = bytes.entry(name).or_default();
        *now = now.saturating_sub(before);
    }
    // Dropping them closes their pipes' ends and kills them.
    drop((client, server));
    wait_until(daemon, "the clients are gone", |status| {
        status.sessions == 0 && status.sockets == 0 && status.orphans == 0
    })?;
    Ok(bytes)
}

/// Starts a client that holds connections.
pub fn hold(daemon: &Daemon, role: &str, via: &str, connections: usize) -> anyhow::Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["hold", role, &format!("{}:7000", WIRE[1]), "--via", via]);
    command.arg(format!("--connections={connections}"));
    command.arg("--socket").arg(daemon.socket());
    Process::start(role, &mut command)
}

/// Asks the daemon until its status is as wanted.
fn wait_until(
    daemon: &Daemon,
    what: &str,
    wanted: impl Fn(&dmm_admin::report::Status) -> bool,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        interrupt::check()?;
        let status = daemon.status()?;
        if wanted(&status) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "waited for: {what}; there are {} sessions, {} sockets, {} orphans, {} chunks in use",
                status.sessions,
                status.sockets,
                status.orphans,
                status.chunks_used
            );
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The daemon's memfds by name, and the bytes of pages that were ever touched behind each.
fn memfds(daemon: &Daemon) -> anyhow::Result<Footprint> {
    let folder = format!("/proc/{}/fd", daemon.pid());
    let mut found = BTreeMap::new();
    let mut seen = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        let path = entry?.path();
        // A descriptor may be closed meanwhile.
        let (Ok(target), Ok(metadata)) = (fs::read_link(&path), fs::metadata(&path)) else {
            continue;
        };
        let target = target.to_string_lossy().into_owned();
        let Some(name) = target.strip_prefix("/memfd:") else { continue };
        if seen.contains(&metadata.ino()) {
            continue;
        }
        seen.push(metadata.ino());
        let name = name.trim_end_matches(" (deleted)").to_owned();
        *found.entry(name).or_default() += metadata.blocks() * BLOCK_BYTES;
    }
    Ok(found)
}
