//! What the library's sockets answer after this or that happened to a connection, compared with what
//! Linux's own sockets answer, and with the kernel at the other end.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::thread;

use dmm::Client;
use dmm_tests::lab::{FAMILIES, Lab, PortKind};
use nix::sched::{CloneFlags, setns};

#[path = "../../../client-lib/tests/api/common/alike.rs"]
mod alike;

use alike::{CALLS, PASTS, kernel_pair};

use crate::matrix::with_one_and_two_instances;

with_one_and_two_instances!(a_stream_answers_as_linux_does_whatever_happened_to_it);

fn a_stream_answers_as_linux_does_whatever_happened_to_it(instances: usize) {
    let lab = Lab::new(PortKind::Tap, instances);
    let client = Client::attach(lab.daemon.socket()).unwrap();
    let mut differences = Vec::new();
    for family in FAMILIES {
        let listener = listen_in(lab.home.name(), SocketAddr::new(lab.link().peer(family), 0));
        let to = listener.local_addr().unwrap();
        for past in PASTS {
            for calls in CALLS {
                let (a, b) = kernel_pair();
                let linux = past.answers(calls, a, b);
                let a = client.connect(None, to).unwrap();
                let ours = past.answers(calls, a, listener.accept().unwrap().0);
                if ours != linux {
                    differences.push(format!("{past:?}: Linux {linux}\n{past:?}: ours  {ours}"));
                }
            }
        }
    }
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

/// A listener in another network namespace, which its connections belong to as well.
fn listen_in(namespace: &str, at: SocketAddr) -> TcpListener {
    let entrance = File::open(format!("/run/netns/{namespace}")).unwrap();
    // A thread's namespace ends with the thread, a socket's does not change.
    let listen = move || {
        setns(entrance, CloneFlags::CLONE_NEWNET).unwrap();
        TcpListener::bind(at).unwrap()
    };
    thread::spawn(listen).join().unwrap()
}
