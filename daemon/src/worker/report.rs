//! What a worker tells of its instances when asked.
#![forbid(unsafe_code)]

use dmm_admin::report::{Protocol, SocketRow, SocketState};
use dmm_stack::SocketReport;

use super::message::{InstanceReport, WorkerReport};
use crate::instance::Instance;

/// The report of `instances`, with their sockets if `sockets`.
pub fn of(instances: &[Instance], sockets: bool) -> WorkerReport {
    WorkerReport { instances: instances.iter().map(|i| of_instance(i, sockets)).collect() }
}

fn of_instance(instance: &Instance, sockets: bool) -> InstanceReport {
    let mut report = InstanceReport {
        index: instance.config().index,
        counters: Vec::new(),
        tx_dropped: instance.tx_dropped(),
        sockets: instance.sockets().count() as u64,
        orphans: instance.sockets().orphans() as u64,
        rows: Vec::new(),
    };
    instance.stack().counters(&mut |name, count| report.counters.push((name, count)));
    if sockets {
        instance.stack().sockets(&mut |socket| report.rows.push(row(instance, &socket)));
    }
    report
}

fn row(instance: &Instance, socket: &SocketReport) -> SocketRow {
    let entry = socket.socket.and_then(|id| instance.sockets().get(id));
    let session = entry.and_then(|entry| instance.session_of(entry.owner?));
    SocketRow {
        stack: instance.config().stack.clone(),
        instance: u16::try_from(instance.config().shard).unwrap_or(u16::MAX),
        protocol: if socket.protocol == "udp" { Protocol::Udp } else { Protocol::Tcp },
        state: state(socket.state),
        local: Some(socket.local),
        remote: socket.remote,
        rx_queued: socket.rx_queued,
        tx_queued: socket.tx_queued,
        pid: session.map(|session| session.peer.pid),
        program: session.map(|session| session.peer.name.clone()),
    }
}

fn state(name: &str) -> SocketState {
    // The names are ss's on both sides, so the report's own parser knows them.
    let name = serde_json::Value::String(name.to_owned());
    serde_json::from_value(name).unwrap_or(SocketState::Unconnected)
}
