//! Requests and replies over a socket pair: the honest way, and peers that lie.

use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, listen,
    recv, sendmsg, socket, socketpair,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::*;
use crate::report::{SessionStats, Sockets, Stats};

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

fn stats(rows: u32) -> Stats {
    let row = |pid| SessionStats {
        pid,
        uid: 7,
        name: "a program".into(),
        sockets: 3,
        sockets_opened: 4,
        bytes: 5,
        ops: 6,
    };
    Stats {
        counters: [("worker.0.turns".to_owned(), u64::MAX)].into(),
        sessions: (0..rows).map(row).collect(),
    }
}

/// Takes one request off `socket`, as a daemon would.
fn take(socket: &OwnedFd) -> Vec<u8> {
    let mut buffer = [0; REQUEST_BYTES_MAX];
    let len = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
    buffer[..len].to_vec()
}

#[test]
fn documents_far_beyond_a_packet_arrive_whole() {
    let (ours, theirs) = pair();
    let sent = stats(20_000);
    assert!(serde_json::to_vec(&sent).unwrap().len() > 1 << 20);
    let server = thread::spawn(move || {
        for _ in 0..2 {
            let packet = take(&theirs);
            assert!(is_request(&packet));
            assert_eq!(parse_request(&packet).unwrap(), Request::Stats {});
            reply(theirs.as_fd(), Ok(&sent)).unwrap();
        }
    });
    let admin = Admin::over(ours).unwrap();
    assert_eq!(admin.stats().unwrap(), stats(20_000));
    assert_eq!(admin.stats().unwrap(), stats(20_000), "a connection serves more than one request");
    server.join().unwrap();
}

#[test]
fn a_refusal_arrives_as_said_and_is_cut_to_fit() {
    let (ours, theirs) = pair();
    let refuse = |message: &str| {
        reply(theirs.as_fd(), Err::<&Stats, _>(message.to_owned())).unwrap();
    };
    let admin = Admin::over(ours).unwrap();
    refuse("not now");
    let error = admin.stats().unwrap_err();
    assert_eq!(error.to_string(), "the daemon refuses: not now");
    refuse(&"\u{1}ü".repeat(REPLY_BYTES_MAX));
    assert!(matches!(admin.stats(), Err(AdminError::Refused(text)) if text.len() > 500));
}

