//! Processes that end while eight of their threads are inside calls of the library: none crashes or
//! hangs, and nothing of them stays in the daemon. 10,000 of them (`DMM_TEST_EXITS` for another number).

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use dmm_tests::command::run;
use dmm_tests::lab::{Family, Lab, PortKind};
use nix::sys::signal::Signal;

use crate::c_api::{Installed, repository};
use crate::matrix::size;

#[test]
fn exits_inside_calls_leave_nothing_behind() {
    let exits = size("DMM_TEST_EXITS", 10_000);
    let lab = Lab::new(PortKind::Tap, 2);
    let idle = lab.holdings();
    let installed = Installed::new();
    let binary = installed.path().join("exits");
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]);
    gcc.arg(repository().join("client-lib/c/tests/exits.c"));
    gcc.arg("-I").arg(installed.path().join("include"));
    gcc.arg("-L").arg(installed.path().join("lib")).arg("-ldmm");
    run(gcc.arg("-o").arg(&binary));
    for number in 0..exits {
        let mut command = Command::new("timeout");
        // One that hangs is told so, and ended.
        command.args(["--preserve-status", "--signal=QUIT", "30"]).arg(&binary);
        command.env("LD_LIBRARY_PATH", installed.path().join("lib"));
        command.env("DMM_SOCKET", lab.daemon.socket());
        command.arg(lab.link().stack(Family::V4).to_string()).arg(number.to_string());
        let output = command.stdin(Stdio::null()).output().expect("timeout is installed");
        let stderr = String::from_utf8_lossy(&output.stderr);
        let wanted = if number % 4 == 3 { Some(Signal::SIGKILL as i32) } else { None };
        let told =
            output.status.signal().or(output.status.code().filter(|c| *c > 128).map(|c| c - 128));
        let good = if wanted.is_some() { told == wanted } else { output.status.success() };
        assert!(good, "exit {number}: {}: {stderr}", output.status);
        if number % 100 == 99 {
            lab.wait_for_holdings(&idle);
        }
    }
    lab.wait_for_holdings(&idle);
    let counters = lab.counters();
    assert_eq!(counters.get("sessions.opened"), Some(&exits));
    let refused: Vec<_> = counters.iter().filter(|(n, _)| n.starts_with("refused.")).collect();
    assert_eq!(refused, []);
}
