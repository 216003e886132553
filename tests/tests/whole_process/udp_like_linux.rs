//! What the library's UDP sockets are told, allowed and given, compared with what Linux's own are, with the
//! kernel at the other end.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use dmm::{Arrival, Client, errno};
use dmm_tests::deadline::eventually;
use dmm_tests::lab::{FAMILIES, Family, Lab, PortKind};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

use crate::matrix::with_one_and_two_instances;

with_one_and_two_instances!(
    a_connected_socket_hears_that_nobody_has_the_port,
    broadcasts_go_both_ways,
    who_shares_a_port_shares_its_flows,
    the_address_that_was_asked_answers,
);

pub(crate) const PATIENCE: Option<Duration> = Some(Duration::from_secs(1));

/// Does something in another network namespace. What it opens stays there.
pub(crate) fn within<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let entrance = File::open(format!("/run/netns/{namespace}")).unwrap();
    // A thread's namespace ends with the thread, a socket's does not change.
    let there = move || {
        setns(entrance, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    };
    thread::spawn(there).join().unwrap()
}

fn kernel_socket(lab: &Lab, at: SocketAddr) -> UdpSocket {
    within(lab.home.name(), move || UdpSocket::bind(at).unwrap())
}

fn any_like(other: SocketAddr) -> SocketAddr {
    if other.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap()
}

