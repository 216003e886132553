//! The C sources of this folder, compiled when a row needs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::bench::program;

/// The C client, against the library that was built beside this program, which it finds in `folder`.
pub fn client(folder: &Path) -> anyhow::Result<PathBuf> {
    let library = folder.join("libdmm.so.0");
    std::os::unix::fs::symlink(program("libdmm.so")?, &library)?;
    let binary = folder.join("bench-client");
    let mut gcc = gcc("tests/bench/c/bench-client.c");
    gcc.arg("-I").arg(repository().join("client-lib/c/include")).arg(&library);
    finish(gcc, &binary)?;
    Ok(binary)
}

/// A library of one source, named from the repository's root.
pub fn shared_library(source: &str, library: &Path) -> anyhow::Result<()> {
    let mut gcc = gcc(source);
    gcc.args(["-shared", "-fPIC"]);
    finish(gcc, library)
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn gcc(source: &str) -> Command {
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]).arg(repository().join(source));
    gcc
}

fn finish(mut gcc: Command, output: &Path) -> anyhow::Result<()> {
    let status = gcc.arg("-o").arg(output).status().context("gcc is missing: scripts/setup")?;
    ensure!(status.success(), "{} does not compile", output.display());
    Ok(())
}
