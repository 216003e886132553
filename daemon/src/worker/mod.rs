//! A worker: a pinned thread that runs its instances in turn.
//!
//! Started by the control thread, told by messages, and ended by one. Its loop is [`Worker::run`];
//! everything that blocks is in [`idle`].
#![forbid(unsafe_code)]

pub mod idle;
pub mod message;
mod report;
pub mod waker;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant as Clock};

use dmm_port::{Instant, Wake};
use dmm_proto::Breach;
use dmm_proto::doorbell::WorkerBell;
use dmm_stack::Ping;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use tracing::{debug, warn};

use crate::counters::WorkerCounters;
use crate::fault;
use crate::instance::Instance;
use crate::session::{Session, SessionId};
use idle::Idler;
use message::{FromWorker, ToWorker, WorkerEnds};

/// How long closing sockets may take before a worker ends regardless.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// How often the heartbeat moves while a worker is awake.
const BEAT_EVERY: Duration = Duration::from_millis(1);

/// The token of the worker's own eventfd; ports follow from [`PORT_TOKENS`] on, sessions are below.
const OWN_TOKEN: u64 = u64::MAX;
const PORT_TOKENS: u64 = u64::MAX - (1 << 16);

/// What a worker is started with.
pub struct WorkerConfig {
    /// Its index.
    pub index: u32,
    /// The core to pin it to.
    pub core: u16,
    /// The instances that it runs.
    pub instances: Vec<Instance>,
    /// The daemon's origin of time.
    pub origin: Clock,
    /// Where it counts.
    pub counters: Arc<WorkerCounters>,
}

/// A worker at work.
pub struct Worker {
    config: WorkerConfig,
    ends: WorkerEnds,
    idler: Idler,
    sessions: HashMap<SessionId, Arc<Session>>,
    /// When to end, once closing.
    closing: Option<Instant>,
    next_beat: Instant,
    /// Faults on shared memory that were looked into.
    faults_seen: u64,
}

impl Worker {
    /// Puts a worker together.
    pub fn new(config: WorkerConfig, ends: WorkerEnds, idler: Idler) -> std::io::Result<Self> {
        idler.watch(&ends.waker, OWN_TOKEN)?;
        Ok(Self {
            config,
            ends,
            idler,
            sessions: HashMap::new(),
            closing: None,
            next_beat: Instant::ZERO,
            faults_seen: 0,
        })
    }

    /// Runs until told to end. To be called on the worker's own thread.
    pub fn run(mut self) {
        self.pin();
        self.watch_ports();
        loop {
            let now = self.now();
            self.beat(now);
            let mut worked = self.hear(now);
            for instance in &mut self.config.instances {
                worked |= instance.turn(now);
            }
            self.report_breaches(now);
            self.report_pongs();
            self.report_faults(now);
            self.count(worked);
            if self.closing.is_some_and(|at| now >= at || self.nothing_left()) {
                break;
            }
            if self.idler.wants_sleep(now, worked) {
                self.sleep();
            }
        }
        self.ends.answer(FromWorker::Ended);
    }

