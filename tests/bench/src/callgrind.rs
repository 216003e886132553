//! valgrind's callgrind, which counts the instructions of a program in user space, repeatably.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use tempfile::TempDir;

/// `program` under callgrind, which leaves what it counted in `folder`.
pub fn callgrind(folder: &TempDir, options: &[&str], program: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["-q", "--tool=callgrind"]).args(options);
    let mut file = std::ffi::OsString::from("--callgrind-out-file=");
    file.push(folder.path().join("out"));
    command.arg(file).arg(program);
    command
}

/// Instructions in one of callgrind's files.
pub fn total(folder: &TempDir, file: &str) -> anyhow::Result<u64> {
    let path = folder.path().join(file);
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("callgrind left no {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = line.with_context(|| format!("callgrind's {file} has no total"))?.trim().parse()?;
    ensure!(total > 0, "callgrind counted nothing in {file}");
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_is_found_and_nothing_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("out"), "events: Ir\nfn=(1)\n1 5\n\ntotals: 4800\n")
            .unwrap();
        std::fs::write(folder.path().join("out-02"), "totals: 0\n").unwrap();
        assert_eq!(total(&folder, "out").unwrap(), 4800);
        assert!(total(&folder, "out-02").is_err());
        assert!(total(&folder, "out-03").is_err());
    }
}
