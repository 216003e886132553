//! The server: sends back what comes, or takes a stream and says how much of it was right.

mod datagrams;
mod peer;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use anyhow::Context;

use super::flow::{Turn, pause, spawn};
use super::message::Pattern;
use super::report::{ServerReport, cpu_seconds};
use super::sockets::{Listener, Network, Stream, is_idle};
use super::{SIZE_MAX, ServerArgs};
use crate::{Options, output};
use peer::{Counts, Peer};

pub(super) use peer::{Echo, Sink, TRAILER_BYTES};

/// When polling: rounds over the connections between two looks at the listener.
const ACCEPT_EVERY: u32 = 64;

/// Runs the server; exits 1 if anything was wrong.
pub(super) fn run(
    options: &Options,
    args: &ServerArgs,
    network: Network,
) -> anyhow::Result<ExitCode> {
    let on = args.common.address;
    let cannot = || format!("cannot listen on {on} over {}", args.common.via());
    let mut report = if args.common.udp {
        let socket = network.bind(on).with_context(cannot)?;
        announce(args, socket.local_addr()?);
        datagrams::serve(&socket, args.once)?
    } else {
        let listener = network.listen(on).with_context(cannot)?;
        announce(args, listener.local_addr()?);
        if args.common.bulk {
            let pattern = Arc::new(Pattern::new(usize::try_from(SIZE_MAX)?));
            let make = move |stream| Sink::new(stream, Arc::clone(&pattern));
            serve(network, listener, args, make)?
        } else {
            serve(network, listener, args, Echo::new)?
        }
    };
    report.cpu_s = cpu_seconds();
    if options.json {
        output::json(&report)?
    } else {
        output::text(&report.render())?
    };
    Ok(if report.errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tells whoever started the server that clients may come.
fn announce(args: &ServerArgs, at: std::net::SocketAddr) {
    eprintln!("dmm: listening on {at} over {}", args.common.via());
}

fn serve<P: Peer + 'static>(
    network: Network,
    listener: Listener,
    args: &ServerArgs,
    make: impl Fn(Stream) -> P + Send + 'static,
) -> anyhow::Result<ServerReport> {
    if network.is_polling() {
        serve_polling(&network, &listener, args, make)
    } else {
        serve_blocking(network, listener, args, make)
    }
}

/// What the threads of a blocking server tell the main one.
enum Event {
    Opened,
    Closed(Counts, io::Result<()>),
    CannotAccept(io::Error),
    /// The last connection that was asked for has come.
    Full,
}

/// A thread that accepts, and one for each connection.
fn serve_blocking<P: Peer + 'static>(
    network: Network,
    listener: Listener,
    args: &ServerArgs,
    make: impl Fn(Stream) -> P + Send + 'static,
) -> anyhow::Result<ServerReport> {
    let (events, told) = channel();
    let max = args.connections.unwrap_or(u64::MAX);
    thread::spawn(move || accept(&network, &listener, max, &events, make));
    let mut report = ServerReport::default();
    let (mut open, mut full) = (0_u64, false);
    for event in told {
        match event {
            Event::Opened => open += 1,
            Event::Closed(counts, result) => {
                open -= 1;
                count(&mut report, &counts, &result);
            }
            Event::CannotAccept(error) => return Err(error).context("cannot accept a connection"),
            Event::Full => full = true,
        }
        if open == 0 && report.connections > 0 && (full || args.once) {
            break;
        }
    }
    Ok(report)
}

fn accept<P: Peer + 'static>(
    network: &Network,
    listener: &Listener,
    max: u64,
    events: &Sender<Event>,
    make: impl Fn(Stream) -> P,
) {
    // Nobody listens to the events once the server is about to end.
    for _ in 0..max {
        let done = {
            let events = events.clone();
            move |peer: P, result| {
                let _ = events.send(Event::Closed(peer.counts(), result));
            }
        };
        let started = accept_one(network, listener).and_then(|stream| {
            let _ = events.send(Event::Opened);
            spawn(make(stream), done)
        });
        if let Err(error) = started {
            let _ = events.send(Event::CannotAccept(error));
            return;
        }
    }
    let _ = events.send(Event::Full);
}

/// The next connection that lasts until it is accepted (accept(2): `ECONNABORTED`).
fn accept_one(network: &Network, listener: &Listener) -> io::Result<Stream> {
    loop {
        match network.accept(listener) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted || is_idle(&error) => {}
            other => return other,
        }
    }
}

/// One thread that asks the listener and all connections in turn.
fn serve_polling<P: Peer>(
    network: &Network,
    listener: &Listener,
    args: &ServerArgs,
    make: impl Fn(Stream) -> P,
) -> anyhow::Result<ServerReport> {
    let max = args.connections.unwrap_or(u64::MAX);
    let (mut peers, mut report, mut accepted): (Vec<P>, _, _) =
        (Vec::new(), ServerReport::default(), 0);
    loop {
        if accepted < max {
            match network.accept(listener) {
                Ok(stream) => {
                    accepted += 1;
                    peers.push(make(stream));
                }
                Err(error)
                    if is_idle(&error) || error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error).context("cannot accept a connection"),
            }
        }
        for _ in 0..ACCEPT_EVERY {
            let mut idle = true;
            peers.retain_mut(|peer| {
                let result = match peer.turn() {
                    Ok(Turn::Idle) => return true,
                    Ok(Turn::Progress) => {
                        idle = false;
                        return true;
                    }
                    Ok(Turn::Done) => Ok(()),
                    Err(error) => Err(error),
                };
                count(&mut report, &peer.counts(), &result);
                false
            });
            if idle {
                pause();
            }
        }
        let may_end = args.once || accepted == max;
        if peers.is_empty() && report.connections > 0 && may_end {
            return Ok(report);
        }
    }
}

fn count(report: &mut ServerReport, counts: &Counts, result: &io::Result<()>) {
    report.connections += 1;
    report.bytes_received += counts.received;
    report.bytes_sent += counts.sent;
    report.errors += counts.wrong;
    if let Err(error) = result {
        report.errors += 1;
        eprintln!("dmm: a connection failed: {error}");
    }
}
