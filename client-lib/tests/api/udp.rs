//! UDP over the loopback daemon.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::common::{FakeDaemon, Setup, eventually, fake::let_it_sleep, pattern};
use dmm::{Arrival, Client, Events, Interest, Poll, Token, UdpSocket, errno};
use nix::errno::Errno;

fn pair(client: &Client) -> (UdpSocket, UdpSocket) {
    // One instance: datagrams do not cross between a stack's instances here.
    let any: SocketAddr = "10.0.0.1:0".parse().unwrap();
    (client.bind_udp(Some("lab"), any).unwrap(), client.bind_udp(Some("lab"), any).unwrap())
}

#[test]
fn datagrams_keep_their_bounds_and_their_sender() {
    let daemon = FakeDaemon::start();
    let client = Client::attach(daemon.path()).unwrap();
    let (a, b) = pair(&client);
    let to = b.local_addr().unwrap();
    for message in [&b"one"[..], b"", b"three"] {
        assert_eq!(a.send_to(message, to).unwrap(), message.len());
    }
    let mut buffer = [0; 64];
    let from = a.local_addr().unwrap();
    assert_eq!(b.peek_from(&mut buffer).unwrap(), (3, from));
    assert_eq!(b.recv_from(&mut buffer).unwrap(), (3, from));
    assert_eq!(&buffer[..3], b"one");
    assert_eq!(b.recv_from(&mut buffer).unwrap(), (0, from));
    // What does not fit the buffer is cut off and lost (recv(2)).
    assert_eq!(b.recv_from(&mut buffer[..2]).unwrap(), (2, from));
    assert_eq!(&buffer[..2], b"th");
    b.set_nonblocking(true).unwrap();
    assert_eq!(b.recv_from(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_connected_socket_hears_its_peer_only() {
    let daemon = FakeDaemon::start();
    let client = Client::attach(daemon.path()).unwrap();
    let (a, b) = pair(&client);
    let (stranger, _) = pair(&client);
    assert_eq!(errno(&a.send(b"x").unwrap_err()), Errno::EDESTADDRREQ as i32);
    assert_eq!(errno(&a.peer_addr().unwrap_err()), Errno::ENOTCONN as i32);
    a.connect(b.local_addr().unwrap()).unwrap();
    b.connect(a.local_addr().unwrap()).unwrap();
    assert_eq!(a.peer_addr().unwrap(), b.local_addr().unwrap());
    stranger.send_to(b"not me", b.local_addr().unwrap()).unwrap();
    a.send(b"me").unwrap();
    let mut buffer = [0; 64];
    assert_eq!(b.recv(&mut buffer).unwrap(), 2);
    assert_eq!(&buffer[..2], b"me");
}

/// udp(7): whichever call comes next tells it, once; and a poll says that there is something to tell.
#[test]
fn what_became_of_a_datagram_is_told_once_by_the_next_call() {
    let daemon = FakeDaemon::start();
    let client = Client::attach(daemon.path()).unwrap();
    let (a, b) = pair(&client);
    let nobody: SocketAddr = "10.0.0.1:9".parse().unwrap();
    a.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    a.connect(nobody).unwrap();
    for told_by in ["recv", "send", "take_error"] {
        let poll = Poll::new();
        poll.register(&a, Token(7), Interest::READABLE).unwrap();
        a.send(b"anybody?").unwrap();
        let mut events = Events::with_capacity(4);
        eventually("an event", || {
            poll.wait(&mut events, Some(Duration::from_millis(10))).unwrap();
            events.iter().any(|event| event.is_error() && event.is_readable())
        });
        let error = match told_by {
            "recv" => a.recv(&mut [0; 8]).unwrap_err(),
            "send" => a.send(b"again").unwrap_err(),
            _ => a.take_error().unwrap().unwrap(),
        };
        assert_eq!(errno(&error), Errno::ECONNREFUSED as i32, "{told_by}");
        assert!(a.take_error().unwrap().is_none(), "{told_by}");
        poll.deregister(&a).unwrap();
    }
    // Asleep, it is woken.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| a.recv(&mut [0; 8]));
        let_it_sleep();
        a.send(b"anybody?").unwrap();
        let error = waiting.join().unwrap().unwrap_err();
        assert_eq!(errno(&error), Errno::ECONNREFUSED as i32);
    });
    // Without a peer, nothing is told.
    b.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    b.send_to(b"anybody?", nobody).unwrap();
    assert_eq!(errno(&b.recv(&mut [0; 8]).unwrap_err()), Errno::EAGAIN as i32);
    a.connect(b.local_addr().unwrap()).unwrap();
    a.send(b"you").unwrap();
    assert_eq!(b.recv(&mut [0; 8]).unwrap(), 3);
}

#[test]
fn options_of_what_goes_to_many_are_checked_and_remembered() {
    let daemon = FakeDaemon::start();
    let client = Client::attach(daemon.path()).unwrap();
    let (a, b) = pair(&client);
    // The stack's one address is 10.0.0.1/24.
    for all in ["255.255.255.255:7", "10.0.0.255:7"] {
        assert_eq!(errno(&a.send_to(b"x", all).unwrap_err()), Errno::EACCES as i32);
    }
    a.send_to(b"x", "10.0.1.255:7").unwrap();
    assert!(!a.broadcast().unwrap());
    a.set_broadcast(true).unwrap();
    assert!(a.broadcast().unwrap());
    a.send_to(b"x", "10.0.0.255:7").unwrap();
    assert_eq!((a.multicast_ttl_v4().unwrap(), a.multicast_loop_v6().unwrap()), (1, true));
    a.set_multicast_ttl_v4(0).unwrap();
    a.set_multicast_loop_v4(false).unwrap();
    assert_eq!((a.multicast_ttl_v4().unwrap(), a.multicast_loop_v6().unwrap()), (0, false));
    assert_eq!(errno(&a.set_multicast_ttl_v4(256).unwrap_err()), Errno::EINVAL as i32);
    let (group, any) = ("239.1.2.3".parse().unwrap(), "0.0.0.0".parse().unwrap());
    let refusals = [
        // This stack has no groups.
        (a.join_multicast_v4(&group, &any), Errno::EOPNOTSUPP),
        (a.join_multicast_v4(&group, &"10.0.0.7".parse().unwrap()), Errno::ENODEV),
        (a.join_multicast_v4(&any, &any), Errno::EINVAL),
        (a.leave_multicast_v6(&"ff02::7".parse().unwrap(), 2), Errno::ENODEV),
        (a.set_multicast_if_v4(&"10.0.0.7".parse().unwrap()), Errno::EADDRNOTAVAIL),
    ];
    for (result, errno_wanted) in refusals {
        assert_eq!(errno(&result.unwrap_err()), errno_wanted as i32);
    }
    // A refusal leaves what is known of this end as it was.
    let to = b.local_addr().unwrap();
    let from = a.local_addr().unwrap();
    assert_eq!(from.ip(), to.ip());
    let foreign = a.send_from(b"x", "10.0.0.7".parse().unwrap(), to).unwrap_err();
    assert_eq!(errno(&foreign), Errno::EINVAL as i32);
    a.send_from(b"there", from.ip(), to).unwrap();
    let arrival = b.recv_arrival(&mut [0; 3]).unwrap();
    assert_eq!(arrival, Arrival { len: 3, whole: 5, from, to });
}

#[test]
fn limits_and_timeouts() {
    let daemon = FakeDaemon::start();
    let client = Client::attach(daemon.path()).unwrap();
    let (a, b) = pair(&client);
    let to = b.local_addr().unwrap();
    let error = a.send_to(&vec![0; 65_508], to).unwrap_err();
    assert_eq!(errno(&error), Errno::EMSGSIZE as i32);
    let timeout = Duration::from_millis(20);
    b.set_read_timeout(Some(timeout)).unwrap();
    let start = Instant::now();
    assert_eq!(errno(&b.recv(&mut [0]).unwrap_err()), Errno::EAGAIN as i32);
    assert!(start.elapsed() >= timeout);
    let taken = a.local_addr().unwrap();
    let error = client.bind_udp(Some("lab"), taken).unwrap_err();
    assert_eq!(errno(&error), Errno::EADDRINUSE as i32);
    assert_eq!(errno(&a.set_ttl(0).unwrap_err()), Errno::EINVAL as i32);
    a.set_ttl(3).unwrap();
    assert_eq!(a.ttl().unwrap(), 3);
}

#[test]
fn a_sender_waits_for_room() {
    let daemon = FakeDaemon::start_as(Setup { fifo: 32 * 1024, ..Setup::default() });
    let client = Client::attach(daemon.path()).unwrap();
    let (a, b) = pair(&client);
    let to = b.local_addr().unwrap();
    let payload = pattern(8000, 6);
    daemon.hold(true);
    a.set_nonblocking(true).unwrap();
    let mut sent = 0;
    // Held: nothing hears what is written, so that the FIFO fills.
    let error = loop {
        match a.send_to(&payload, to) {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 100);
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    a.set_nonblocking(false).unwrap();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| a.send_to(&payload, to));
        let_it_sleep();
        daemon.hold(false);
        assert_eq!(sender.join().unwrap().unwrap(), payload.len());
    });
    let mut buffer = vec![0; 9000];
    let (len, _) = b.recv_from(&mut buffer).unwrap();
    assert!(buffer[..len] == payload);
}

