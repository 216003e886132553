//! A port that a socket holds is nobody else's: neither to listen on nor to connect from.

use std::net::SocketAddr;

use dmm_proto::mock::HostileClient;
use dmm_proto::op::{Address, Completion, Opening, Submission};
use dmm_proto::ring::Consumer;
use dmm_tests::deadline::eventually;
use nix::errno::Errno;
use serde_json::json;

use crate::directed::{bind, socket};
use crate::ground::{Ground, LEFT, LEFT_ADDRESS, RIGHT, RIGHT_ADDRESS};

/// Where the peer of every connection listens, on both of its shards.
pub const PEER_PORT: u16 = 5555;

/// A client that reads what it is told by one instance.
pub struct Client {
    /// The client.
    pub client: HostileClient,
    told: Consumer,
    next_slot: u32,
}

impl Client {
    /// Attaches one.
    pub fn attach(ground: &Ground, seed: u64, instance: u32) -> Self {
        let client = ground.attach(seed);
        let memory = &client.attachment.memory;
        let told = Consumer::new(memory.completions(memory.geometry.channel(0, instance)));
        Self { client, told, next_slot: 0 }
    }

    /// The next thing that it is told.
    pub fn next_answer(&mut self) -> Completion {
        eventually("an answer", || match self.told.pop().expect("the daemon keeps the contract") {
            Some(entry) => Ok(Completion::decode(&entry).expect("likewise")),
            None => Err("none".to_owned()),
        })
    }

    /// Asks for a socket, and returns its slot and what came of it.
    fn open(&mut self, instance: u32, ask: impl Fn(u32) -> Submission) -> (u32, u32) {
        let slot = self.next_slot;
        self.next_slot += 1;
        bind(&self.client, slot);
        self.client.operate(0, instance, &ask(slot));
        loop {
            match self.next_answer() {
                Completion::Bound { errno, .. } | Completion::Connected { errno, .. } => {
                    return (slot, errno);
                }
                _ => {}
            }
        }
    }

    fn listen(&mut self, instance: u32, address: &str, port: u16) -> u32 {
        let local = at(address, port);
        let ask = |slot| Submission::Listen {
            socket: socket(slot),
            local,
            backlog: 4,
            opening: Opening::default(),
        };
        self.open(instance, ask).1
    }

    fn connect_from(&mut self, port: u16) -> (u32, u32) {
        let (local, remote) = (at(RIGHT_ADDRESS, port), at(LEFT_ADDRESS, PEER_PORT));
        self.open(RIGHT, |slot| Submission::Connect {
            socket: socket(slot),
            local,
            remote,
            opening: Opening::default(),
        })
    }
}

/// An address.
pub fn at(address: &str, port: u16) -> Address {
    SocketAddr::new(address.parse().expect("as written"), port).into()
}

/// One listener of the stack `left`: the same slot on both shards.
pub fn listen_on_both_shards(ground: &Ground) -> HostileClient {
    let mut peer = ground.attach(0);
    let local = at(LEFT_ADDRESS, PEER_PORT);
    bind(&peer, 0);
    for shard in [LEFT, LEFT + 1] {
        peer.operate(
            0,
            shard,
            &Submission::Listen {
                socket: socket(0),
                local,
                backlog: 64,
                opening: Opening::default(),
            },
        );
    }
    eventually("two listening shards", || {
        let sockets = ground.daemon.status().sockets;
        if sockets == 2 { Ok(()) } else { Err(format!("{sockets}")) }
    });
    peer
}

const IN_USE: u32 = Errno::EADDRINUSE as u32;

#[test]
fn nobody_connects_from_the_port_of_somebody_elses_listener() {
    let ground = Ground::new(&json!({"sockets": 32, "bytes": 4 << 20}));
    let mut owner = Client::attach(&ground, 1, RIGHT);
    let mut thief = Client::attach(&ground, 2, RIGHT);
    assert_eq!(owner.listen(RIGHT, RIGHT_ADDRESS, 7000), 0);
    assert_eq!(owner.listen(RIGHT, "0.0.0.0", 7001), 0);
    for port in [7000, 7001] {
        assert_eq!(thief.connect_from(port).1, IN_USE, "port {port}");
    }
}

#[test]
fn a_connection_holds_the_port_that_it_names_for_its_life() {
    let ground = Ground::new(&json!({"sockets": 16384, "bytes": 4 << 20}));
    let peer = listen_on_both_shards(&ground);
    let mut owner = Client::attach(&ground, 1, RIGHT);
    let mut thief = Client::attach(&ground, 2, RIGHT);
    let (slot, errno) = owner.connect_from(7002);
    assert_eq!(errno, 0);
    assert_eq!(thief.listen(RIGHT, RIGHT_ADDRESS, 7002), IN_USE);
    assert_eq!(thief.listen(RIGHT, "0.0.0.0", 7002), IN_USE);
    assert_eq!(thief.connect_from(7002).1, IN_USE);
    // The end of the peer is that of the connection; its port is free once its owner closes it.
    drop(peer);
    owner.client.operate(0, RIGHT, &Submission::Close { socket: socket(slot) });
    eventually("the return of the port", || {
        let errno = thief.listen(RIGHT, RIGHT_ADDRESS, 7002);
        if errno == 0 { Ok(()) } else { Err(format!("errno {errno}")) }
    });
}
