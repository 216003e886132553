//! Reading and writing without a copy: what is lent, what is given back, and what misuse is told.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

use crate::common::{FakeDaemon, attach, eventually, pair, pattern};
use dmm::errno;
use nix::errno::Errno;

const CHUNK: usize = 16 * 1024;

#[test]
fn bytes_cross_whole_without_a_copy() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let (a, b, _listener) = pair(&client);
    let data = pattern(4 << 20, 5);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut left = data.as_slice();
            let mut part = 1;
            while !left.is_empty() {
                // Every size, and not always all of it.
                part = part * 7 % 40_009 + 1;
                let mut room = a.write_in_place(part.min(left.len())).unwrap();
                assert!(!room.is_empty() && room.len() <= part.min(CHUNK));
                let filled = room.len() - part % 2 * (room.len() / 2);
                room[..filled].copy_from_slice(&left[..filled]);
                room.commit(filled).unwrap();
                left = &left[filled..];
            }
            a.shutdown(Shutdown::Write).unwrap();
        });
        let mut all = Vec::new();
        loop {
            let bytes = b.read_in_place().unwrap();
            if bytes.is_empty() {
                break;
            }
            assert!(bytes.len() <= CHUNK);
            let read = bytes.len() - all.len() % 2 * (bytes.len() / 2);
            all.extend_from_slice(&bytes[..read]);
            bytes.give_back(read).unwrap();
        }
        assert!(all == data, "{} of {} bytes", all.len(), data.len());
    });
}

#[test]
fn what_is_not_given_back_is_read_again() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let (mut a, mut b, _listener) = pair(&client);
    a.write_all(b"again").unwrap();
    let first = b.read_in_place().unwrap();
    assert_eq!(&*first, b"again");
    drop(first);
    let second = b.read_in_place().unwrap();
    assert_eq!(errno(&second.give_back(6).unwrap_err()), Errno::EINVAL as i32);
    b.read_in_place().unwrap().give_back(2).unwrap();
    let mut rest = [0; 3];
    b.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"ain");
    // Room that is not committed sends nothing.
    let mut room = a.write_in_place(100).unwrap();
    room[..4].copy_from_slice(b"lost");
    drop(room);
    let room = a.write_in_place(3).unwrap();
    assert_eq!(room.len(), 3);
    assert_eq!(errno(&room.commit(4).unwrap_err()), Errno::EINVAL as i32);
    a.write_all(b"sent").unwrap();
    let mut bytes = [0; 4];
    b.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"sent");
    assert_eq!(errno(&a.write_in_place(0).err().unwrap()), Errno::EINVAL as i32);
}

#[test]
fn a_direction_is_busy_while_it_is_lent() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let (mut a, mut b, _listener) = pair(&client);
    a.write_all(b"hello").unwrap();
    let busy = |error: std::io::Error| assert_eq!(errno(&error), Errno::EBUSY as i32);
    let lent = b.read_in_place().unwrap();
    busy(b.read(&mut [0; 4]).unwrap_err());
    busy(b.peek(&mut [0; 4]).unwrap_err());
    busy(b.read_in_place().err().unwrap());
    // The other direction is not.
    b.write_all(b"there").unwrap();
    lent.give_back(5).unwrap();
    let room = a.write_in_place(8).unwrap();
    busy(a.write(b"x").unwrap_err());
    busy(a.write_in_place(8).err().unwrap());
    let mut bytes = [0; 5];
    a.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"there");
    // Shut down meanwhile: what is committed is lost, and said to be.
    a.shutdown(Shutdown::Write).unwrap();
    assert_eq!(errno(&room.commit(8).unwrap_err()), Errno::EPIPE as i32);
    assert!(b.read_in_place().unwrap().is_empty(), "the end of the stream");
}

#[test]
fn a_loan_outlives_its_socket_and_the_daemon() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let (mut a, b, _listener) = pair(&client);
    a.write_all(&pattern(1000, 9)).unwrap();
    let lent = b.read_in_place().unwrap();
    let mut room = a.write_in_place(10).unwrap();
    drop((a, b));
    assert_eq!(&*lent, pattern(1000, 9));
    room[..2].copy_from_slice(b"ok");
    drop(daemon);
    eventually("the daemon's end", || client.is_dead());
    assert_eq!(&*lent, pattern(1000, 9));
    assert_eq!(errno(&room.commit(2).unwrap_err()), Errno::ECONNRESET as i32);
    lent.give_back(1000).unwrap();
}

#[test]
fn waiting_is_as_with_other_calls() {
    let daemon = FakeDaemon::start();
    let client = attach(&daemon);
    let (a, b, _listener) = pair(&client);
    assert_eq!(b.try_read_in_place().err().unwrap().kind(), ErrorKind::WouldBlock);
    b.set_nonblocking(true).unwrap();
    assert_eq!(b.read_in_place().err().unwrap().kind(), ErrorKind::WouldBlock);
    // Until the FIFO is full, then not.
    let mut filled = 0;
    eventually("a full FIFO", || match a.try_write_in_place(CHUNK) {
        Ok(room) => {
            let len = room.len();
            room.commit(len).unwrap();
            filled += len;
            false
        }
        Err(error) => error.kind() == ErrorKind::WouldBlock && filled > 4 * CHUNK,
    });
    // One that waits is woken by room.
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| a.write_in_place(1).map(|room| room.commit(1)));
        let mut read = 0;
        eventually("all bytes", || {
            if let Ok(bytes) = b.try_read_in_place() {
                read += bytes.len();
                let len = bytes.len();
                bytes.give_back(len).unwrap();
            }
            read == filled + 1
        });
        waits.join().unwrap().unwrap().unwrap();
    });
}
