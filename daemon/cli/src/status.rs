//! `dmm status`: the daemon, its workers, stacks and ports.

use std::fmt::Write;
use std::process::ExitCode;

use dmm_admin::report::{Status, WakeKind};

use crate::Options;
use crate::output::{self, Table, visible};

/// Asks for the status and prints it.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let status = options.connect()?.status()?;
    if options.json { output::json(&status) } else { output::text(&render(&status)) }
}

fn render(status: &Status) -> String {
    let mut text = String::new();
    let pages = if status.hugepages { "huge pages" } else { "4 KiB pages" };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "dmmd {} pid {} up {} on {}, packet buffers in {pages}\n\
         {} sessions, {} sockets, {} orphans, {} of {} chunks in use\n",
        visible(&status.version),
        status.pid,
        duration(status.uptime_s),
        status.socket.display(),
        status.sessions,
        status.sockets,
        status.orphans,
        status.chunks_used,
        status.chunks_total,
    );
    text += &stacks(status);
    text.push('\n');
    text += &ports(status);
    text.push('\n');
    text += &workers(status);
    for warning in &status.warnings {
        let _ = write!(text, "\nwarning: {}", visible(warning));
    }
    if !status.warnings.is_empty() {
        text.push('\n');
    }
    text
}

fn stacks(status: &Status) -> String {
    let mut table = Table::new(["STACK", "KIND", "PORT", "CORES", ">SOCKETS", "CC", "ADDRESSES"]);
    for stack in &status.stacks {
        let cores: Vec<_> = stack.instances.iter().map(|i| i.core.to_string()).collect();
        table.row([
            &stack.name,
            &stack.kind,
            &stack.port,
            &cores.join(","),
            &stack.sockets,
            &stack.congestion,
            &stack.addresses.join(" "),
        ]);
    }
    table.render()
}

fn ports(status: &Status) -> String {
    let headings = [
        "PORT",
        "DEVICE",
        "DRIVER",
        "MAC",
        ">MTU",
        ">QUEUES",
        "LINK",
        "WAKE",
        "RSS",
        ">RX-FRAMES",
        ">RX-DROPS",
        ">TX-FRAMES",
        ">TX-DROPS",
    ];
    let mut table = Table::new(headings);
    for port in &status.ports {
        let link = match (port.link_up, port.speed_mbps) {
            (false, _) => "down".to_owned(),
            (true, 0) => "up".to_owned(),
            (true, mbps) => format!("up {mbps}M"),
        };
        let wake = match port.wake {
            WakeKind::Fd => "fd",
            WakeKind::Timer => "timer",
        };
        table.row([
            &port.name,
            &port.device,
            &port.driver,
            &port.mac,
            &port.mtu,
            &port.queues,
            &link,
            &wake,
            &if port.rss { "device" } else { "software" },
            &port.stats.rx_frames,
            &port.stats.rx_missed.saturating_add(port.stats.rx_errors),
            &port.stats.tx_frames,
            &port.stats.tx_errors,
        ]);
    }
    table.render()
}

fn workers(status: &Status) -> String {
    let mut table =
        Table::new([">CORE", "MODE", ">BUSY", ">TURNS", ">SLEEPS", ">WAKEUPS", "INSTANCES"]);
    for worker in &status.workers {
        table.row([
            &worker.core,
            &format!("{:?}", worker.mode).to_lowercase(),
            &format!("{:.0}%", worker.busy * 100.0),
            &worker.turns,
            &worker.sleeps,
            &worker.wakeups,
            &worker.instances.join(" "),
        ]);
    }
    table.render()
}

fn duration(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{seconds:02}s"),
        (0, ..) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_show_their_two_largest_units() {
        let shown = [59, 61, 3_660, 90_000].map(duration);
        assert_eq!(shown, ["59s", "1m01s", "1h01m", "1d01h"]);
    }
}
