//! The program `dmmd` as a whole, on ports that are the two ends of a wire: what it says of its
//! configuration, what it reports, and how signals end it.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};

use dmm_admin::Admin;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

const DMMD: &str = env!("CARGO_BIN_EXE_dmmd");

/// A user that is on no machine, and that nobody has the number of.
const STRANGER: u32 = 4_000_000;

fn config() -> Value {
    json!({
        "ports": [{"name": "left", "device": "wire:w"}, {"name": "right", "device": "wire:w"}],
        "wires": [{"name": "w"}],
        "stacks": [
            {"name": "a", "kind": "native", "port": "left", "addresses": ["10.0.0.1/24"]},
            {"name": "b", "kind": "test", "port": "right", "addresses": ["10.0.0.2/24"]}
        ],
        "clients": {"users": [STRANGER]},
        "workers": {"idle": "interrupt"}
    })
}

fn written(folder: &TempDir, config: &Value) -> PathBuf {
    let path = folder.path().join("dmmd.json");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

fn dmmd(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_remove("DMM_CONFIG").env_remove("DMM_SOCKET").env_remove("DMM_LOG");
    command
}

fn check(config: &Value) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = written(&folder, config);
    dmmd(DMMD).arg("--check").arg("--config").arg(path).output().unwrap()
}

/// Asserts that `--check` refuses the configuration in one line, which says `text` once.
fn refused(config: &Value, text: &str) {
    let output = check(config);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!((line.lines().count(), line.matches(text).count()), (1, 1), "{line}");
}

#[test]
fn a_check_names_what_it_checked_and_warns_as_the_start_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(&folder, &config());
    for by_environment in [false, true] {
        let mut command = dmmd(DMMD);
        command.arg("--check");
        if by_environment {
            command.env("DMM_CONFIG", &path);
        } else {
            command.arg("--config").arg(&path);
        }
        let output = command.output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], format!("{} is fine", path.display()));
        assert!(lines[1].starts_with("warning: clients.users"), "{text}");
        assert_eq!(lines.len(), 2, "{text}");
    }
}

#[test]
fn a_check_refuses_what_the_start_refuses_and_says_it_once() {
    let mut wrong = config();
    wrong["clients"]["users"] = json!(["nobody-of-this-name"]);
    refused(&wrong, "nobody-of-this-name");
    wrong = config();
    wrong["stacks"][0]["cores"] = json!([65_000]);
    refused(&wrong, "core 65000 does not exist");
    refused(&json!([]), "expected an object");
}

#[test]
fn a_file_without_its_option_is_answered_with_the_option() {
    let output = dmmd(DMMD).args(["--check", "x.json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("--config x.json"), "{text}");
}

/// A daemon that is ready; killed when dropped.
struct Daemon {
    child: Child,
    folder: TempDir,
    // Kept open: the daemon writes on.
    _log: BufReader<ChildStderr>,
}

impl Daemon {
    fn start(mut command: Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        command.arg("--config").arg(written(&folder, &config()));
        command.arg("--socket").arg(folder.path().join("s")).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut text = String::new();
        while !text.contains(" ready") {
            assert_ne!(log.read_line(&mut text).unwrap(), 0, "it ended: {text}");
        }
        Self { child, folder, _log: log }
    }

    fn socket(&self) -> &Path {
        self.folder.path()
    }

    fn admin(&self) -> Admin {
        Admin::connect(&self.socket().join("s")).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits for its end, which leaves no socket behind.
    fn end(mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        assert!(!self.socket().join("s").exists());
        status
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_status_is_in_the_configurations_words() {
    let daemon = Daemon::start(dmmd(DMMD));
    let status = daemon.admin().status().unwrap();
    let devices: Vec<_> = status.ports.iter().map(|port| port.device.as_str()).collect();
    assert_eq!(devices, ["wire:w"; 2]);
    assert!(status.warnings[0].starts_with("clients.users"), "{:?}", status.warnings);
}

#[test]
fn no_two_counters_are_called_alike() {
    let daemon = Daemon::start(dmmd(DMMD));
    let counters = daemon.admin().stats().unwrap().counters;
    for name in ["instance.a.0.rx.frames", "stack.a.0.rx.frames", "drop.tx_ring_full"] {
        assert!(counters.contains_key(name), "{counters:?}");
    }
    let alike: BTreeSet<_> = counters.keys().map(|name| name.replace('_', ".")).collect();
    assert_eq!(alike.len(), counters.len(), "{counters:?}");
    // Owner, name, number, group, and the counter itself.
    for name in counters.keys().filter(|n| n.starts_with("instance.") || n.starts_with("stack.")) {
        assert_eq!(name.split('.').count(), 5, "{name}");
    }
}

#[test]
fn whichever_signal_ends_it_nothing_is_left_behind() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let daemon = Daemon::start(dmmd(DMMD));
        daemon.signal(signal);
        let status = daemon.end();
        assert!(status.success(), "{signal}: {status}");
    }
}

#[test]
fn a_closed_terminal_does_not_end_what_was_started_to_outlive_it() {
    let mut command = dmmd("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", DMMD]);
    let daemon = Daemon::start(command);
    daemon.signal(Signal::SIGHUP);
    // Had it been heard, the first answer would be the last.
    let admin = daemon.admin();
    admin.status().unwrap();
    admin.status().unwrap();
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.end().success());
}
