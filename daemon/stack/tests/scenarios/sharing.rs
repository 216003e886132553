//! Several UDP sockets on one address and port (`SO_REUSEPORT` in socket(7)).

use std::net::SocketAddr;

use dmm_stack::Request;
use dmm_stack::pair::{Client, End, Pair, Quota};
use etherparse::PacketBuilder;
use nix::errno::Errno;

use crate::many::count;
use crate::{IP_KINDS, clean, left, right, secs};

/// A datagram from a port of station 2 to port 53 of station 1.
fn datagram(from: u16, to: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::new();
    let own = if to == [10, 0, 0, 1] { [2, 0, 0, 0, 0, 1] } else { [0xff; 6] };
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], own)
        .ipv4([10, 0, 0, 2], to, 64)
        .udp(from, 53)
        .write(&mut frame, &from.to_be_bytes())
        .unwrap();
    frame
}

const OWN: [u8; 4] = [10, 0, 0, 1];

fn shared(pair: &mut Pair, quota: &Quota, ids: std::ops::Range<u32>) -> Vec<Client> {
    ids.map(|id| pair.bind_as(End::Left, quota, id, (left(53), true)).unwrap()).collect()
}

/// The source ports of what each has received.
fn ports(clients: &mut [Client]) -> Vec<Vec<u16>> {
    let read = |client: &mut Client| {
        let mut bytes = [0; 8];
        let next = || {
            client.reader.read_datagram(&mut bytes, false).map(|header| {
                assert_eq!(header.len, 2);
                header.peer.unwrap().0.port()
            })
        };
        std::iter::from_fn(next).collect()
    };
    clients.iter_mut().map(read).collect()
}

#[test]
fn each_flow_goes_to_one_of_them() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(256);
        let mut clients = shared(&mut pair, &quota, 0..4);
        for _ in 0..3 {
            for from in 1000..1400 {
                pair.inject(End::Left, &datagram(from, OWN));
            }
        }
        pair.run(secs(1));
        let got = ports(&mut clients);
        for ports in &got {
            // 100 flows of three datagrams each, give or take five deviations of 9.
            assert!((3 * 55..3 * 145).contains(&ports.len()), "{}", ports.len());
            let mut flows = ports.clone();
            flows.sort_unstable();
            flows.dedup();
            assert_eq!(3 * flows.len(), ports.len(), "a flow stays with its socket");
        }
        assert_eq!(got.iter().map(Vec::len).sum::<usize>(), 1200);
        // The flows of one that is closed go to the others.
        let gone = clients.pop().unwrap();
        pair.close(&gone);
        for from in 1000..1400 {
            pair.inject(End::Left, &datagram(from, OWN));
        }
        pair.run(secs(1));
        assert_eq!(ports(&mut clients).iter().map(Vec::len).sum::<usize>(), 400);
        pair.clean_up(&clients.iter().collect::<Vec<_>>(), &[], &[&quota]);
    }
}

#[test]
fn who_is_connected_gets_its_peers_datagrams_and_no_others() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(256);
        let mut clients = shared(&mut pair, &quota, 0..3);
        let connect = |pair: &mut Pair, client: &Client, peer: Option<SocketAddr>| {
            pair.submit(End::Left, Request::SetPeer { socket: client.socket, peer });
        };
        connect(&mut pair, &clients[0], Some(right(1000)));
        connect(&mut pair, &clients[1], Some(right(1001)));
        let inject = |pair: &mut Pair| {
            for from in 1000..1010 {
                pair.inject(End::Left, &datagram(from, OWN));
            }
            pair.run(secs(1));
        };
        inject(&mut pair);
        let got = ports(&mut clients);
        assert_eq!(got, [vec![1000], vec![1001], (1002..1010).collect()]);
        connect(&mut pair, &clients[0], Some(right(1005)));
        connect(&mut pair, &clients[1], None);
        inject(&mut pair);
        let got = ports(&mut clients);
        assert_eq!(got[0], [1005]);
        assert_eq!(got[1].len() + got[2].len(), 9);
        // All are connected, and nobody to who sent it.
        connect(&mut pair, &clients[1], Some(right(1006)));
        connect(&mut pair, &clients[2], Some(right(1007)));
        let before = pair.counter(End::Left, "drop.udp_no_socket");
        inject(&mut pair);
        assert_eq!(pair.counter(End::Left, "drop.udp_no_socket") - before, 7);
        pair.clean_up(&clients.iter().collect::<Vec<_>>(), &[], &[&quota]);
    }
}

#[test]
fn what_goes_to_all_comes_to_each_of_them() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(256);
        let any: SocketAddr = "0.0.0.0:53".parse().unwrap();
        let bind = |pair: &mut Pair, id| pair.bind_as(End::Left, &quota, id, (any, true)).unwrap();
        let mut clients: Vec<_> = (0..3).map(|id| bind(&mut pair, id)).collect();
        pair.inject(End::Left, &datagram(1000, [10, 0, 0, 255]));
        pair.run(secs(1));
        assert!(clients.iter_mut().all(|client| count(client) == 1));
        pair.clean_up(&clients.iter().collect::<Vec<_>>(), &[], &[&quota]);
    }
}

#[test]
fn who_does_not_share_is_alone_and_who_shares_is_one_of_a_bounded_number() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        let clients = shared(&mut pair, &quota, 0..256);
        for (shares, errno) in [(false, Errno::EADDRINUSE), (true, Errno::ENOBUFS)] {
            let refused = pair.bind_as(End::Left, &quota, 300, (left(53), shares)).err();
            assert_eq!(refused, Some(errno));
        }
        let alone = pair.bind(End::Left, &quota, 300, left(54));
        let refused = pair.bind_as(End::Left, &quota, 301, (left(54), true)).err();
        assert_eq!(refused, Some(Errno::EADDRINUSE));
        let all: Vec<_> = clients.iter().chain([&alone]).collect();
        pair.clean_up(&all, &[], &[&quota]);
        let again = pair.bind(End::Left, &quota, 300, left(53));
        pair.clean_up(&[&again], &[], &[&quota]);
    }
}
