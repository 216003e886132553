//! Instructions of a 64-byte message on its way from one client, over two stacks and a wire, to
//! another: what the sending call and the receiving call execute, and the workers of both stacks.
//!
//! valgrind's callgrind counts them, in user space alone: the client, or the daemon, runs under it while
//! the other runs as always. A figure is the difference between a long and a short run, divided by
//! the messages between them, so that starting and ending are not in it.

use std::path::Path;
use std::process::Command;

use super::Measured;
use crate::bench::{Effort, program};
use crate::callgrind::{callgrind, total};
use crate::compile;
use crate::daemon::{Daemon, WIRE, on_wire};
use crate::figure::{Better, Figure};
use crate::process::{PATIENCE, Process};

/// Messages of the short and the long run.
const MESSAGES: [u32; 2] = [1600, 4800];

/// callgrind repeats itself: what varies is who sleeps when.
const RUNS_MAX: usize = 3;

/// What goes and how.
struct Case {
    kind: &'static str,
    burst: u32,
    /// Instructions of [`WHO`] a message when they were last written down: x86-64, Rust 1.95.
    recorded: [f64; 4],
}

const WHO: [&str; 4] = ["client sends", "client receives", "daemon sends", "daemon receives"];

const CASES: [Case; 4] = [
    Case { kind: "udp", burst: 1, recorded: [803.0, 3024.0, 10151.0, 8190.0] },
    Case { kind: "udp", burst: 32, recorded: [574.0, 689.0, 3843.0, 2998.0] },
    Case { kind: "tcp", burst: 1, recorded: [726.0, 2624.0, 11347.0, 10661.0] },
    Case { kind: "tcp", burst: 32, recorded: [518.0, 397.0, 622.0, 678.0] },
];

/// All cases, beside what is recorded.
pub fn of_messages(effort: &Effort) -> anyhow::Result<Measured> {
    let folder = tempfile::tempdir()?;
    let pidfd = folder.path().join("pidfd.so");
    compile::shared_library("tests/bench/c/pidfd.c", &pidfd)?;
    let mut figures = Vec::new();
    for case in &CASES {
        let mut counted: [Vec<f64>; 4] = Default::default();
        for _ in 0..effort.runs.min(RUNS_MAX) {
            let [sent, received] = in_daemon(case, &pidfd)?;
            let run = [in_client(case, "send")?, in_client(case, "receive")?, sent, received];
            counted.iter_mut().zip(run).for_each(|(counted, run)| counted.push(run));
        }
        for ((who, runs), recorded) in WHO.into_iter().zip(counted).zip(case.recorded) {
            let name = format!("{} by {}, {who}", case.kind, case.burst);
            let figure = Figure::new(name, "instr/msg", Better::Less, runs)?;
            figures.push(figure.beside("recorded", vec![recorded]));
        }
    }
    let setup = vec![
        "one client sends a burst of 1 or 32 messages and then receives it; a worker a stack, \
         workers.idle interrupt, DMM_SPIN_US=0: at bursts of 1 each message finds everybody asleep"
            .to_owned(),
        "user space alone; TCP without Nagle, whose acknowledgements are the daemon's cost too"
            .to_owned(),
    ];
    Ok(Measured { setup, figures })
}

/// Of the sending and of the receiving worker, `pidfd` being what stands in for pidfd_open(2).
fn in_daemon(case: &Case, pidfd: &Path) -> anyhow::Result<[f64; 2]> {
    let mut counts = [[0; 2]; 2];
    for (count, messages) in counts.iter_mut().zip(MESSAGES) {
        let folder = tempfile::tempdir()?;
        let mut command = callgrind(&folder, &["--separate-threads=yes"], &program("dmmd")?);
        command.env("LD_PRELOAD", pidfd);
        let daemon = Daemon::start_by(command, &on_wire([0, 1], "interrupt"))?;
        let client = client_command(Command::new(program("bench-messages")?), case, messages);
        run(client, &daemon)?;
        daemon.end()?;
        // The control thread is the first, the workers follow in the order of the stacks.
        *count = [total(&folder, "out-02")?, total(&folder, "out-03")?];
    }
    Ok([0, 1].map(|worker| a_message(counts.map(|count| count[worker]))))
}

/// Of the calls to `function` of the client.
fn in_client(case: &Case, function: &str) -> anyhow::Result<f64> {
    let mut counts = [0; 2];
    for (count, messages) in counts.iter_mut().zip(MESSAGES) {
        let folder = tempfile::tempdir()?;
        let daemon = Daemon::start(&on_wire([0, 1], "interrupt"), None)?;
        let only = format!("--toggle-collect=*Ends>::{function}");
        let command = callgrind(&folder, &[&only], &program("bench-messages")?);
        run(client_command(command, case, messages), &daemon)?;
        daemon.end()?;
        *count = total(&folder, "out")?;
    }
    Ok(a_message(counts))
}

fn client_command(mut command: Command, case: &Case, messages: u32) -> Command {
    command.args([case.kind, "left", "right", WIRE[1]]);
    command.arg(messages.to_string()).arg(case.burst.to_string());
    command
}

fn run(mut command: Command, daemon: &Daemon) -> anyhow::Result<()> {
    command.env("DMM_SOCKET", daemon.socket()).env("DMM_SPIN_US", "0");
    Process::start("bench-messages", &mut command)?.finish(4 * PATIENCE)?;
    Ok(())
}

fn a_message([short, long]: [u64; 2]) -> f64 {
    (long as f64 - short as f64) / f64::from(MESSAGES[1] - MESSAGES[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_starting_takes_is_not_counted() {
        assert_eq!(a_message([3200, 9600]), 2.0);
    }
}
