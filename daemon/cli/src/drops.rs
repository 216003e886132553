//! `dmm drops`: every reason for which the daemon drops something, how often, and what it means.

use std::process::ExitCode;

use dmm_admin::report::Drops;

use crate::Options;
use crate::output::{self, Table};

/// Shows drops by reason.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only what was dropped since the daemon's start
    #[arg(long)]
    seen: bool,
}

/// Asks for the drops and prints them.
pub(crate) fn run(options: &Options, args: &Args) -> anyhow::Result<ExitCode> {
    let mut drops = options.connect()?.drops()?;
    if args.seen {
        drops.drops.retain(|drop| drop.count > 0);
    }
    if options.json { output::json(&drops) } else { output::text(&render(&drops)) }
}

fn render(drops: &Drops) -> String {
    if drops.drops.is_empty() {
        return "nothing was dropped\n".to_owned();
    }
    let mut table = Table::new(["REASON", ">COUNT", "MEANING"]);
    for drop in &drops.drops {
        table.row([&drop.name, &drop.count, &drop.meaning]);
    }
    table.render()
}
