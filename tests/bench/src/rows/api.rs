//! Ways to call the library: with copies and in place, from Rust and from C. A client process of one
//! source in both languages, over two stacks and a wire, and a server in this process.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use dmm::{Client, TcpStream};
use tempfile::TempDir;

use super::Measured;
use super::flood::Wire;
use crate::bench::{Effort, program};
use crate::compile;
use crate::daemon::{Daemon, WIRE, on_device, on_wire};
use crate::figure::{Better, Figure};
use crate::process::{PATIENCE, Process};

/// Round trips of one run for each millisecond that it is to measure: some 30 us each.
const TRIPS_PER_MS: u64 = 20;
/// Blocks of 64 KiB for each millisecond: at 2 Gb/s, half of that.
const BLOCKS_PER_MS: u64 = 2;

/// What the client does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Echo,
    Send,
}

/// The client, in its language.
struct Caller {
    binary: PathBuf,
    /// Where it finds its library, if it needs one.
    library: Option<PathBuf>,
}

/// Between the client's stack and the server's.
const PATHS: [Path; 3] = [Path::Memory, Path::Cable(Wire::VhostUser), Path::Cable(Wire::Memif)];

/// Bytes in place, beside the same copied.
pub fn in_place(effort: &Effort) -> anyhow::Result<Measured> {
    let rust = Caller { binary: program("bench-client")?, library: None };
    measure(effort, ("in place", "copied"), [(&rust, true), (&rust, false)])
}

/// The C library, beside the Rust one that it stands on.
pub fn from_c(effort: &Effort) -> anyhow::Result<Measured> {
    let folder = tempfile::tempdir()?;
    let library = Some(folder.path().to_owned());
    let c = Caller { binary: compile::client(folder.path())?, library };
    let rust = Caller { binary: program("bench-client")?, library: None };
    measure(effort, ("from C", "from Rust"), [(&c, false), (&rust, false)])
}

type Runs = [Vec<f64>; 2];

/// What joins the client's stack and the server's.
#[derive(Clone, Copy)]
enum Path {
    /// The in-memory wire of one daemon.
    Memory,
    /// Ports of two daemons.
    Cable(Wire),
}

impl Path {
    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "in-memory wire",
            Self::Cable(Wire::VhostUser) => "vhost-user",
            Self::Cable(Wire::Memif) => "memif",
        }
    }
}

/// The daemons of a run.
struct Ground {
    /// The client's.
    near: Daemon,
    /// The server's, if it is another.
    far: Option<Daemon>,
    /// The name of the server's stack.
    stack: &'static str,
    _folder: TempDir,
}

impl Ground {
    fn new(path: Path) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let Path::Cable(wire) = path else {
            let near = Daemon::start(&on_wire([1, 1], "adaptive"), None)?;
            return Ok(Self { near, far: None, stack: "right", _folder: folder });
        };
        let end = |device: &str, at: usize| {
            Daemon::start(&on_device(device, &format!("{}/24", WIRE[at]), 1, "adaptive"), None)
        };
        let far = end(&wire.listening(&folder), 1)?;
        let near = end(&wire.coming(&folder), 0)?;
        Ok(Self { near, far: Some(far), stack: "default", _folder: folder })
    }

    fn far(&self) -> &Daemon {
        self.far.as_ref().unwrap_or(&self.near)
    }

    fn end(self) -> anyhow::Result<()> {
        self.near.end()?;
        self.far.map_or(Ok(()), Daemon::end)
    }
}

/// Runs both sides in turns, on each path: Gb/s, and microseconds a message.
fn measure(
    effort: &Effort,
    (ours, other): (&str, &'static str),
    sides: [(&Caller, bool); 2],
) -> anyhow::Result<Measured> {
    let millis = u64::try_from(effort.span.as_millis())?;
    let setup = vec![format!(
        "{} blocks of 65536 bytes, {} messages of 64 bytes there and back; server in another \
         process, which looks at every byte; both stacks on one worker of one daemon, or two daemons on one \
         core, nobody pinned but that, workers.idle adaptive",
        millis * BLOCKS_PER_MS,
        millis * TRIPS_PER_MS
    )];
    let mut figures = Vec::new();
    for path in PATHS {
        let (mut bulk, mut message) = (Runs::default(), Runs::default());
        for _ in 0..effort.runs {
            for (side, (caller, in_place)) in sides.into_iter().enumerate() {
                bulk[side].push(run(effort, path, caller, What::Send, in_place)?);
                message[side].push(run(effort, path, caller, What::Echo, in_place)?);
            }
        }
        let ([our_bulk, other_bulk], [our_message, other_message]) = (bulk, message);
        let name = |what: &str| format!("{what} {ours}, {}", path.name());
        figures.extend([
            Figure::new(name("bulk"), "Gb/s", Better::More, our_bulk)?.beside(other, other_bulk),
            Figure::new(name("64 bytes"), "us/trip", Better::Less, our_message)?
                .beside(other, other_message),
        ]);
    }
    Ok(Measured { setup, figures })
}

fn run(
    effort: &Effort,
    path: Path,
    caller: &Caller,
    what: What,
    in_place: bool,
) -> anyhow::Result<f64> {
    let ground = Ground::new(path)?;
    let client = Client::attach(ground.far().socket())?;
    let listener = client.listen(Some(ground.stack), (WIRE[1], 0))?;
    let port = listener.local_addr()?.port().to_string();
    let millis = u64::try_from(effort.span.as_millis())?;
    let (word, count) = match what {
        What::Echo => ("echo", millis * TRIPS_PER_MS),
        What::Send => ("send", millis * BLOCKS_PER_MS),
    };
    let server = std::thread::spawn(move || -> anyhow::Result<()> {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        serve(&stream, what, in_place)
    });
    let mut command = Command::new(&caller.binary);
    command.args([word, WIRE[1], &port, &count.to_string()]);
    command.arg(if in_place { "in-place" } else { "copy" });
    command.env("DMM_SOCKET", ground.near.socket());
    if let Some(library) = &caller.library {
        command.env("LD_LIBRARY_PATH", library);
    }
    let client_process = Process::start("bench-client", &mut command)?;
    let (text, _) = client_process.finish(effort.span * 20 + PATIENCE)?;
    server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    drop(client);
    ground.end()?;
    text.trim().parse().with_context(|| format!("{text:?} is no number"))
}

/// Sends back what comes, or takes it all, looking at every byte as a program would.
fn serve(mut stream: &TcpStream, what: What, in_place: bool) -> anyhow::Result<()> {
    let mut buffer = vec![0; 65_536];
    loop {
        let len = if in_place && what == What::Send {
            let lent = stream.read_in_place()?;
            let len = lent.len();
            look_at(&lent);
            lent.give_back(len)?;
            len
        } else {
            let len = stream.read(&mut buffer)?;
            look_at(&buffer[..len]);
            len
        };
        if len == 0 {
            return Ok(());
        }
        if what == What::Echo {
            stream.write_all(&buffer[..len])?;
        }
    }
}

fn look_at(bytes: &[u8]) {
    std::hint::black_box(bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>());
}
