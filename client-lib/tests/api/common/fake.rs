//! A daemon whose only network is loopback: sessions, rings and doorbells as the real one has them,
//! and behind them [`super::world::World`] instead of stacks. One thread per session.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use dmm_proto::doorbell::{Ringer, WorkerBell, bell};
use dmm_proto::hello::{self, Hello};
use dmm_proto::layout::Geometry;
use dmm_proto::op::Submission;
use dmm_proto::ring::{Consumer, Producer};
use dmm_proto::session::{Beacon, Memory, StackInfo};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket,
};

use super::world::World;

/// What the daemon is like.
#[derive(Clone)]
pub struct Setup {
    /// The stacks' names and numbers of instances.
    pub stacks: Vec<(&'static str, u32)>,
    /// Sockets of a session.
    pub sockets: u32,
    /// Bytes of each direction's FIFO.
    pub fifo: u32,
    /// Connects are owned by the instance `port % instances` of the stack.
    pub redirects: bool,
    /// The version it refuses to speak with, if any.
    pub refuses_version: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            stacks: vec![("fast", 2), ("lab", 1)],
            sockets: 512,
            fifo: 64 * 1024,
            redirects: false,
            refuses_version: false,
        }
    }
}

pub struct FakeDaemon {
    path: PathBuf,
    _folder: tempfile::TempDir,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

pub struct Shared {
    stop: AtomicBool,
    /// While true, submissions are left in the rings.
    held: AtomicBool,
    /// Submissions that were taken out of the rings.
    pub taken: AtomicU64,
    /// Live sockets over all sessions.
    pub live: AtomicU64,
    sessions: Mutex<Vec<JoinHandle<()>>>,
}

impl FakeDaemon {
    pub fn start() -> Self {
        Self::start_as(Setup::default())
    }

    pub fn start_as(setup: Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dmmd.sock");
        Self::start_at(setup, path, folder)
    }

    fn start_at(setup: Setup, path: PathBuf, folder: tempfile::TempDir) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let door = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        bind(door.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&door, Backlog::new(16).unwrap()).unwrap();
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            held: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            live: AtomicU64::new(0),
            sessions: Mutex::default(),
        });
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || admit(&door, &setup, &shared)
        });
        Self { path, _folder: folder, shared, thread: Some(thread) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Leaves submissions in the rings until released.
    pub fn hold(&self, held: bool) {
        self.shared.held.store(held, Ordering::SeqCst);
    }

    /// Ends the daemon: every descriptor of it is closed when this returns.
    pub fn kill(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        for session in self.shared.sessions.lock().unwrap().drain(..) {
            session.join().unwrap();
        }
    }

    /// Ends it, and starts another at the same path.
    pub fn restart(mut self, setup: Setup) -> Self {
        self.kill();
        std::fs::remove_file(&self.path).unwrap();
        let folder = std::mem::replace(&mut self._folder, tempfile::tempdir().unwrap());
        Self::start_at(setup, self.path.clone(), folder)
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        self.kill();
    }
}

fn admit(door: &OwnedFd, setup: &Setup, shared: &Arc<Shared>) {
    while !shared.stop.load(Ordering::SeqCst) {
        let mut fds = [PollFd::new(door.as_fd(), PollFlags::POLLIN)];
        // Bounded because `stop` rings no bell.
        poll(&mut fds, PollTimeout::from(5_u8)).unwrap();
        if !fds[0].any().unwrap_or(false) {
            continue;
        }
        let Ok(fd) = accept4(door.as_raw_fd(), SockFlag::SOCK_CLOEXEC) else { continue };
        let session = own(fd);
        let (setup, for_session) = (setup.clone(), Arc::clone(shared));
        let thread = std::thread::spawn(move || serve(session, &setup, &for_session));
        shared.sessions.lock().unwrap().push(thread);
    }
}

