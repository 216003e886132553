//! This test program started anew: attackers that are killed, stopped, or somebody else.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use dmm_proto::hello::AttachError;
use dmm_proto::mock::HostileClient;
use dmm_proto::op::Submission;
use dmm_tests::deadline::PATIENCE;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Uid, seteuid};

use crate::directed::{bind, socket};
use crate::ground::{LEFT, reach};
use crate::round;

const ROLE: &str = "DMM_TEST_HOSTILE_ROLE";
const SOCKET: &str = "DMM_TEST_HOSTILE_SOCKET";
const SEED: &str = "DMM_TEST_HOSTILE_SEED";

/// A user who is not listed anywhere.
const STRANGER: u32 = 65_534;

/// What a process of ours begins its lines with, among those of the test harness.
const MARK: &str = "hostile: ";

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Attacks until it is killed, and says so after each time.
    Attack,
    /// Asks for more answers than it can hold and takes none, says so, and waits for its end.
    Choke,
    /// Attaches as a user who may not, and says what came of it.
    Strange,
}

const ROLES: [(&str, Role); 3] =
    [("attack", Role::Attack), ("choke", Role::Choke), ("strange", Role::Strange)];

/// A process of ours, killed when dropped.
pub struct Process {
    /// The process.
    pub child: Child,
    lines: BufReader<ChildStdout>,
}

impl Process {
    /// Starts one.
    pub fn start(role: Role, socket: &Path, seed: u64) -> Self {
        let name = ROLES.iter().find(|(_, r)| *r == role).expect("all are listed").0;
        let mut command = Command::new(std::env::current_exe().expect("a test is a file"));
        command.args(["--exact", "process::this_process_starts_anew", "--ignored", "--nocapture"]);
        command.env(ROLE, name).env(SOCKET, socket).env(SEED, seed.to_string());
        command.stdout(Stdio::piped());
        let mut child = command.spawn().expect("the test program runs");
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, lines }
    }

    /// The next thing that it says. `None` at its end.
    ///
    /// # Panics
    /// If it neither says anything nor ends.
    pub fn next(&mut self) -> Option<String> {
        loop {
            self.wait_for_words();
            let mut line = String::new();
            if self.lines.read_line(&mut line).expect("a pipe can be read") == 0 {
                return None;
            }
            // The harness writes the test's name without an end of line.
            if let Some((_, words)) = line.trim_end().split_once(MARK) {
                return Some(words.to_owned());
            }
        }
    }
}

impl Process {
    fn wait_for_words(&self) {
        if !self.lines.buffer().is_empty() {
            return;
        }
        let mut fds = [PollFd::new(self.lines.get_ref().as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(PATIENCE).expect("less than a day");
        let ready = poll(&mut fds, patience).expect("the pipe is ours");
        assert!(ready > 0, "process {} says nothing", self.child.id());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(words: &str) {
    let mut out = std::io::stdout().lock();
    // A test that is over does not listen.
    let _ = writeln!(out, "{MARK}{words}").and_then(|()| out.flush());
}

#[test]
#[ignore = "the other side of the other tests, which start it as a process of its own"]
fn this_process_starts_anew() {
    let Ok(name) = std::env::var(ROLE) else { return };
    let socket = PathBuf::from(std::env::var_os(SOCKET).expect("given with the role"));
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).expect("likewise");
    match ROLES.iter().find(|(n, _)| *n == name).expect("one of ours").1 {
        Role::Attack => attack(&socket, seed),
        Role::Choke => choke(&socket, seed),
        Role::Strange => {
            seteuid(Uid::from_raw(STRANGER)).expect("tests run as root");
            match HostileClient::attach(reach(&socket), seed) {
                Err(AttachError::Refused { errno, text }) => say(&format!("{errno} {text}")),
                other => say(&format!("attached: {}", other.is_ok())),
            }
        }
    }
}

fn attack(socket: &Path, seed: u64) {
    let mut seed = seed;
    loop {
        let Some(mut client) = crate::ground::try_attach(socket, seed) else { continue };
        for _ in 0..round::ACTIONS_MAX {
            round::act(&mut client);
            say("attacked");
        }
        seed = client.random.next();
    }
}

fn choke(path: &Path, seed: u64) {
    let mut client = HostileClient::attach(reach(path), seed).expect("the daemon is there");
    bind(&client, 0);
    client.operate(0, LEFT, &bind_operation());
    let ask = Submission::SetPeer { socket: socket(0), peer: None };
    // The ring of answers holds as many as that of questions: two rings full of these overfill it.
    let mut asked = 0;
    while asked < 2 * dmm_proto::layout::RING_ENTRIES {
        if room(&client) > 0 {
            client.operate(0, LEFT, &ask);
            asked += 1;
        } else if answers(&client) == dmm_proto::layout::RING_ENTRIES {
            // Nothing more is taken from us until we take an answer.
            break;
        }
    }
    say("choked");
    std::thread::park();
}

fn bind_operation() -> Submission {
    crate::directed::bind_operation(0)
}

/// Questions that still fit.
fn room(client: &HostileClient) -> u32 {
    use std::sync::atomic::Ordering;
    let ring = client.attachment.memory.submissions(LEFT);
    let (tail, head) = (&ring.tail.count, &ring.head.count);
    let used = tail.load(Ordering::Acquire).wrapping_sub(head.load(Ordering::Acquire));
    dmm_proto::layout::RING_ENTRIES - used
}

/// Answers that were not taken.
fn answers(client: &HostileClient) -> u32 {
    use std::sync::atomic::Ordering;
    client.attachment.memory.completions(LEFT).tail.count.load(Ordering::Acquire)
}
