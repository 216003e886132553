//! The C library as its users get it: installed, found by pkg-config, linked by a C compiler, and loaded
//! by Python.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use dmm_tests::command::{program, run};
use dmm_tests::deadline::eventually;
use dmm_tests::lab::{FAMILIES, Family, Lab, PortKind};
use dmm_tests::namespace::Namespace;
use tempfile::TempDir;

/// Bytes that go there and back.
const BYTES: u64 = 8 << 20;

/// What `scripts/install` put into a folder, and programs that were built with that alone.
pub struct Installed {
    folder: TempDir,
    clients: Namespace,
}

impl Installed {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("dmm-tests-").tempdir().expect("writable");
        let mut install = Command::new(repository().join("scripts/install"));
        let built = program("dmmd").parent().expect("in a folder").to_owned();
        install.arg("--prefix").arg(folder.path()).arg("--from").arg(built);
        run(&mut install);
        Self { folder, clients: Namespace::new("c") }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Compiles an example, without a warning, as its own first comment says.
    fn compile(&self, name: &str) -> PathBuf {
        let flags = run(Command::new("pkg-config")
            .args(["--cflags", "--libs", "dmm"])
            .env("PKG_CONFIG_PATH", self.folder.path().join("lib/pkgconfig")));
        let binary = self.folder.path().join(name);
        let mut gcc = Command::new("gcc");
        gcc.args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]);
        gcc.arg(examples().join(format!("{name}.c"))).args(flags.split_whitespace());
        run(gcc.arg("-o").arg(&binary));
        binary
    }

    /// A command that finds the library, and a daemon, and no network but that.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>, lab: &Lab) -> Command {
        let mut command = self.clients.command(program);
        command.env("LD_LIBRARY_PATH", self.folder.path().join("lib"));
        command.env("DMM_SOCKET", lab.daemon.socket());
        command
    }

    /// A running echo server, on any port of the stack's address.
    fn server(&self, lab: &Lab, family: Family) -> Server {
        let mut command = self.command(self.compile("echo_server"), lab);
        command.arg(lab.link().stack(family).to_string()).arg("0");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it was compiled");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let port = line.trim().rsplit(' ').next().and_then(|word| word.parse().ok());
        let port = port.unwrap_or_else(|| panic!("{line:?}"));
        Server { child, address: SocketAddr::new(lab.link().stack(family), port) }
    }
}

