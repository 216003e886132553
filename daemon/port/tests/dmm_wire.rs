//! `dmm-wire` between two network namespaces, with the kernel's own stack at both ends. Needs root
//! and `ip` and `ping`; says so and passes without.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

/// Generous: every wait ends with its event long before.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running `dmm-wire` and the two namespaces that it joins; both go away with this.
struct Cable {
    wire: Child,
    stdout: BufReader<ChildStdout>,
    namespaces: [Namespace; 2],
}

impl Cable {
    /// Starts `dmm-wire` in a namespace of its own, so that no name clashes, and moves the TAPs to
    /// theirs with 10.77.0.1 on the left and 10.77.0.2 on the right.
    fn new(tag: &str, options: &[&str]) -> Self {
        let namespaces = ["l", "r"].map(|side| Namespace::new(&format!("{tag}{side}")));
        let [left, right] = ["dmmwl", "dmmwr"];
        // dmm-wire's own namespace has no name: it ends with the process.
        let mut wire = Command::new("unshare")
            .args(["--net", env!("CARGO_BIN_EXE_dmm-wire"), "--left", left, "--right", right])
            .args(["--json"])
            .args(options)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting dmm-wire under unshare");
        let stdout = BufReader::new(wire.stdout.take().expect("its output is piped"));
        let mut cable = Self { wire, stdout, namespaces };
        assert_eq!(cable.read_line(), "ready");
        for (tap, at) in [(left, 0), (right, 1)] {
            let pid = cable.wire.id().to_string();
            let namespace = &cable.namespaces[at].0;
            run(&[
                "nsenter", "--net", "--target", &pid, "ip", "link", "set", tap, "netns", namespace,
            ]);
            let address = format!("10.77.0.{}/24", at + 1);
            cable.ip(at, &["address", "add", &address, "dev", tap]);
            cable.ip(at, &["link", "set", tap, "up"]);
        }
        cable
    }

    fn ip(&self, at: usize, arguments: &[&str]) {
        run(&[&["ip", "-n", &self.namespaces[at].0], arguments].concat());
    }

