//! Child processes: started with a pipe to hear that they are ready, watched for their CPU time, and
//! gone when their handle is.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::interrupt;

/// After this a child that does not do what is awaited counts as stuck.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Lines of a child's words that are kept for an error message.
const LINES_KEPT: usize = 20;

/// A running child.
pub struct Process {
    name: String,
    child: Child,
    /// What it writes to standard error, line by line.
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Process {
    /// Starts a command. Its standard output can be collected by [`Process::finish`].
    pub fn start(name: &str, command: &mut Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let stderr = child.stderr.take().context("the pipe was asked for")?;
        let (say, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // Nobody listens any more: the pipe must be emptied all the same.
                let _ = say.send(line);
            }
        });
        Ok(Self { name: name.to_owned(), child, lines, said: Vec::new() })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Waits until it says a line that contains `word`.
    pub fn wait_for(&mut self, word: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            interrupt::check()?;
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => {
                    let found = line.contains(word);
                    self.hear(line);
                    if found {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(_) => {
                    return Err(self.complaint(&format!("ended or hung before it said {word:?}")));
                }
            }
        }
    }

    /// Fails if it has ended, with what it said.
    pub fn check_running(&mut self) -> anyhow::Result<()> {
        if self.is_over()? { Err(self.complaint("ended")) } else { Ok(()) }
    }

    /// Waits until it ends by itself, and gives its standard output and the CPU seconds that it used.
    pub fn finish(mut self, patience: Duration) -> anyhow::Result<(String, f64)> {
        let mut stdout = self.child.stdout.take().context("the pipe was asked for")?;
        let reader = thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).map(|_| text)
        });
        let deadline = Instant::now() + patience;
        while !self.is_over()? {
            interrupt::check()?;
            if Instant::now() > deadline {
                return Err(self.complaint("hung"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        // A zombie still tells what it used.
        let cpu = cpu_seconds(self.pid())?;
        let status = self.child.wait()?;
        let text = reader.join().map_err(|_| anyhow!("the reader panicked"))??;
        if status.success() {
            return Ok((text, cpu));
        }
        Err(self.complaint(&format!("ended with {status}")).context(text.trim().to_owned()))
    }

    /// Whether it has ended; leaves it to be reaped.
    fn is_over(&self) -> anyhow::Result<bool> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
        Ok(waitid(Id::Pid(self.pid()), flags)? != WaitStatus::StillAlive)
    }

    /// Ends it by `signal` and reaps it; by `SIGKILL` after [`PATIENCE`].
    pub fn end(mut self, signal: Signal) -> anyhow::Result<()> {
        kill(self.pid(), signal)?;
        let deadline = Instant::now() + PATIENCE;
        while !self.is_over()? {
            if Instant::now() > deadline {
                bail!(self.complaint(&format!("does not end on {signal}")));
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.child.wait()?;
        Ok(())
    }

    fn hear(&mut self, line: String) {
        if self.said.len() == LINES_KEPT {
            self.said.remove(0);
        }
        self.said.push(line);
    }

    fn complaint(&mut self, what: &str) -> anyhow::Error {
        while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(100)) {
            self.hear(line);
        }
        anyhow!("{} {what}; it said: {}", self.name, self.said.join(" | "))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU seconds that a process used so far, all threads, user and system (proc(5): fields 14 and 15
/// of stat, in ticks).
pub fn cpu_seconds(pid: Pid) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = ticks(&stat).with_context(|| format!("{path} is not understood"))?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the clock has ticks")?;
    Ok(ticks as f64 / per_second as f64)
}

fn ticks(stat: &str) -> Option<u64> {
    // The second field, the program's name, is in parentheses and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 99 0 0 0 120 34 5 6 20 0 1 0 4 5 6";
        assert_eq!(ticks(stat), Some(154));
        assert_eq!(ticks("7 (a"), None);
    }

    #[test]
    fn a_child_that_fails_is_quoted() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo why >&2; exit 3"]);
        let error = Process::start("sh", &mut command).unwrap().finish(PATIENCE).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("why") && text.contains("out") && text.contains('3'), "{text}");
    }

    #[test]
    fn a_childs_output_and_time_are_told() {
        let mut command = Command::new("sh");
        command.args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done"]);
        let (text, cpu) = Process::start("sh", &mut command).unwrap().finish(PATIENCE).unwrap();
        assert_eq!(text, "done\n");
        assert!(cpu > 0.0);
    }
}
