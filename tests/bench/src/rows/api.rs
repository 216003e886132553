//! Ways to call the library: with copies and in place, from Rust and from C. A client process of one
//! source in both languages, over two stacks and a wire, and a server in this process.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use dmm::{Client, TcpStream};

use super::Measured;
use crate::bench::{Effort, program};
use crate::compile;
use crate::daemon::{Daemon, WIRE, on_wire};
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

/// Bytes in place, beside the same copied.
pub fn in_place(effort: &Effort) -> anyhow::Result<Measured> {
    let rust = Caller { binary: program("bench-client")?, library: None };
    let (bulk, message) = compare(effort, [(&rust, true), (&rust, false)])?;
    measured(effort, "in place", "copied", bulk, message)
}

/// The C library, beside the Rust one that it stands on.
pub fn from_c(effort: &Effort) -> anyhow::Result<Measured> {
    let folder = tempfile::tempdir()?;
    let library = Some(folder.path().to_owned());
    let c = Caller { binary: compile::client(folder.path())?, library };
    let rust = Caller { binary: program("bench-client")?, library: None };
    let (bulk, message) = compare(effort, [(&c, false), (&rust, false)])?;
    measured(effort, "from C", "from Rust", bulk, message)
}

type Runs = [Vec<f64>; 2];

/// Runs both sides in turns. Gb/s, and microseconds a message.
fn compare(effort: &Effort, sides: [(&Caller, bool); 2]) -> anyhow::Result<(Runs, Runs)> {
    let (mut bulk, mut message) = (Runs::default(), Runs::default());
    for _ in 0..effort.runs {
        for (side, (caller, in_place)) in sides.into_iter().enumerate() {
            bulk[side].push(run(effort, caller, What::Send, in_place)?);
            message[side].push(run(effort, caller, What::Echo, in_place)?);
        }
    }
    Ok((bulk, message))
}

fn measured(
    effort: &Effort,
    ours: &str,
    other: &'static str,
    bulk: Runs,
    message: Runs,
) -> anyhow::Result<Measured> {
    let millis = u64::try_from(effort.span.as_millis())?;
    let setup = vec![format!(
        "{} blocks of 65536 bytes, {} messages of 64 bytes there and back; server in another \
         process, which looks at every byte, both stacks on one worker, nobody pinned but that, workers.idle adaptive",
        millis * BLOCKS_PER_MS,
        millis * TRIPS_PER_MS
    )];
    let [our_bulk, other_bulk] = bulk;
    let [our_message, other_message] = message;
    let figures = vec![
        Figure::new(format!("bulk {ours}"), "Gb/s", Better::More, our_bulk)?
            .beside(other, other_bulk),
        Figure::new(format!("64 bytes {ours}"), "us/trip", Better::Less, our_message)?
            .beside(other, other_message),
    ];
    Ok(Measured { setup, figures })
}

fn run(effort: &Effort, caller: &Caller, what: What, in_place: bool) -> anyhow::Result<f64> {
    let daemon = Daemon::start(&on_wire([1, 1], "adaptive"), None)?;
    let client = Client::attach(daemon.socket())?;
    let listener = client.listen(Some("right"), (WIRE[1], 0))?;
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
    command.env("DMM_SOCKET", daemon.socket());
    if let Some(library) = &caller.library {
        command.env("LD_LIBRARY_PATH", library);
    }
    let client_process = Process::start("bench-client", &mut command)?;
    let (text, _) = client_process.finish(effort.span * 20 + PATIENCE)?;
    server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    drop(client);
    daemon.end()?;
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
