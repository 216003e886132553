//! The command line of `dmm-peer`, and its rounds: make the connections, let each behave, report.

use std::io::{self, BufRead};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};

use super::behaviour::Behaviour;
use super::datagram;
use super::net::{Net, Stream};
use super::report::{Line, Outcome, Report};

/// Stack of a connection's thread: there may be thousands.
const THREAD_STACK_BYTES: usize = 256 << 10;

/// One end of a test's connections. Prints one line of JSON per event.
#[derive(Clone, Debug, Parser)]
#[command(name = "dmm-peer", version)]
pub struct Arguments {
    /// Whose sockets to use.
    #[arg(long, value_enum)]
    pub via: Via,
    /// The stack, of the library's sockets; the daemon's first if not given.
    #[arg(long)]
    pub stack: Option<String>,
    /// Listen here. Port 0 means any.
    #[arg(long, required_unless_present = "connect", conflicts_with = "connect")]
    pub listen: Option<SocketAddr>,
    /// Connect there.
    #[arg(long)]
    pub connect: Option<SocketAddr>,
    /// Pass each connection on to there instead of ending it here.
    #[arg(long, requires = "listen")]
    pub forward: Option<SocketAddr>,
    /// The stack to pass connections on by.
    #[arg(long)]
    pub forward_stack: Option<String>,
    /// How many connections a round has.
    #[arg(long, default_value_t = 1)]
    pub count: usize,
    /// Use none of them before all are open.
    #[arg(long)]
    pub together: bool,
    /// Give up connecting after this time.
    #[arg(long)]
    pub timeout_ms: Option<u64>,
    /// Rounds. Each but the first waits for a line of standard input.
    #[arg(long, default_value_t = 1)]
    pub rounds: usize,
    /// Say so when a direction of a connection has moved this many bytes; unless given, far more
    /// than the first round trips carry.
    #[arg(long, default_value_t = 256 << 10)]
    pub announce: u64,
    /// Never sleep while waiting (library only).
    #[arg(long)]
    pub polling: bool,
    /// What to do with each connection.
    #[command(subcommand)]
    pub behaviour: Behaviour,
}

/// Whose sockets a program uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// The kernel's.
    Kernel,
    /// The library's.
    Dmm,
}

/// Runs the program.
///
/// # Errors
/// If it could not do its work at all: nobody to attach to, nowhere to listen. What becomes of
/// connections is reported instead.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let net = match arguments.via {
        Via::Kernel => Net::Kernel,
        Via::Dmm => {
            // First, so that a missing daemon is an error of the program.
            dmm::Client::global()?.set_polling(arguments.polling);
            Net::Dmm(arguments.stack.clone())
        }
    };
    for round in 0..arguments.rounds {
        if round > 0 {
            wait_for_line()?;
        }
        let report = match &arguments.behaviour {
            Behaviour::UdpAsk { sizes } => udp_ask(arguments, &net, sizes)?,
            Behaviour::UdpEcho { count } => udp_echo(arguments, &net, *count)?,
            _ => run_round(arguments, &net)?,
        };
        Line::Round(report).print();
    }
    Ok(())
}

fn wait_for_line() -> anyhow::Result<()> {
    let mut line = String::new();
    let len = io::stdin().lock().read_line(&mut line).context("cannot read standard input")?;
    ensure!(len > 0, "standard input ended before the last round");
    Ok(())
}

fn run_round(arguments: &Arguments, net: &Net) -> anyhow::Result<Report> {
    let timeout = arguments.timeout_ms.map(Duration::from_millis);
    match (arguments.listen, arguments.connect) {
        (Some(address), _) => {
            let listener =
                net.listen(address).with_context(|| format!("cannot listen on {address}"))?;
            Line::Ready(listener.local_addr()?).print();
            Ok(behave(arguments, || listener.accept()))
        }
        (None, Some(address)) => Ok(behave(arguments, || net.connect(address, timeout))),
        (None, None) => anyhow::bail!("nowhere to listen and nowhere to connect to"),
    }
}

/// Opens the connections of a round and lets each behave on a thread of its own.
fn behave(arguments: &Arguments, open: impl Fn() -> io::Result<Stream>) -> Report {
    let shared = Arc::new(arguments.clone());
    let begin = |stream: io::Result<Stream>| stream.and_then(|stream| start(&shared, stream));
    let opening = (0..arguments.count).map(|_| open());
    let threads: Vec<_> = if arguments.together {
        let streams: Vec<_> = opening.collect();
        streams.into_iter().map(begin).collect()
    } else {
        opening.map(begin).collect()
    };
    let outcomes = threads.into_iter().map(|thread| match thread {
        Ok(thread) => thread.join().expect("no behaviour panics"),
        Err(error) => failed(&error),
    });
    Report { outcomes: outcomes.collect() }
}

fn start(arguments: &Arc<Arguments>, stream: Stream) -> io::Result<JoinHandle<Outcome>> {
    let arguments = Arc::clone(arguments);
    let behave = move || match arguments.forward {
        None => arguments.behaviour.run(stream, arguments.announce),
        Some(address) => forward(&arguments, &stream, address),
    };
    thread::Builder::new().stack_size(THREAD_STACK_BYTES).spawn(behave)
}

/// Joins a connection with a new one to `address`, until both directions have ended.
fn forward(arguments: &Arguments, near: &Stream, address: SocketAddr) -> Outcome {
    let net = match arguments.via {
        Via::Kernel => Net::Kernel,
        Via::Dmm => Net::Dmm(arguments.forward_stack.clone()),
    };
    let timeout = arguments.timeout_ms.map(Duration::from_millis);
    let pass = |from: &Stream, to: &Stream| -> io::Result<u64> {
        let (mut reader, mut writer) = (from, to);
        let bytes = io::copy(&mut reader, &mut writer)?;
        to.shutdown(std::net::Shutdown::Write)?;
        Ok(bytes)
    };
    let result = net.connect(address, timeout).and_then(|far| {
        thread::scope(|scope| {
            let back = scope.spawn(|| pass(&far, near));
            let there = pass(near, &far);
            let back = back.join().expect("copying does not panic");
            Ok((there?, back?))
        })
    });
    match result {
        Ok((received, sent)) => Outcome { sent, received, end_of_file: true, ..Outcome::default() },
        Err(error) => failed(&error),
    }
}

fn udp_ask(arguments: &Arguments, net: &Net, sizes: &[usize]) -> anyhow::Result<Report> {
    let to = arguments.connect.context("udp-ask needs --connect")?;
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = net.bind_udp(any).context("cannot open a UDP socket")?;
    Ok(Report { outcomes: vec![datagram::ask(&socket, to, sizes)] })
}

fn udp_echo(arguments: &Arguments, net: &Net, count: usize) -> anyhow::Result<Report> {
    let at = arguments.listen.context("udp-echo needs --listen")?;
    let socket = net.bind_udp(at).with_context(|| format!("cannot bind to {at}"))?;
    Line::Ready(socket.local_addr()?).print();
    Ok(Report { outcomes: vec![datagram::echo(&socket, count)] })
}

fn failed(error: &io::Error) -> Outcome {
    let mut outcome = Outcome::default();
    outcome.fail(error);
    outcome
}
