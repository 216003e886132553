//! What cannot work says so: one clear message, and an exit code that is not 0.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use dmm_proto::hello::{AttachError, Hello, HelloError, receive, receive_welcome, send_refusal};
use dmm_tests::command::{output, program};
use dmm_tests::daemon::Daemon;
use dmm_tests::lab::{Lab, Link, PortKind, config};
use dmm_tests::namespace::Namespace;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

/// Asserts that the daemon does not start with this configuration, and that its one message has all
/// of these words.
fn refused(namespace: &Namespace, config_text: &str, words: &[&str]) {
    let output = Daemon::refuse(namespace, config_text);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{log}");
    let messages: Vec<_> = log.lines().filter(|line| line.starts_with("dmmd: ")).collect();
    assert_eq!(messages.len(), 1, "one message: {log}");
    for word in words {
        assert!(messages[0].contains(word), "{word:?} is missing: {}", messages[0]);
    }
    assert!(!log.contains("panicked"), "{log}");
}

fn changed(change: impl FnOnce(&mut Value)) -> String {
    let mut config = config(&[Link::new(0, PortKind::Tap)], 1);
    change(&mut config);
    format!("{config:#}")
}

#[test]
fn a_wrong_configuration_is_refused() {
    let namespace = Namespace::new("refusals");
    let unknown = "{\n  \"ports\": [],\n  \"sokcet\": \"/tmp/x\",\n  \"stacks\": []\n}";
    refused(&namespace, unknown, &["line 3", "sokcet", "dmmd.json"]);
    let sctp = changed(|config| config["stacks"][0]["kind"] = json!("sctp"));
    refused(&namespace, &sctp, &["sctp", "not available", "native", "line"]);
    let pci = changed(|config| config["ports"][0]["device"] = json!("0000:fe:1f.7"));
    refused(&namespace, &pci, &["0000:fe:1f.7", "p0", "list them with dpdk-devbind.py"]);
    refused(&namespace, "", &["empty", "dmmd.json"]);
}

#[test]
fn huge_pages_that_are_not_there_are_missed_only_if_required() {
    // More than any machine that runs tests has: the largest pool that can be asked for.
    let namespace = Namespace::new("refusals");
    let demand = |how: &str| {
        let memory = json!({"hugepages": how, "mempool_mb": 16_384});
        changed(|config| config["memory"] = memory)
    };
    let remedy = "reserve them with `dmm hugepages reserve";
    refused(&namespace, &demand("require"), &["memory.hugepages", "require", remedy]);
}

#[test]
fn what_is_in_use_is_refused() {
    let lab = Lab::new(PortKind::Tap, 1);
    // The TAP of the daemon that runs.
    refused(
        &lab.home,
        &changed(|_| ()),
        &["p0", "tap0", "remove it with", "or choose another name"],
    );
    // Its socket.
    let second = output(
        lab.home
            .command(program("dmmd"))
            .arg("--socket")
            .arg(lab.daemon.socket())
            .args(["--config", "/nonexistent"]),
    );
    assert_eq!(second.status.code(), Some(1));
    let other = Namespace::new("other");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dmmd.json");
    std::fs::write(&path, changed(|_| ())).unwrap();
    let second = output(
        other
            .command(program("dmmd"))
            .arg("--socket")
            .arg(lab.daemon.socket())
            .arg("--config")
            .arg(path),
    );
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{message}");
    assert!(message.contains("another dmmd answers"), "{message}");
    // The first has not noticed.
    assert_eq!(lab.daemon.status().stacks.len(), 1);
}

/// Runs a daemon that is to listen at `socket`, whose port cannot start, and returns its message.
fn message_for_socket(namespace: &Namespace, socket: &OsStr) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dmmd.json");
    let no_such_device = changed(|config| config["ports"][0]["device"] = json!("0000:fe:1f.7"));
    fs::write(&path, no_such_device).unwrap();
    let mut command = namespace.command(program("dmmd"));
    let output = output(command.arg("--config").arg(path).arg("--socket").arg(socket));
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{log}");
    let messages: Vec<_> = log.lines().filter(|line| line.starts_with("dmmd: ")).collect();
    assert_eq!(messages.len(), 1, "one message: {log}");
    messages[0].to_owned()
}

#[test]
fn nothing_but_a_dead_socket_is_replaced() {
    let namespace = Namespace::new("refusals");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("precious.txt"), "precious").unwrap();
    mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
    fs::create_dir(at("folder")).unwrap();
    symlink(at("precious.txt"), at("link")).unwrap();
    symlink(at("nothing"), at("dangling")).unwrap();
    symlink(at("loop"), at("loop")).unwrap();
    let _live = UnixListener::bind(at("live")).unwrap();
    for (name, what) in [
        ("precious.txt", "a regular file"),
        ("fifo", "a FIFO"),
        ("folder", "a folder"),
        ("link", "a symbolic link"),
        ("dangling", "a symbolic link"),
        ("loop", "a symbolic link"),
        ("live", "a socket"),
    ] {
        let before = fs::symlink_metadata(at(name)).unwrap().file_type();
        let message = message_for_socket(&namespace, at(name).as_os_str());
        for word in [name, "is in the way", what, "remove it", "--socket"] {
            assert!(message.contains(word), "{word:?} is missing: {message}");
        }
        assert_eq!(fs::symlink_metadata(at(name)).unwrap().file_type(), before, "{name}");
    }
    assert_eq!(fs::read_to_string(at("precious.txt")).unwrap(), "precious");
    // A dead one gives way, and the daemon that cannot start takes its own away again.
    drop(UnixListener::bind(at("dead")).unwrap());
    let message = message_for_socket(&namespace, at("dead").as_os_str());
    assert!(message.contains("0000:fe:1f.7"), "{message}");
    assert!(!at("dead").exists());
}

