//! The `dmm` command as a whole, against a daemon made of the server half of the admin protocol.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};

use dmm_admin::config::Idle;
use dmm_admin::control::{Ping, REQUEST_BYTES_MAX, parse_request, reply, reply_with_pipe};
use dmm_admin::report::{
    Drop, Drops, InstanceStatus, Pong, PortCounters, PortReport, PortStatus, Ports, Protocol,
    QueueReport, SessionStats, SocketRow, SocketState, Sockets, StackStatus, Stats, Status,
    WakeKind, WorkerStatus,
};
use dmm_admin::{Config, Request};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, listen, recv,
    socket,
};
use nix::unistd::{Pid, pipe};
use serde_json::Value;
use tempfile::TempDir;

/// A daemon that answers one connection.
struct FakeDaemon {
    dir: TempDir,
    thread: JoinHandle<()>,
}

impl FakeDaemon {
    /// Starts it; with `refuse`, every request is refused with that message.
    fn start(refuse: Option<&'static str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let flags = SockFlag::SOCK_CLOEXEC;
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        let address = UnixAddr::new(&dir.path().join("s")).unwrap();
        bind(listener.as_raw_fd(), &address).unwrap();
        listen(&listener, Backlog::new(1).unwrap()).unwrap();
        let thread = thread::spawn(move || answer(&listener, refuse));
        Self { dir, thread }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// Runs `dmm` against it.
    fn dmm(self, args: &[&str]) -> Output {
        let output = dmm().arg("--socket").arg(self.socket()).args(args).output().unwrap();
        self.thread.join().unwrap();
        output
    }
}

fn answer(listener: &OwnedFd, refuse: Option<&str>) {
    let raw = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC).unwrap();
    // SAFETY: accept4(2) has just made this descriptor, and nothing else knows its number.
    let peer = unsafe { OwnedFd::from_raw_fd(raw) };
    let mut buffer = [0; REQUEST_BYTES_MAX];
    let len = recv(peer.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
    let request = parse_request(&buffer[..len]).unwrap();
    match (refuse, request) {
        (Some(message), _) => reply(peer.as_fd(), Err::<&(), _>(message.to_owned())).unwrap(),
        (None, Request::Status {}) => reply(peer.as_fd(), Ok(&status())).unwrap(),
        (None, Request::Stats {}) => reply(peer.as_fd(), Ok(&stats())).unwrap(),
        (None, Request::Sockets {}) => reply(peer.as_fd(), Ok(&sockets())).unwrap(),
        (None, Request::Ports {}) => reply(peer.as_fd(), Ok(&ports())).unwrap(),
        (None, Request::Drops {}) => reply(peer.as_fd(), Ok(&drops())).unwrap(),
        (None, Request::Ping(ping)) => reply(peer.as_fd(), Ok(&pong(&ping))).unwrap(),
        (None, Request::Capture { .. }) => {
            let (reader, writer) = pipe().unwrap();
            reply_with_pipe(peer.as_fd(), &reader).unwrap();
            drop(reader);
            // A block of each kind that the command looks into, and one that is cut off.
            let mut file = std::fs::File::from(writer);
            file.write_all(&block(6, &[7; 20])).unwrap();
            file.write_all(&block(5, &[&[0; 16][..], &9_u64.to_le_bytes()].concat())).unwrap();
            file.write_all(&block(6, &[7; 20])[..9]).unwrap();
        }
    }
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let total = u32::try_from(12 + body.len()).unwrap().to_le_bytes();
    [&kind.to_le_bytes(), &total, body, &total].concat()
}

fn ports() -> Ports {
    let queue = |index, instance: Option<&str>| QueueReport {
        index,
        instance: instance.map(str::to_owned),
        core: instance.map(|_| 6),
        rx_frames: 70,
        tx_frames: 80,
    };
    let report = PortReport {
        status: status().ports.remove(0),
        rx_checksum: true,
        tx_checksum: false,
        queue_pairs: vec![queue(0, Some("fast.0")), queue(1, None)],
        xstats: [("rx_q0_packets".to_owned(), 70), ("quiet".to_owned(), 0)].into(),
    };
    Ports { ports: vec![report] }
}

fn drops() -> Drops {
    let drop = |name: &str, count| Drop {
        name: name.to_owned(),
        count,
        meaning: "Frames that nobody wanted.".to_owned(),
    };
    Drops { drops: vec![drop("drop.seen", 3), drop("drop.unseen", 0)] }
}

fn pong(ping: &Ping) -> Pong {
    let answered = ping.bytes == 56;
    Pong {
        stack: ping.stack.clone().unwrap_or_else(|| "fast".to_owned()),
        round_trip_us: answered.then_some(41.5),
        hop_limit: answered.then_some(64),
        error: (!answered).then(|| "no answer".to_owned()),
    }
}

fn status() -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: 4321,
        uptime_s: 90,
        socket: "/run/dmm/dmmd.sock".into(),
        hugepages: false,
        workers: vec![WorkerStatus {
            core: 6,
            instances: vec!["default.0".into()],
            mode: Idle::Adaptive,
            busy: 0.25,
            wakeups: 7,
            sleeps: 8,
            turns: 9,
        }],
        stacks: vec![StackStatus {
            name: "default".into(),
            kind: "smoltcp".into(),
            port: "tap".into(),
            addresses: vec!["10.111.0.2/24".into()],
            gateways: vec!["10.111.0.1".parse().unwrap()],
            congestion: "cubic".into(),
            instances: vec![InstanceStatus { core: 1, queue: 0, sockets: 3 }],
            sockets: 3,
        }],
        ports: vec![PortStatus {
            name: "tap".into(),
            device: "net_tap0,iface=dmm0".into(),
            driver: "net_tap".into(),
            mac: "02:00:00:00:00:01".into(),
            mtu: 1500,
            queues: 1,
            link_up: true,
            speed_mbps: 10_000,
            wake: WakeKind::Fd,
            rss: false,
            numa_node: None,
            stats: PortCounters { rx_frames: 11, tx_frames: 12, ..PortCounters::default() },
        }],
        sessions: 1,
        sockets: 3,
        orphans: 0,
        chunks_used: 5,
        chunks_total: 50,
        warnings: vec!["packet buffers lie in 4 KiB pages".into()],
    }
}

