//! `dmmd`: reads the configuration, starts the daemon, and says in one line why it cannot.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use dmm_admin::config::Origin;
use dmm_admin::{CONFIG_ENV, SOCKET_ENV, in_one_line};
use dmmd::control::{self, Options};
use tracing_subscriber::EnvFilter;

/// The DMM daemon: owns ports through DPDK, runs stacks on pinned cores, serves clients.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file. Without one, and without /etc/dmm/dmmd.json, an embedded default is
    /// used: a TAP device dmm0 and one stack at 10.111.0.2.
    #[arg(long, env = CONFIG_ENV)]
    config: Option<PathBuf>,
    /// The socket that clients and operators connect to, in place of the configuration's.
    #[arg(long, env = SOCKET_ENV)]
    socket: Option<PathBuf>,
    /// DPDK's file prefix, if files in its run-time folder are wanted; else it stays in memory.
    #[arg(long, env = "DMM_FILE_PREFIX")]
    file_prefix: Option<String>,
    /// Check the configuration as the start would before it opens any device, and end.
    #[arg(long)]
    check: bool,
    /// Taken only to say what to write instead.
    #[arg(hide = true)]
    stray: Option<PathBuf>,
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("DMM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    if let Some(stray) = &arguments.stray {
        let path = stray.display();
        let message = format!(
            "unexpected argument '{path}': to name the configuration write '--config {path}'"
        );
        Arguments::command().error(ErrorKind::UnknownArgument, message).exit();
    }
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dmmd: {}", in_one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let origin = Origin::choose(arguments.config);
    let config = origin.load()?;
    if arguments.check {
        println!("{origin} is fine");
        config.warnings().iter().for_each(|warning| println!("warning: {warning}"));
        return Ok(());
    }
    let options = Options { socket: arguments.socket, file_prefix: arguments.file_prefix };
    control::run(config, &options)
}
