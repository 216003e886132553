//! A running `dmm-peer`: started, listened to, and killed when dropped.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::deadline::{PATIENCE, TRANSFER, eventually};
use crate::peer::{Line, Outcome, Report};

/// A running program.
pub struct Program {
    what: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Line>,
    stderr: Option<JoinHandle<String>>,
}

impl Program {
    /// Starts `command`, which runs `dmm-peer`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let what = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        let (to, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        thread::spawn(move || {
            // Ends with the program's output.
            for line in stdout.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        let mut stderr = child.stderr.take().expect("it is piped");
        let stderr = thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        Self { what, stdin: child.stdin.take(), child, lines, stderr: Some(stderr) }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is asleep: every thread, as the kernel sees them (proc_pid_stat(5)).
    pub fn asleep(&self) {
        eventually(&format!("{} asleep", self.what), || {
            let states = self.threads(|fields| fields[0].to_owned());
            if states.iter().all(|state| state == "S") { Ok(()) } else { Err(states.join(" ")) }
        });
    }

    /// Waits until it has used the processor for a while, as only a program does that spins.
    pub fn spins(&self) {
        // User and system time in ticks of 10 ms.
        let ticks = || -> u64 {
            let of_thread = |fields: &[&str]| [11, 12].map(|at| fields[at].parse().unwrap_or(0));
            self.threads(|fields| of_thread(fields).iter().sum::<u64>()).iter().sum()
        };
        let before = ticks();
        eventually(&format!("{} spinning", self.what), || match ticks() - before {
            10.. => Ok(()),
            few => Err(format!("{few} ticks")),
        });
    }

    /// What `of` makes of the fields of each thread's stat, from its state on.
    fn threads<T>(&self, of: impl Fn(&[&str]) -> T) -> Vec<T> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        let stats = tasks.filter_map(|task| {
            let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
            // The name before them stands in parentheses and may hold spaces.
            Some(of(&stat.rsplit_once(") ")?.1.split(' ').collect::<Vec<_>>()))
        });
        stats.collect()
    }

    /// Waits until it listens, and says where.
    pub fn ready(&mut self) -> SocketAddr {
        self.next(
            PATIENCE,
            |line| if let Line::Ready(address) = line { Some(address) } else { None },
        )
    }

    /// Waits until one of its connections has moved as much as `--announce` says.
    pub fn under_way(&mut self) {
        self.next(PATIENCE, |line| (line == Line::UnderWay).then_some(()));
    }

    /// Waits for the end of a round.
    pub fn round(&mut self) -> Report {
        self.next(TRANSFER, |line| if let Line::Round(report) = line { Some(report) } else { None })
    }

    /// Waits for the end of its only round and its good end.
    ///
    /// # Panics
    /// If it fails.
    pub fn finish(mut self) -> Report {
        let report = self.round();
        self.close_stdin();
        let (status, stderr) = self.end();
        assert!(status.success(), "{}: {status}: {stderr}", self.what);
        report
    }

    /// As [`Program::finish`], of a program with one connection.
    ///
    /// # Panics
    /// If it fails, or has another number of connections.
    pub fn outcome(self) -> Outcome {
        let what = self.what.clone();
        let mut report = self.finish();
        assert_eq!(report.outcomes.len(), 1, "{what}: {report:?}");
        report.outcomes.remove(0)
    }

    /// Waits for its end, well or not, and returns what it wrote to standard error.
    ///
    /// # Panics
    /// If it does not end.
    pub fn end(&mut self) -> (ExitStatus, String) {
        let (child, what) = (&mut self.child, &self.what);
        let status = eventually(&format!("the end of {what}"), || {
            child.try_wait().expect("it is ours").ok_or_else(|| "it runs".to_owned())
        });
        let stderr = self.stderr.take().map(|thread| thread.join().expect("reading cannot fail"));
        (status, stderr.unwrap_or_default())
    }

    /// Starts the next round.
    ///
    /// # Panics
    /// If the program is gone.
    pub fn next_round(&mut self) {
        let stdin = self.stdin.as_mut().expect("not closed yet");
        stdin.write_all(b"\n").expect("the program reads it");
    }

    /// Tells a program that sends without end to stop sending.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Ends it without warning.
    ///
    /// # Panics
    /// If it is gone already.
    pub fn kill(&mut self) {
        self.child.kill().expect("the program runs");
        self.child.wait().expect("the program is ours");
    }

    /// The next line that `wanted` accepts.
    fn next<T>(&mut self, patience: Duration, wanted: impl Fn(Line) -> Option<T>) -> T {
        loop {
            match self.lines.recv_timeout(patience) {
                Ok(line) => {
                    if let Some(found) = wanted(line) {
                        return found;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("{}: nothing came of it", self.what),
                Err(RecvTimeoutError::Disconnected) => {
                    let (status, stderr) = self.end();
                    panic!("{}: {status}: {stderr}", self.what);
                }
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let stderr = self.stderr.take().and_then(|thread| thread.join().ok());
            eprintln!("--- {} ---\n{}", self.what, stderr.unwrap_or_default());
        }
    }
}