fn stats() -> Stats {
    let session = SessionStats {
        pid: 77,
        uid: 1000,
        name: "evil\u{1b}[2J".into(),
        sockets: 1,
        sockets_opened: 2,
        bytes: 3,
        ops: 4,
    };
    Stats { counters: [("drop.checksum".to_owned(), 5)].into(), sessions: vec![session] }
}

fn sockets() -> Sockets {
    let row = |protocol, state, local: Option<&str>, remote: Option<&str>| SocketRow {
        stack: "default".into(),
        instance: 0,
        protocol,
        state,
        local: local.map(|text| text.parse().unwrap()),
        remote: remote.map(|text| text.parse().unwrap()),
        rx_queued: 1,
        tx_queued: 128,
        pid: Some(77),
        program: Some("nginx".into()),
    };
    let mut orphan =
        row(Protocol::Tcp, SocketState::TimeWait, Some("[fd00::2]:80"), Some("[fd00::1]:999"));
    (orphan.pid, orphan.program) = (None, None);
    Sockets {
        rows: vec![
            row(Protocol::Tcp, SocketState::Listen, Some("10.111.0.2:80"), None),
            row(Protocol::Udp, SocketState::Unconnected, None, None),
            orphan,
        ],
    }
}

fn dmm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmm"));
    command.env_remove("DMM_SOCKET").env_remove("DMM_CONFIG");
    command
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Asserts a failure: this exit code, and one line on standard error, which is returned.
fn stderr(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

/// The cells of the line that starts with `first`.
fn line<'a>(text: &'a str, first: &str) -> Vec<&'a str> {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(first));
    line.unwrap_or_else(|| panic!("no {first} in {text}")).split_whitespace().collect()
}

