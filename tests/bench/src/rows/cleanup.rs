//! A client that is killed: how long until the daemon holds nothing of it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use nix::sys::signal::Signal;

use super::Measured;
use super::memory::hold;
use crate::bench::Effort;
use crate::daemon::{Daemon, on_wire};
use crate::figure::{Better, Figure};
use crate::interrupt;
use crate::process::PATIENCE;

/// Connections of a client that is killed.
const CONNECTIONS: usize = 100;

/// What the clean-up may take, in milliseconds.
const CLEANUP_MS: f64 = 100.0;

/// Milliseconds from the kill until the daemon's status shows nothing of the client.
pub fn after_kill(effort: &Effort) -> anyhow::Result<Measured> {
    let daemon = Daemon::start(&on_wire([1, 1], "adaptive"), None)?;
    let (mut seen, mut own) = (Vec::new(), Vec::new());
    for _ in 0..effort.kills {
        let mut server = hold(&daemon, "server", "right", CONNECTIONS)?;
        server.wait_for("listening")?;
        let before = daemon.status()?;
        let mut client = hold(&daemon, "client", "left", CONNECTIONS)?;
        client.wait_for("holding")?;
        server.wait_for("holding")?;
        let during = daemon.status()?;
        ensure!(during.sessions == before.sessions + 1, "the client's session is not counted");
        let killed = Instant::now();
        client.end(Signal::SIGKILL)?;
        loop {
            interrupt::check()?;
            let status = daemon.status()?;
            // The server's sockets stay: its connections are closing, but its handles are open.
            let of_client = during.sockets - CONNECTIONS as u64;
            if status.sessions == before.sessions && status.sockets <= of_client {
                break;
            }
            ensure!(killed.elapsed() < PATIENCE, "a killed client's session stays");
            thread::sleep(Duration::from_micros(200));
        }
        seen.push(killed.elapsed().as_secs_f64() * 1e3);
        own.push(daemon.counter("sessions.cleanup_us_last")? as f64 / 1e3);
        server.end(Signal::SIGKILL)?;
        let gone = Instant::now();
        while daemon.status()?.sessions > 0 {
            ensure!(gone.elapsed() < PATIENCE, "a killed server's session stays");
            thread::sleep(Duration::from_millis(1));
        }
    }
    daemon.end()?;
    let setup = vec![format!(
        "kill -9 of a client with {CONNECTIONS} connections, {} times, until `dmm status` shows \
         neither its session nor its sockets; that includes reaping it and asking the daemon",
        effort.kills
    )];
    let figures = vec![
        Figure::new("kill until gone", "ms", Better::Less, seen)?.below(CLEANUP_MS),
        Figure::new("sessions.cleanup_us_last", "ms", Better::Less, own)?.below(CLEANUP_MS),
    ];
    Ok(Measured { setup, figures })
}
