//! The same calls on `std::net`'s sockets over this machine's loopback and on ours: what Linux
//! answers is what is expected.

use std::fmt::Debug;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::common::alike::{CALLS, PASTS, kernel_pair};
use crate::common::{FakeDaemon, attach, fake::let_it_sleep, pair};
use dmm::errno;
use nix::errno::Errno;

#[test]
fn a_stream_answers_as_linux_does_whatever_happened_to_it() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let mut differences = Vec::new();
    for past in PASTS {
        for calls in CALLS {
            let (a, b) = kernel_pair();
            let linux = past.answers(calls, a, b);
            let (a, b, _listener) = pair(&client);
            let ours = past.answers(calls, a, b);
            if ours != linux {
                differences.push(format!("{past:?}: Linux {linux}\n{past:?}: ours  {ours}"));
            }
        }
    }
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

/// A read of no bytes sleeps until there is something to read, or for the timeout.
fn read_nothing<T: Read + Send>(
    mut reader: T,
    mut writer: impl Write,
    set_timeout: impl Fn(&T, Option<Duration>) -> io::Result<()>,
) -> (usize, bool, usize) {
    set_timeout(&reader, Some(Duration::from_millis(20))).unwrap();
    let timed_out = reader.read(&mut []).unwrap();
    set_timeout(&reader, None).unwrap();
    let (done, is_done) = channel();
    std::thread::scope(|scope| {
        scope.spawn(move || done.send(reader.read(&mut []).unwrap()).unwrap());
        let_it_sleep();
        let early = is_done.try_recv().is_ok();
        writer.write_all(b"x").unwrap();
        (timed_out, early, if early { 0 } else { is_done.recv().unwrap() })
    })
}

#[test]
fn reading_nothing_waits_as_on_linux() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let (a, b) = kernel_pair();
    let linux = read_nothing(a, b, std::net::TcpStream::set_read_timeout);
    let (a, b, _listener) = pair(&client);
    assert_eq!(read_nothing(a, b, dmm::TcpStream::set_read_timeout), linux);
}

/// A result with its errno for an error.
fn plain<T: Debug>(result: io::Result<T>) -> Result<T, Errno> {
    result.map_err(|error| Errno::from_raw(errno(&error)))
}

/// What a datagram socket answers.
macro_rules! datagram_answers {
    ($bind:expr, $to:expr) => {{
        let (bind, to): (_, SocketAddr) = ($bind, $to);
        let socket = bind();
        let sent = [&b""[..], b"x"].map(|bytes| plain(socket.send_to(bytes, to)));
        let too_long = plain(socket.send_to(&[0; 65_536], to)).is_err();
        let socket = bind();
        let connected = plain(socket.connect(to));
        let named = plain(socket.peer_addr()).map(drop);
        // Of those that are connected, only those with a port: others differ on Linux by family.
        let over = (to.port() != 0).then(|| plain(socket.send(b"x")));
        format!("{sent:?} {too_long} {connected:?} {named:?} {over:?}")
    }};
}

#[test]
fn datagrams_that_cannot_go_are_refused_as_on_linux() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let mut differences = Vec::new();
    for from in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
        for to in ["127.0.0.1:99", "127.0.0.1:0", "[::1]:99", "[::1]:0"] {
            let to: SocketAddr = to.parse().unwrap();
            let linux = datagram_answers!(|| std::net::UdpSocket::bind(from).unwrap(), to);
            let ours = datagram_answers!(|| client.bind_udp(Some("lab"), from).unwrap(), to);
            if ours != linux {
                differences
                    .push(format!("{from} to {to}: Linux {linux}\n{from} to {to}: ours  {ours}"));
            }
        }
    }
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

#[test]
fn a_group_is_no_peer_for_tcp() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    for group in ["224.0.0.1:80", "255.255.255.255:80", "[ff05::1]:80"] {
        let linux = plain(std::net::TcpStream::connect(group)).unwrap_err();
        assert_eq!(plain(client.connect(None, group)).unwrap_err(), linux, "{group}");
    }
    // Only the address is given up, not those after it.
    let listener = client.listen(None, "10.0.0.1:80").unwrap();
    let after: [SocketAddr; 2] = ["224.0.0.1:80".parse().unwrap(), listener.local_addr().unwrap()];
    assert!(client.connect(None, &after[..]).is_ok());
}

#[test]
fn a_timeout_is_no_would_block() {
    let error = io::Error::from(dmm::Error::Timeout {
        path: "/run/dmm/dmmd.sock".into(),
        patience: Duration::from_secs(10),
    });
    assert_eq!((error.kind(), errno(&error)), (ErrorKind::TimedOut, Errno::ETIMEDOUT as i32));
    assert!(error.to_string().contains("within 10 s: see its log, restart it"), "{error}");
}
