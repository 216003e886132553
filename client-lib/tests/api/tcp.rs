//! TCP over the loopback daemon: what a program sees.

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::common::{
    BLACK_HOLE, FakeDaemon, REFUSED_HOPS, Setup, any, attach, eventually, pair, pattern,
};
use dmm::{ConnectOptions, errno};
use nix::errno::Errno;

#[test]
fn bytes_go_both_ways_and_end() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let (mut a, mut b, _listener) = pair(&client);
    a.write_all(b"hello").unwrap();
    let mut bytes = [0; 5];
    b.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    b.write_all(b"world!").unwrap();
    b.shutdown(Shutdown::Write).unwrap();
    let mut all = Vec::new();
    a.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"world!");
    assert_eq!(errno(&b.write(b"x").unwrap_err()), Errno::EPIPE as i32);
    // The other direction still works.
    a.write_all(b"bye").unwrap();
    drop(a);
    let mut all = Vec::new();
    b.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"bye");
}

#[test]
fn a_transfer_larger_than_the_fifo_arrives_whole() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let (a, b, _listener) = pair(&client);
    let data = pattern(8 << 20, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (&a).write_all(&data).unwrap();
            a.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        (&b).read_to_end(&mut received).unwrap();
        assert!(received == data, "{} of {} bytes", received.len(), data.len());
    });
}

#[test]
fn non_blocking_calls_say_so_and_write_partly() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let (mut a, mut b, listener) = pair(&client);
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    b.set_nonblocking(true).unwrap();
    assert_eq!(b.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(b.peek(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    a.set_nonblocking(true).unwrap();
    let data = pattern(4 << 20, 3);
    let mut written = 0;
    eventually("a full FIFO", || match a.write(&data[written..]) {
        Ok(len) => {
            assert!(len > 0 && written + len < data.len());
            written += len;
            false
        }
        Err(error) => error.kind() == ErrorKind::WouldBlock && written > 64 * 1024,
    });
    let mut received = Vec::new();
    let mut buffer = vec![0; 10_000];
    eventually("all bytes", || {
        match b.read(&mut buffer) {
            Ok(len) => received.extend_from_slice(&buffer[..len]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        received.len() == written
    });
    assert!(received == data[..written]);
    eventually("room again", || a.write(b"x").is_ok());
}

#[test]
fn timeouts_expire_not_before_their_time() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let (mut a, mut b, _listener) = pair(&client);
    let timeout = Duration::from_millis(30);
    b.set_read_timeout(Some(timeout)).unwrap();
    assert_eq!(b.read_timeout().unwrap(), Some(timeout));
    let start = Instant::now();
    assert_eq!(errno(&b.read(&mut [0; 8]).unwrap_err()), Errno::EAGAIN as i32);
    assert!(start.elapsed() >= timeout);
    assert_eq!(errno(&b.set_read_timeout(Some(Duration::ZERO)).unwrap_err()), Errno::EINVAL as i32);
    a.set_write_timeout(Some(timeout)).unwrap();
    let start = Instant::now();
    let written = a.write(&pattern(4 << 20, 4)).unwrap();
    assert!(written < 4 << 20 && start.elapsed() >= timeout, "{written}");
    // What moved on meanwhile made room for some bytes more.
    eventually("no more room", || {
        a.write(&[0; 4096]).is_err_and(|error| errno(&error) == Errno::EAGAIN as i32)
    });
    let black_hole = SocketAddr::new(any().ip(), BLACK_HOLE);
    let start = Instant::now();
    let error = client.connect_timeout(None, &black_hole, timeout).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(start.elapsed() >= timeout);
}

#[test]
fn peeking_and_vectors() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let (mut a, mut b, _listener) = pair(&client);
    assert_eq!(
        a.write_vectored(&[IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cdef")]).unwrap(),
        6
    );
    let mut bytes = [0; 6];
    eventually("six bytes", || b.peek(&mut bytes).unwrap() == 6);
    assert_eq!(&bytes, b"abcdef");
    let (mut one, mut two) = ([0; 1], [0; 9]);
    let len = b.read_vectored(&mut [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)]).unwrap();
    assert_eq!((len, &one, &two[..5]), (6, b"a", &b"bcdef"[..]));
    assert_eq!(a.write(&[]).unwrap(), 0);
}

#[test]
fn refusals_carry_the_errno() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let error = client.connect(None, "10.0.0.1:81").unwrap_err();
    assert_eq!(errno(&error), Errno::ECONNREFUSED as i32);
    let listener = client.listen(None, any()).unwrap();
    let taken = listener.local_addr().unwrap();
    assert_eq!(errno(&client.listen(None, taken).unwrap_err()), Errno::EADDRINUSE as i32);
    assert_eq!(listener.local_addr().unwrap().ip(), any().ip());
    drop(listener);
    eventually("closing", || daemon.shared().live.load(Ordering::SeqCst) == 0);
    client.listen(None, taken).unwrap();
    let mixed = client.start_connect(None, Some("[::1]:0".parse().unwrap()), taken);
    assert_eq!(errno(&mixed.unwrap_err()), Errno::EINVAL as i32);
}

#[test]
fn a_reset_is_told_once_and_then_the_broken_pipe() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let (mut a, b, _listener) = pair(&client);
    b.set_linger(Some(Duration::ZERO)).unwrap();
    drop(b);
    assert_eq!(errno(&a.read(&mut [0]).unwrap_err()), Errno::ECONNRESET as i32);
    assert_eq!(a.read(&mut [0]).unwrap(), 0);
    assert_eq!(errno(&a.write(b"x").unwrap_err()), Errno::EPIPE as i32);
    assert!(a.take_error().unwrap().is_none());
    assert_eq!(errno(&a.shutdown(Shutdown::Both).unwrap_err()), Errno::ENOTCONN as i32);
    // The other way round: the writer hears of it first.
    let (mut a, b, _listener) = pair(&client);
    drop(b);
    // A byte that came before the close would make it a reset (RFC 2525 section 2.17).
    assert_eq!(a.read(&mut [0]).unwrap(), 0);
    let mut last = None;
    eventually("a failing write", || {
        last = a.write(b"x").err();
        last.is_some()
    });
    // As the peer had closed: see like_std.
    assert_eq!(errno(&last.unwrap()), Errno::EPIPE as i32);
    assert_eq!(errno(&a.write(b"x").unwrap_err()), Errno::EPIPE as i32);
}

#[test]
fn options_are_remembered_checked_and_refused_later() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let (a, _b, _listener) = pair(&client);
    assert!(!a.nodelay().unwrap());
    a.set_nodelay(true).unwrap();
    assert!(a.nodelay().unwrap());
    assert_eq!(a.ttl().unwrap(), 64);
    a.set_ttl(9).unwrap();
    assert_eq!(a.try_clone().unwrap().ttl().unwrap(), 9);
    for bad in [0, 256] {
        assert_eq!(errno(&a.set_ttl(bad).unwrap_err()), Errno::EINVAL as i32);
    }
    a.set_keepalive(Some(Duration::from_millis(1500))).unwrap();
    assert_eq!(a.keepalive().unwrap(), Some(Duration::from_secs(2)));
    a.set_linger(Some(Duration::ZERO)).unwrap();
    assert_eq!(a.linger().unwrap(), Some(Duration::ZERO));
    a.set_user_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(a.take_error().unwrap().is_none());
    a.set_ttl(REFUSED_HOPS).unwrap();
    let mut error = None;
    eventually("a refusal", || {
        error = a.take_error().unwrap();
        error.is_some()
    });
    assert_eq!(errno(&error.unwrap()), Errno::EINVAL as i32);
    assert!(a.take_error().unwrap().is_none());
}

