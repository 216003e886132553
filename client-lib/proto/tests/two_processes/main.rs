//! The contract between real processes: a fake daemon in one, clients in others.
//!
//! This binary starts itself again for each other process: the test named in the arguments does
//! nothing unless the environment gives it a role.
//!
//! These and the unit tests also run under AddressSanitizer; `--target` keeps build scripts out:
//!
//! ```text
//! RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address \
//!     cargo test -p dmm-proto --target x86_64-unknown-linux-gnu
//! ```
#![cfg(not(loom))]

mod death;
mod hostile_pair;
mod lease;
mod pair;
mod rehome;
mod streams;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use dmm_proto::attach::{AttachedPair, Attachment};
use dmm_proto::doorbell::{Heard, Listener, Ringer, SleepFlag};
use dmm_proto::fifo::{RxFifo, RxReader, TxFifo, TxWriter};
use dmm_proto::hello::{AttachError, Hello, receive};
use dmm_proto::layout::Geometry;
use dmm_proto::lease::{Heir, ProcessId};
use dmm_proto::message::send;
use dmm_proto::mock::{self, FakeDaemon, FakeSession, Random};
use dmm_proto::op::{Completion, Opening, Socket, SocketOption, Submission};
use dmm_proto::pair::{PairGeometry, PairMessage, PairRx, PairTx, open};
use dmm_proto::rehome::Outbox;
use dmm_proto::request::{Reply, Request, SocketKind};
use dmm_proto::ring::{Consumer, Producer};
use dmm_proto::sync::Ordering;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket, socketpair};

const GEOMETRY: Geometry =
    Geometry { sockets: 8, contexts: 2, instances: 1, workers: 1, chunks: 64 };
const CAPACITY: u32 = 256 * 1024;
const SOCKET: Socket = Socket { slot: 3, generation: 7 };
const ROLE: &str = "DMM_TEST_ROLE";
const PATH: &str = "DMM_TEST_PATH";
/// Far more than anything here takes: only to fail instead of hanging.
const PATIENCE_MS: u16 = 30_000;

struct Other(Child);

impl Other {
    fn start(role: &str, path: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "other_process", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(PATH, path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn finish(mut self) {
        assert!(self.0.wait().unwrap().success(), "the other process failed: see its output");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // Only what a failed test leaves behind.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn other_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let path = PathBuf::from(std::env::var_os(PATH).unwrap());
    match role.as_str() {
        "streams" => streams::client(&path),
        "rehome" => rehome::client(&path),
        "pair" => pair::client(&path),
        "attacker" => hostile_pair::attacker(&path),
        "victim" => hostile_pair::victim(&path),
        "lessor" => lease::lessor(&path),
        "heir" => lease::heir(&path),
        "daemon" => death::daemon(&path),
        "client" => death::client(&path),
        "few" => death::few_descriptors(&path),
        other => panic!("no role {other}"),
    }
}

struct Place {
    folder: tempfile::TempDir,
    listener: OwnedFd,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = mock::listen(&folder.path().join("socket")).unwrap();
        Self { folder, listener }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn serve(&self, daemon: &mut FakeDaemon) -> FakeSession {
        daemon.serve(mock::accept(&self.listener).unwrap()).unwrap()
    }
}

fn attach(path: &Path) -> (OwnedFd, Attachment) {
    let socket = mock::connect(path).unwrap();
    let attachment = Attachment::new(socket.as_fd(), &Hello { name: "test".into() }).unwrap();
    (socket, attachment)
}

/// Sleeps as everyone should: flag up, a last look, block, flag down.
fn sleep_unless(flag: &SleepFlag, bell: impl AsFd, mut work: impl FnMut() -> bool) {
    flag.raise();
    if !work() {
        let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
        assert_ne!(poll(&mut fds, PATIENCE_MS).unwrap(), 0, "nobody rang");
        // A packet or a count; nothing if it was taken out in an earlier sleep.
        assert_ne!(nix::unistd::read(&bell, &mut [0; 8]), Ok(0), "the other side died");
    }
    flag.lower();
}

fn wait_for_end(bell: &Listener) {
    while bell.drain() != Heard::Ended {
        let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
        assert_ne!(poll(&mut fds, PollTimeout::from(PATIENCE_MS)).unwrap(), 0, "no end of file");
    }
}

/// Bytes that only the right position has.
fn pattern(position: usize, bytes: &mut [u8]) {
    for (i, byte) in bytes.iter_mut().enumerate() {
        let at = (position + i) as u64;
        *byte = ((at / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (at % 8 * 8)) as u8;
    }
}

fn check_pattern(position: usize, bytes: &[u8]) {
    let mut expected = vec![0; bytes.len()];
    pattern(position, &mut expected);
    assert!(bytes == expected, "wrong bytes at {position}");
}
