//! A daemon of our own, on a socket of its own, gone with its handle.

use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use dmm_admin::Admin;
use dmm_admin::report::{Stats, Status};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bench::program;
use crate::interrupt;
use crate::namespace::Namespace;
use crate::process::{PATIENCE, Process, cpu_seconds};

/// A running daemon.
pub struct Daemon {
    process: Process,
    folder: TempDir,
}

/// The addresses of the two stacks of [`on_wire`].
pub const WIRE: [&str; 2] = ["10.0.0.1", "10.0.0.2"];

/// Two stacks, `left` and `right`, on a worker of core `core` each, joined by an in-memory wire
/// without delay or loss. `idle` as the configuration's `workers.idle`.
pub fn on_wire(cores: [u16; 2], idle: &str) -> Value {
    let stack = |name: &str, port: &str, core: u16, address: &str| {
        json!({"name": name, "kind": "native", "port": port, "cores": [core],
               "addresses": [format!("{address}/24")]})
    };
    json!({
        "ports": [{"name": "p0", "device": "wire:w0"}, {"name": "p1", "device": "wire:w0"}],
        "wires": [{"name": "w0"}],
        "stacks": [stack("left", "p0", cores[0], WIRE[0]), stack("right", "p1", cores[1], WIRE[1])],
        "workers": {"idle": idle},
    })
}

/// One stack `default` at `address` with a prefix length, on `device`.
pub fn on_device(device: &str, address: &str, core: u16, idle: &str) -> Value {
    json!({
        "ports": [{"name": "p0", "device": device}],
        "stacks": [{"name": "default", "kind": "native", "port": "p0", "cores": [core],
                    "addresses": [address]}],
        "workers": {"idle": idle},
        "memory": {"hugepages": "never"},
    })
}

impl Daemon {
    /// Starts one in `namespace`, or in this process's, and waits until it serves.
    pub fn start(config: &Value, namespace: Option<&Namespace>) -> anyhow::Result<Self> {
        let dmmd = program("dmmd")?;
        Self::start_by(namespace.map_or_else(|| Command::new(&dmmd), |n| n.command(&dmmd)), config)
    }

    /// Starts one by a command that takes the arguments of `dmmd`, and waits until it serves.
    pub fn start_by(mut command: Command, config: &Value) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("dmmd.json");
        std::fs::write(&file, config.to_string())?;
        command.arg("--config").arg(&file).arg("--socket").arg(folder.path().join("dmmd.sock"));
        command.env("DMM_LOG", "warn");
        let process = Process::start("dmmd", &mut command)?;
        let mut daemon = Self { process, folder };
        daemon.wait_until_it_serves()?;
        Ok(daemon)
    }

    fn wait_until_it_serves(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.status() {
            interrupt::check()?;
            self.process.check_running()?;
            if Instant::now() > deadline {
                return Err(error.context("the daemon does not serve"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Where clients find it.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("dmmd.sock")
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// CPU seconds that it used so far.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        cpu_seconds(self.pid())
    }

    /// What it reports about itself.
    pub fn status(&self) -> anyhow::Result<Status> {
        Ok(Admin::connect(&self.socket())?.status()?)
    }

    /// Its counters.
    pub fn stats(&self) -> anyhow::Result<Stats> {
        Ok(Admin::connect(&self.socket())?.stats()?)
    }

    /// One of its counters.
    pub fn counter(&self, name: &str) -> anyhow::Result<u64> {
        let stats = self.stats()?;
        stats.counters.get(name).copied().with_context(|| format!("no counter {name}"))
    }

    /// Ends it in order, so that it removes what it made.
    pub fn end(self) -> anyhow::Result<()> {
        self.process.end(Signal::SIGTERM)
    }
}
