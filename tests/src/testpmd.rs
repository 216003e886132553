//! `dpdk-testpmd` as the peer of a port: a process of its own, with counters of its own.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;

use crate::deadline::PATIENCE;

/// A running testpmd with one port, killed when dropped.
pub struct Testpmd {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

/// Frames of testpmd's port, as it counts them itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// Received.
    pub rx: u64,
    /// Sent.
    pub tx: u64,
    /// Not sent, for the ring was full.
    pub tx_dropped: u64,
}

impl Testpmd {
    /// Starts it on the virtual device `device`, forwarding as `mode` says once [`Testpmd::forward`] is
    /// called. `options` are further words of its command line.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(device: &str, mode: &str, options: &[&str]) -> Self {
        // Into a pipe it would say nothing until its buffer is full.
        let mut command = Command::new("stdbuf");
        command.args(["--output=L", "dpdk-testpmd"]);
        // No file outside of its memory, no PCI device, and threads that float over both cores.
        command.args(["--no-huge", "-m", "256", "--no-pci", "--no-shconf", "--no-telemetry"]);
        command.args(["--single-file-segments", "--lcores=0@(0-1),1@(0-1)"]);
        command.args(["--vdev", device, "--", "-i", "--total-num-mbufs=16384"]);
        command.arg(format!("--forward-mode={mode}")).args(options);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (to, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        thread::spawn(move || {
            // Ends with the program's output, or with who reads it.
            for line in stdout.lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        let stdin = child.stdin.take().expect("it is piped");
        let mut testpmd = Self { child, stdin, lines };
        testpmd.wait_for("Checking link statuses");
        testpmd.wait_for("Done");
        testpmd
    }

    /// Begins to forward.
    pub fn forward(&mut self) {
        self.say("start");
        // With the address of its other end, once the forwarding runs.
        self.wait_for("port 0: RX queue number");
    }

    /// What was forwarded so far.
    pub fn so_far(&mut self) -> Forwarded {
        self.say("show fwd stats all");
        self.told()
    }

    /// Ends forwarding, and returns what was forwarded since it began.
    pub fn stop(&mut self) -> Forwarded {
        self.say("stop");
        let forwarded = self.told();
        self.wait_for("Done.");
        forwarded
    }

    fn told(&mut self) -> Forwarded {
        self.wait_for("Forward statistics for port 0");
        let (rx, tx) = (self.wait_for("RX-packets:"), self.wait_for("TX-packets:"));
        self.wait_for("++++++++");
        self.wait_for("++++++++");
        let (rx, tx) = (numbers(&rx), numbers(&tx));
        Forwarded { rx: rx[0], tx: tx[0], tx_dropped: tx[1] }
    }

    /// Ends it without warning.
    ///
    /// # Panics
    /// If it has ended.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is ours");
    }

    fn say(&mut self, words: &str) {
        writeln!(self.stdin, "{words}").expect("testpmd reads");
    }

    /// The next line with these words.
    fn wait_for(&mut self, words: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(words) => return line,
                Ok(line) => seen.push(line),
                Err(error) => {
                    let how = match error {
                        RecvTimeoutError::Timeout => "says no more",
                        RecvTimeoutError::Disconnected => "has ended",
                    };
                    panic!("testpmd {how}, without {words:?}: {}", seen.join("\n"));
                }
            }
        }
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn numbers(line: &str) -> Vec<u64> {
    line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}
