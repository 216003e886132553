//! TCP Fast Open (RFC 7413): the first connection brings a cookie, the second payload on its SYN.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

use dmm::{ConnectOptions, Events, Interest, Poll, Token};
use dmm_tests::lab::{FAMILIES, Family, Lab, PortKind};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};
use serde_json::json;

use super::{Joined, Packet, World, over_tap_and_veth};

over_tap_and_veth!(
    our_syn_carries_payload,
    the_kernels_syn_carries_payload,
    cookies_of_a_configured_key_outlive_the_daemon,
    a_cookie_is_good_at_each_instance,
);

/// Bit of `tcpi_options`.
const SYN_DATA: u8 = 32;

const REQUEST: &[u8] = b"what is it?";

/// Of `net.ipv4.tcp_fastopen`: to ask, to answer, and that without being asked to for each socket.
const ALWAYS: &str = "1027";

/// What a SYN and its answer have to do with it.
fn cookies(world: &World, joined: &Joined) -> (Packet, Packet, Option<Vec<u8>>, Option<Vec<u8>>) {
    let (syn, answer) = world.handshake(joined);
    let cookies = (syn.options.cookie.clone(), answer.options.cookie.clone());
    (syn, answer, cookies.0, cookies.1)
}

/// A connection whose SYN carries all of the request.
fn check_fast(world: &World, joined: &Joined, cookie: &[u8]) {
    let (syn, answer, shown, _) = cookies(world, joined);
    assert_eq!(shown.as_deref(), Some(cookie), "{syn:?}");
    assert_eq!(syn.payload, REQUEST, "{syn:?}");
    assert_eq!(answer.acknowledgement, syn.end().wrapping_add(1), "{answer:?}");
    let info = joined.ours.info().expect("a native stack");
    assert_eq!(info.options & SYN_DATA, SYN_DATA);
    let sent = world.packets(joined).into_iter().filter(|p| p.from == syn.from && !p.is_empty());
    assert_eq!(sent.collect::<Vec<_>>(), [syn], "it came once");
}

fn our_syn_carries_payload(kind: PortKind) {
    let world = World::new(kind, &json!({}));
    world.lab.kernel().set("tcp_fastopen", ALWAYS);
    for family in FAMILIES {
        let listener = world.kernel_listens(family);
        let options = ConnectOptions { fast_open: true, ..ConnectOptions::default() };
        let first = world.connect(&listener, &options);
        let (_, _, asked, cookie) = cookies(&world, &first);
        assert_eq!(asked.as_deref(), Some(&[][..]), "it asks");
        let cookie = cookie.expect("the kernel answers");
        first.we_send(1000);

        let them = listener.local_addr().expect("it listens");
        let ours = world.client.start_connect_with(None, them, &options).expect("reachable");
        ours.wait_connected(Some(super::PATIENCE)).expect("it is over at once");
        assert!(ours.is_deferred(), "nothing was sent");
        let (poll, mut events) = (Poll::new(), Events::with_capacity(1));
        let either = Interest::READABLE | Interest::WRITABLE;
        poll.register(&ours, Token(7), either).expect("of this session");
        poll.wait(&mut events, Some(super::PATIENCE)).expect("it is ours");
        let event = events.iter().next().expect("a write would not wait");
        assert!(event.is_writable() && !event.is_readable() && !event.is_hang_up(), "{event:?}");
        assert_eq!(dmm::errno(&(&ours).read(&mut [0]).unwrap_err()), nix::libc::ENOTCONN);
        (&ours).write_all(REQUEST).expect("there is room");
        let (theirs, us) = listener.accept().expect("it came");
        let second = Joined::new(ours, theirs, us, them);
        let mut bytes = [0; REQUEST.len()];
        (&second.theirs).read_exact(&mut bytes).expect("the request");
        assert_eq!(bytes, REQUEST);
        second.kernel_sends(100_000);
        check_fast(&world, &second, &cookie);
        second.we_send(100_000);
    }
}

/// A socket of the kernel's that connects with its first write, or at once to ask for the cookie.
fn kernel_connects(world: &World, to: SocketAddr) -> TcpStream {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let opened = world.lab.kernel().within(|| {
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::TcpFastOpenConnect, &true)?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        Ok::<_, nix::Error>(socket)
    });
    TcpStream::from(opened.expect("we listen"))
}

/// A connection of the kernel's that begins by the request.
fn request(world: &World, listener: &dmm::TcpListener) -> Joined {
    let us = listener.local_addr().expect("it listens");
    let theirs = kernel_connects(world, us);
    (&theirs).write_all(REQUEST).expect("there is room");
    let (ours, them) = listener.accept().expect("it came");
    let joined = Joined::new(ours, theirs, us, them);
    let mut bytes = [0; REQUEST.len()];
    (&joined.ours).read_exact(&mut bytes).expect("the request");
    assert_eq!(bytes, REQUEST);
    joined
}

fn the_kernels_syn_carries_payload(kind: PortKind) {
    let world = World::new(kind, &json!({}));
    world.lab.kernel().set("tcp_fastopen", ALWAYS);
    for family in FAMILIES {
        let listener = world.we_listen(family);
        listener.set_fast_open(16).expect("it lives");
        let (_, _, asked, cookie) = cookies(&world, &request(&world, &listener));
        assert_eq!(asked.as_deref(), Some(&[][..]), "it asks");
        let second = request(&world, &listener);
        check_fast(&world, &second, &cookie.expect("we answer"));
        second.we_send(100_000);
        second.kernel_sends(100_000);
        // Who does not ask for it, does without.
        listener.set_fast_open(0).expect("it lives");
        let third = request(&world, &listener);
        let info = third.ours.info().expect("a native stack");
        assert_eq!(info.options & SYN_DATA, 0);
    }
}

fn cookies_of_a_configured_key_outlive_the_daemon(kind: PortKind) {
    let key = "00112233-44556677-8899aabb-ccddeeff";
    let mut world = World::new(kind, &json!({"fast_open_key": key}));
    world.lab.kernel().set("tcp_fastopen", ALWAYS);
    let listen = |world: &World| {
        let listener = world.we_listen(Family::V4);
        listener.set_fast_open(16).expect("it lives");
        listener
    };
    let (_, _, _, cookie) = cookies(&world, &request(&world, &listen(&world)));
    world.lab.daemon.kill();
    world.lab.daemon.restart();
    if kind == PortKind::Tap {
        world.lab.configure(world.lab.link());
    }
    world.client = dmm::Client::attach(world.lab.daemon.socket()).expect("it listens again");
    let joined = request(&world, &listen(&world));
    check_fast(&world, &joined, &cookie.expect("we answer"));
}

/// Ports lead to one instance or the other, and addresses alone make a cookie.
fn a_cookie_is_good_at_each_instance(kind: PortKind) {
    let world = World::of(Lab::with_tcp(kind, 2, &json!({})));
    world.lab.kernel().set("tcp_fastopen", ALWAYS);
    let listener = world.we_listen(Family::V4);
    listener.set_fast_open(16).expect("it lives");
    let (_, _, _, cookie) = cookies(&world, &request(&world, &listener));
    let cookie = cookie.expect("we answer");
    let taken = || {
        let counters = world.lab.counters();
        [0, 1].map(|at| counters.contains_key(&format!("stack.s0.{at}.tcp.fast_open_taken")))
    };
    // That one of them gets none is as good as impossible.
    for _ in 0..64 {
        check_fast(&world, &request(&world, &listener), &cookie);
        if taken() == [true, true] {
            return;
        }
    }
    panic!("{:?} of the instances", taken());
}
