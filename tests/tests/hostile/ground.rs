//! Where the attacks take place: a daemon with two stacks on one wire, and what it holds. One stack
//! has one instance and the other two, so that every attack is tried on both sorts.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dmm_proto::hello::AttachError;
use dmm_proto::mock::{HostileClient, connect};
use dmm_tests::daemon::Daemon;
use dmm_tests::deadline::{PATIENCE, eventually};
use dmm_tests::namespace::Namespace;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use serde_json::{Value, json};

/// Instances of the stack `left`: the first two.
pub const LEFT: u32 = 0;
/// The instance of the stack `right`: the one behind.
pub const RIGHT: u32 = 2;
/// The address of `left`.
pub const LEFT_ADDRESS: &str = "10.90.0.1";
/// The address of `right`.
pub const RIGHT_ADDRESS: &str = "10.90.0.2";

/// A daemon to attack.
pub struct Ground {
    /// The daemon.
    pub daemon: Daemon,
    started: Instant,
}

/// What the daemon holds, for clients and in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    sessions: u64,
    sockets: u64,
    orphans: u64,
    chunks: u64,
    descriptors: usize,
    memfds: usize,
    mappings: usize,
}

impl Ground {
    /// Starts a daemon with these quotas for its clients, whom it lets in whoever they are.
    pub fn new(clients: &Value) -> Self {
        let namespace = Arc::new(Namespace::new("hostile"));
        let mut clients = clients.clone();
        clients["mode"] = json!("0666");
        let daemon = Daemon::start(
            &namespace,
            &json!({
                // Slow enough to leave the cores to the attack.
                "wires": [{"name": "w0", "rate_mbps": 200}],
                "ports": [{"name": "p0", "device": "wire:w0"}, {"name": "p1", "device": "wire:w0"}],
                "stacks": [
                    {"name": "left", "kind": "native", "port": "p0", "cores": [0, 1],
                     "addresses": [format!("{LEFT_ADDRESS}/24"), "fd00:90::1/64"]},
                    {"name": "right", "kind": "native", "port": "p1", "cores": [0],
                     "addresses": [format!("{RIGHT_ADDRESS}/24"), "fd00:90::2/64"]},
                ],
                "clients": clients,
                "memory": {"hugepages": "never"},
            }),
        );
        // The daemon's own check of users is to be reached, not that of the folder.
        let socket = daemon.socket();
        let folder = socket.parent().expect("sockets are in folders");
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("it is ours");
        Self { daemon, started: Instant::now() }
    }

    /// Attaches a client.
    pub fn attach(&self, seed: u64) -> HostileClient {
        HostileClient::attach(reach(&self.daemon.socket()), seed).expect("the daemon is there")
    }

    /// How many clients were refused for `reason`.
    pub fn refused(&self, reason: &str) -> u64 {
        self.daemon.stats().counters[&format!("refused.{reason}")]
    }

    /// What the daemon holds now.
    pub fn holdings(&self) -> Holdings {
        let status = self.daemon.status();
        let pid = self.daemon.pid();
        let descriptors = descriptors(pid);
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the daemon runs");
        Holdings {
            sessions: status.sessions,
            sockets: status.sockets + status.stacks.iter().map(|s| s.sockets).sum::<u64>(),
            orphans: status.orphans,
            chunks: status.chunks_used,
            descriptors: descriptors.len(),
            memfds: descriptors.iter().filter(|target| target.contains("memfd:")).count(),
            mappings: maps.lines().filter(|line| line.contains("memfd:dmm-")).count(),
        }
    }

    /// Waits until the daemon holds exactly this again.
    pub fn wait_for_holdings(&self, wanted: &Holdings) {
        eventually("the return of what the attackers held", || {
            let now = self.holdings();
            if now == *wanted {
                Ok(())
            } else {
                Err(format!("{now:?}, not {wanted:?}: {:?}", self.daemon.sockets().rows))
            }
        });
    }