    fn now(&self) -> Instant {
        let nanos = self.config.origin.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Shows clients that the loop runs. Seldom, since they read the same cache line.
    fn beat(&mut self, now: Instant) {
        if now >= self.next_beat {
            self.next_beat = now + BEAT_EVERY;
            self.ends.waker.line().heartbeat.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn pin(&self) {
        let core = self.config.core;
        let mut set = CpuSet::new();
        let pinned =
            set.set(usize::from(core)).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
        if let Err(errno) = pinned {
            warn!(core, %errno, "cannot pin the worker to its core: it may run on any");
        }
    }

    fn watch_ports(&mut self) {
        for (i, instance) in (0_u64..).zip(&mut self.config.instances) {
            match instance.rx_queue().wake() {
                Wake::Fd(fd) => {
                    let watched =
                        crate::descriptor::borrow(fd, |fd| self.idler.watch(fd, PORT_TOKENS + i));
                    if let Err(error) = watched {
                        warn!(%error, "cannot watch a port: its worker will nap instead of sleep");
                        self.idler.nap_from_now_on();
                    }
                }
                Wake::Timer => self.idler.nap_from_now_on(),
            }
        }
    }

    /// Does what messages say. Returns whether there were any.
    fn hear(&mut self, now: Instant) -> bool {
        let mut heard = false;
        while let Ok(message) = self.ends.messages.try_recv() {
            heard = true;
            match message {
                ToWorker::Attach(session) => self.attach(session),
                ToWorker::Detach(id) => {
                    self.detach(now, id);
                    self.ends.answer(FromWorker::Detached(id));
                }
                ToWorker::Report { sockets, to } => {
                    // A report that nobody waits for any more is dropped.
                    let _ = to.send(report::of(&self.config.instances, sockets));
                }
                ToWorker::Ping { instance, token, to, bytes, timeout } => {
                    let ping = Ping { token, to, bytes, until: now + timeout };
                    if let Some(instance) = self.instance(instance) {
                        instance.ping(now, &ping);
                    }
                }
                ToWorker::Capture { instance, tap } => {
                    if let Some(instance) = self.instance(instance) {
                        instance.capture(tap);
                    }
                }
                ToWorker::Close => {
                    self.config.instances.iter_mut().for_each(|i| i.close_all(now));
                    self.closing = Some(now + CLOSE_PATIENCE);
                }
            }
        }
        heard
    }

    /// The instance that is number `index` among all.
    fn instance(&mut self, index: u32) -> Option<&mut Instance> {
        self.config.instances.iter_mut().find(|instance| instance.config().index == index)
    }

    fn attach(&mut self, session: Arc<Session>) {
        if let Err(error) = self.idler.watch_edges(self.bell(&session), session.id.0) {
            warn!(%error, "cannot watch a client's doorbell: it may wait half a second");
        }
        for instance in &mut self.config.instances {
            instance.attach(Arc::clone(&session));
        }
        self.sessions.insert(session.id, session);
    }

    fn detach(&mut self, now: Instant, id: SessionId) {
        for instance in &mut self.config.instances {
            instance.detach(now, id);
        }
        if let Some(session) = self.sessions.remove(&id) {
            self.idler.unwatch(self.bell(&session));
        }
    }

    /// Ends the sessions whose memory could not be touched.
    fn report_faults(&mut self, now: Instant) {
        let hits = fault::hits();
        if hits == self.faults_seen {
            return;
        }
        self.faults_seen = hits;
        let faulted: Vec<_> = self.sessions.values().filter(|s| s.faulted()).cloned().collect();
        for session in faulted {
            self.condemn(now, &session, Breach::Memory);
        }
    }

    fn report_breaches(&mut self, now: Instant) {
        for i in 0..self.config.instances.len() {
            for (session, breach) in self.config.instances[i].take_breaches() {
                self.condemn(now, &session, breach);
            }
        }
    }

    fn report_pongs(&mut self) {
        for instance in &mut self.config.instances {
            for (token, result) in instance.take_pongs() {
                self.ends.answer(FromWorker::Ponged(token, result));
            }
        }
    }

    fn condemn(&mut self, now: Instant, session: &Session, breach: Breach) {
        if session.condemn(breach) {
            debug!(pid = session.peer.pid, %breach, "client broke the contract");
            self.ends.answer(FromWorker::Condemned(session.id, breach));
        }
        self.detach(now, session.id);
    }

    fn count(&self, worked: bool) {
        self.config.counters.turns.add(1);
        self.config.counters.busy_turns.add(u64::from(worked));
    }

    fn nothing_left(&self) -> bool {
        self.config.instances.iter().all(|instance| {
            let mut left = false;
            instance.stack().sockets(&mut |socket| left |= socket.state != "TIME-WAIT");
            !left
        })
    }

    /// Sleeps, unless work shows up once the flag is raised.
    fn sleep(&mut self) {
        let line = self.ends.waker.line();
        line.asleep.raise();
        let instances = &mut self.config.instances;
        for instance in instances.iter_mut() {
            if instance.rx_queue().arm().is_err() {
                self.idler.nap_from_now_on();
            }
        }
        let now = Instant::from_nanos(
            u64::try_from(self.config.origin.elapsed().as_nanos()).unwrap_or(u64::MAX),
        );
        let mut work = !self.ends.messages.is_empty();
        for instance in instances.iter_mut() {
            // One more turn, since frames that came before arming do not wake.
            work |= instance.turn(now);
            work |= instance.has_work();
        }
        let mut woken = Vec::new();
        if !work {
            let deadline = instances.iter_mut().filter_map(|i| i.deadline(now)).min();
            if deadline.is_none_or(|at| at > now) {
                self.config.counters.sleeps.add(1);
                let deadline = self
                    .closing
                    .map_or(deadline, |end| Some(deadline.map_or(end, |at| at.min(end))));
                woken = self.idler.sleep(now, deadline).tokens;
            }
        }
        line.asleep.lower();
        for instance in instances.iter_mut() {
            instance.rx_queue().disarm();
        }
        self.config.counters.wakeups.add(u64::from(!woken.is_empty()));
        // Of the others, ports take back their signal at `disarm`, and clients' are never taken.
        if woken.contains(&OWN_TOKEN) {
            self.ends.waker.drain();
        }
    }

    /// This worker's doorbell for a client.
    fn bell<'a>(&self, session: &'a Session) -> &'a WorkerBell {
        &session.bells()[self.config.index as usize]
    }
}
