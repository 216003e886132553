//! What the library's UDP sockets are told, allowed and given, compared with what Linux's own are, with the
//! kernel at the other end.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use dmm::{Client, errno};
use dmm_tests::deadline::eventually;
use dmm_tests::lab::{FAMILIES, Lab, PortKind};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

use crate::matrix::with_one_and_two_instances;

with_one_and_two_instances!(a_connected_socket_hears_that_nobody_has_the_port);

const PATIENCE: Option<Duration> = Some(Duration::from_secs(1));

/// Does something in another network namespace. What it opens stays there.
fn within<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
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
