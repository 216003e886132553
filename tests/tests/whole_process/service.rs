//! The daemon as a service: it tells systemd when it is ready and when it is about to end
//! (sd_notify(3)), and an operator what on the machine falls short.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dmm_admin::Admin;
use dmm_tests::command::program;
use dmm_tests::daemon::signal;
use dmm_tests::deadline::{PATIENCE, eventually};
use nix::sys::signal::Signal;

/// Two stacks on a wire: nothing of the machine is needed but its warnings.
const CONFIG: &str = r#"{
    "wires": [{"name": "w"}],
    "ports": [{"name": "p0", "device": "wire:w"}, {"name": "p1", "device": "wire:w"}],
    "stacks": [{"name": "s0", "kind": "native", "port": "p0", "addresses": ["10.80.0.1/24"]},
               {"name": "s1", "kind": "native", "port": "p1", "addresses": ["10.80.0.2/24"]}]
}"#;

/// A daemon without a namespace of its own, killed when dropped.
struct Service(Child);

impl Service {
    fn start(mut command: Command, folder: &Path) -> Self {
        std::fs::write(folder.join("dmmd.json"), CONFIG).expect("the folder is ours");
        command.arg("--config").arg(folder.join("dmmd.json"));
        command.arg("--socket").arg(folder.join("dmmd.sock"));
        Self(command.stderr(Stdio::null()).spawn().expect("the daemon was built"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn systemd_is_told_of_the_start_and_of_the_end() {
    let folder = tempfile::Builder::new().prefix("dmm-tests-").tempdir().unwrap();
    let ear = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    ear.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = |wanted: &str| loop {
        let mut words = [0; 256];
        let len = ear.recv(&mut words).unwrap_or_else(|error| panic!("no {wanted}: {error}"));
        if String::from_utf8_lossy(&words[..len]).lines().any(|line| line == wanted) {
            return;
        }
    };
    let mut command = Command::new(program("dmmd"));
    command.env("NOTIFY_SOCKET", folder.path().join("notify"));
    let mut service = Service::start(command, folder.path());
    hear("READY=1");
    // It is as it says.
    assert!(Admin::connect(&folder.path().join("dmmd.sock")).unwrap().status().is_ok());
    signal(&service.0, Signal::SIGTERM);
    hear("STOPPING=1");
    assert_eq!(service.0.wait().unwrap().code(), Some(0));
    ear.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    assert!(ear.recv(&mut [0; 256]).is_err(), "nothing comes behind the end");
}

#[test]
fn too_few_descriptors_are_warned_of() {
    let folder = tempfile::Builder::new().prefix("dmm-tests-").tempdir().unwrap();
    let mut command = Command::new("prlimit");
    command.arg("--nofile=300:300").arg(program("dmmd"));
    let _service = Service::start(command, folder.path());
    let warnings = eventually("an answer of the daemon", || {
        let admin = Admin::connect(&folder.path().join("dmmd.sock")).map_err(|e| e.to_string())?;
        Ok(admin.status().map_err(|e| e.to_string())?.warnings)
    });
    let words = ["only 300 descriptors", "raise LimitNOFILE"];
    let told = |warning: &&String| words.iter().all(|word| warning.contains(word));
    assert_eq!(warnings.iter().filter(told).count(), 1, "{warnings:?}");
}