#[test]
fn a_redirected_connect_keeps_its_options_and_each_question_gets_its_answer() {
    let daemon = FakeDaemon::start_as(Setup { redirects: true, ..Setup::default() });
    let client = attach(&daemon);
    let listener = client.listen(None, any()).unwrap();
    // It waits for both instances, which know nothing of a listener but that it is there.
    listener.set_fast_open(7).unwrap();
    assert_eq!(errno(&listener.set_max_segment(Some(87)).unwrap_err()), Errno::EINVAL as i32);
    let to = listener.local_addr().unwrap();
    let streams: Vec<_> = (0..8)
        .map(|number| {
            let max_segment = Some(800 + number);
            let options = ConnectOptions { max_segment, ..ConnectOptions::default() };
            let stream = client.start_connect_with(None, to, &options).unwrap();
            stream.wait_connected(None).unwrap();
            stream
        })
        .collect();
    std::thread::scope(|scope| {
        for (number, stream) in (800..).zip(&streams) {
            for _ in 0..4 {
                scope.spawn(move || assert_eq!(stream.info().unwrap().adv_mss, number));
            }
        }
    });
    let options = ConnectOptions { hop_limit: Some(0), ..ConnectOptions::default() };
    let refused = client.start_connect_with(None, to, &options).unwrap_err();
    assert_eq!(errno(&refused), Errno::EINVAL as i32);
}
