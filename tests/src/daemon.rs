//! A `dmmd` in a namespace, with a configuration of its own and its log kept.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Output};
use std::sync::Arc;
use std::time::Instant;

use dmm_admin::Admin;
use dmm_admin::report::{Sockets, Stats, Status};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::command::program;
use crate::deadline::{PATIENCE, eventually};
use crate::namespace::Namespace;

/// A daemon, killed when dropped.
pub struct Daemon {
    namespace: Arc<Namespace>,
    folder: TempDir,
    child: Child,
}

impl Daemon {
    /// Starts a daemon and waits until it answers.
    ///
    /// # Panics
    /// If it ends or does not answer in time, with its log.
    #[must_use]
    pub fn start(namespace: &Arc<Namespace>, config: &Value) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("dmm-tests-")
            .tempdir()
            .expect("the temporary folder can be written");
        fs::write(folder.path().join("dmmd.json"), format!("{config:#}"))
            .expect("the temporary folder can be written");
        let child = spawn(namespace, folder.path());
        let mut daemon = Self { namespace: Arc::clone(namespace), folder, child };
        daemon.wait_until_ready();
        daemon
    }

    /// Runs a daemon that is expected to refuse its configuration, and returns how it ended.
    ///
    /// # Panics
    /// If it has not ended in time.
    #[must_use]
    pub fn refuse(namespace: &Namespace, config_text: &str) -> Output {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        fs::write(folder.path().join("dmmd.json"), config_text)
            .expect("the temporary folder can be written");
        let mut child = spawn(namespace, folder.path());
        let status = wait(&mut child);
        Output { status, stdout: Vec::new(), stderr: read(&log_path(folder.path())).into_bytes() }
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket_path(self.folder.path())
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `dmm status`.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn status(&self) -> Status {
        self.admin().status().expect("the daemon answers")
    }

    /// `dmm stats`.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.admin().stats().expect("the daemon answers")
    }

    /// `dmm sockets`.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn sockets(&self) -> Sockets {
        self.admin().sockets().expect("the daemon answers")
    }

    /// What it wrote to its log since its first start.
    #[must_use]
    pub fn log(&self) -> String {
        read(&log_path(self.folder.path()))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self::signal(&self.child, signal);
    }

    /// Ends it without warning.
    pub fn kill(&mut self) {
        self.child.kill().expect("the daemon runs");
        self.child.wait().expect("the daemon is ours");
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn terminate(&mut self) -> ExitStatus {
        signal(&self.child, Signal::SIGTERM);
        wait(&mut self.child)
    }

    /// Starts it again, with the same configuration, after its end.
    pub fn restart(&mut self) {
        self.child = spawn(&self.namespace, self.folder.path());
        self.wait_until_ready();
    }

    fn admin(&self) -> Admin {
        Admin::connect(&self.socket()).expect("the daemon listens")
    }

    fn wait_until_ready(&mut self) {
        let socket = self.socket();
        let child = &mut self.child;
        eventually("an answer of the daemon", || {
            if let Some(status) = child.try_wait().expect("the daemon is ours") {
                panic!("the daemon ended: {status}");
            }
            let admin = Admin::connect(&socket).map_err(|error| error.to_string())?;
            admin.status().map_err(|error| error.to_string())
        });
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ended = self.child.try_wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let how = match ended {
                Ok(Some(status)) => format!("it had ended: {status}"),
                _ => "it was still running".to_owned(),
            };
            eprintln!("--- the daemon's log; {how} ---\n{}---", self.log());
        }
    }
}

fn spawn(namespace: &Namespace, folder: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log_path(folder));
    let mut command = namespace.command(program("dmmd"));
    command.arg("--config").arg(folder.join("dmmd.json")).arg("--socket").arg(socket_path(folder));
    command.stderr(log.expect("the temporary folder can be written"));
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn socket_path(folder: &Path) -> PathBuf {
    folder.join("dmmd.sock")
}

fn log_path(folder: &Path) -> PathBuf {
    folder.join("dmmd.log")
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Sends a signal to a child that has not been waited for.
///
/// # Panics
/// If there is no such process.
pub fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).expect("process ids are small");
    kill(Pid::from_raw(pid), signal).expect("the process exists");
}

/// Waits for the end of a child, and kills it if that does not come.
fn wait(child: &mut Child) -> ExitStatus {
    let give_up = Instant::now() + PATIENCE;
    eventually("the end of the daemon", || {
        if let Some(status) = child.try_wait().expect("the daemon is ours") {
            return Ok(status);
        }
        if Instant::now() + PATIENCE / 10 > give_up {
            let _ = child.kill();
            panic!("the daemon did not end in time");
        }
        Err("it runs".to_owned())
    })
}