/// Sends until a call, which may be the sending itself, fails with something other than a timeout.
fn first_error(
    send: impl Fn(&[u8]) -> io::Result<usize>,
    receive: impl Fn(&mut [u8]) -> io::Result<usize>,
) -> i32 {
    let mut told = None;
    // The first datagrams may fall to address resolution.
    eventually("an error", || {
        let result = send(b"anybody?").and_then(|_| receive(&mut [0; 8]));
        match result.map_err(|error| errno(&error)) {
            Err(errno) if errno != Errno::EAGAIN as i32 => {
                told = Some(errno);
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    });
    told.unwrap_or_default()
}

fn a_connected_socket_hears_that_nobody_has_the_port(instances: usize) {
    let lab = Lab::new(PortKind::Tap, instances);
    let client = Client::attach(lab.daemon.socket()).unwrap();
    for family in FAMILIES {
        let nobody = SocketAddr::new(lab.link().peer(family), 9);
        let ours = client.bind_udp(None, any_like(nobody)).unwrap();
        ours.set_read_timeout(PATIENCE).unwrap();
        // Without a peer it is told nothing.
        ours.send_to(b"anybody?", nobody).unwrap();
        let alone = ours.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(errno(&alone), Errno::EAGAIN as i32);
        ours.connect(nobody).unwrap();
        let told = first_error(|bytes| ours.send(bytes), |bytes| ours.recv(bytes));
        assert_eq!(told, Errno::ECONNREFUSED as i32, "{family:?}");

        // The same between the other way round: the kernel's socket is told by our stack.
        let nobody = SocketAddr::new(lab.link().stack(family), 9);
        let theirs = kernel_socket(&lab, any_like(nobody));
        theirs.set_read_timeout(PATIENCE).unwrap();
        theirs.connect(nobody).unwrap();
        let told = first_error(|bytes| theirs.send(bytes), |bytes| theirs.recv(bytes));
        assert_eq!(told, Errno::ECONNREFUSED as i32, "{family:?}");

        // SO_ERROR tells it as well, once, and the socket goes on.
        ours.send(b"anybody?").unwrap();
        let mut error = None;
        eventually("an error", || {
            error = ours.take_error().unwrap().map(|error| errno(&error));
            error.map(drop).ok_or_else(|| "none".to_owned())
        });
        assert_eq!(error, Some(Errno::ECONNREFUSED as i32));
        assert!(ours.take_error().unwrap().is_none());
        let peer = kernel_socket(&lab, SocketAddr::new(lab.link().peer(family), 0));
        ours.connect(peer.local_addr().unwrap()).unwrap();
        peer.set_read_timeout(PATIENCE).unwrap();
        ours.send(b"you").unwrap();
        assert_eq!(peer.recv(&mut [0; 8]).unwrap(), 3);
    }
}

/// Sends until something comes, as the first datagrams may fall to address resolution.
pub(crate) fn until_it_comes<T>(
    send: impl Fn() -> io::Result<usize>,
    receive: impl Fn() -> io::Result<T>,
) -> T {
    eventually("a datagram", || {
        send().unwrap();
        receive().map_err(|error| error.to_string())
    })
}

fn broadcasts_go_both_ways(instances: usize) {
    let lab = Lab::new(PortKind::Tap, instances);
    let client = Client::attach(lab.daemon.socket()).unwrap();
    let limited: std::net::IpAddr = "255.255.255.255".parse().unwrap();
    let ours = client.bind_udp(None, "0.0.0.0:4000").unwrap();
    ours.set_read_timeout(PATIENCE).unwrap();
    let theirs = kernel_socket(&lab, "0.0.0.0:4000".parse().unwrap());
    theirs.set_read_timeout(PATIENCE).unwrap();
    // On an address, so that the kernel knows the link that 255.255.255.255 is to go to.
    let sender = kernel_socket(&lab, SocketAddr::new(lab.link().peer(Family::V4), 0));
    for all in [lab.link().broadcast(), limited] {
        let all = SocketAddr::new(all, 4000);
        for refusal in [ours.send_to(b"all", all), sender.send_to(b"all", all)] {
            assert_eq!(errno(&refusal.unwrap_err()), Errno::EACCES as i32);
        }
        assert_eq!(errno(&ours.connect(all).unwrap_err()), Errno::EACCES as i32);
    }
    ours.set_broadcast(true).unwrap();
    sender.set_broadcast(true).unwrap();
    for all in [lab.link().broadcast(), limited] {
        let all = SocketAddr::new(all, 4000);
        let send = || ours.send_to(b"all", all);
        let (_, from) = until_it_comes(send, || theirs.recv_from(&mut [0; 8]));
        assert_eq!(from, SocketAddr::new(lab.link().stack(Family::V4), 4000));
        // What was sent is heard here as well, as on Linux, unless another instance has the port.
        let own = ours.recv_arrival(&mut [0; 8]).unwrap();
        assert_eq!((own.from, own.to), (from, all));

        let send = || sender.send_to(b"everybody", all);
        // The kernel hears itself as well.
        let arrival = until_it_comes(send, || ours.recv_arrival(&mut [0; 16]));
        let arrival = match arrival.len {
            9 => arrival,
            _ => until_it_comes(send, || ours.recv_arrival(&mut [0; 16])),
        };
        assert_eq!((arrival.from, arrival.to), (sender.local_addr().unwrap(), all));
        while theirs.recv(&mut [0; 16]).is_ok_and(|len| len == 9) {}
        while ours.recv(&mut [0; 16]).is_ok() {}
    }
}

/// Sixty-four flows from the kernel, three datagrams each.
fn who_shares_a_port_shares_its_flows(instances: usize) {
    let lab = Lab::new(PortKind::Tap, instances);
    let client = Client::attach(lab.daemon.socket()).unwrap();
    let at = SocketAddr::new(lab.link().stack(Family::V4), 4000);
    let ours: Vec<_> = (0..4).map(|_| client.bind_udp_shared(None, at).unwrap()).collect();
    // Another session of the same user may share as well; who does not say so, may not.
    let second = Client::attach(lab.daemon.socket()).unwrap();
    let fifth = second.bind_udp_shared(None, at).unwrap();
    let alone = client.bind_udp(None, at).unwrap_err();
    assert_eq!(errno(&alone), Errno::EADDRINUSE as i32);
    let all: Vec<_> = ours.iter().chain([&fifth]).collect();
    let mut got = vec![std::collections::BTreeMap::new(); all.len()];
    let any = SocketAddr::new(lab.link().peer(Family::V4), 0);
    let senders: Vec<_> = (0..64).map(|_| kernel_socket(&lab, any)).collect();
    // The first may fall to address resolution.
    all.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
    eventually("a datagram", || {
        senders[0].send_to(b"first", at).unwrap();
        let came = all.iter().any(|socket| socket.recv(&mut [0; 8]).is_ok());
        if came { Ok(()) } else { Err("none".to_owned()) }
    });
    for _ in 0..3 {
        for sender in &senders {
            sender.send_to(b"flow", at).unwrap();
        }
    }
    eventually("all of them", || {
        for (socket, got) in all.iter().zip(&mut got) {
            let mut bytes = [0; 8];
            while let Ok((len, from)) = socket.recv_from(&mut bytes) {
                *got.entry(from).or_insert(0) += usize::from(&bytes[..len] == b"flow");
            }
        }
        let sum: usize = got.iter().flat_map(|got| got.values()).sum();
        if sum == 192 { Ok(()) } else { Err(format!("{sum}")) }
    });
    assert!(got.iter().all(|got| got.len() > 3), "each has some flows: {got:?}");
    let flows = got.iter().flat_map(|got| got.values()).filter(|count| **count == 3);
    assert_eq!(flows.count(), 64, "a flow stays with its socket");
}

/// A server on any address answers from the one that it was asked at.
fn the_address_that_was_asked_answers(instances: usize) {
    let lab = Lab::new(PortKind::Tap, instances);
    let client = Client::attach(lab.daemon.socket()).unwrap();
    for family in FAMILIES {
        let asked = SocketAddr::new(lab.link().stack(family), 4000);
        let mut any = any_like(asked);
        any.set_port(4000);
        let ours = client.bind_udp(None, any).unwrap();
        ours.set_read_timeout(PATIENCE).unwrap();
        let theirs = kernel_socket(&lab, SocketAddr::new(lab.link().peer(family), 0));
        theirs.set_read_timeout(PATIENCE).unwrap();
        let send = || theirs.send_to(b"question", asked);
        let question = until_it_comes(send, || ours.recv_arrival(&mut [0; 4]));
        let expected = Arrival { len: 4, whole: 8, from: theirs.local_addr().unwrap(), to: asked };
        assert_eq!(question, expected);
        let send = || ours.send_from(b"answer", question.to.ip(), question.from);
        let answer = until_it_comes(send, || theirs.recv_from(&mut [0; 8]));
        assert_eq!(answer, (6, asked));
        let other = any_like(SocketAddr::new(lab.link().nobody(family), 0)).ip();
        assert!(ours.send_from(b"any", other, question.from).is_ok());
        let foreign = ours.send_from(b"x", lab.link().nobody(Family::V4), question.from);
        assert_eq!(errno(&foreign.unwrap_err()), Errno::EINVAL as i32);
    }
}
