//! Running commands, and finding the programs that were built beside the tests.

use std::path::PathBuf;
use std::process::{Command, Output};

/// The program of this workspace called `name`, as built by `cargo build --workspace --bins`.
///
/// # Panics
/// If it was not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test is a file");
    // target/<profile>/deps/<test>
    let folder = test.ancestors().nth(2).expect("tests are in the folder deps");
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: build it first (scripts/test does)", path.display());
    path
}

/// Runs a command to its end and returns what it printed.
///
/// # Panics
/// If it fails, with what it printed on standard error.
pub fn run(command: &mut Command) -> String {
    let output = output(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command to its end, well or not.
///
/// # Panics
/// If it cannot be started.
pub fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}
