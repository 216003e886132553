//! `dmm hugepages`: show or reserve huge pages.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;
use dmm_hugepages::{Inventory, PageSize, reserve};

use crate::Options;
use crate::output::{self, Table};

/// Where the kernel's files are.
const ROOT: &str = "/";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the pools and mounts (the default)
    Show,
    /// Set how many pages a pool holds; needs root
    Reserve {
        /// The NUMA node; without it the kernel spreads the pages over all nodes
        #[arg(long, value_name = "N")]
        node: Option<u32>,
        /// The size of the pages: 2M or 1G
        #[arg(long, value_name = "SIZE", default_value = "2M")]
        size: PageSize,
        /// Pages that the pool is to hold, those in use included
        #[arg(long, value_name = "C")]
        count: u64,
    },
}

/// Shows or reserves.
pub(crate) fn run(options: &Options, args: &Args) -> anyhow::Result<ExitCode> {
    match args.action {
        None | Some(Action::Show) => show(options),
        Some(Action::Reserve { node, size, count }) => {
            let done = reserve(Path::new(ROOT), node, size, count)?;
            let shown = if options.json {
                output::json(&done)?
            } else {
                output::text(&format!("{} {size} pages are reserved\n", done.got))?
            };
            match done.remedy {
                None => Ok(shown),
                Some(remedy) => {
                    bail!(
                        "{} {size} pages were asked for and {} are there: {remedy}",
                        count,
                        done.got
                    )
                }
            }
        }
    }
}

fn show(options: &Options) -> anyhow::Result<ExitCode> {
    let inventory = Inventory::read(Path::new(ROOT))?;
    if options.json {
        return output::json(&inventory);
    }
    let mut table = Table::new(["NODE", "SIZE", ">TOTAL", ">FREE", ">SURPLUS"]);
    for pool in &inventory.pools {
        let node = pool.node.map_or_else(|| "any".to_owned(), |node| node.to_string());
        table.row([&node, &pool.size, &pool.total, &pool.free, &pool.surplus]);
    }
    let mut text = table.render();
    for mount in &inventory.mounts {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "hugetlbfs of {} pages on {}", mount.size, mount.path.display());
    }
    output::text(&text)
}
