//! `dmm sockets`: the sockets of all stacks, as `ss -tuna` shows those of the kernel.

use std::net::SocketAddr;
use std::process::ExitCode;

use dmm_admin::report::{SocketRow, Sockets};

use crate::Options;
use crate::output::{self, Table};

/// Asks for the sockets and prints them.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let sockets = options.connect()?.sockets()?;
    if options.json { output::json(&sockets) } else { output::text(&render(&sockets)) }
}

fn render(sockets: &Sockets) -> String {
    let mut table = Table::new([
        "Netid",
        "State",
        ">Recv-Q",
        ">Send-Q",
        ">Local Address:Port",
        ">Peer Address:Port",
        "Process",
        "Stack",
    ]);
    for row in &sockets.rows {
        table.row([
            &row.protocol,
            &row.state,
            &row.rx_queued,
            &row.tx_queued,
            &endpoint(row.local, row.remote),
            &endpoint(row.remote, row.local),
            &process(row),
            &format!("{}.{}", row.stack, row.instance),
        ]);
    }
    table.render()
}

/// An address as ss(8) writes it; an absent one is the wildcard of the other end's family.
fn endpoint(address: Option<SocketAddr>, other: Option<SocketAddr>) -> String {
    let family = match other {
        Some(SocketAddr::V4(_)) => "0.0.0.0:*",
        Some(SocketAddr::V6(_)) => "[::]:*",
        None => "*:*",
    };
    address.map_or_else(|| family.to_owned(), |address| address.to_string())
}

fn process(row: &SocketRow) -> String {
    match (row.pid, &row.program) {
        (Some(pid), Some(name)) => format!("users:((\"{name}\",pid={pid}))"),
        (Some(pid), None) => format!("users:((pid={pid}))"),
        (None, _) => String::new(),
    }
}