#[test]
fn requests_are_parsed_strictly() {
    let address = "fd00::1".parse().unwrap();
    let ping = Ping { stack: Some("s0".to_owned()), address, bytes: 56, timeout_ms: 1000 };
    for (text, request) in [
        (r#"{"request":"status"}"#, Request::Status {}),
        (r#"{"request":"ports"}"#, Request::Ports {}),
        (r#"{"request":"capture","port":"p0"}"#, Request::Capture { port: "p0".to_owned() }),
        (
            r#"{"request":"ping","stack":"s0","address":"fd00::1","bytes":56,"timeout_ms":1000}"#,
            Request::Ping(ping),
        ),
    ] {
        assert_eq!(parse_request(text.as_bytes()).unwrap(), request);
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
    }
    let message = |packet: &[u8]| parse_request(packet).unwrap_err();
    assert!(message(b"{\"request\":\"reboot\"}").contains("expected one of `status`, `stats`"));
    assert!(message(b"{\"request\":\"ping\",\"address\":\"x\"}").contains("malformed"));
    assert!(message(b"{\"request\":\"status\",\"x\":1}").contains("unknown field"));
    assert!(message(b"{\"request\":1}").contains("malformed"));
    assert!(message(b"{").contains("malformed"));
    assert!(message(b"").contains("malformed"));
    assert!(message(b"{\xff").contains("malformed"));
    assert!(message(&[b'{'; REQUEST_BYTES_MAX + 1]).contains("at most"));
    assert!(message(format!("{{\"request\":\"{}\"}}", "x".repeat(4000)).as_bytes()).len() < 250);
    assert!(!is_request(b"DMM") && !is_request(b""));
}

/// Answers one request with these bytes and descriptors, whatever they mean, and returns what the
/// operator is told.
fn lie(bytes: &[u8], fds: &[&OwnedFd]) -> String {
    let (ours, theirs) = pair();
    let raw: Vec<_> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &control[..] };
    let parts = [IoSlice::new(bytes)];
    sendmsg::<()>(theirs.as_raw_fd(), &parts, control, MsgFlags::empty(), None).unwrap();
    Admin::over(ours).unwrap().stats().unwrap_err().to_string()
}

fn memfd(text: &str, seals: SealFlag) -> OwnedFd {
    let fd = memfd_create(c"lie", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC).unwrap();
    let mut file = std::fs::File::from(fd);
    file.write_all(text.as_bytes()).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file.into()
}

#[test]
fn a_lying_daemon_is_found_out() {
    const OK: &[u8] = b"{\"ok\":true}";
    let good = serde_json::to_string(&stats(1)).unwrap();
    let sealed = memfd(&good, server::seals());
    let unsealed = memfd(&good, SealFlag::empty());
    let half_sealed = memfd(&good, SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL);
    let (socket, _) = pair();
    let has = |message: String, part: &str| assert!(message.contains(part), "{message}");
    has(lie(OK, &[]), "one descriptor");
    has(lie(OK, &[&sealed, &sealed]), "one descriptor");
    has(lie(OK, &[&unsealed]), "not sealed");
    has(lie(OK, &[&half_sealed]), "not sealed");
    has(lie(OK, &[&socket]), "not a memfd");
    has(lie(OK, &[&memfd("{\"counters\":7}", server::seals())]), "not the document asked for");
    has(lie(OK, &[&memfd(&good[..9], server::seals())]), "not the document asked for");
    has(lie(OK, &[&memfd("", server::seals())]), "not the document asked for");
    has(lie(b"\xff\x00garbage", &[]), "not a reply");
    has(lie(b"{}", &[]), "neither ok nor error");
    has(lie(b"{\"ok\":false}", &[&sealed]), "neither ok nor error");
    has(lie(b"{\"error\":\"x\"}", &[&sealed]), "neither ok nor error");
    has(lie(&[b' '; REPLY_BYTES_MAX + 1], &[]), "too long");
    let huge = memfd("", SealFlag::empty());
    nix::unistd::ftruncate(&huge, i64::try_from(DOCUMENT_BYTES_MAX + 1).unwrap()).unwrap();
    fcntl(&huge, FcntlArg::F_ADD_SEALS(server::seals())).unwrap();
    has(lie(OK, &[&huge]), "the document has");
}

#[test]
fn unwanted_descriptors_are_closed() {
    let (ours, theirs) = pair();
    let (watched, passed) = pair();
    let raw = [passed.as_raw_fd(); 200];
    let control = [ControlMessage::ScmRights(&raw)];
    let parts = [IoSlice::new(b"{\"ok\":true}")];
    sendmsg::<()>(theirs.as_raw_fd(), &parts, &control, MsgFlags::empty(), None).unwrap();
    drop(passed);
    assert!(Admin::over(ours).unwrap().stats().is_err());
    // End of file is only seen once every copy of the other end is closed.
    assert_eq!(recv(watched.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT).unwrap(), 0);
}

#[test]
fn a_daemon_that_hangs_up_is_reported() {
    let (ours, theirs) = pair();
    drop(theirs);
    assert!(matches!(Admin::over(ours).unwrap().sockets(), Err(AdminError::Closed)));
    let (ours, theirs) = pair();
    let server = thread::spawn(move || drop(take(&theirs)));
    assert!(matches!(Admin::over(ours).unwrap().sockets(), Err(AdminError::Closed)));
    server.join().unwrap();
}

#[test]
fn a_daemon_that_is_stuck_is_reported() {
    let (ours, _theirs) = pair();
    let admin = Admin::with_timeout(ours, TimeVal::milliseconds(20)).unwrap();
    assert!(matches!(admin.status(), Err(AdminError::Timeout)));
}

#[test]
fn the_daemon_never_waits_for_a_peer() {
    let (ours, theirs) = pair();
    let full = (0..100_000).find_map(|_| reply(theirs.as_fd(), Ok(&Sockets::default())).err());
    assert!(matches!(full, Some(ReplyError::Send(_))), "{full:?}");
    drop(ours);
    assert!(matches!(reply(theirs.as_fd(), Ok(&1)), Err(ReplyError::Send(_))));
}

#[test]
fn connecting_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let message = |path: &Path| Admin::connect(path).unwrap_err().to_string();
    let path = dir.path().join("s");
    let absent = message(&path);
    assert_eq!(
        absent,
        format!("no daemon answers on {}: start dmmd or set DMM_SOCKET", path.display())
    );
    std::fs::write(&path, "").unwrap();
    assert!(message(&path).starts_with("no daemon answers"), "a file is nobody listening");
    assert!(message(&dir.path().join("x".repeat(200))).contains("is not the socket of a dmmd"));
    let stream = dir.path().join("stream");
    let _listener = std::os::unix::net::UnixListener::bind(&stream).unwrap();
    UnixStream::connect(&stream).unwrap();
    assert!(message(&stream).contains("is not the socket of a dmmd"));
    let good = dir.path().join("good");
    let listener =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(&good).unwrap()).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    Admin::connect(&good).unwrap();
}
