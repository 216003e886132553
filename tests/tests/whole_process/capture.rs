//! Captures of a running port: an independent program decodes every frame, and the port's users do not
//! notice.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use dmm_tests::command::{output, program, run};
use dmm_tests::daemon::{Daemon, signal};
use dmm_tests::deadline::eventually;
use dmm_tests::lab::{FAMILIES, Family, Lab, Link, PortKind, ROLES, config};
use dmm_tests::namespace::Namespace;
use dmm_tests::peer::Outcome;
use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;

/// A running `dmm capture`, ended when dropped.
struct Capture {
    child: Child,
    folder: TempDir,
}

impl Capture {
    fn start(daemon: &Daemon) -> Self {
        let folder = tempfile::Builder::new().prefix("dmm-tests-").tempdir().expect("writable");
        let file = File::create(folder.path().join("pcapng")).expect("writable");
        let mut command = Command::new(program("dmm"));
        command.arg("--socket").arg(daemon.socket()).args(["capture", "p0"]);
        command.stdin(Stdio::null()).stdout(file).stderr(Stdio::piped());
        let child = command.spawn().expect("it was built");
        let capture = Self { child, folder };
        // The head of the file is written once the daemon has begun.
        eventually("the beginning of the capture", || match capture.bytes() {
            0 => Err("nothing yet".to_owned()),
            _ => Ok(()),
        });
        capture
    }

    fn bytes(&self) -> u64 {
        self.folder.path().join("pcapng").metadata().expect("it exists").len()
    }

