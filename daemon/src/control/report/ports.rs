//! Ports in full, and the drops of the whole daemon with their meanings.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use dmm_admin::report::{Drop, Drops, PortReport, Ports, QueueReport};

use super::{TX_RING_FULL, port_status, stats};
use crate::assembly::ports::Started;
use crate::control::Control;
use crate::counters::InstanceCounters;

/// Every port.
pub fn ports(control: &Control) -> Ports {
    let report = |started: &Started| {
        let configured = control.config.port(&started.name)?;
        let info = started.port.info();
        Some(PortReport {
            status: port_status(configured, started),
            rx_checksum: info.rx_checksum,
            tx_checksum: info.tx_checksum,
            queue_pairs: queues(control, started),
            xstats: started.port.xstats().into_iter().collect(),
        })
    };
    Ports { ports: control.machine.ports.iter().filter_map(report).collect() }
}

fn queues(control: &Control, started: &Started) -> Vec<QueueReport> {
    let machine = &control.machine;
    let stack = control.config.stacks.iter().position(|stack| stack.port == started.name);
    let queue = |index: u16| {
        let drives = |shard: usize| shard == usize::from(index);
        let place = machine.instances.iter().find(|p| Some(p.stack) == stack && drives(p.shard));
        QueueReport {
            index,
            instance: place.map(|p| format!("{}.{}", machine.stacks[p.stack].name, p.shard)),
            core: place.map(|p| machine.workers[p.worker as usize].core),
            rx_frames: place.map_or(0, |p| p.counters.rx_frames.get()),
            tx_frames: place.map_or(0, |p| p.counters.tx_frames.get()),
        }
    };
    (0..started.port.info().queues).map(queue).collect()
}

/// Every reason, whether anything was dropped for it or not.
pub fn drops(control: &mut Control) -> Drops {
    let mut drops: BTreeMap<String, (u64, &str)> = BTreeMap::new();
    let of_kinds =
        control.config.stacks.iter().map(|s| dmm_stack::kinds::meanings(s.kind.as_str()));
    const RING: [(&str, &str); 1] =
        [(TX_RING_FULL, " Frames for which the device's transmit ring had no room.")];
    let known = of_kinds.flatten().chain(InstanceCounters::MEANINGS).chain(&RING);
    for (name, meaning) in known.filter(|(name, _)| name.starts_with("drop.")) {
        drops.insert((*name).to_owned(), (0, meaning));
    }
    for (name, count) in stats(control).counters {
        if name.starts_with("drop.") {
            drops.entry(name).or_insert((0, "")).0 = count;
        }
    }
    for started in control.machine.ports.iter() {
        let stats = started.port.stats();
        for (name, count, meaning) in [
            (
                "rx_missed",
                stats.rx_missed,
                "Frames for which the device found no buffer or descriptor.",
            ),
            ("rx_errors", stats.rx_errors, "Frames that the device received with an error."),
            ("tx_errors", stats.tx_errors, "Frames that the device refused to send."),
        ] {
            drops.insert(format!("port.{}.{name}", started.name), (count, meaning));
        }
    }
    let told = drops.into_iter().map(|(name, (count, meaning))| Drop {
        name,
        count,
        meaning: meaning.trim().to_owned(),
    });
    Drops { drops: told.collect() }
}
