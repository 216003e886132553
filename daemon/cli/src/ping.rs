//! `dmm ping`: echo requests that a stack of the daemon sends, and their answers.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use dmm_admin::control::{PING_TIMEOUT_MS_MAX, Ping};
use dmm_admin::report::Pong;
use serde::Serialize;

use crate::Options;
use crate::output;
use crate::stop::Stop;

/// Has a stack send echo requests (RFC 792, RFC 4443), as ping(8) does with the kernel's.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Whom to ask
    address: IpAddr,
    /// Over which stack [default: the first with a route]
    #[arg(long, value_name = "STACK")]
    via: Option<String>,
    /// How many requests; without it, until interrupted
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Milliseconds from one request to the next
    #[arg(short, long, value_name = "MS", default_value_t = 1000)]
    interval: u64,
    /// Bytes of payload
    #[arg(short, long, value_name = "BYTES", default_value_t = 56)]
    size: u16,
    /// Milliseconds to wait for an answer
    #[arg(short = 'W', long, value_name = "MS", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(PING_TIMEOUT_MS_MAX)))]
    timeout: u32,
}

/// What came of all requests.
#[derive(Debug, Default, Serialize)]
struct Summary {
    address: Option<IpAddr>,
    sent: u64,
    received: u64,
    min_us: Option<f64>,
    mean_us: Option<f64>,
    max_us: Option<f64>,
}

/// Sends the requests. Ends with 1 if no answer came.
pub(crate) fn run(options: &Options, args: &Args) -> anyhow::Result<ExitCode> {
    let admin = options.connect()?;
    let stop = Stop::on_signals()?;
    let mut summary = Summary { address: Some(args.address), ..Summary::default() };
    let mut total_us = 0.0;
    while args.count.is_none_or(|count| summary.sent < count) && !stop.came() {
        let began = Instant::now();
        let pong = admin.ping(Ping {
            stack: args.via.clone(),
            address: args.address,
            bytes: args.size,
            timeout_ms: args.timeout,
        })?;
        summary.sent += 1;
        if let Some(us) = pong.round_trip_us {
            summary.received += 1;
            total_us += us;
            summary.min_us = Some(summary.min_us.map_or(us, |min| min.min(us)));
            summary.max_us = Some(summary.max_us.map_or(us, |max| max.max(us)));
        }
        if !options.json {
            output::text(&line(args, summary.sent, &pong))?;
        }
        if args.count != Some(summary.sent) {
            let interval = Duration::from_millis(args.interval);
            stop.wait(interval.saturating_sub(began.elapsed()));
        }
    }
    summary.mean_us = (summary.received > 0).then(|| total_us / summary.received as f64);
    if options.json {
        output::json(&summary)?
    } else {
        output::text(&render(&summary))?
    };
    Ok(if summary.received > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(args: &Args, number: u64, pong: &Pong) -> String {
    let Args { address, size, .. } = args;
    match (pong.round_trip_us, &pong.error) {
        (Some(us), _) => {
            let hops = pong.hop_limit.map_or_else(String::new, |limit| format!(" ttl={limit}"));
            format!(
                "{size} bytes from {address} via {}: seq={number}{hops} time={us:.1} us\n",
                pong.stack
            )
        }
        (None, error) => {
            let error = error.as_deref().unwrap_or("no answer");
            format!("{address} via {}: seq={number} {error}\n", pong.stack)
        }
    }
}

fn render(summary: &Summary) -> String {
    let lost = summary.sent - summary.received;
    let mut text = format!("{} sent, {} received, {lost} lost", summary.sent, summary.received);
    if let (Some(min), Some(mean), Some(max)) = (summary.min_us, summary.mean_us, summary.max_us) {
        text += &format!(", min/mean/max {min:.1}/{mean:.1}/{max:.1} us");
    }
    text + "\n"
}
