//! `dmm-bench`: the figures of DMM, each beside what it is compared with.
//!
//! Owns: which rows run, and what of them is shown. Both sides of a comparison run the same program
//! in turns, A B A B, after a warm-up, and the table shows medians with their spread and the ratio.
//! Must never: fail for a slow machine. A missed target is printed; only a row that could not run
//! makes the exit code 1.
//!
//! Start reading at [`rows`].
#![forbid(unsafe_code)]

mod bench;
mod callgrind;
mod compile;
mod daemon;
mod echo;
mod exercise;
mod figure;
mod hold;
mod interrupt;
mod machine;
mod namespace;
mod output;
mod pour;
mod process;
mod rows;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use bench::Effort;
use machine::Machine;
use output::{RowResult, Run, render};
use rows::Row;

/// Counts what is allocated, for rows about memory.
#[global_allocator]
static ALLOCATOR: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

/// Print the figures of DMM.
#[derive(Debug, Parser)]
#[command(name = "dmm-bench", version)]
struct Cli {
    /// Rows to run: all whose name contains one of these. Default: all
    rows: Vec<String>,
    /// Few and short runs: enough to see that every row works
    #[arg(long)]
    quick: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// List the rows
    #[arg(long)]
    list: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The client program of some rows
    #[command(hide = true)]
    Hold(hold::Args),
    /// The ends of a stream of some rows
    #[command(hide = true)]
    Pour(pour::Args),
    /// The program whose instructions are counted
    #[command(hide = true)]
    Exercise(exercise::Args),
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every row could run.
fn run(cli: &Cli) -> anyhow::Result<bool> {
    match &cli.command {
        Some(Command::Hold(args)) => return hold::run(args).map(|()| true),
        Some(Command::Pour(args)) => return pour::run(args).map(|()| true),
        Some(Command::Exercise(args)) => return exercise::run(args).map(|()| true),
        None => {}
    }
    let chosen: Vec<&Row> = rows::ALL.iter().filter(|row| is_chosen(row.name, &cli.rows)).collect();
    anyhow::ensure!(!chosen.is_empty(), "no row is called {:?}: see --list", cli.rows);
    if cli.list {
        for row in chosen {
            println!("{:<14}{}", row.name, row.about);
        }
        return Ok(true);
    }
    interrupt::watch()?;
    let effort = if cli.quick { Effort::QUICK } else { Effort::FULL };
    let mut done = Run { machine: Machine::here(), rows: Vec::new() };
    if !cli.json {
        println!("{}", done.machine);
        println!(
            "runs    {} of {:.1} s each after {:.1} s of warm-up, in turns; medians (min..max)\n",
            effort.runs,
            effort.span.as_secs_f64(),
            effort.warmup.as_secs_f64()
        );
    }
    for row in chosen {
        let result = measure(row, &effort);
        if !cli.json {
            println!("{}", render(&result));
        }
        done.rows.push(result);
        if interrupt::check().is_err() {
            break;
        }
    }
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&done)?);
    }
    Ok(done.rows.iter().all(|row| row.failure.is_none()))
}

fn measure(row: &Row, effort: &Effort) -> RowResult {
    match (row.run)(effort) {
        Ok(measured) => RowResult {
            name: row.name,
            setup: measured.setup,
            figures: measured.figures,
            failure: None,
        },
        Err(error) => RowResult {
            name: row.name,
            setup: Vec::new(),
            figures: Vec::new(),
            failure: Some(format!("{error:#}")),
        },
    }
}

fn is_chosen(name: &str, filters: &[String]) -> bool {
    filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
}
