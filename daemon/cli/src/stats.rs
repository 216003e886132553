//! `dmm stats`: everything that is counted.

use std::process::ExitCode;

use dmm_admin::report::Stats;

use crate::Options;
use crate::output::{self, Table};

/// Asks for the counters and prints them.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let stats = options.connect()?.stats()?;
    if options.json { output::json(&stats) } else { output::text(&render(&stats)) }
}

fn render(stats: &Stats) -> String {
    let mut counters = Table::new(["COUNTER", ">VALUE"]);
    for (name, value) in &stats.counters {
        counters.row([name, value]);
    }
    let mut sessions =
        Table::new([">PID", ">UID", "PROGRAM", ">SOCKETS", ">OPENED", ">BYTES", ">OPS"]);
    for s in &stats.sessions {
        sessions.row([&s.pid, &s.uid, &s.name, &s.sockets, &s.sockets_opened, &s.bytes, &s.ops]);
    }
    let sessions = if stats.sessions.is_empty() {
        "no client sessions\n".to_owned()
    } else {
        sessions.render()
    };
    format!("{}\n{sessions}", counters.render())
}
