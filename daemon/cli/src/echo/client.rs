//! The client: opens the connections, drives them, and reports what was measured.

mod bulk;
mod datagrams;
mod messages;
mod plan;
mod tally;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, ensure};

use super::flow::{Flow, drive_all};
use super::interrupt::{self, Interrupt};
use super::message::{NUMBER_BYTES, Pattern};
use super::report::{ClientReport, Latency, cpu_seconds};
use super::sockets::{Facts, Network};
use super::{ClientArgs, DATAGRAM_MAX};
use crate::{Options, output};
use plan::Plan;
use tally::Tally;

/// Bytes in flight on a connection at most: no more than fits the buffers on the way with room to
/// spare, or both sides would wait to write and neither would read.
const IN_FLIGHT_MAX: usize = 256 << 10;

/// A flow that measures.
trait Measured: Flow {
    fn tally(&self) -> &Tally;
}

/// Runs the client; exits 1 if anything was wrong, and 130 if it was interrupted.
pub(super) fn run(
    options: &Options,
    args: &ClientArgs,
    network: &Network,
    interrupt: &Arc<Interrupt>,
) -> anyhow::Result<ExitCode> {
    let size = message_bytes(args)?;
    let pattern = Arc::new(Pattern::new(size));
    let to = args.common.address;
    let start = || Arc::new(Plan::starting_now(args, size, interrupt));
    let connect = || network.connect(to).with_context(|| format!("cannot connect to {to}"));
    let mut facts = None;
    let (tally, plan) = if args.common.udp {
        let bind = |_| network.connect_datagram(to);
        let sockets: io::Result<Vec<_>> = (0..args.connections).map(bind).collect();
        let sockets = sockets.with_context(|| format!("cannot open a socket to {to}"))?;
        let plan = start();
        let make =
            |socket| datagrams::Datagrams::new(socket, Arc::clone(&plan), Arc::clone(&pattern));
        let flows = sockets.into_iter().map(make).collect::<io::Result<_>>()?;
        (measure(flows, network, interrupt)?, plan)
    } else {
        let mut streams = Vec::new();
        for _ in 0..args.connections {
            streams.push(connect()?);
        }
        facts = streams.first().and_then(super::sockets::Stream::facts);
        let plan = start();
        let tally = if args.common.bulk {
            let make = |stream| bulk::Bulk::new(stream, Arc::clone(&plan), Arc::clone(&pattern));
            measure(streams.into_iter().map(make).collect::<io::Result<_>>()?, network, interrupt)?
        } else {
            let make =
                |stream| messages::Messages::new(stream, Arc::clone(&plan), Arc::clone(&pattern));
            measure(streams.into_iter().map(make).collect::<io::Result<_>>()?, network, interrupt)?
        };
        (tally, plan)
    };
    let report = report(args, &tally, &plan, facts);
    if options.json {
        output::json(&report)?
    } else {
        output::text(&report.render())?
    };
    Ok(match (interrupt.came(), tally.errors) {
        (true, _) => interrupt::EXIT_CODE.into(),
        (false, 0) => ExitCode::SUCCESS,
        (false, _) => ExitCode::FAILURE,
    })
}

/// The size of a message, checked against what carries it.
fn message_bytes(args: &ClientArgs) -> anyhow::Result<usize> {
    let size = args.size.unwrap_or(if args.common.bulk { 64 << 10 } else { 64 });
    let size = usize::try_from(size)?;
    if args.common.udp {
        ensure!(
            (NUMBER_BYTES..=DATAGRAM_MAX).contains(&size),
            "a datagram has {NUMBER_BYTES} to {DATAGRAM_MAX} bytes, not {size}: change --size"
        );
    }
    let in_flight = size * usize::try_from(args.depth)?;
    ensure!(
        args.common.bulk || args.common.udp || args.depth == 1 || in_flight <= IN_FLIGHT_MAX,
        "{in_flight} bytes in flight on a connection are more than {IN_FLIGHT_MAX}: lower --depth \
         or --size"
    );
    Ok(size)
}

/// Drives the flows and adds up what they measured. Connections are closed together at the end.
fn measure<F: Measured + 'static>(
    flows: Vec<F>,
    network: &Network,
    interrupt: &Interrupt,
) -> anyhow::Result<Tally> {
    let ended = drive_all(flows, network.is_polling()).context("cannot start a thread")?;
    let mut total = Tally::new();
    for (flow, result) in &ended {
        total.add(flow.tally());
        if let Err(error) = result {
            total.errors += 1;
            eprintln!("dmm: a connection failed: {error}");
        }
    }
    if total.received == 0 && total.errors == 0 && !interrupt.came() {
        // Every datagram was lost: nothing was measured.
        total.errors = 1;
        eprintln!("dmm: nothing came back");
    }
    Ok(total)
}

fn report(args: &ClientArgs, tally: &Tally, plan: &Plan, socket: Option<Facts>) -> ClientReport {
    let seconds = tally.seconds(plan.measure_from);
    let per_second = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
    let common = &args.common;
    ClientReport {
        via: common.via().to_string(),
        protocol: if common.udp { "udp" } else { "tcp" },
        mode: if common.bulk { "bulk" } else { "echo" },
        waiting: if common.polling { "polling" } else { "blocking" },
        size_bytes: plan.size,
        connections: args.connections,
        depth: args.depth,
        seconds,
        messages: tally.messages,
        bytes: tally.bytes,
        messages_per_s: per_second(tally.messages as f64),
        gbit_per_s: per_second(tally.bytes as f64 * 8.0 / 1e9),
        latency_us: (!common.bulk).then(|| Latency::of(&tally.histogram)),
        errors: tally.errors,
        lost: tally.lost,
        cpu_s: cpu_seconds(),
        socket,
    }
}
