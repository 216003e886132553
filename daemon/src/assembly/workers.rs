//! Workers, from the cores that the configuration names to running threads.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant as Clock};

use anyhow::Context;
use crossbeam_channel::{Receiver, Sender, unbounded};
use dmm_admin::config::WorkersConfig;
use dmm_proto::session::Beacon;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::ports::Ports;
use crate::counters::WorkerCounters;
use crate::instance::Instance;
use crate::worker::idle::Idler;
use crate::worker::message::{FromWorker, WorkerEnds, WorkerHandle};
use crate::worker::waker::Waker;
use crate::worker::{Worker, WorkerConfig};

/// Where workers answer the control thread.
pub struct Answers {
    to_control: Sender<FromWorker>,
    /// What they said.
    pub answers: Receiver<FromWorker>,
    /// Tells of answers.
    pub answered: Arc<EventFd>,
}

impl Answers {
    /// A way for answers, with none on it.
    pub fn new() -> anyhow::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let answered = Arc::new(EventFd::from_value_and_flags(0, flags)?);
        let (to_control, answers) = unbounded();
        Ok(Self { to_control, answers, answered })
    }
}

/// A worker before it is started.
pub struct Plan {
    core: u16,
    instances: Vec<Instance>,
    handle: WorkerHandle,
    ends: WorkerEnds,
    counters: Arc<WorkerCounters>,
}

impl Plan {
    /// What wakes the worker.
    pub fn waker(&self) -> Waker {
        self.handle.waker.clone()
    }

    /// Gives the worker another instance to run.
    pub fn add(&mut self, instance: Instance) {
        self.instances.push(instance);
    }
}

/// One worker for each core of `cores`, in the order in which they are first named.
pub fn plan(
    cores: impl Iterator<Item = u16>,
    beacon: &Beacon,
    answers: &Answers,
) -> anyhow::Result<Vec<Plan>> {
    let mut plans: Vec<Plan> = Vec::new();
    for core in cores {
        if on_core(&plans, core).is_some() {
            continue;
        }
        let index = u32::try_from(plans.len())?;
        let waker = Waker::new(beacon.worker(index)).context("cannot make a worker's eventfd")?;
        let (to_worker, messages) = unbounded();
        plans.push(Plan {
            core,
            instances: Vec::new(),
            handle: WorkerHandle { core, messages: to_worker, waker: waker.clone() },
            ends: WorkerEnds {
                messages,
                answers: answers.to_control.clone(),
                control: Arc::clone(&answers.answered),
                waker,
            },
            counters: Arc::default(),
        });
    }
    Ok(plans)
}

/// The index of the worker on `core`.
pub fn on_core(plans: &[Plan], core: u16) -> Option<usize> {
    plans.iter().position(|plan| plan.core == core)
}

/// Workers that run.
pub struct Running {
    /// When their time began.
    pub origin: Clock,
    /// How to reach each.
    pub handles: Vec<WorkerHandle>,
    /// What each counts.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// Threads to join at the end.
    pub threads: Vec<JoinHandle<()>>,
}

/// Starts the thread of each worker.
pub fn launch(plans: Vec<Plan>, config: &WorkersConfig, ports: &Ports) -> anyhow::Result<Running> {
    let origin = Clock::now();
    let spin = Duration::from_micros(u64::from(config.spin_us));
    let mut running =
        Running { origin, handles: Vec::new(), counters: Vec::new(), threads: Vec::new() };
    for (index, plan) in (0_u32..).zip(plans) {
        let idler = Idler::new(config.idle, spin).context("cannot make an epoll")?;
        let worker_config = WorkerConfig {
            index,
            core: plan.core,
            instances: plan.instances,
            origin,
            counters: Arc::clone(&plan.counters),
        };
        let worker = Worker::new(worker_config, plan.ends, idler)?;
        let register = ports.thread_registration();
        let thread = std::thread::Builder::new()
            .name(format!("dmm-worker-{index}"))
            .spawn(move || {
                let _registered = register();
                worker.run();
            })
            .context("cannot start a worker thread")?;
        running.threads.push(thread);
        running.handles.push(plan.handle);
        running.counters.push(plan.counters);
    }
    Ok(running)
}