    /// Frames in it so far: enhanced packet blocks (draft-ietf-opsawg-pcapng section 4.3).
    fn frames(&self) -> u64 {
        let bytes = std::fs::read(self.folder.path().join("pcapng")).expect("it exists");
        let word = |at| bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word));
        let (mut at, mut frames) = (0, 0);
        while let (Some(kind), Some(len)) = (word(at), word(at + 4)) {
            frames += u64::from(kind == 6);
            at += len as usize;
        }
        frames
    }

    /// Ends it, and returns what it said: frames captured, and missed.
    fn end(&mut self) -> (u64, u64) {
        signal(&self.child, Signal::SIGINT);
        let mut text = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut text).expect("text");
        assert!(self.child.wait().expect("ours").success(), "{text}");
        let numbers: Vec<u64> = text.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [frames, missed] = numbers[..] else { panic!("{text}") };
        (frames, missed)
    }

    /// What tshark makes of each frame that the filter lets pass.
    fn decoded(&self, filter: &str, fields: &[&str]) -> Vec<String> {
        let file = File::open(self.folder.path().join("pcapng")).expect("it exists");
        let mut tshark = Command::new("tshark");
        // By standard input, as from a pipe; with checksums looked into.
        tshark.args(["-n", "-r", "-", "-o", "tcp.check_checksum:TRUE"]);
        tshark.args(["-o", "ip.check_checksum:TRUE", "-Y", filter, "-T", "fields"]).stdin(file);
        fields.iter().for_each(|field| {
            tshark.args(["-e", field]);
        });
        run(&mut tshark).lines().map(str::to_owned).collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_frame_of_a_conversation_is_decoded() {
    const BYTES: u64 = 1 << 20;
    let lab = Lab::new(PortKind::Tap, 2);
    let mut capture = Capture::start(&lab.daemon);
    let before = lab.daemon_counters(lab.link());
    for (family, role) in FAMILIES.into_iter().zip(ROLES) {
        let exchange = format!("exchange --bytes {BYTES}");
        let pair = lab.pair(family, role, &exchange, &exchange);
        assert_eq!(pair.client.outcome().received, BYTES);
        assert_eq!(pair.server.outcome().received, BYTES);
    }
    // The last acknowledgements may still be on their way, to the ports and to the capture.
    eventually("the last frames", || {
        let now = lab.daemon_counters(lab.link());
        let passed = now.rx_packets - before.rx_packets + now.tx_packets - before.tx_packets;
        let closed = lab.holdings().client_sockets == 0;
        match capture.frames() {
            frames if frames >= passed && closed => Ok(()),
            frames => Err(format!("{frames} of {passed}")),
        }
    });
    let (frames, missed) = capture.end();
    assert_eq!(missed, 0);
    assert_eq!(capture.decoded("frame", &["frame.number"]).len() as u64, frames);
    // A sum of zero that the kernel wrote as 0xffff, as it does for any protocol, is right (RFC 1624).
    let bad = "_ws.malformed || ip.checksum.status == \"Bad\" \
               || (tcp.checksum.status == \"Bad\" && !tcp.checksum.ffff)";
    assert_eq!(capture.decoded(bad, &["frame.number", "_ws.col.Info"]), [""; 0]);
    // Each conversation whole: its handshake, its ends, every byte each way.
    for stream in 0..2 {
        let count = |filter: &str| {
            capture.decoded(&format!("tcp.stream == {stream} && {filter}"), &["tcp.len"]).len()
        };
        assert_eq!(count("tcp.flags.syn == 1"), 2);
        assert_eq!(count("tcp.flags.fin == 1 && !tcp.analysis.retransmission"), 2);
        let of_stream = format!("tcp.stream == {stream}");
        let mut next: BTreeMap<String, u64> = BTreeMap::new();
        for line in capture.decoded(&of_stream, &["tcp.srcport", "tcp.nxtseq"]) {
            let (port, number) = line.split_once('\t').expect("two fields");
            let number = number.parse().unwrap_or(0);
            let highest = next.entry(port.to_owned()).or_default();
            *highest = number.max(*highest);
        }
        // SYN and FIN count one each.
        assert_eq!(next.into_values().collect::<Vec<_>>(), [BYTES + 2; 2]);
    }
}

#[test]
fn captures_that_come_and_go_under_load_harm_no_connection() {
    let lab = Lab::new(PortKind::AfPacket, 2);
    let idle = lab.holdings();
    let link = lab.link();
    let listen = SocketAddr::new(link.peer(Family::V4), 0);
    let mut server = lab.peer(link, &format!("--listen {listen} --count 8 echo"));
    let connect = format!("--connect {} --count 8 --together exchange", server.ready());
    let mut client = lab.library(&connect);
    client.under_way();
    for round in 0..20 {
        let mut capture = Capture::start(&lab.daemon);
        let begun = capture.bytes();
        eventually("frames", || match capture.bytes() - begun {
            0..100_000 => Err("few".to_owned()),
            _ => Ok(()),
        });
        // Well, and without a word.
        if round % 2 == 0 {
            capture.end();
        }
    }
    client.close_stdin();
    let (client, server) = (client.finish(), server.finish());
    for outcome in client.outcomes.iter().chain(&server.outcomes) {
        assert_eq!(outcome.error, None);
        assert!(outcome.end_of_file && outcome.received > 0);
    }
    let echoed = |o: &Outcome| o.sent_sha256 == o.received_sha256;
    assert!(client.outcomes.iter().all(echoed));
    lab.wait_for_holdings(&idle);
}

/// A capture shows what others send: who may be a client may not start one for that.
#[test]
fn only_the_privileged_capture() {
    let namespace = Arc::new(Namespace::new("home"));
    let mut config = config(&[Link::new(0, PortKind::Tap)], 1);
    config["clients"] = json!({"mode": "0666", "users": ["nobody"]});
    let daemon = Daemon::start(&namespace, &config);
    let socket = daemon.socket();
    let folder = socket.parent().expect("a file is in a folder");
    std::fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("ours");
    let dmm = folder.join("dmm");
    std::fs::copy(program("dmm"), &dmm).expect("ours");
    let as_nobody = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(&dmm);
        output(command.arg("--socket").arg(&socket).args(words).stdin(Stdio::null()))
    };
    assert!(as_nobody(&["ports"]).status.success());
    let refused = as_nobody(&["capture", "p0"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && refused.stdout.is_empty());
    assert!(told.contains("only root, or the daemon's own user, may capture"), "{told}");
}

#[test]
fn what_cannot_be_captured_is_said() {
    let lab = Lab::new(PortKind::Tap, 1);
    let socket = lab.daemon.socket();
    let mut command = Command::new(program("dmm"));
    command.arg("--socket").arg(&socket).args(["capture", "nowhere"]).stdin(Stdio::null());
    let refused = output(&mut command);
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("no port \"nowhere\""), "{told}");
    // A terminal would be asked to show it.
    let words = format!("{} --socket {} capture p0", program("dmm").display(), socket.display());
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &words, "/dev/null"]).stdin(Stdio::null());
    let told = String::from_utf8_lossy(&output(&mut script).stdout).into_owned();
    assert!(told.contains("a capture is no text"), "{told}");
    // Each goes on until its reader ends; there may be eight.
    let mut captures: Vec<_> = (0..8).map(|_| Capture::start(&lab.daemon)).collect();
    let mut command = Command::new(program("dmm"));
    command.arg("--socket").arg(&socket).args(["capture", "p0"]).stdin(Stdio::null());
    let refused = output(&mut command);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("8 captures are under way"), "{told}");
    captures.pop();
    eventually("the end of a capture", || {
        let admin = dmm_admin::Admin::connect(&socket).expect("the daemon listens");
        admin.capture("p0").map(|_| ()).map_err(|error| error.to_string())
    });
}
