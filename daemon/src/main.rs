//! `dmmd`: reads the configuration, starts the daemon, and says in one line why it cannot.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use dmm_admin::config::Config;
use dmmd::control::{self, Options};
use tracing_subscriber::EnvFilter;

/// Where the configuration is looked for when no option names one.
const CONFIG_PATH: &str = "/etc/dmm/dmmd.json";

/// The DMM daemon: owns ports through DPDK, runs stacks on pinned cores, serves clients.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file. Without one, and without /etc/dmm/dmmd.json, an embedded default is
    /// used: a TAP device dmm0 and one stack at 10.111.0.2.
    #[arg(long, env = "DMM_CONFIG")]
    config: Option<PathBuf>,
    /// The socket that clients and operators connect to, in place of the configuration's.
    #[arg(long, env = "DMM_SOCKET")]
    socket: Option<PathBuf>,
    /// DPDK's file prefix, if files in its run-time folder are wanted; else it stays in memory.
    #[arg(long, env = "DMM_FILE_PREFIX")]
    file_prefix: Option<String>,
    /// Check the configuration, and end.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("DMM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dmmd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = match arguments.config {
        Some(path) => Config::load(&path)?,
        None if PathBuf::from(CONFIG_PATH).exists() => Config::load(CONFIG_PATH.as_ref())?,
        None => Config::embedded(),
    };
    config.validate().context("the configuration is wrong")?;
    if arguments.check {
        return Ok(());
    }
    let options = Options { socket: arguments.socket, file_prefix: arguments.file_prefix };
    control::run(config, &options)
}