#[test]
fn a_path_that_no_socket_can_have_is_refused() {
    let namespace = Namespace::new("refusals");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).into_os_string();
    fs::write(at("file"), "").unwrap();
    symlink(at("nowhere/at/all"), at("dangling")).unwrap();
    for (path, words) in [
        (at(&"long".repeat(27)), ["no socket path", "107 bytes", "shorten it"]),
        (at("new/"), ["no socket path", "names a folder", "add the name of a file"]),
        (at("file/sock"), ["the folder", "make it", "--socket"]),
        (at("dangling/sock"), ["the folder", "make it", "--socket"]),
        ("/proc/dmmd.sock".into(), ["cannot listen", "folder that this user", "--socket"]),
    ] {
        let message = message_for_socket(&namespace, &path);
        for word in words {
            assert!(message.contains(word), "{word:?} is missing: {message}");
        }
    }
}

#[test]
fn a_daemon_that_ends_leaves_the_socket_of_another() {
    let namespace = Arc::new(Namespace::new("refusals"));
    let mut daemon = Daemon::start(&namespace, &config(&[Link::new(0, PortKind::Tap)], 1));
    let path = daemon.socket();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    assert_eq!(daemon.terminate().code(), Some(0));
    assert!(is_socket(&path), "the other's socket is gone");
    // Its own goes.
    fs::remove_file(&path).unwrap();
    daemon.restart();
    assert!(is_socket(&path));
    assert_eq!(daemon.terminate().code(), Some(0));
    assert!(!path.exists());
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// How many have made this interface accept frames for any address, as the kernel counts them.
fn promiscuity(namespace: &Namespace, interface: &str) -> u64 {
    let text = namespace.ip(&format!("-d -j link show dev {interface}"));
    let links: Value = serde_json::from_str(&text).unwrap();
    links[0]["promiscuity"].as_u64().unwrap()
}

#[test]
fn an_interface_stays_as_it_was() {
    let (namespace, peer) = (Arc::new(Namespace::new("refusals")), Namespace::new("peer"));
    namespace.join("near0", &peer, "far0");
    let config = config(&[Link::new(0, PortKind::AfPacket)], 1);
    let mut daemon = Daemon::start(&namespace, &config);
    assert_eq!(promiscuity(&namespace, "near0"), 1);
    assert_eq!(daemon.terminate().code(), Some(0));
    assert_eq!(promiscuity(&namespace, "near0"), 0, "after its end");
    daemon.restart();
    daemon.kill();
    assert_eq!(promiscuity(&namespace, "near0"), 0, "after its death");
    let mut failing = config;
    let gone = json!({"name": "p1", "device": "net_af_packet1,iface=gone"});
    failing["ports"].as_array_mut().unwrap().push(gone);
    refused(&namespace, &failing.to_string(), &["p1", "gone", "create it"]);
    assert_eq!(promiscuity(&namespace, "near0"), 0, "after a start that failed");
}

#[test]
fn a_missing_daemon_is_named() {
    let path = "/tmp/dmm-tests-no-such.sock";
    let mut status = Command::new(program("dmm"));
    status.args(["--socket", path, "status"]);
    let mut client = Command::new(program("dmm-peer"));
    client.env("DMM_SOCKET", path).args(["--via", "dmm", "--connect", "10.80.0.1:9", "drain"]);
    for mut command in [status, client] {
        let output = output(&mut command);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(path) && message.contains("start dmmd"), "{message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    }
}

/// As an operator sees it who updated the daemon and not the programs.
#[test]
fn a_program_that_meets_the_next_daemon_says_so_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dmmd.sock");
    let door = dmm_proto::mock::listen(&path).unwrap();
    let (ours, next) = (dmm_proto::VERSION, dmm_proto::VERSION + 1);
    let mut peer = Command::new(program("dmm-peer"));
    peer.env("DMM_SOCKET", &path).args(["--via", "dmm", "--connect", "10.80.0.1:9", "drain"]);
    let mut echo = Command::new(program("dmm"));
    echo.arg("--socket").arg(&path).args(["echo", "client", "10.80.0.1:9"]);
    for mut command in [peer, echo] {
        let output = std::thread::scope(|scope| {
            scope.spawn(|| {
                let client = dmm_proto::mock::accept(&door).unwrap();
                receive(client.as_fd(), &mut [0; 512]).unwrap();
                // Its words for a client of another version, which it does not understand otherwise.
                let words = HelloError::Version { theirs: ours, ours: next }.to_string();
                send_refusal(client.as_fd(), Errno::EPROTO, &words).unwrap();
            });
            output(&mut command)
        });
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
        for word in [&format!("version {ours}"), &format!("version {next}"), "install"] {
            assert!(message.contains(word), "{word:?} is missing: {message}");
        }
    }
}

#[test]
fn a_client_of_the_next_version_is_told_both_versions() {
    let lab = Lab::new(PortKind::AfPacket, 1);
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    connect(socket.as_raw_fd(), &UnixAddr::new(&lab.daemon.socket()).unwrap()).unwrap();
    let (ours, next) = (dmm_proto::VERSION, dmm_proto::VERSION + 1);
    Hello { name: "future".to_owned() }.send_version(socket.as_fd(), next).unwrap();
    let Err(AttachError::Refused { text, .. }) = receive_welcome(socket.as_fd()) else {
        panic!("no refusal");
    };
    assert!(text.contains(&format!("version {next}")), "{text}");
    assert!(text.contains(&format!("version {ours}")), "{text}");
    assert_eq!(lab.daemon.stats().counters["refused.version"], 1);
    assert_eq!(lab.daemon.status().sessions, 0);
}
