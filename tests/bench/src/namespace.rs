//! Network namespaces under names of their own, gone with their handle.

use std::ffi::OsStr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, ensure};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace with its loopback up.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one.
    pub fn new() -> anyhow::Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("dmm-bench-{}-{number}", std::process::id());
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name, as ip(8) knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        // ip(8) becomes the program: the process id stays.
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs ip(8) inside.
    pub fn ip(&self, arguments: &[&str]) -> anyhow::Result<()> {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// Joins two namespaces by a pair of Ethernet devices. The checksums are computed: what a
    /// user-space stack sends and receives there must have them.
    pub fn join(&self, near: &str, other: &Self, far: &str) -> anyhow::Result<()> {
        self.ip(&["link", "add", near, "type", "veth", "peer", far, "netns", &other.name])?;
        for (namespace, device) in [(self, near), (other, far)] {
            namespace.ip(&["link", "set", device, "up"])?;
            let off =
                ["-K", device, "tx", "off", "rx", "off", "gro", "off", "tso", "off", "gso", "off"];
            run(namespace.command("ethtool").args(off))?;
        }
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", &self.name]) {
            eprintln!("bench: {error:#}");
        }
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    run(Command::new("ip").args(arguments))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {}", words.trim());
    Ok(())
}
