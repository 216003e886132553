//! Network namespaces and what is in them. A namespace goes with everything in it when dropped.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::command::run;

/// What the names of all namespaces of these tests begin with.
pub const PREFIX: &str = "dmmt";

/// A network namespace.
pub struct Namespace {
    name: String,
}

/// Packets and bytes of an interface, as its namespace's kernel counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkCounters {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

impl Namespace {
    /// Makes a namespace without any interface that is up. `tag` makes its name readable.
    ///
    /// # Panics
    /// Without root.
    #[must_use]
    pub fn new(tag: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{tag}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        Self { name }
    }

    /// Its name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside; its process id is that of `program`.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program).stdin(Stdio::null());
        command
    }

    /// Runs `ip` inside, with arguments split at spaces.
    ///
    /// # Panics
    /// If it fails.
    pub fn ip(&self, arguments: &str) -> String {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments.split(' ')))
    }

    /// The counters of an interface.
    ///
    /// # Panics
    /// If there is no such interface.
    #[must_use]
    pub fn link_counters(&self, interface: &str) -> LinkCounters {
        let text = self.ip(&format!("-s -j link show dev {interface}"));
        let links: Value = serde_json::from_str(&text).expect("ip prints JSON");
        let count = |direction: &str, unit: &str| {
            links[0]["stats64"][direction][unit].as_u64().expect("ip prints counters")
        };
        LinkCounters {
            rx_packets: count("rx", "packets"),
            rx_bytes: count("rx", "bytes"),
            tx_packets: count("tx", "packets"),
            tx_bytes: count("tx", "bytes"),
        }
    }

    /// Gives an interface an address of each family, usable at once, and brings it up.
    pub fn configure(&self, interface: &str, v4: &str, v6: &str) {
        self.ip(&format!("link set {interface} up"));
        self.ip(&format!("address add {v4} dev {interface}"));
        self.ip(&format!("address add {v6} dev {interface} nodad"));
    }

    /// Has the kernel make and take the very frames that pass an interface.
    pub fn without_offloads(&self, interface: &str) {
        let mut ethtool = self.command("ethtool");
        ethtool.args(["-K", interface, "tx", "off", "sg", "off"]);
        ethtool.args(["tso", "off", "gso", "off", "gro", "off"]);
        run(&mut ethtool);
    }

    /// Does something inside; sockets that it opens stay there.
    ///
    /// # Panics
    /// If it does, or without root.
    pub fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let file = File::open(Path::new("/run/netns").join(&self.name)).expect("ip made it");
        let inside = || {
            // A thread has a namespace of its own, which ends with it.
            setns(file, CloneFlags::CLONE_NEWNET).expect("we are root");
            act()
        };
        thread::scope(|scope| scope.spawn(inside).join().expect("it did not panic"))
    }

    /// Sets a variable below `net.ipv4`, which holds for IPv6 too where it is TCP's.
    ///
    /// # Panics
    /// If there is none, or it cannot be so.
    pub fn set(&self, variable: &str, value: &str) {
        let path = Path::new("/proc/sys/net/ipv4").join(variable);
        self.within(|| fs::write(path, value)).unwrap_or_else(|e| panic!("{variable}: {e}"));
    }

    /// Joins this namespace's new interface `near` with `other`'s new interface `far`, with every
    /// offload off: what one end leaves to hardware that is not there, a packet socket at the other
    /// would see undone (wrong checksums, frames above the MTU).
    pub fn join(&self, near: &str, other: &Self, far: &str) {
        self.ip(&format!("link add {near} type veth peer name {far} netns {}", other.name));
        for (namespace, interface) in [(self, near), (other, far)] {
            namespace.without_offloads(interface);
            namespace.ip(&format!("link set {interface} up"));
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // May run while a test panics: what fails here is shown by the next look at the leftovers.
        if let Ok(pids) = Command::new("ip").args(["netns", "pids", &self.name]).output() {
            let text = String::from_utf8_lossy(&pids.stdout).into_owned();
            for pid in text.lines().filter_map(|line| line.trim().parse().ok()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}
