//! `dmm echo`: a load generator, a server and a client, that measures rate and latency.
//!
//! Owns: the command line and what both roles share. The same program runs over a user-space stack
//! or over the kernel, so that two runs compare what lies beneath; only [`sockets`] knows which.
//! Must never: take another way for one of the two anywhere else.
//!
//! ```text
//!   client ──── K messages in flight ───▶ server       echo (the default), TCP or UDP
//!          ◀─────── the same bytes ──────
//!
//!   client ════ one stream ═════════════▶ server       --bulk
//!          ◀─────── 16 bytes: taken, wrong ──
//! ```

mod client;
mod flow;
mod histogram;
mod interrupt;
mod message;
mod pin;
mod report;
mod server;
mod sockets;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;

use crate::Options;
use interrupt::Interrupt;
use sockets::{Network, Via};

/// After this without progress a peer counts as gone: far above any retransmission time-out that a
/// working network shows, and short enough for a script to wait for.
const STALL: Duration = Duration::from_secs(10);

/// How long a blocking call waits before the flow looks around: whether datagrams are lost, or an
/// operator lost patience.
const PATIENCE: Duration = Duration::from_millis(100);

/// Bytes of one message or one write at most; a datagram has less ([`DATAGRAM_MAX`]).
const SIZE_MAX: u64 = 1 << 20;

/// Payload of a datagram at most: 65,535 less the headers of IPv4 (RFC 791) and UDP (RFC 768).
const DATAGRAM_MAX: usize = 65_507;

/// Connections at most: one thread each, unless polling.
const CONNECTIONS_MAX: u64 = 10_000;

/// Arguments of `dmm echo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Send back what comes, or take a stream (--bulk)
    Server(ServerArgs),
    /// Send messages and measure what comes back
    Client(ClientArgs),
}

/// What both roles take.
#[derive(Clone, Debug, clap::Args)]
struct Common {
    /// Where the server listens
    address: SocketAddr,
    /// Over which stack: its name, or `kernel` (no daemon needed) [default: the daemon's first]
    #[arg(long, value_name = "STACK")]
    via: Option<Via>,
    /// Datagrams instead of connections
    #[arg(long, conflicts_with = "bulk")]
    udp: bool,
    /// A stream in one direction instead of messages; both sides must say so
    #[arg(long)]
    bulk: bool,
    /// One thread that never sleeps and asks each socket in turn, instead of blocking calls
    #[arg(long)]
    polling: bool,
    /// Run on this core only
    #[arg(long, value_name = "N")]
    core: Option<usize>,
}

#[derive(Clone, Debug, clap::Args)]
struct ServerArgs {
    #[command(flatten)]
    common: Common,
    /// End when all clients are gone
    #[arg(long)]
    once: bool,
    /// Take this many connections, and end when they are gone
    #[arg(long, value_name = "N", conflicts_with = "udp",
        value_parser = clap::value_parser!(u64).range(1..=CONNECTIONS_MAX))]
    connections: Option<u64>,
}

#[derive(Clone, Debug, clap::Args)]
struct ClientArgs {
    #[command(flatten)]
    common: Common,
    /// Bytes of a message (default 64); with --bulk, of a write (default 65536)
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=SIZE_MAX))]
    size: Option<u64>,
    /// Connections at the same time
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u64).range(1..=CONNECTIONS_MAX))]
    connections: u64,
    /// Messages in flight on each connection
    #[arg(long, value_name = "K", default_value_t = 1, conflicts_with = "bulk",
        value_parser = clap::value_parser!(u64).range(1..=4096))]
    depth: u64,
    /// How long to measure (default 5, unless --count or --bytes)
    #[arg(long, value_name = "S", value_parser = some_seconds)]
    seconds: Option<Duration>,
    /// Messages to measure on each connection
    #[arg(long, value_name = "N", conflicts_with = "bulk",
        value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Bytes to send on each connection
    #[arg(long, value_name = "N", requires = "bulk",
        value_parser = clap::value_parser!(u64).range(1..))]
    bytes: Option<u64>,
    /// How long to run before measuring
    #[arg(long, value_name = "S", default_value = "0", value_parser = seconds)]
    warmup: Duration,
    /// Milliseconds to sleep before each message: latency out of idleness
    #[arg(long, value_name = "MS", conflicts_with_all = ["bulk", "polling"])]
    interval_ms: Option<u64>,
}

/// Runs the server or the client.
pub(crate) fn run(options: &Options, args: &Args) -> anyhow::Result<ExitCode> {
    let common = match &args.role {
        Role::Server(args) => &args.common,
        Role::Client(args) => &args.common,
    };
    // Before any thread is made, so that all of them inherit it.
    if let Some(core) = common.core {
        pin::to(core)?;
    }
    let open = || Network::open(common.via(), &options.socket, common.polling);
    match &args.role {
        Role::Server(args) => server::run(options, args, open()?),
        Role::Client(args) => {
            let interrupt = Interrupt::on_sigint().context("cannot take SIGINT")?;
            client::run(options, args, &open()?, &interrupt)
        }
    }
}

impl Common {
    fn via(&self) -> &Via {
        self.via.as_ref().unwrap_or(&Via::First)
    }
}

/// As [`seconds`], and not none.
fn some_seconds(text: &str) -> Result<Duration, String> {
    let span = seconds(text)?;
    if span.is_zero() { Err("nothing can be measured in no time".to_owned()) } else { Ok(span) }
}

/// Seconds with a fraction; a day at most.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    if (0.0..=86_400.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("{text} seconds are not between 0 and 86400"))
    }
}
