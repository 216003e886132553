//! The documents that operators ask for.
#![forbid(unsafe_code)]

mod ports;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::unbounded;
use dmm_admin::config::PortConfig;
use dmm_admin::report::{
    InstanceStatus, PortCounters, PortStatus, SessionStats, Sockets, StackStatus, Stats, Status,
    WakeKind, WorkerStatus,
};
use serde_json::Value;

use super::Control;
use crate::assembly::ports::Started;
use crate::worker::message::{InstanceReport, ToWorker};

/// The drops that an instance's transmit queue counts.
const TX_RING_FULL: &str = "drop.tx_ring_full";

/// How long a worker may take to report: it does so between two turns.
const PATIENCE: Duration = Duration::from_secs(2);

/// The document that is wanted.
pub fn document(control: &mut Control, wanted: Document) -> Value {
    let document = match wanted {
        Document::Status => serde_json::to_value(status(control)),
        Document::Stats => serde_json::to_value(stats(control)),
        Document::Sockets => serde_json::to_value(sockets(control)),
        Document::Ports => serde_json::to_value(ports::ports(control)),
        Document::Drops => serde_json::to_value(ports::drops(control)),
    };
    document.unwrap_or_else(|error| Value::String(format!("cannot be written: {error}")))
}

/// What can be told at once.
#[derive(Clone, Copy)]
pub enum Document {
    Status,
    Stats,
    Sockets,
    Ports,
    Drops,
}

fn status(control: &mut Control) -> Status {
    let reports = ask_workers(control, false);
    let (chunks_used, chunks_total) = control.sessions.chunks();
    let sockets_of_clients =
        control.sessions.iter().map(|s| s.usage.sockets.load(Ordering::Relaxed)).sum();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_s: control.started.elapsed().as_secs(),
        socket: control.listener.path().to_owned(),
        hugepages: control.machine.hugepages,
        workers: workers(control),
        stacks: stacks(control, &reports),
        ports: port_statuses(control),
        sessions: control.sessions.iter().count() as u64,
        sockets: sockets_of_clients,
        orphans: reports.values().map(|report| report.orphans).sum(),
        chunks_used,
        chunks_total,
        warnings: control.machine.warnings.clone(),
    }
}

fn stats(control: &mut Control) -> Stats {
    let reports = ask_workers(control, false);
    let mut counters = BTreeMap::new();
    for (index, worker) in control.machine.worker_counters.iter().enumerate() {
        count(&mut counters, &format!("worker.{index}"), |show| worker.show(show));
    }
    for (index, place) in (0_u32..).zip(&control.machine.instances) {
        let name = format!("{}.{}", control.machine.stacks[place.stack].name, place.shard);
        let report = reports.get(&index);
        let of_instance = |show: &mut dyn FnMut(&'static str, u64)| {
            place.counters.show(show);
            if let Some(report) = report {
                show(TX_RING_FULL, report.tx_dropped);
            }
        };
        count(&mut counters, &format!("instance.{name}"), of_instance);
        let of_stack = report.map(|report| report.counters.as_slice()).unwrap_or_default();
        count(&mut counters, &format!("stack.{name}"), |show| {
            of_stack.iter().for_each(|&(name, value)| show(name, value));
        });
    }
    for (reason, count) in control.sessions.refusals() {
        counters.insert(format!("refused.{reason}"), count);
    }
    for started in control.machine.ports.iter() {
        for (xstat, count) in started.port.xstats() {
            counters.insert(format!("port.{}.{xstat}", started.name), count);
        }
    }
    let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    counters.insert("sessions.opened".into(), control.sessions.opened);
    counters.insert("sessions.cleanup_us_last".into(), micros(control.sessions.cleanup.0));
    counters.insert("sessions.cleanup_us_max".into(), micros(control.sessions.cleanup.1));
    Stats { counters, sessions: session_stats(control) }
}