fn own(fd: std::os::fd::RawFd) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: accept4 has just made the descriptor, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn serve(socket: OwnedFd, setup: &Setup, shared: &Shared) {
    let mut packet = [0; 256];
    let (len, _) = hello::receive(socket.as_fd(), &mut packet).unwrap();
    let hello = Hello::parse(&packet[..len]);
    if let Err(error) = &hello {
        hello::send_refusal(socket.as_fd(), Errno::EPROTO, &error.to_string()).unwrap();
        return;
    }
    if setup.refuses_version {
        let words = "the client speaks protocol version 1, this daemon version 2";
        hello::send_refusal(socket.as_fd(), Errno::EPROTO, words).unwrap();
        return;
    }
    let instances = setup.stacks.iter().map(|(_, count)| count).sum();
    let geometry =
        Geometry { sockets: setup.sockets, contexts: 1, instances, workers: 1, chunks: 4096 };
    let memory = Memory::create(geometry).unwrap();
    let beacon = Beacon::create().unwrap();
    let mut first_instance = 0;
    let stacks: Vec<StackInfo> = setup
        .stacks
        .iter()
        .map(|&(name, instances)| {
            let info = StackInfo {
                name: name.into(),
                first_instance,
                instances,
                v4: vec![("10.0.0.1".parse().unwrap(), 24)],
            };
            first_instance += instances;
            info
        })
        .collect();
    memory.write_stacks(&stacks, &vec![0; instances as usize]);
    let (client_ringer, client_listener) = bell().unwrap();
    let worker_bell = WorkerBell::new().unwrap();
    let fds = [
        beacon.region().fd(),
        memory.daemon.fd(),
        memory.client.fd(),
        memory.arena.fd(),
        client_listener.as_fd(),
        worker_bell.as_fd(),
    ];
    hello::send_welcome(socket.as_fd(), &geometry, &fds).unwrap();
    drop(client_listener);
    let rings = Rings {
        submissions: (0..instances).map(|i| Consumer::new(memory.submissions(i))).collect(),
        completions: (0..instances).map(|i| Producer::new(memory.completions(i))).collect(),
        ringer: client_ringer,
        bell: worker_bell,
    };
    run(&socket, &memory, &beacon, rings, World::new(&memory, setup, &stacks), shared);
}

struct Rings {
    submissions: Vec<Consumer>,
    completions: Vec<Producer>,
    ringer: Ringer,
    bell: WorkerBell,
}

/// The worker's loop: drain, act, complete, sleep.
fn run(
    socket: &OwnedFd,
    memory: &Memory,
    beacon: &Beacon,
    mut rings: Rings,
    mut world: World,
    shared: &Shared,
) {
    let asleep = beacon.worker(0);
    let mut live = 0;
    while !shared.stop.load(Ordering::SeqCst) {
        asleep.asleep.raise();
        let busy = turn(memory, &mut rings, &mut world, shared);
        let now = world.live();
        shared.live.fetch_add(now, Ordering::SeqCst);
        shared.live.fetch_sub(live, Ordering::SeqCst);
        live = now;
        if !busy {
            let mut fds = [
                PollFd::new(rings.bell.as_fd(), PollFlags::POLLIN),
                PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            ];
            // Bounded because `stop` and `held` ring no bell.
            poll(&mut fds, PollTimeout::from(5_u8)).unwrap();
            if fds[1].any().unwrap_or(false) {
                break;
            }
            // Empty unless it was rung.
            let _ = nix::unistd::read(&rings.bell, &mut [0; 8]);
        }
        asleep.asleep.lower();
    }
    shared.live.fetch_sub(live, Ordering::SeqCst);
}

fn turn(memory: &Memory, rings: &mut Rings, world: &mut World, shared: &Shared) -> bool {
    let mut busy = false;
    if !shared.held.load(Ordering::SeqCst) {
        for (instance, ring) in rings.submissions.iter_mut().enumerate() {
            let instance = u32::try_from(instance).unwrap();
            if memory.pending(instance).contexts.swap(0, Ordering::AcqRel) == 0 {
                continue;
            }
            while let Some(entry) = ring.pop().expect("the library keeps the contract") {
                let submission =
                    Submission::decode(&entry).expect("the library keeps the contract");
                world.submit(instance, submission);
                shared.taken.fetch_add(1, Ordering::SeqCst);
                busy = true;
            }
            ring.release();
        }
    }
    busy |= world.pump();
    let mut published = false;
    for (ring, waiting) in rings.completions.iter_mut().zip(world.completions()) {
        while let Some(completion) = waiting.front() {
            if !ring.stage(&completion.encode()).expect("the library keeps the contract") {
                break;
            }
            waiting.pop_front();
        }
        published |= ring.publish();
    }
    if published && memory.context(0).asleep.is_up() {
        rings.ringer.ring();
    }
    busy || published
}

/// Long enough that a thread is probably asleep: only shifts which path a test takes, never its
/// outcome.
pub fn let_it_sleep() {
    std::thread::sleep(Duration::from_millis(20));
}