#[test]
fn status_is_shown() {
    let text = stdout(&FakeDaemon::start(None).dmm(&["status"]));
    assert!(text.contains("pid 4321 up 1m30s"), "{text}");
    assert!(text.contains("packet buffers in 4 KiB pages"), "{text}");
    assert_eq!(
        line(&text, "default"),
        ["default", "smoltcp", "tap", "1", "3", "cubic", "10.111.0.2/24"]
    );
    assert_eq!(line(&text, "6"), ["6", "adaptive", "25%", "9", "8", "7", "default.0"]);
    assert!(line(&text, "tap").contains(&"10000M"), "{text}");
    assert!(text.ends_with("warning: packet buffers lie in 4 KiB pages\n"), "{text}");
}

#[test]
fn json_is_the_daemons_document() {
    let text = stdout(&FakeDaemon::start(None).dmm(&["status", "--json"]));
    assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status());
    let text = stdout(&FakeDaemon::start(None).dmm(&["--json", "stats"]));
    assert_eq!(serde_json::from_str::<Stats>(&text).unwrap(), stats());
    let text = stdout(&FakeDaemon::start(None).dmm(&["sockets", "--json"]));
    assert_eq!(serde_json::from_str::<Sockets>(&text).unwrap(), sockets());
}

#[test]
fn stats_are_shown_without_control_characters() {
    let text = stdout(&FakeDaemon::start(None).dmm(&["stats"]));
    assert_eq!(line(&text, "drop.checksum"), ["drop.checksum", "5"]);
    assert_eq!(line(&text, "77"), ["77", "1000", "evil?[2J", "1", "2", "3", "4"]);
}

#[test]
fn sockets_are_shown_as_ss_does() {
    let text = stdout(&FakeDaemon::start(None).dmm(&["sockets"]));
    let process = "users:((\"nginx\",pid=77))";
    let rows: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..4], ["Netid", "State", "Recv-Q", "Send-Q"]);
    assert_eq!(
        rows[1],
        ["tcp", "LISTEN", "1", "128", "10.111.0.2:80", "0.0.0.0:*", process, "default.0"]
    );
    assert_eq!(rows[2], ["udp", "UNCONN", "1", "128", "*:*", "*:*", process, "default.0"]);
    assert_eq!(
        rows[3],
        ["tcp", "TIME-WAIT", "1", "128", "[fd00::2]:80", "[fd00::1]:999", "default.0"]
    );
}

#[test]
fn the_environment_names_the_socket_too() {
    let daemon = FakeDaemon::start(None);
    let output = dmm().env("DMM_SOCKET", daemon.socket()).arg("status").output().unwrap();
    assert!(stdout(&output).contains("pid 4321"));
    daemon.thread.join().unwrap();
}

#[test]
fn failures_are_one_line_and_exit_code_1() {
    let text = stderr(&FakeDaemon::start(Some("two\nlines")).dmm(&["stats"]));
    assert_eq!(text, "dmm: the daemon refuses: two lines\n");
    let output = dmm().args(["--socket", "/nonexistent/s", "sockets"]).output().unwrap();
    let text = stderr(&output);
    assert!(text.contains("no daemon answers on /nonexistent/s: start dmmd"), "{text}");
    let count = ["hugepages", "reserve", "--node", "4000000", "--count", "1"];
    let text = stderr(&dmm().args(count).output().unwrap());
    assert!(text.contains("no 2M pages on node 4000000"), "{text}");
}

