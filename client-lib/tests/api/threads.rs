//! Many threads, one socket; many sockets; and the ways in which they wait.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{DEADLINE, FakeDaemon, any, attach, fake::let_it_sleep, pair, pattern};
use dmm::{Client, Config, errno};
use nix::errno::Errno;

#[test]
fn both_directions_at_once_do_not_block_each_other() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let (a, b, _listener) = pair(&client);
    let data = [pattern(2 << 20, 1), pattern(2 << 20, 2)];
    std::thread::scope(|scope| {
        for (stream, out, back) in [(&a, &data[0], &data[1]), (&b, &data[1], &data[0])] {
            scope.spawn(move || {
                let mut stream = stream;
                stream.write_all(out).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let mut stream = stream;
                let mut received = Vec::new();
                stream.read_to_end(&mut received).unwrap();
                assert!(&received == back);
            });
        }
    });
}

#[test]
fn shutting_down_wakes_who_waits_in_another_thread() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let (a, _b, _listener) = pair(&client);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| (&a).read(&mut [0]));
        let writer = scope.spawn(|| (&a).write_all(&pattern(4 << 20, 5)));
        let_it_sleep();
        a.shutdown(Shutdown::Both).unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), 0);
        let error = writer.join().unwrap().unwrap_err();
        assert_eq!(errno(&error), Errno::EPIPE as i32);
    });
}

#[test]
fn dropping_one_clone_leaves_the_other_alone() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let (a, mut b, _listener) = pair(&client);
    let mut clone = a.try_clone().unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| clone.read(&mut [0]));
        let_it_sleep();
        drop(a);
        b.write_all(b"x").unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), 1);
    });
}

#[test]
fn many_threads_share_one_socket() {
    const THREADS: usize = 8;
    const EACH: usize = 20_000;
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let (a, b, _listener) = pair(&client);
    let received = AtomicUsize::new(0);
    let sum = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..THREADS)
            .map(|n| {
                let mut a = &a;
                scope.spawn(move || {
                    for _ in 0..EACH / 100 {
                        a.write_all(&[n as u8 + 1; 100]).unwrap();
                    }
                })
            })
            .collect();
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut buffer = [0; 777];
                loop {
                    let len = (&b).read(&mut buffer).unwrap();
                    if len == 0 {
                        return;
                    }
                    received.fetch_add(len, Ordering::Relaxed);
                    let part: usize = buffer[..len].iter().map(|&byte| usize::from(byte)).sum();
                    sum.fetch_add(part, Ordering::Relaxed);
                }
            });
        }
        for writer in writers {
            writer.join().unwrap();
        }
        a.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(received.into_inner(), THREADS * EACH);
    assert_eq!(sum.into_inner(), EACH * (1..=THREADS).sum::<usize>());
}

#[test]
fn many_sockets_in_many_threads_ping_and_pong() {
    // Without spinning every wait sleeps: a lost wake-up shows as a timeout.
    for spin in [Duration::ZERO, dmm::config::DEFAULT_SPIN] {
        let daemon = FakeDaemon::start();
        let config = Config { socket: daemon.path().to_owned(), spin };
        ping_and_pong(&Client::attach_with(&config).unwrap());
    }
}

fn ping_and_pong(client: &Client) {
    const THREADS: usize = 12;
    const ROUNDS: usize = 300;
    let listener = Arc::new(client.listen(None, any()).unwrap());
    let to = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        for n in 0..THREADS {
            let listener = Arc::clone(&listener);
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut buffer = [0; 64];
                loop {
                    let len = stream.read(&mut buffer).unwrap();
                    if len == 0 {
                        return;
                    }
                    stream.write_all(&buffer[..len]).unwrap();
                }
            });
            scope.spawn(move || {
                let mut stream = client.connect(None, to).unwrap();
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                for round in 0..ROUNDS {
                    let message = ((n * ROUNDS + round) as u32).to_le_bytes();
                    stream.write_all(&message).unwrap();
                    let mut echo = [0; 4];
                    stream.read_exact(&mut echo).unwrap();
                    assert_eq!(echo, message);
                }
            });
        }
    });
}

#[test]
fn a_full_submission_ring_holds_callers_up_and_loses_nothing() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let (a, b, _listener) = pair(&client);
    daemon.hold(true);
    std::thread::scope(|scope| {
        let setter = scope.spawn(|| {
            for hops in 0..600 {
                a.set_ttl(hops % 60 + 1).unwrap();
            }
        });
        let_it_sleep();
        // Closing does not wait, whatever the ring is like.
        drop(b);
        assert!(!setter.is_finished());
        daemon.hold(false);
        setter.join().unwrap();
    });
    assert_eq!((&a).read(&mut [0]).unwrap(), 0);
}

#[test]
fn polling_mode_never_sleeps_and_still_ends() {
    let mut daemon = FakeDaemon::start();
    let client = attach(&daemon);
    client.set_polling(true);
    let (mut a, mut b, _listener) = pair(&client);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut byte = [0];
            b.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [7]);
            b.read(&mut byte)
        });
        let_it_sleep();
        a.write_all(&[7]).unwrap();
        let_it_sleep();
        daemon.kill();
        assert_eq!(errno(&reader.join().unwrap().unwrap_err()), Errno::ECONNRESET as i32);
    });
}