/// The echo server in C, killed when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Ends its standard input, which it watches beside its sockets.
    fn end(mut self) {
        drop(self.child.stdin.take());
        eventually("the end of the server", || match self.child.try_wait().expect("it is ours") {
            Some(status) => {
                assert!(status.success(), "{status}");
                Ok(())
            }
            None => Err("it runs".to_owned()),
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the repository").to_owned()
}

fn examples() -> PathBuf {
    repository().join("client-lib/c/examples")
}

#[test]
fn a_server_in_c_serves_the_kernel() {
    let lab = Lab::new(PortKind::Tap, 2);
    let idle = lab.holdings();
    let installed = Installed::new();
    for family in FAMILIES {
        let server = installed.server(&lab, family);
        let connect = format!(
            "--connect {} --count 50 --together exchange --bytes {}",
            server.address,
            BYTES / 50
        );
        let report = lab.peer(lab.link(), &connect).finish();
        for outcome in &report.outcomes {
            assert_eq!((&outcome.error, outcome.received), (&None, BYTES / 50));
            assert_eq!(outcome.sent_sha256, outcome.received_sha256);
            assert!(outcome.end_of_file);
        }
        let ask = format!("--connect {} udp-ask --sizes 0,1,1000,8000", server.address);
        assert_eq!(lab.peer(lab.link(), &ask).outcome().error, None);
        server.end();
        lab.wait_for_holdings_ignoring(&idle, |holdings| {
            (holdings.stack_sockets, holdings.orphans) = (0, 0);
        });
    }
}

#[test]
fn clients_in_c_and_python_ask_the_kernel() {
    let lab = Lab::new(PortKind::Tap, 1);
    let installed = Installed::new();
    let client = installed.compile("echo_client");
    for family in FAMILIES {
        let any = SocketAddr::new(lab.link().peer(family), 0);
        let mut server = lab.peer(lab.link(), &format!("--listen {any} echo"));
        let to = server.ready();
        let mut command = installed.command(&client, &lab);
        command.args([to.ip().to_string(), to.port().to_string(), BYTES.to_string()]);
        assert_eq!(run(&mut command), format!("{BYTES} bytes came back\n"));
        assert_eq!(server.outcome().error, None);

        // The same port for both protocols.
        let mut stream = lab.peer(lab.link(), &format!("--listen {any} echo"));
        let to = stream.ready();
        let listen = format!("--listen {to} udp-echo --count 1");
        let mut datagram = lab.peer(lab.link(), &listen);
        let _ = datagram.ready();
        let mut command = installed.command("python3", &lab);
        command.arg(examples().join("echo_client.py"));
        command.args([to.ip().to_string(), to.port().to_string(), BYTES.to_string()]);
        assert_eq!(run(&mut command), format!("{BYTES} bytes and a datagram came back\n"));
        assert_eq!(stream.outcome().error, None);
    }
}

/// Every call, every errno that a caller can bring about by itself.
#[test]
fn calls_and_errors_are_those_of_posix() {
    let lab = Lab::new(PortKind::Tap, 1);
    let installed = Installed::new();
    let binary = installed.folder.path().join("calls");
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]);
    gcc.arg(repository().join("client-lib/c/tests/calls.c"));
    gcc.arg("-I").arg(installed.folder.path().join("include"));
    gcc.arg("-L").arg(installed.folder.path().join("lib")).arg("-ldmm");
    run(gcc.arg("-o").arg(&binary));
    let mut command = installed.command(&binary, &lab);
    command.arg(lab.link().stack(Family::V4).to_string());
    command.arg(lab.link().peer(Family::V4).to_string());
    let any = SocketAddr::new(lab.link().peer(Family::V4), 0);
    // One for the streams' turn, one for that without copies, which ends by a reset.
    let mut server = lab.peer(lab.link(), &format!("--listen {any} --count 2 echo"));
    command.arg(server.ready().port().to_string());
    let told = run(&mut command);
    let checks = told.trim().strip_suffix(" checks passed").and_then(|count| count.parse().ok());
    assert!(checks.is_some_and(|count: u32| count > 150), "{told}");
    assert_eq!(server.finish().outcomes[0].error, None);
    // Whatever it did, the daemon kept its own counsel.
    let refused: Vec<_> =
        lab.counters().into_iter().filter(|(name, _)| name.starts_with("refused.")).collect();
    assert_eq!(refused, []);
}

/// Datagrams, and what goes beside them.
#[test]
fn datagrams_are_told_of_and_sent_as_those_of_posix() {
    let lab = Lab::new(PortKind::Tap, 1);
    let installed = Installed::new();
    let binary = installed.folder.path().join("datagrams");
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]);
    gcc.arg(repository().join("client-lib/c/tests/datagrams.c"));
    gcc.arg("-I").arg(installed.folder.path().join("include"));
    gcc.arg("-L").arg(installed.folder.path().join("lib")).arg("-ldmm");
    run(gcc.arg("-o").arg(&binary));
    let mut command = installed.command(&binary, &lab);
    command.arg(lab.link().stack(Family::V4).to_string());
    command.arg(lab.link().peer(Family::V4).to_string());
    command.arg(lab.link().broadcast().to_string());
    let told = run(&mut command);
    let checks = told.trim().strip_suffix(" checks passed").and_then(|count| count.parse().ok());
    assert!(checks.is_some_and(|count: u32| count > 100), "{told}");
    let refused: Vec<_> =
        lab.counters().into_iter().filter(|(name, _)| name.starts_with("refused.")).collect();
    assert_eq!(refused, []);
}

/// `--uninstall` takes away what was installed, and nothing else.
#[test]
fn what_is_installed_can_be_removed() {
    let installed = Installed::new();
    let folder = installed.folder.path();
    std::fs::write(folder.join("bin/other"), "").expect("ours");
    let count =
        || run(Command::new("find").arg(folder).args(["-not", "-type", "d"])).lines().count();
    assert_eq!(count(), 9);
    let mut install = Command::new(repository().join("scripts/install"));
    run(install.arg("--uninstall").arg("--prefix").arg(folder));
    assert_eq!(count(), 1);
    assert!(folder.join("bin/other").exists());
}