#[test]
fn a_failure_tells_its_cause() {
    // A port that nobody listens on: it was ours a moment ago.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let args = ["echo", "client", &closed, "--via", "kernel"];
    let text = stderr(&dmm().args(args).output().unwrap());
    assert!(text.contains(&format!("cannot connect to {closed}: Connection refused")), "{text}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let on = taken.local_addr().unwrap().to_string();
    let text = stderr(&dmm().args(["echo", "server", &on, "--via", "kernel"]).output().unwrap());
    assert!(text.contains("over kernel: Address already in use"), "{text}");
    let args = ["--socket", "/nonexistent/s", "echo", "client", &closed];
    let text = stderr(&dmm().args(args).output().unwrap());
    assert_eq!(text.matches("No such file").count(), 1, "{text}");
}

#[test]
fn an_interrupted_client_reports_what_it_measured() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let mut command = dmm();
    command.args(["--json", "echo", "client", &at, "--via", "kernel", "--seconds", "3600"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut message = [0; 64];
    for _ in 0..100 {
        stream.read_exact(&mut message).unwrap();
        stream.write_all(&message).unwrap();
    }
    // It has measured what it sent before this one, which stays unanswered.
    stream.read_exact(&mut message).unwrap();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["messages"], &report["errors"]), (&100.into(), &0.into()), "{report}");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for args in [&["frobnicate"][..], &[], &["hugepages", "reserve"], &["status", "--bogus"]] {
        assert_eq!(dmm().args(args).output().unwrap().status.code(), Some(2), "{args:?}");
    }
    let size = ["hugepages", "reserve", "--count", "1", "--size", "3M"];
    let output = dmm().args(size).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("write 2M or 1G"));
}

#[test]
fn the_schema_is_that_of_the_configuration() {
    let text = stdout(&dmm().arg("schema").output().unwrap());
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), Config::schema());
}

#[test]
fn huge_pages_are_listed() {
    let text = stdout(&dmm().arg("hugepages").output().unwrap());
    assert_eq!(line(&text, "NODE"), ["NODE", "SIZE", "TOTAL", "FREE", "SURPLUS"]);
    let text = stdout(&dmm().args(["hugepages", "show", "--json"]).output().unwrap());
    assert!(serde_json::from_str::<Value>(&text).unwrap()["pools"].is_array());
}

/// The doctor's report with this configuration text, whatever this machine is like.
fn doctor(config: &str, socket: &str) -> (Option<i32>, Value) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dmmd.json");
    std::fs::write(&path, config).unwrap();
    let output = dmm()
        .args(["--socket", socket, "doctor", "--json", "--config"])
        .arg(&path)
        .output()
        .unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap()
}

#[test]
fn the_doctor_finds_a_broken_configuration() {
    let (code, report) = doctor("{\"ports\": [],\n \"bogus\": 1}", "/nonexistent/s");
    assert_eq!((code, &report["ok"]), (Some(1), &Value::Bool(false)));
    let broken = check(&report, "configuration");
    assert_eq!(broken["level"], "fail");
    let found = broken["found"].as_str().unwrap();
    assert!(found.contains("line 2") && found.contains("key bogus"), "{found}");
    let absent = check(&report, "daemon");
    assert_eq!(absent["level"], "warn");
    assert!(absent["remedy"].as_str().unwrap().contains("start dmmd"));
}

#[test]
fn the_doctor_judges_the_configuration_that_dmmd_would_take() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dmmd.json");
    let found = || {
        let mut command = dmm();
        command.env("DMM_CONFIG", &path).args(["--socket", "/nonexistent/s", "doctor", "--json"]);
        let report = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
        let found = check(&report, "configuration");
        (found["level"].clone(), found["found"].as_str().unwrap().to_owned())
    };
    let (level, text) = found();
    assert!(level == "fail" && text.contains("cannot read"), "{level}: {text}");
    std::fs::write(&path, dmm_admin::config::EMBEDDED_JSON).unwrap();
    let (level, text) = found();
    assert_eq!((level, text), ("ok".into(), format!("{} is valid, 1 stacks", path.display())));
}

