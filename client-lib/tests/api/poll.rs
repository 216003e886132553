//! Readiness over the loopback daemon.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::common::{DEADLINE, FakeDaemon, Setup, any, fake::let_it_sleep, pair, pattern};
use dmm::{Client, Event, Events, Interest, Poll, TcpStream, Token, errno};
use nix::errno::Errno;

/// Waits for the first event that satisfies `wanted`.
fn wait_for(poll: &Poll, wanted: impl Fn(&Event) -> bool) -> Event {
    let mut events = Events::with_capacity(16);
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < DEADLINE);
        poll.wait(&mut events, Some(DEADLINE)).unwrap();
        if let Some(event) = events.iter().find(|event| wanted(event)) {
            return *event;
        }
    }
}

/// The events of a wait that does not wait.
fn now(poll: &Poll) -> Vec<Event> {
    let mut events = Events::with_capacity(64);
    poll.wait(&mut events, Some(Duration::ZERO)).unwrap();
    events.iter().copied().collect()
}

#[test]
fn listeners_readers_and_writers_become_ready_and_stay_so() {
    let daemon = FakeDaemon::start();
    let client = Client::attach(daemon.path()).unwrap();
    let poll = Poll::new();
    let listener = client.listen(None, any()).unwrap();
    poll.register(&listener, Token(0), Interest::READABLE).unwrap();
    assert!(now(&poll).is_empty());
    let mut a = client.connect(None, listener.local_addr().unwrap()).unwrap();
    assert!(wait_for(&poll, |event| event.token() == Token(0)).is_readable());
    assert_eq!(now(&poll).len(), 1, "level-triggered");
    let (mut b, _) = listener.accept().unwrap();
    assert!(now(&poll).is_empty());
    poll.register(&b, Token(1), Interest::READABLE | Interest::WRITABLE).unwrap();
    let event = wait_for(&poll, |event| event.token() == Token(1));
    assert!(event.is_writable() && !event.is_readable());
    a.write_all(b"abc").unwrap();
    wait_for(&poll, Event::is_readable);
    b.read_exact(&mut [0; 2]).unwrap();
    assert!(now(&poll)[0].is_readable(), "a byte is left");
    b.read_exact(&mut [0; 1]).unwrap();
    assert!(!now(&poll)[0].is_readable());
    poll.modify(&b, Token(2), Interest::READABLE).unwrap();
    assert!(now(&poll).is_empty());
    drop(a);
    let event = wait_for(&poll, |event| event.token() == Token(2));
    assert!(event.is_readable() && event.is_read_closed() && !event.is_hang_up());
    b.shutdown(Shutdown::Write).unwrap();
    wait_for(&poll, Event::is_hang_up);
    poll.deregister(&b).unwrap();
    assert!(now(&poll).is_empty());
}

#[test]
fn room_after_none_is_told() {
    let daemon = FakeDaemon::start();
    let client = Client::attach(daemon.path()).unwrap();
    let poll = Poll::new();
    let listener = client.listen(None, any()).unwrap();
    let mut a = client.connect(None, listener.local_addr().unwrap()).unwrap();
    let (mut b, _) = listener.accept().unwrap();
    a.set_nonblocking(true).unwrap();
    poll.register(&a, Token(5), Interest::WRITABLE).unwrap();
    let data = pattern(1 << 20, 7);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut received = vec![0; data.len()];
            b.read_exact(&mut received).unwrap();
            assert!(received == data);
        });
        let mut written = 0;
        while written < data.len() {
            wait_for(&poll, Event::is_writable);
            match a.write(&data[written..]) {
                Ok(len) => written += len,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    });
}

#[test]
fn a_started_connect_becomes_writable_or_fails() {
    let daemon = FakeDaemon::start_as(Setup { redirects: true, ..Setup::default() });
    let client = Client::attach(daemon.path()).unwrap();
    let poll = Poll::new();
    let listener = client.listen(None, any()).unwrap();
    for round in 0..4 {
        let a = client.start_connect(None, None, listener.local_addr().unwrap()).unwrap();
        poll.register(&a, Token(round), Interest::WRITABLE).unwrap();
        wait_for(&poll, |event| event.token() == Token(round) && event.is_writable());
        assert!(a.take_error().unwrap().is_none() && a.peer_addr().is_ok());
    }
    let a = client.start_connect(None, None, "10.0.0.1:82".parse().unwrap()).unwrap();
    poll.register(&a, Token(9), Interest::WRITABLE).unwrap();
    let event = wait_for(&poll, |event| event.token() == Token(9));
    assert!(event.is_error() && event.is_hang_up());
    assert_eq!(errno(&a.take_error().unwrap().unwrap()), Errno::ECONNREFUSED as i32);
    assert_eq!(errno(&a.peer_addr().unwrap_err()), Errno::ENOTCONN as i32);
}

#[test]
fn registrations_are_checked_and_end_with_the_socket() {
    let daemon = FakeDaemon::start();
    let client = Client::attach(daemon.path()).unwrap();
    let other = Client::attach(daemon.path()).unwrap();
    let poll = Poll::new();
    let socket = client.bind_udp(None, any()).unwrap();
    let elsewhere = other.bind_udp(None, any()).unwrap();
    assert_eq!(errno(&poll.deregister(&socket).unwrap_err()), Errno::ENOENT as i32);
    poll.register(&socket, Token(0), Interest::WRITABLE).unwrap();
    let again = poll.register(&socket, Token(1), Interest::WRITABLE).unwrap_err();
    assert_eq!(errno(&again), Errno::EEXIST as i32);
    let error = poll.register(&elsewhere, Token(1), Interest::WRITABLE).unwrap_err();
    assert_eq!(errno(&error), Errno::EXDEV as i32);
    assert_eq!(now(&poll).len(), 1);
    drop(socket);
    assert!(now(&poll).is_empty());
    poll.register(&elsewhere, Token(1), Interest::WRITABLE).unwrap();
    assert_eq!(now(&poll).len(), 1);
}

