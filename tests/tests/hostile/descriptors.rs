//! Descriptors: those that clients send along, and those that the daemon runs out of.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use dmm_proto::message::{receive, send};
use dmm_tests::command::run;
use dmm_tests::deadline::eventually;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::json;

use crate::ground::{Ground, reach};

/// Operators of one user.
const PER_USER: usize = 16;

fn ground() -> Ground {
    Ground::new(&json!({"sockets": 32, "bytes": 4 << 20}))
}

/// A connection whose last close takes ten minutes or until its peer, which comes with it, is gone.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a loopback");
    let mut here = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let there = listener.accept().expect("it connects").0;
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 600 };
    setsockopt(&here, sockopt::Linger, &linger).expect("it is a TCP socket");
    here.set_nonblocking(true).expect("it is ours");
    while here.write(&[0; 65_536]).is_ok() {}
    here.set_nonblocking(false).expect("it is ours");
    (here, there)
}

/// Closes it where nobody waits, should the daemon have closed its own already.
fn let_go(here: TcpStream) {
    std::thread::spawn(move || drop(here));
}

#[test]
fn descriptors_whose_close_takes_long_hold_up_nobody() {
    let ground = ground();
    let client = ground.attach(1);
    let mut peers = Vec::new();
    let mut send_trap = |socket: &OwnedFd, packet: &[u8]| {
        let (here, there) = lingering();
        send(socket.as_fd(), packet, &[here.as_fd()]).expect("the daemon listens");
        let_go(here);
        peers.push(there);
    };
    // With a first packet of a client's and of an operator's, behind it, and with a request.
    let strangers = [(); 3].map(|()| reach(&ground.daemon.socket()));
    send_trap(&strangers[0], b"DMMhello and more");
    send_trap(&strangers[1], b"{\"request\": \"status\"}");
    send(strangers[2].as_fd(), b"nonsense", &[]).expect("the daemon listens");
    // The daemon may have hung up already.
    let (here, peer_behind) = lingering();
    let _ = send(strangers[2].as_fd(), b"more", &[here.as_fd()]);
    let_go(here);
    send_trap(&client.socket, b"DMMreqst");
    drop((strangers, client));
    // Each of these would wait for ten minutes.
    eventually("the end of the session", || {
        let sessions = ground.daemon.status().sessions;
        if sessions == 0 { Ok(()) } else { Err(format!("{sessions}")) }
    });
    drop((ground.attach(2), peers, peer_behind));
}

/// Whether there is something to read, or the end.
fn is_readable(socket: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(10_u8)).expect("the socket is ours") > 0
}

fn wait_until_readable(socket: &OwnedFd) {
    eventually("an answer", || if is_readable(socket) { Ok(()) } else { Err("none".to_owned()) });
}

/// Bytes of the next packet; 0 is the end.
fn next_packet(socket: &OwnedFd) -> usize {
    wait_until_readable(socket);
    receive(socket.as_fd(), &mut [0; 4096]).map_or(0, |(len, _)| len)
}

const ASK: &[u8] = b"{\"request\": \"stats\"}";

#[test]
fn an_operator_takes_its_answer_before_it_gets_another() {
    let ground = ground();
    let greedy = reach(&ground.daemon.socket());
    for _ in 0..2 {
        send(greedy.as_fd(), ASK, &[]).expect("the daemon listens");
    }
    eventually("the count of the refusal", || {
        let count = ground.refused("operators");
        if count == 1 { Ok(()) } else { Err(format!("{count}")) }
    });
    assert!(next_packet(&greedy) > 0);
    assert_eq!(next_packet(&greedy), 0, "a second answer");
}

#[test]
fn the_answers_that_a_users_operators_leave_unread_are_few() {
    let ground = ground();
    let ask = || {
        let operator = reach(&ground.daemon.socket());
        send(operator.as_fd(), ASK, &[]).expect("the daemon listens");
        wait_until_readable(&operator);
        operator
    };
    let silent: Vec<_> = (0..PER_USER).map(|_| ask()).collect();
    assert_eq!(next_packet(&ask()), 0, "one answer too many");
    // Leaving without a word does not forget them.
    for operator in &silent {
        use std::os::fd::AsRawFd;
        let how = nix::sys::socket::Shutdown::Write;
        nix::sys::socket::shutdown(operator.as_raw_fd(), how).expect("the daemon listens");
    }
    assert_eq!(next_packet(&ask()), 0, "one answer too many");
    drop(silent);
    assert!(next_packet(&ask()) > 0);
    assert_eq!(ground.refused("operators"), 2);
}

/// Numbers of the daemon's open descriptors.
fn numbers(ground: &Ground) -> Vec<u32> {
    let folder = format!("/proc/{}/fd", ground.daemon.pid());
    let entries = fs::read_dir(folder).expect("the daemon runs").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[test]
fn a_daemon_without_descriptors_turns_connections_away_in_peace() {
    let ground = ground();
    let limit = |soft: &str| {
        let pid = ground.daemon.pid().to_string();
        run(Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={soft}:")]));
    };
    // They fill the numbers that were used before.
    let silent = [(); 8].map(|()| reach(&ground.daemon.socket()));
    drop(ground.daemon.status());
    let taken = numbers(&ground);
    let free = (0..).find(|number| !taken.contains(number)).expect("there are not so many");
    limit(&free.to_string());
    // The last operator's may come free only now.
    let mut fillers = Vec::new();
    eventually("the last descriptor", || {
        fillers.push(reach(&ground.daemon.socket()));
        if fillers.last().is_some_and(is_readable) { Ok(()) } else { Err("not yet".to_owned()) }
    });
    for _ in 0..20 {
        assert_eq!(next_packet(&reach(&ground.daemon.socket())), 0, "it is not turned away");
    }
    assert!(!silent.iter().any(is_readable), "others pay for it");
    limit("20000");
    assert!(ground.refused("connections") > 20);
    drop(ground.attach(1));
    let words = ground.daemon.log().matches("cannot take connections").count();
    assert!((1..20).contains(&words), "{words} words in the log");
}
