//! Client and server against each other over the kernel's loopback, and against peers that err.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Parser;

use super::interrupt::Interrupt;
use super::message::Pattern;
use super::sockets::{Network, Stream, Via};
use super::{Args, ClientArgs, Role, client, flow, seconds, server, some_seconds};
use crate::Options;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    args: Args,
}

fn client_args(to: SocketAddr, more: &str) -> (Options, ClientArgs) {
    let words = format!("dmm client {to} --via kernel {more}");
    let line = Line::try_parse_from(words.split_whitespace()).unwrap();
    let Role::Client(args) = line.args.role else { panic!("a client was asked for") };
    (line.options, args)
}

fn run_client(to: SocketAddr, more: &str) -> bool {
    let (options, args) = client_args(to, more);
    let network = Network::open(&Via::Kernel, Path::new(""), args.common.polling).unwrap();
    client::run(&options, &args, &network, &Arc::default()).unwrap() == ExitCode::SUCCESS
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

/// An echo that answers as `answer` makes it of what came, until the client goes.
fn serve_one(listener: TcpListener, mut answer: impl FnMut(&mut Vec<u8>) + Send + 'static) {
    thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut bytes = vec![0; 4096];
        loop {
            let len = stream.read(&mut bytes)?;
            if len == 0 {
                return Ok(());
            }
            let mut answered = bytes[..len].to_vec();
            answer(&mut answered);
            stream.write_all(&answered)?;
        }
    });
}

#[test]
fn what_comes_back_right_is_right() {
    for more in ["--count 100 --depth 7 --size 13", "--count 50 --polling --size 200000"] {
        let (listener, at) = listener();
        serve_one(listener, |_| ());
        assert!(run_client(at, more), "{more}");
    }
}

#[test]
fn a_single_wrong_bit_is_an_error() {
    let (listener, at) = listener();
    let mut number = 0;
    serve_one(listener, move |bytes| {
        number += 1;
        if number == 20 {
            bytes[30] ^= 1;
        }
    });
    assert!(!run_client(at, "--count 30"));
}

#[test]
fn a_server_that_goes_is_an_error() {
    let (listener, at) = listener();
    thread::spawn(move || drop(listener.accept()));
    assert!(!run_client(at, "--count 30"));
}

#[test]
fn the_servers_echo_serves_the_client() {
    let (listener, at) = listener();
    let server = thread::spawn(move || {
        let mut echo = server::Echo::new(Stream::Kernel(listener.accept().unwrap().0));
        flow::drive(&mut echo).unwrap();
    });
    assert!(run_client(at, "--count 200 --depth 16 --size 4096"));
    server.join().unwrap();
}

#[test]
fn the_sink_counts_what_is_wrong() {
    for (flipped, right) in [(None, true), (Some(70_000), false)] {
        let (listener, at) = listener();
        let (relay, at_relay) = self::listener();
        thread::spawn(move || {
            let pattern = Pattern::new(1 << 20).into();
            let stream = Stream::Kernel(listener.accept().unwrap().0);
            flow::drive(&mut server::Sink::new(stream, pattern)).unwrap();
        });
        thread::spawn(move || {
            let (mut from, _) = relay.accept().unwrap();
            let mut stream = Vec::new();
            from.read_to_end(&mut stream).unwrap();
            if let Some(at) = flipped {
                stream[at] ^= 0x80;
            }
            let mut to = std::net::TcpStream::connect(at).unwrap();
            to.write_all(&stream).unwrap();
            to.shutdown(std::net::Shutdown::Write).unwrap();
            let mut trailer = Vec::new();
            to.read_to_end(&mut trailer).unwrap();
            from.write_all(&trailer).unwrap();
        });
        assert_eq!(run_client(at_relay, "--bulk --bytes 300001"), right, "{flipped:?}");
    }
}

#[test]
fn datagrams_may_come_twice_and_out_of_order_but_not_changed() {
    for (damage, right) in [(false, true), (true, false)] {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut bytes = [0; 2048];
            let mut kept: Option<Vec<u8>> = None;
            loop {
                let (len, from) = socket.recv_from(&mut bytes).unwrap();
                if damage && len > 10 {
                    bytes[10] ^= 1;
                }
                // Each second one overtakes the one before, which then comes twice.
                match kept.take() {
                    Some(before) => {
                        for datagram in [&bytes[..len], &before, &before] {
                            socket.send_to(datagram, from).unwrap();
                        }
                    }
                    None if len > 0 => kept = Some(bytes[..len].to_vec()),
                    None => {
                        socket.send_to(&[], from).unwrap();
                        return;
                    }
                }
            }
        });
        assert_eq!(run_client(at, "--udp --count 40 --depth 4"), right, "damage {damage}");
    }
}

#[test]
fn an_interrupted_run_ends_with_what_it_has() {
    // Somebody who takes everything and answers nothing must not keep it, nor a long pause.
    let silent = |listener: TcpListener| {
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.read(&mut [0; 4096]).is_ok_and(|len| len > 0) {}
        });
    };
    let echo = |listener| serve_one(listener, |_| ());
    for (serve, more) in [
        (silent as fn(_), "--seconds 3600"),
        (silent as fn(_), "--seconds 3600 --polling"),
        (echo as fn(_), "--seconds 3600 --depth 4"),
        (echo as fn(_), "--count 2 --interval-ms 3600000"),
    ] {
        let (listener, at) = listener();
        serve(listener);
        let (options, args) = client_args(at, more);
        let network = Network::open(&Via::Kernel, Path::new(""), args.common.polling).unwrap();
        let interrupt = Arc::new(Interrupt::default());
        let raised = Arc::clone(&interrupt);
        let other = thread::spawn(move || {
            // Until the run measures there is nobody to interrupt.
            while !raised.is_measuring() {
                thread::yield_now();
            }
            assert!(raised.raise());
        });
        let code = client::run(&options, &args, &network, &interrupt).unwrap();
        other.join().unwrap();
        assert_eq!(code, ExitCode::from(130), "{more}");
    }
}

#[test]
fn a_run_measures_something_over_a_stack_that_has_any_name() {
    let refused = |more: &str| {
        let words = format!("dmm client 10.0.0.1:7 {more}");
        Line::try_parse_from(words.split_whitespace()).err().map(|error| error.to_string())
    };
    for more in ["--count 0", "--bulk --bytes 0", "--seconds 0"] {
        assert!(refused(more).is_some_and(|text| text.contains("'0'")), "{more}");
    }
    let (_, args) = client_args("10.0.0.1:7".parse().unwrap(), "");
    assert_eq!(args.common.via(), &Via::Kernel);
    assert_eq!("default".parse(), Ok(Via::Stack("default".to_owned())));
    let line = Line::try_parse_from(["dmm", "client", "10.0.0.1:7"]).unwrap();
    let Role::Client(args) = line.args.role else { panic!("a client was asked for") };
    assert_eq!(args.common.via(), &Via::First);
}

#[test]
fn seconds_have_bounds() {
    assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
    for wrong in ["-1", "nan", "inf", "86401", "1s", ""] {
        assert!(seconds(wrong).is_err(), "{wrong}");
    }
    assert_eq!((seconds("0"), some_seconds("0").is_err()), (Ok(Duration::ZERO), true));
}
