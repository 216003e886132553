//! The `dmm` command: what an operator types.
//!
//! Owns: the command line and how answers are shown. Each command is one module with an `Args` and
//! a `run`. Must never: change the machine, except in `dmm hugepages reserve`, or start a daemon.
//!
//! Exit codes: 0 done, 1 failed (one line on standard error says why), 2 wrong usage, 130 interrupted.

#![forbid(unsafe_code)]

mod capture;
mod doctor;
mod drops;
mod echo;
mod hugepages;
mod output;
mod ping;
mod ports;
mod schema;
mod sockets;
mod stats;
mod status;
mod stop;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dmm_admin::{Admin, DEFAULT_SOCKET, SOCKET_ENV, in_one_line};

/// See and check the DMM daemon of this machine.
#[derive(Debug, Parser)]
#[command(name = "dmm", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, clap::Args)]
struct Options {
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// The daemon's socket
    #[arg(long, global = true, value_name = "PATH", env = SOCKET_ENV, default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
}

impl Options {
    /// A connection to the daemon.
    fn connect(&self) -> anyhow::Result<Admin> {
        Ok(Admin::connect(&self.socket)?)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the daemon, its workers, stacks and ports
    Status,
    /// Show everything that is counted
    Stats,
    /// List the sockets of all stacks, with the columns of `ss -tuna`
    Sockets,
    /// Show the ports: link, queues, offloads, the driver's own counters
    Ports(ports::Args),
    /// Show every reason for which something was dropped, how often, and what it means
    Drops(drops::Args),
    /// Have a stack send echo requests, and show the answers
    Ping(ping::Args),
    /// Capture the frames of a port, as pcapng
    Capture(capture::Args),
    /// Show or reserve huge pages
    Hugepages(hugepages::Args),
    /// Print the JSON Schema of the daemon's configuration
    Schema,
    /// Check what on this machine stands in the daemon's way
    Doctor(doctor::Args),
    /// Generate load, and measure its rate and latency
    Echo(echo::Args),
}

fn main() -> ExitCode {
    let Cli { options, command } = Cli::parse();
    let result = match command {
        Command::Status => status::run(&options),
        Command::Stats => stats::run(&options),
        Command::Sockets => sockets::run(&options),
        Command::Ports(args) => ports::run(&options, &args),
        Command::Drops(args) => drops::run(&options, &args),
        Command::Ping(args) => ping::run(&options, &args),
        Command::Capture(args) => capture::run(&options, &args),
        Command::Hugepages(args) => hugepages::run(&options, &args),
        Command::Schema => schema::run(),
        Command::Doctor(args) => doctor::run(&options, &args),
        Command::Echo(args) => echo::run(&options, &args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("dmm: {}", in_one_line(error.as_ref()));
        ExitCode::FAILURE
    })
}