#[test]
fn more_ready_sockets_than_room_are_told_in_turn() {
    let daemon = FakeDaemon::start();
    let client = Client::attach(daemon.path()).unwrap();
    let poll = Poll::new();
    let sockets: Vec<_> = (0..20).map(|_| client.bind_udp(None, any()).unwrap()).collect();
    for (i, socket) in sockets.iter().enumerate() {
        poll.register(socket, Token(i), Interest::WRITABLE).unwrap();
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut events = Events::with_capacity(3);
    for _ in 0..7 {
        poll.wait(&mut events, Some(DEADLINE)).unwrap();
        seen.extend(events.iter().map(Event::token));
    }
    assert_eq!(seen.len(), 20);
}

#[test]
fn a_wait_without_sockets_ends_in_time_or_when_one_comes() {
    let daemon = FakeDaemon::start();
    let client = Client::attach(daemon.path()).unwrap();
    let poll = Poll::new();
    let start = Instant::now();
    assert!(now(&poll).is_empty());
    poll.wait(&mut Events::with_capacity(1), Some(Duration::from_millis(20))).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(20));
    let socket = client.bind_udp(None, any()).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| wait_for(&poll, Event::is_writable));
        let_it_sleep();
        poll.register(&socket, Token(4), Interest::WRITABLE).unwrap();
        assert_eq!(waiter.join().unwrap().token(), Token(4));
    });
}

#[test]
fn an_echo_loop_serves_many_connections_from_one_thread() {
    const CONNECTIONS: usize = 30;
    let daemon = FakeDaemon::start();
    let client = Client::attach(daemon.path()).unwrap();
    let listener = client.listen(None, any()).unwrap();
    let to = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| serve(&listener, CONNECTIONS));
        for n in 0..CONNECTIONS {
            let client = &client;
            scope.spawn(move || {
                let mut stream = client.connect(None, to).unwrap();
                for round in 0..50 {
                    let message = pattern(1000 + n, round);
                    stream.write_all(&message).unwrap();
                    let mut echo = vec![0; message.len()];
                    stream.read_exact(&mut echo).unwrap();
                    assert!(echo == message);
                }
            });
        }
    });
}

fn serve(listener: &dmm::TcpListener, connections: usize) {
    let poll = Poll::new();
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    let mut done = 0;
    listener.set_nonblocking(true).unwrap();
    poll.register(listener, Token(usize::MAX), Interest::READABLE).unwrap();
    let mut events = Events::with_capacity(8);
    let mut buffer = [0; 4096];
    while done < connections {
        poll.wait(&mut events, Some(DEADLINE)).unwrap();
        assert!(!events.is_empty());
        for event in &events {
            if event.token() == Token(usize::MAX) {
                while let Ok((stream, _)) = listener.accept() {
                    poll.register(&stream, Token(streams.len()), Interest::READABLE).unwrap();
                    streams.push(Some(stream));
                }
                continue;
            }
            let slot = &mut streams[event.token().0];
            let Some(stream) = slot else { continue };
            match stream.read(&mut buffer).unwrap() {
                0 => {
                    *slot = None;
                    done += 1;
                }
                len => stream.write_all(&buffer[..len]).unwrap(),
            }
        }
    }
}

#[test]
fn a_wait_ends_for_a_kernel_descriptor_too_whoever_leads() {
    let daemon = FakeDaemon::start();
    let client = Client::attach(daemon.path()).unwrap();
    let poll = Poll::new();
    let mut events = Events::with_capacity(4);
    let (mut far, near) = UnixStream::pair().unwrap();
    // Without any socket of ours.
    assert!(!poll.wait_with(&mut events, Some(Duration::ZERO), near.as_fd()).unwrap());
    far.write_all(b"x").unwrap();
    assert!(poll.wait_with(&mut events, None, near.as_fd()).unwrap());
    (&near).read_exact(&mut [0]).unwrap();

    let (mut a, mut b, _listener) = pair(&client);
    poll.register(&b, Token(1), Interest::READABLE).unwrap();
    for followed in [false, true] {
        std::thread::scope(|scope| {
            // Another thread leads, and sleeps all the while.
            let leader = followed.then(|| {
                let (c, mut d, _listener) = pair(&client);
                let reader = scope.spawn(move || d.read(&mut [0]).unwrap());
                let_it_sleep();
                (c, reader)
            });
            let waiter = scope.spawn(|| {
                let mut events = Events::with_capacity(4);
                let ready = poll.wait_with(&mut events, Some(DEADLINE), near.as_fd()).unwrap();
                (ready, events.iter().count())
            });
            let_it_sleep();
            far.write_all(b"x").unwrap();
            assert_eq!(waiter.join().unwrap(), (true, 0), "by the descriptor");
            (&near).read_exact(&mut [0]).unwrap();
            let waiter = scope.spawn(|| {
                let mut events = Events::with_capacity(4);
                let ready = poll.wait_with(&mut events, Some(DEADLINE), near.as_fd()).unwrap();
                (ready, events.iter().count())
            });
            let_it_sleep();
            a.write_all(b"x").unwrap();
            assert_eq!(waiter.join().unwrap(), (false, 1), "by the socket");
            b.read_exact(&mut [0]).unwrap();
            if let Some((c, reader)) = leader {
                drop(c);
                assert_eq!(reader.join().unwrap(), 0);
            }
        });
    }
}
