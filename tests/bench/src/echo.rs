//! One run of `dmm echo`: a server, a client, what the client measured, and what both cost.
//!
//! The same program and the same arguments for every side of a comparison, except over what it goes.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use serde::Deserialize;

use crate::bench::{Effort, program};
use crate::daemon::Daemon;
use crate::namespace::Namespace;
use crate::process::{PATIENCE, Process};

/// Where one end of a run is, and over what it goes.
#[derive(Clone, Default)]
pub struct End<'a> {
    /// In this namespace, not in ours.
    pub namespace: Option<&'a Namespace>,
    /// The daemon's socket; not needed over the kernel.
    pub socket: Option<PathBuf>,
    /// The stack, or `kernel`.
    pub via: &'static str,
    /// The core to run on.
    pub core: Option<usize>,
}

/// One run.
#[derive(Clone)]
pub struct Run<'a> {
    /// Where the server is.
    pub server: End<'a>,
    /// Where the client is.
    pub client: End<'a>,
    /// The server's address and port.
    pub address: String,
    /// Arguments of both, such as `--polling`.
    pub both: Vec<&'static str>,
    /// Arguments of the client alone, such as `--size=64`.
    pub only_client: Vec<String>,
}

/// What a run measured.
#[derive(Debug)]
pub struct Outcome {
    /// The client's report.
    pub client: Report,
    /// CPU seconds of server, client and daemon.
    pub cpu_s: f64,
    /// Bytes that the server received, warm-up included: what `cpu_s` was spent for.
    pub bytes_received: u64,
}

/// What is read of the client's report.
#[derive(Debug, Deserialize)]
pub struct Report {
    /// Rate of the payload.
    pub gbit_per_s: f64,
    /// Latencies, unless it was a stream.
    pub latency_us: Option<Latency>,
    /// How its socket is set, if it is the kernel's.
    pub socket: Option<Facts>,
}

/// Latencies in microseconds.
#[derive(Debug, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// One in a hundred is above.
    pub p99: f64,
}

/// How a kernel socket is set.
#[derive(Debug, Deserialize)]
pub struct Facts {
    receive_buffer_bytes: u64,
    send_buffer_bytes: u64,
    mss_bytes: u32,
    congestion: String,
}

impl Facts {
    /// In one line.
    pub fn describe(&self) -> String {
        format!(
            "kernel: buffers {} in and {} out (they grow), mss {}, {}",
            self.receive_buffer_bytes, self.send_buffer_bytes, self.mss_bytes, self.congestion
        )
    }
}

#[derive(Deserialize)]
struct ServerReport {
    bytes_received: u64,
}

impl Run<'_> {
    /// Runs it. `daemon` is the one whose CPU time belongs to it.
    pub fn go(&self, effort: &Effort, daemon: Option<&Daemon>) -> anyhow::Result<Outcome> {
        let used = || daemon.map_or(Ok(0.0), Daemon::cpu_seconds);
        let before = used()?;
        let mut command = self.command(&self.server, "server")?;
        let mut server = Process::start("the echo server", command.arg("--connections=1"))?;
        server.wait_for("listening on")?;
        let mut command = self.command(&self.client, "client")?;
        command.args(&self.only_client);
        command.arg(format!("--warmup={}", effort.warmup.as_secs_f64()));
        let client = Process::start("the echo client", &mut command)?;
        let (client, client_cpu) = client.finish(effort.span + effort.warmup + PATIENCE)?;
        let (server, server_cpu) = server.finish(PATIENCE)?;
        let server: ServerReport =
            serde_json::from_str(&server).context("the server's report is not understood")?;
        Ok(Outcome {
            client: serde_json::from_str(&client)
                .context("the client's report is not understood")?,
            cpu_s: client_cpu + server_cpu + used()? - before,
            bytes_received: server.bytes_received,
        })
    }

    fn command(&self, end: &End, role: &str) -> anyhow::Result<Command> {
        let dmm = program("dmm")?;
        let mut command = end.namespace.map_or_else(|| Command::new(&dmm), |n| n.command(&dmm));
        command.arg("--json");
        if let Some(socket) = &end.socket {
            command.arg("--socket").arg(socket);
        }
        command.args(["echo", role, &self.address]);
        command.args(["--via", end.via]).args(&self.both);
        if let Some(core) = end.core {
            command.arg(format!("--core={core}"));
        }
        Ok(command)
    }
}