#[test]
fn the_doctor_names_both_keys_that_keep_a_user_out() {
    let mut config: Value = serde_json::from_str(dmm_admin::config::EMBEDDED_JSON).unwrap();
    config["clients"] = serde_json::json!({"users": [4_000_000]});
    let (_, report) = doctor(&config.to_string(), "/nonexistent/s");
    let checks = report["checks"].as_array().unwrap();
    let warned = checks.iter().find(|c| c["name"] == "configuration" && c["level"] == "warn");
    assert!(warned.unwrap()["found"].as_str().unwrap().contains("clients.mode 0600"));
    // Refused by the daemon itself, which the file mode let through.
    let daemon = FakeDaemon::start(Some("list it in clients.users"));
    let socket = daemon.socket();
    let (_, report) = doctor(dmm_admin::config::EMBEDDED_JSON, socket.to_str().unwrap());
    daemon.thread.join().unwrap();
    let refused = check(&report, "daemon");
    assert_eq!(refused["level"], "warn");
    assert!(refused["found"].as_str().unwrap().contains("clients.users"), "{refused}");
}

#[test]
fn the_doctor_sees_a_daemon_and_every_warning_has_a_remedy() {
    let daemon = FakeDaemon::start(None);
    let socket = daemon.socket();
    let (code, report) = doctor(dmm_admin::config::EMBEDDED_JSON, socket.to_str().unwrap());
    daemon.thread.join().unwrap();
    assert_eq!(check(&report, "daemon")["level"], "ok");
    assert_eq!(check(&report, "configuration")["level"], "ok");
    let checks = report["checks"].as_array().unwrap();
    for check in checks {
        assert_eq!(check["level"] == "ok", check.get("remedy").is_none(), "{check}");
    }
    let failed = checks.iter().any(|check| check["level"] == "fail");
    assert_eq!(code, Some(i32::from(failed)));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn ports_show_queues_offloads_and_counters() {
    let output = FakeDaemon::start(None).dmm(&["ports"]);
    let text = text(&output.stdout);
    for part in ["driver     ", "checksums: received\n", "fast.0", "xstat rx_q0_packets"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("quiet"), "{text}");
    let output = FakeDaemon::start(None).dmm(&["--json", "ports"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["ports"][0]["xstats"]["quiet"], 0);
    let output = FakeDaemon::start(None).dmm(&["ports", "elsewhere"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no port \"elsewhere\""));
}

#[test]
fn drops_come_with_their_meanings() {
    let all = FakeDaemon::start(None).dmm(&["drops"]);
    let all = text(&all.stdout);
    assert!(all.contains("drop.seen        3  Frames that nobody wanted."), "{all}");
    assert!(all.contains("drop.unseen"), "{all}");
    let seen = FakeDaemon::start(None).dmm(&["drops", "--seen"]);
    assert!(!text(&seen.stdout).contains("drop.unseen"));
}

#[test]
fn pings_tell_what_came_and_end_accordingly() {
    let output = FakeDaemon::start(None).dmm(&["ping", "10.1.0.1", "-c1", "--via", "lab"]);
    assert!(output.status.success());
    let expected = "56 bytes from 10.1.0.1 via lab: seq=1 ttl=64 time=41.5 us\n\
                    1 sent, 1 received, 0 lost, min/mean/max 41.5/41.5/41.5 us\n";
    assert_eq!(text(&output.stdout), expected);
    let output = FakeDaemon::start(None).dmm(&["ping", "fd00::1", "-c1", "-s8"]);
    assert_eq!(output.status.code(), Some(1));
    let expected = "fd00::1 via fast: seq=1 no answer\n1 sent, 0 received, 1 lost\n";
    assert_eq!(text(&output.stdout), expected);
}

#[test]
fn captures_are_whole_blocks_and_tell_what_is_missing() {
    let output = FakeDaemon::start(None).dmm(&["capture", "p0"]);
    assert!(output.status.success());
    assert_eq!(output.stdout.len(), 32 + 36, "two whole blocks");
    assert_eq!(text(&output.stderr), "1 frames captured, 9 missed\n");
}