#[test]
fn a_thousand_datagrams_from_many_threads_stay_whole() {
    let daemon = FakeDaemon::start();
    let client = Client::attach(daemon.path()).unwrap();
    let (a, b) = pair(&client);
    let to = b.local_addr().unwrap();
    std::thread::scope(|scope| {
        for n in 0..4_u8 {
            let a = &a;
            scope.spawn(move || {
                for len in 0..250_usize {
                    a.send_to(&vec![n; len], to).unwrap();
                }
            });
        }
        b.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut buffer = [0; 300];
        // Some are dropped where the receiver is too slow; none is mixed.
        while let Ok(len) = b.recv(&mut buffer) {
            assert!(buffer[..len].windows(2).all(|pair| pair[0] == pair[1]));
        }
    });
    // Reading makes room again.
    let mut buffer = [0; 300];
    eventually("the last datagram", || {
        a.send_to(b"last", to).unwrap();
        b.recv(&mut buffer).is_ok_and(|len| &buffer[..len] == b"last")
    });
}

#[test]
fn a_bind_is_redirected_to_the_instance_that_owns_the_port() {
    let daemon = FakeDaemon::start_as(Setup { redirects: true, ..Setup::default() });
    let client = Client::attach(daemon.path()).unwrap();
    for port in 7000..7004_u16 {
        let at = SocketAddr::new("10.0.0.1".parse().unwrap(), port);
        let socket = client.bind_udp(None, at).unwrap();
        assert_eq!(socket.local_addr().unwrap(), at);
        let other = client.bind_udp(Some("lab"), "10.0.0.1:0").unwrap();
        other.send_to(b"redirected", at).unwrap();
        assert_eq!(socket.recv_from(&mut [0; 16]).unwrap(), (10, other.local_addr().unwrap()));
        socket.send_to(b"and back", other.local_addr().unwrap()).unwrap();
        assert_eq!(other.recv_from(&mut [0; 16]).unwrap(), (8, at));
    }
}
