//! Listeners, credits, redirections, and where slots go.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use crate::common::{FakeDaemon, REFUSED_HOPS, Setup, UNROUTABLE, any, attach, eventually, pair};
use dmm::{TcpStream, errno};
use nix::errno::Errno;

#[test]
fn every_socket_gives_its_slot_back() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    for _ in 0..3 {
        let (a, b, listener) = pair(&client);
        assert!(daemon.shared().live.load(Ordering::SeqCst) > 0);
        drop((a, b, listener));
        eventually("closing", || daemon.shared().live.load(Ordering::SeqCst) == 0);
    }
}

#[test]
fn a_listener_hears_on_every_instance_and_redirects_are_followed() {
    for redirects in [false, true] {
        let daemon = FakeDaemon::start_as(Setup { redirects, ..Setup::default() });
        let client = attach(&daemon);
        let listener = client.listen(None, any()).unwrap();
        for round in 0..8_u8 {
            let mut a = client.connect(None, listener.local_addr().unwrap()).unwrap();
            let (mut b, _) = listener.accept().unwrap();
            a.write_all(&[round]).unwrap();
            let mut byte = [0];
            b.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [round]);
        }
    }
}

#[test]
fn more_connections_than_credits_wait_their_turn() {
    let daemon = FakeDaemon::start_as(Setup { stacks: vec![("fast", 1)], ..Setup::default() });
    let client = attach(&daemon);
    let listener = client.listen(None, any()).unwrap();
    let to = listener.local_addr().unwrap();
    let streams: Vec<TcpStream> = (0..100).map(|_| client.connect(None, to).unwrap()).collect();
    let accepted: Vec<TcpStream> = listener.incoming().take(100).map(Result::unwrap).collect();
    for (i, (mut a, mut b)) in streams.iter().zip(&accepted).enumerate() {
        a.write_all(&[i as u8]).unwrap();
        let mut byte = [0];
        b.read_exact(&mut byte).unwrap();
        assert_eq!(usize::from(byte[0]), i);
    }
}

#[test]
fn a_session_without_free_slots_says_so_and_recovers() {
    let daemon = FakeDaemon::start_as(Setup { sockets: 24, ..Setup::default() });
    let client = attach(&daemon);
    let listener = client.listen(Some("lab"), any()).unwrap();
    let to = listener.local_addr().unwrap();
    // The listener and its 16 credits hold 17 slots of 24.
    let mut streams: Vec<TcpStream> =
        (0..7).map(|_| client.connect(Some("lab"), to).unwrap()).collect();
    let error = client.connect(Some("lab"), to).unwrap_err();
    assert_eq!(errno(&error), Errno::EMFILE as i32);
    let accepted: Vec<TcpStream> = listener.incoming().take(7).map(Result::unwrap).collect();
    // Their credits find no slot until the connections are closed.
    streams.clear();
    drop(accepted);
    for _ in 0..40 {
        eventually("a slot", || client.connect(Some("lab"), to).is_ok());
        drop(listener.accept().unwrap());
    }
}

#[test]
fn a_listener_dropped_with_connections_waiting_gives_everything_back() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let listener = client.listen(None, any()).unwrap();
    let to = listener.local_addr().unwrap();
    let streams: Vec<TcpStream> = (0..50).map(|_| client.connect(None, to).unwrap()).collect();
    drop(listener);
    for mut stream in &streams {
        // Accepted by a credit and closed, or never accepted and reset.
        match stream.read(&mut [0]) {
            Ok(len) => assert_eq!(len, 0),
            Err(error) => assert_eq!(errno(&error), Errno::ECONNRESET as i32),
        }
    }
    drop(streams);
    eventually("closing", || daemon.shared().live.load(Ordering::SeqCst) == 0);
}

#[test]
fn a_refusal_out_of_hand_gives_the_slot_back() {
    let daemon = FakeDaemon::start_as(Setup { sockets: 4, ..Setup::default() });
    let client = attach(&daemon);
    let unroutable = SocketAddr::new(any().ip(), UNROUTABLE);
    for _ in 0..20 {
        let error = client.connect(None, unroutable).unwrap_err();
        assert_eq!(errno(&error), Errno::ENETUNREACH as i32);
    }
    // Dropped before the answer came.
    for _ in 0..20 {
        eventually("a slot", || client.start_connect(None, None, unroutable).is_ok());
    }
    eventually("an answer", || {
        let result = client.connect(None, unroutable);
        errno(&result.unwrap_err()) == Errno::ENETUNREACH as i32
    });
}

#[test]
fn what_is_done_to_a_connect_under_way_survives_its_redirection() {
    let daemon = FakeDaemon::start_as(Setup { redirects: true, ..Setup::default() });
    let client = attach(&daemon);
    let listener = client.listen(None, any()).unwrap();
    let to = listener.local_addr().unwrap();
    for _ in 0..8 {
        let mut stream = client.start_connect(None, None, to).unwrap();
        // Told to the instance that has the connection in the end, which refuses it.
        stream.set_ttl(REFUSED_HOPS).unwrap();
        stream.write_all(b"x").unwrap();
        listener.accept().unwrap().0.read_exact(&mut [0]).unwrap();
        let mut error = None;
        eventually("a refusal", || {
            error = stream.take_error().unwrap();
            error.is_some()
        });
        assert_eq!(errno(&error.unwrap()), Errno::EINVAL as i32);
    }
    // Dropped while it is on its way from one instance to the other.
    for _ in 0..8 {
        drop(client.start_connect(None, None, to).unwrap());
    }
    drop(listener);
    // Some were accepted meanwhile: the program's next calls find them.
    let probe = client.bind_udp(Some("lab"), any()).unwrap();
    probe.set_nonblocking(true).unwrap();
    eventually("closing", || {
        assert!(probe.recv(&mut [0]).is_err());
        daemon.shared().live.load(Ordering::SeqCst) == 1
    });
}

#[test]
fn a_listener_that_found_no_slot_gets_its_credits_later() {
    const SOCKETS: u32 = 24;
    let daemon = FakeDaemon::start_as(Setup { sockets: SOCKETS, ..Setup::default() });
    let client = attach(&daemon);
    let hoard: Vec<_> = (1..SOCKETS).map(|_| client.bind_udp(None, any()).unwrap()).collect();
    let listener = client.listen(Some("lab"), any()).unwrap();
    assert_eq!(errno(&listener.accept().unwrap_err()), Errno::EMFILE as i32);
    drop(hoard);
    let mut connected = None;
    eventually("a slot", || {
        connected = client.connect(Some("lab"), listener.local_addr().unwrap()).ok();
        connected.is_some()
    });
    let (accepted, _) = listener.accept().unwrap();
    assert_eq!(accepted.peer_addr().unwrap(), connected.unwrap().local_addr().unwrap());
}
