//! `dmm schema`: the JSON Schema of the daemon's configuration.

use std::process::ExitCode;

use dmm_admin::Config;

use crate::output;

/// Prints the schema, which is JSON with or without `--json`.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    output::json(&Config::schema())
}