    /// Pings the right side from the left.
    fn ping(&self, options: &[&str]) -> String {
        let command = [
            &["ip", "netns", "exec", &self.namespaces[0].0, "ping", "-n", "-q"],
            options,
            &["10.77.0.2"],
        ];
        let output = output(&command.concat());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Ends `dmm-wire` by SIGTERM and returns its counters.
    fn stop(mut self) -> serde_json::Value {
        let pid = Pid::from_raw(i32::try_from(self.wire.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        let line = self.read_line();
        assert!(self.wire.wait().unwrap().success());
        serde_json::from_str(&line).expect("one line of JSON")
    }

    /// A line of its output. Fails after [`PATIENCE`] by killing it, which ends the read.
    fn read_line(&mut self) -> String {
        let (done, waiting) = mpsc::channel::<()>();
        let pid = Pid::from_raw(i32::try_from(self.wire.id()).unwrap());
        let watchdog = thread::spawn(move || {
            if waiting.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        drop(done);
        watchdog.join().unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = self.wire.kill();
        let _ = self.wire.wait();
    }
}

/// A network namespace, deleted when dropped.
struct Namespace(String);

impl Namespace {
    fn new(tag: &str) -> Self {
        let name = format!("dmmw{}{tag}", std::process::id());
        run(&["ip", "netns", "add", &name]);
        Self(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ =
            Command::new("ip").args(["netns", "delete", &self.0]).stderr(Stdio::null()).status();
    }
}

fn output(command: &[&str]) -> Output {
    Command::new(command[0]).args(&command[1..]).output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}");
    })
}

fn run(command: &[&str]) {
    let output = output(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
}

fn is_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        eprintln!("skipped: TAP interfaces and namespaces need root");
    }
    root
}

/// CPU time of a process in clock ticks, from proc_pid_stat(5): user and system.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn ping_crosses_a_perfect_wire_and_its_idle_costs_nothing() {
    if !is_root() {
        return;
    }
    let cable = Cable::new("p", &["--delay-us", "2000"]);
    let report = cable.ping(&["-c", "20", "-i", "0.02", "-W", "30"]);
    assert!(report.contains("20 packets transmitted, 20 received, 0% packet loss"), "{report}");
    // 2 ms each way: the least round trip is a bound that the wire guarantees.
    let least = report.rsplit_once("= ").unwrap().1.split('/').next().unwrap();
    assert!(least.parse::<f64>().unwrap() >= 4.0, "{report}");

    // Ten pings, 0.2 s apart: two seconds in which a spinning relay uses about 200 ticks.
    let before = cpu_ticks(cable.wire.id());
    cable.ping(&["-c", "10", "-i", "0.2", "-W", "30"]);
    let used = cpu_ticks(cable.wire.id()) - before;
    assert!(used < 50, "{used} ticks of CPU time in 2 s of idling");

    let counters = cable.stop();
    for direction in ["left_to_right", "right_to_left"] {
        let counters = &counters[direction];
        assert!(counters["sent"].as_u64().unwrap() >= 31, "pings and ARP: {counters}");
        assert_eq!(counters["sent"].as_u64(), counters["delivered"].as_u64(), "{counters}");
        assert_eq!((counters["lost"].as_u64(), counters["oversize"].as_u64()), (Some(0), Some(0)));
    }
}

#[test]
fn a_lossy_wire_loses_what_its_counters_say() {
    if !is_root() {
        return;
    }
    let cable = Cable::new("l", &["--loss", "0.5", "--seed", "7"]);
    // Neighbours are known, so that every ping is one frame; each crosses twice.
    for (at, tap, other) in [(0, "dmmwl", "dmmwr"), (1, "dmmwr", "dmmwl")] {
        let peer = 1 - at;
        let show = output(&["ip", "-n", &cable.namespaces[peer].0, "-o", "link", "show", other]);
        let show = String::from_utf8_lossy(&show.stdout).into_owned();
        let mac = show.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
        let address = format!("10.77.0.{}", peer + 1);
        cable.ip(at, &["neighbour", "replace", &address, "lladdr", mac, "dev", tap]);
    }
    let report = cable.ping(&["-c", "200", "-i", "0.01", "-W", "1"]);
    let received = report.split("transmitted, ").nth(1).unwrap().split(' ').next().unwrap();
    let received: u64 = received.parse().unwrap();
    // A quarter of 200 comes back: 50, with a deviation of 6.
    assert!((14..=86).contains(&received), "{report}");
    let counters = cable.stop();
    for direction in ["left_to_right", "right_to_left"] {
        let count = |name| counters[direction][name].as_u64().unwrap();
        assert!(count("lost") > 10, "{counters}");
        assert_eq!(count("sent"), count("delivered") + count("lost"), "{counters}");
    }
    assert!(counters["right_to_left"]["delivered"].as_u64().unwrap() >= received, "{counters}");
}

#[test]
fn it_ends_with_an_error_when_a_tap_is_deleted() {
    if !is_root() {
        return;
    }
    let mut cable = Cable::new("d", &[]);
    cable.ip(0, &["link", "delete", "dmmwl"]);
    // The counters still come, then the end.
    assert!(cable.read_line().contains("left_to_right"));
    assert!(!cable.wire.wait().unwrap().success());
}

#[test]
fn it_refuses_nonsense_with_the_value_and_a_remedy() {
    let refuse = |arguments: &[&str]| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dmm-wire"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut message = String::new();
        child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
        assert!(!child.wait().unwrap().success());
        message
    };
    let message = refuse(&["--left", "a name", "--right", "b"]);
    assert!(message.contains("\"a name\"") && message.contains("15 bytes"), "{message}");
    if is_root() {
        let left = format!("dmmw{}x", std::process::id());
        let right = format!("dmmw{}y", std::process::id());
        let message = refuse(&["--left", &left, "--right", &right, "--loss", "2"]);
        assert!(message.contains("loss is 2"), "{message}");
    }
}
