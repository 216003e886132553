//! `dmm ports`: each port's link, queues, offloads and its driver's own counters.

use std::fmt::Write;
use std::process::ExitCode;

use dmm_admin::report::{PortReport, Ports, WakeKind};

use crate::Options;
use crate::output::{self, Table, visible};

/// Shows all ports, or one.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// This port alone
    port: Option<String>,
    /// Counters that are 0 too
    #[arg(long)]
    all: bool,
}

/// Asks for the ports and prints them.
pub(crate) fn run(options: &Options, args: &Args) -> anyhow::Result<ExitCode> {
    let mut ports = options.connect()?.ports()?;
    if let Some(name) = &args.port {
        ports.ports.retain(|port| port.status.name == *name);
        anyhow::ensure!(!ports.ports.is_empty(), "no port {name:?}: `dmm ports` lists them");
    }
    if options.json { output::json(&ports) } else { output::text(&render(&ports, args.all)) }
}

fn render(ports: &Ports, all: bool) -> String {
    ports.ports.iter().map(|port| of_port(port, all)).collect::<Vec<_>>().join("\n")
}

fn of_port(port: &PortReport, all: bool) -> String {
    let status = &port.status;
    let link = match (status.link_up, status.speed_mbps) {
        (false, _) => "down".to_owned(),
        (true, 0) => "up".to_owned(),
        (true, mbps) => format!("up, {mbps} Mb/s"),
    };
    let wake = match status.wake {
        WakeKind::Fd => "by a descriptor",
        WakeKind::Timer => "none, its workers nap",
    };
    let spread = if status.rss { "by the device (RSS)" } else { "in software" };
    let checksums = match (port.rx_checksum, port.tx_checksum) {
        (true, true) => "received and sent",
        (true, false) => "received",
        (false, true) => "sent",
        (false, false) => "none",
    };
    let numa = status.numa_node.map_or_else(|| "unknown".to_owned(), |node| node.to_string());
    let mut text = visible(&format!("port {}: {}", status.name, status.device));
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\n  driver     {}\n  address    {}\n  MTU        {}\n  link       {link}\n  \
         wake-up    {wake}\n  NUMA node  {numa}\n  offloads   checksums: {checksums}\n  \
         flows      spread {spread}\n\n",
        visible(&status.driver),
        status.mac,
        status.mtu,
    );
    text += &queues(port);
    text.push('\n');
    text += &counters(port, all);
    text
}

fn queues(port: &PortReport) -> String {
    let mut table = Table::new([">QUEUE", "INSTANCE", ">CORE", ">RX-FRAMES", ">TX-FRAMES"]);
    for queue in &port.queue_pairs {
        table.row([
            &queue.index,
            &queue.instance.as_deref().unwrap_or("-"),
            &queue.core.map_or_else(|| "-".to_owned(), |core| core.to_string()),
            &queue.rx_frames,
            &queue.tx_frames,
        ]);
    }
    table.render()
}

fn counters(port: &PortReport, all: bool) -> String {
    let stats = &port.status.stats;
    let mut table = Table::new(["COUNTER", ">VALUE"]);
    for (name, value) in [
        ("rx_frames", stats.rx_frames),
        ("rx_bytes", stats.rx_bytes),
        ("rx_missed", stats.rx_missed),
        ("rx_errors", stats.rx_errors),
        ("tx_frames", stats.tx_frames),
        ("tx_bytes", stats.tx_bytes),
        ("tx_errors", stats.tx_errors),
    ] {
        table.row([&name, &value]);
    }
    for (name, value) in port.xstats.iter().filter(|(_, value)| all || **value > 0) {
        table.row([&format!("xstat {name}"), value]);
    }
    table.render()
}