    /// Waits until every worker sleeps as it says: over a while in which nobody asks for anything but
    /// how the daemon is, it goes to sleep again and again, is off its core for most of these times,
    /// and uses less than half of the time. A worker that is kept busy by what is not there counts
    /// sleeps as well, but returns from each at once. What is compared are counts of the same while,
    /// so that a slow machine makes it longer and nothing else.
    pub fn wait_for_sleeps(&self) {
        const MORE: u64 = 20;
        // CPU time is told in hundredths of a second.
        const WHILE: Duration = Duration::from_millis(300);
        let mut since = self.rest();
        eventually("the sleep of the workers", || {
            let now = self.rest();
            let spans: Vec<_> =
                since.iter().zip(&now).map(|(since, now)| now.after(since)).collect();
            if spans.iter().any(|span| span.sleeps < MORE || span.elapsed < WHILE) {
                return Err(format!("not long enough yet: {spans:?}"));
            }
            if spans
                .iter()
                .all(|span| 2 * span.blocked > span.sleeps && 2 * span.cpu < span.elapsed)
            {
                return Ok(());
            }
            // Something else may have been going on: the next while may be calmer.
            since = now;
            Err(format!("{spans:?}"))
        });
    }

    /// How much each worker has rested so far.
    fn rest(&self) -> Vec<Rest> {
        let workers = self.daemon.status().workers;
        let tasks = format!("/proc/{}/task", self.daemon.pid());
        let read = |task: &Path, file| fs::read_to_string(task.join(file)).unwrap_or_default();
        let tasks = fs::read_dir(tasks).expect("the daemon runs").flatten();
        let mut threads: Vec<_> = tasks
            .map(|task| (read(&task.path(), "comm"), task.path()))
            .filter(|(name, _)| name.starts_with("dmm-worker-"))
            .collect();
        threads.sort();
        assert_eq!(threads.len(), workers.len());
        let rests = threads.iter().zip(workers).map(|((_, task), worker)| Rest {
            sleeps: worker.sleeps,
            blocked: blocked(&read(task, "status")),
            cpu: cpu_time(&read(task, "stat")),
            elapsed: self.started.elapsed(),
        });
        rests.collect()
    }
}

/// What a worker did since a point in time.
#[derive(Clone, Copy, Debug)]
struct Rest {
    /// Times that it went to sleep, as it says.
    sleeps: u64,
    /// Times that it gave its core away, as the kernel says.
    blocked: u64,
    /// CPU time that it used.
    cpu: Duration,
    elapsed: Duration,
}

impl Rest {
    fn after(&self, earlier: &Self) -> Self {
        Self {
            sleeps: self.sleeps - earlier.sleeps,
            blocked: self.blocked - earlier.blocked,
            cpu: self.cpu - earlier.cpu,
            elapsed: self.elapsed - earlier.elapsed,
        }
    }
}

/// Voluntary context switches, from a thread's status (proc_pid_status(5)).
fn blocked(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).expect("as in proc_pid_status(5)")
}

/// User and system time, fields 14 and 15 of a thread's stat (proc_pid_stat(5)), in hundredths of a
/// second.
fn cpu_time(stat: &str) -> Duration {
    // The name, field 2, may hold anything but ends with the last parenthesis.
    let (_, fields) = stat.rsplit_once(')').expect("as in proc_pid_stat(5)");
    let times = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = times.map(|ticks| ticks.parse::<u64>().expect("as there")).sum();
    Duration::from_millis(10 * ticks)
}

/// Connects to a daemon, which must then answer and listen in time.
pub fn reach(socket: &Path) -> OwnedFd {
    let connection = connect(socket).expect("the daemon listens");
    let seconds = i64::try_from(Duration::as_secs(&PATIENCE)).expect("not for ever");
    let patience = TimeVal::new(seconds, 0);
    setsockopt(&connection, sockopt::ReceiveTimeout, &patience).expect("it is a socket");
    setsockopt(&connection, sockopt::SendTimeout, &patience).expect("it is a socket");
    connection
}

/// Attaches unless there are too many clients already.
pub fn try_attach(socket: &Path, seed: u64) -> Option<HostileClient> {
    match HostileClient::attach(reach(socket), seed) {
        Ok(client) => Some(client),
        Err(AttachError::Refused { errno, .. }) if errno == nix::libc::EAGAIN => None,
        Err(error) => panic!("seed {seed}: a good hello came to nothing: {error}"),
    }
}

/// What the open descriptors of a process are.
fn descriptors(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("the daemon runs");
    let targets = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.map(|target| target.to_string_lossy().into_owned()).collect()
}