/// Adds the counters of `owner` that `of_owner` shows, and its drops to those of all owners.
fn count(
    counters: &mut BTreeMap<String, u64>,
    owner: &str,
    of_owner: impl FnOnce(&mut dyn FnMut(&'static str, u64)),
) {
    of_owner(&mut |name, value| {
        counters.insert(format!("{owner}.{name}"), value);
        if name.starts_with("drop.") {
            *counters.entry(name.to_owned()).or_default() += value;
        }
    });
}

fn sockets(control: &Control) -> Sockets {
    let reports = ask_workers(control, true);
    Sockets { rows: reports.into_values().flat_map(|report| report.rows).collect() }
}

/// What the workers know of their instances; a worker that does not answer in time is left out.
fn ask_workers(control: &Control, sockets: bool) -> BTreeMap<u32, InstanceReport> {
    let (to, from) = unbounded();
    for worker in &control.machine.workers {
        worker.tell(ToWorker::Report { sockets, to: to.clone() });
    }
    drop(to);
    let mut reports = BTreeMap::new();
    while let Ok(report) = from.recv_timeout(PATIENCE) {
        reports.extend(report.instances.into_iter().map(|instance| (instance.index, instance)));
    }
    reports
}

fn workers(control: &Control) -> Vec<WorkerStatus> {
    let machine = &control.machine;
    let all = machine.workers.iter().zip(&machine.worker_counters).enumerate();
    let status = all.map(|(index, (handle, counters))| {
        let runs = machine.instances.iter().filter(|place| place.worker as usize == index);
        let turns = counters.turns.get();
        WorkerStatus {
            core: handle.core,
            instances: runs
                .map(|place| format!("{}.{}", machine.stacks[place.stack].name, place.shard))
                .collect(),
            mode: control.config.workers.idle,
            busy: counters.busy_turns.get() as f64 / turns.max(1) as f64,
            wakeups: counters.wakeups.get(),
            sleeps: counters.sleeps.get(),
            turns,
        }
    });
    status.collect()
}

fn stacks(control: &Control, reports: &BTreeMap<u32, InstanceReport>) -> Vec<StackStatus> {
    let machine = &control.machine;
    let status = control.config.stacks.iter().enumerate().map(|(index, stack)| {
        let places = (0_u32..).zip(&machine.instances).filter(|(_, place)| place.stack == index);
        let instances: Vec<_> = places
            .map(|(instance, place)| InstanceStatus {
                core: machine.workers[place.worker as usize].core,
                queue: u16::try_from(place.shard).unwrap_or(u16::MAX),
                sockets: reports.get(&instance).map_or(0, |report| report.sockets),
            })
            .collect();
        StackStatus {
            name: stack.name.to_string(),
            kind: stack.kind.as_str().to_owned(),
            port: stack.port.to_string(),
            addresses: stack.addresses.iter().map(ToString::to_string).collect(),
            gateways: stack.gateway.0.clone(),
            congestion: format!("{:?}", stack.tcp.congestion).to_lowercase(),
            sockets: instances.iter().map(|instance| instance.sockets).sum(),
            instances,
        }
    });
    status.collect()
}

fn port_statuses(control: &Control) -> Vec<PortStatus> {
    let status = control.machine.ports.iter().filter_map(|started| {
        let configured = control.config.port(&started.name)?;
        Some(port_status(configured, started))
    });
    status.collect()
}

fn port_status(configured: &PortConfig, started: &Started) -> PortStatus {
    let port = &started.port;
    let (info, link, stats) = (port.info(), port.link(), port.stats());
    let mac = info.mac.map(|byte| format!("{byte:02x}")).join(":");
    PortStatus {
        name: started.name.to_string(),
        device: configured.device.to_string(),
        driver: info.driver.clone(),
        mac,
        mtu: info.mtu,
        queues: info.queues,
        link_up: link.up,
        speed_mbps: link.speed_mbps,
        wake: if started.wakes { WakeKind::Fd } else { WakeKind::Timer },
        rss: info.rss,
        numa_node: info.numa_node,
        stats: PortCounters {
            rx_frames: stats.rx_frames,
            rx_bytes: stats.rx_bytes,
            rx_missed: stats.rx_missed,
            rx_errors: stats.rx_errors,
            tx_frames: stats.tx_frames,
            tx_bytes: stats.tx_bytes,
            tx_errors: stats.tx_errors,
        },
    }
}

fn session_stats(control: &Control) -> Vec<SessionStats> {
    let stats = control.sessions.iter().map(|session| SessionStats {
        pid: session.peer.pid,
        uid: session.peer.uid,
        name: session.peer.name.clone(),
        sockets: session.usage.sockets.load(Ordering::Relaxed),
        sockets_opened: session.usage.opened.load(Ordering::Relaxed),
        bytes: u64::from(session.pool.used()) * dmm_proto::arena::CHUNK_BYTES as u64,
        ops: session.usage.operations.load(Ordering::Relaxed),
    });
    stats.collect()
}
