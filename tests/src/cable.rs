//! A bad cable: `dmm-wire` between a port of the daemon and its peer.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::command::{program, run};
use crate::daemon::signal;
use crate::namespace::Namespace;

/// A running `dmm-wire`, ended when dropped.
pub struct Cable {
    wire: Child,
    stdout: BufReader<ChildStdout>,
}

impl Cable {
    /// Joins the namespaces by two new interfaces, which are down. `options` are dmm-wire's.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn join(left: (&Namespace, &str), right: (&Namespace, &str), options: &str) -> Self {
        let cable = Self::between(left.1, right.1, options);
        let pid = cable.wire.id().to_string();
        for (namespace, interface) in [left, right] {
            run(Command::new("nsenter").args(["--net", "--target", &pid]).args([
                "ip",
                "link",
                "set",
                interface,
                "netns",
                namespace.name(),
            ]));
        }
        cable
    }

    /// Joins two DPDK devices, or new interfaces in a namespace of the cable's own, so that no name
    /// clashes.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn between(left: &str, right: &str, options: &str) -> Self {
        let mut command = Command::new("unshare");
        command.arg("--net").arg(program("dmm-wire"));
        command.args(["--json", "--left", left, "--right", right]).args(options.split(' '));
        let mut wire = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = BufReader::new(wire.stdout.take().expect("it is piped"));
        let mut cable = Self { wire, stdout };
        let mut line = String::new();
        cable.stdout.read_line(&mut line).expect("a line or the end");
        assert_eq!(line, "ready\n", "dmm-wire did not start");
        cable
    }

    /// Ends it and returns its counters.
    ///
    /// # Panics
    /// If it fails.
    pub fn end(mut self) -> Value {
        signal(&self.wire, Signal::SIGTERM);
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).expect("its output is text");
        serde_json::from_str(&text).expect("dmm-wire prints its counters")
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = self.wire.kill();
        let _ = self.wire.wait();
    }
}
