//! Ports that are free again: a socket's close gives its port back before it returns, whoever asks
//! for it next; and what a listener held and nobody took is reset.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream as KernelStream};
use std::thread;

use dmm::Client;
use dmm_tests::deadline::eventually;
use dmm_tests::lab::{Family, Lab, PortKind};
use nix::sched::{CloneFlags, setns};

use crate::matrix::with_one_and_two_instances;

with_one_and_two_instances!(
    a_closed_port_is_free_for_everybody,
    untaken_connections_are_reset_with_their_listener,
);

fn a_closed_port_is_free_for_everybody(instances: usize) {
    let lab = Lab::new(PortKind::Tap, instances);
    let clients = [0; 2].map(|_| Client::attach(lab.daemon.socket()).unwrap());
    let at = SocketAddr::new(lab.link().stack(Family::V4), 7000);
    // The daemon serves the two clients' rings in no order that they could know.
    for round in 0..200 {
        let client = &clients[round % 2];
        drop(client.listen(None, at).unwrap_or_else(|error| panic!("round {round}: {error}")));
        let socket = client.bind_udp(None, at);
        drop(socket.unwrap_or_else(|error| panic!("round {round}: {error}")));
    }
}

fn untaken_connections_are_reset_with_their_listener(instances: usize) {
    let lab = Lab::new(PortKind::Tap, instances);
    let client = Client::attach(lab.daemon.socket()).unwrap();
    let at = SocketAddr::new(lab.link().stack(Family::V4), 7000);
    let listener = client.listen(None, at).unwrap();
    let connect = || connect_in(lab.home.name().to_owned(), at);
    let mut streams: Vec<_> = (0..8).map(|_| connect()).collect();
    // One is taken, so that the others are known to have arrived, or soon will.
    let taken = listener.accept().unwrap();
    drop(listener);
    let taken_from = taken.1;
    let mut resets = 0;
    for stream in &mut streams {
        if stream.local_addr().unwrap() == taken_from {
            continue;
        }
        let error = stream.read(&mut [0; 1]).expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        resets += 1;
    }
    assert_eq!(resets, 7);
    drop((taken, streams));
    eventually("the end of all connections", || match lab.holdings().client_sockets {
        0 => Ok(()),
        sockets => Err(format!("{sockets} sockets")),
    });
}

/// A connection of the kernel's in another network namespace, to which it belongs from then on.
fn connect_in(namespace: String, to: SocketAddr) -> KernelStream {
    let connect = move || {
        let entrance = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
        setns(entrance, CloneFlags::CLONE_NEWNET).unwrap();
        KernelStream::connect(to).unwrap()
    };
    thread::spawn(connect).join().unwrap()
}
