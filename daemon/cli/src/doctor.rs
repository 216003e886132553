//! `dmm doctor`: what on this machine stands in the daemon's way.
//!
//! Each check is a line: ok, warn (slower, or not always), fail (the daemon does not start as it is
//! configured), with the remedy. Changes nothing.

mod cores;
mod devices;
mod dpdk;
mod memory;
mod privilege;
mod service;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dmm_admin::CONFIG_ENV;
use dmm_admin::config::{Config, Origin};
use serde::Serialize;

use crate::Options;
use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The configuration to check [default: what dmmd would take]
    #[arg(long, value_name = "PATH", env = CONFIG_ENV)]
    config: Option<PathBuf>,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// A line of the report.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    level: Level,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, level: Level::Ok, found: found.into(), remedy: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, level: Level::Warn, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, level: Level::Fail, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// The report.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
}

/// Checks everything and prints the report; the exit code is 1 if a check failed.
pub(crate) fn run(options: &Options, args: &Args) -> anyhow::Result<ExitCode> {
    let root = Path::new("/");
    let (configuration, config) = service::configuration(&Origin::choose(args.config.clone()));
    // The other checks ask what this configuration needs; a broken one is judged as the default.
    let config = config.unwrap_or_else(Config::embedded);
    let mut checks = vec![configuration];
    checks.extend(service::warnings(&config));
    checks.push(service::daemon(&options.socket));
    checks.extend(privilege::checks(root));
    checks.push(dpdk::library());
    checks.push(devices::tun(root, &config));
    checks.push(devices::vfio(root, &config));
    checks.extend(memory::checks(root, &config));
    checks.extend(cores::checks(root));
    let ok = checks.iter().all(|check| check.level < Level::Fail);
    let report = Report { ok, checks };
    if options.json {
        output::json(&report)?;
    } else {
        output::text(&render(&report))?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn render(report: &Report) -> String {
    let mut text = String::new();
    for check in &report.checks {
        let level = match check.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        let remedy = check.remedy.as_ref().map_or_else(String::new, |r| format!(": {r}"));
        text += &output::visible(&format!("{level}  {:<14} {}{remedy}", check.name, check.found));
        text.push('\n');
    }
    text
}
