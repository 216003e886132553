//! The wire between threads in real time: no lost wake-up, no lost frame.

use std::os::fd::BorrowedFd;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use dmm_port::wire::{WireConfig, WirePort};
use dmm_port::{Instant, Port, RxFrame, RxQueue, TxQueue, Wake};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// Generous: the tests take milliseconds, and end when their frames are through.
const PATIENCE: Duration = Duration::from_secs(30);

const FRAMES: u32 = 100_000;

#[derive(Clone, Copy)]
struct Clock(std::time::Instant);

impl Clock {
    fn now(self) -> Instant {
        Instant::ZERO + self.0.elapsed()
    }
}

/// Sleeps the way a worker does. Panics if nothing happens for all of [`PATIENCE`].
fn sleep(rx: &mut dyn RxQueue, clock: Clock, take: &mut impl FnMut(&[RxFrame<'_>])) -> bool {
    let Wake::Fd(fd) = rx.wake() else { panic!("a wire wakes by descriptor") };
    rx.arm().unwrap();
    let last_look = rx.burst(clock.now());
    let found = !last_look.is_empty();
    take(last_look);
    let mut slept = false;
    if !found {
        let timeout = rx.deadline().map_or(PATIENCE, |due| due.since(clock.now()));
        // SAFETY: the queue keeps its doorbell open, and outlives this borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        let woken = ppoll(&mut fds, Some(TimeSpec::from_duration(timeout)), None).unwrap();
        assert!(woken > 0 || timeout < PATIENCE, "a wake-up was lost");
        slept = true;
    }
    rx.disarm();
    slept
}

/// Receives until `count` frames are there, asleep whenever there are none. Returns their numbers
/// and how often it slept.
fn receive(rx: &mut dyn RxQueue, clock: Clock, count: u32) -> (Vec<u32>, u32) {
    let mut numbers = Vec::new();
    let mut sleeps = 0;
    while numbers.len() < count as usize {
        let mut take = |frames: &[RxFrame<'_>]| {
            let number = |frame: &RxFrame<'_>| *frame.bytes.first_chunk().unwrap();
            numbers.extend(frames.iter().map(number).map(u32::from_be_bytes));
        };
        let frames = rx.burst(clock.now());
        let empty = frames.is_empty();
        take(frames);
        if empty {
            sleeps += u32::from(sleep(rx, clock, &mut take));
        }
    }
    (numbers, sleeps)
}

fn send(tx: &mut dyn TxQueue, clock: Clock, number: u32) {
    tx.burst().next(64).unwrap()[..4].copy_from_slice(&number.to_be_bytes());
    tx.flush(clock.now());
}

#[test]
fn ping_pong_loses_no_wake_up() {
    let (mut left, mut right) = WirePort::pair(&WireConfig::default()).unwrap();
    let clock = Clock(std::time::Instant::now());
    // Each answers the other's frame, so that both are about to sleep nearly all the time.
    const ROUNDS: u32 = FRAMES / 10;
    let (mut rx, mut tx) = right.queue_pair(0).unwrap();
    let echo = thread::spawn(move || {
        for number in 0..ROUNDS {
            assert_eq!(receive(&mut *rx, clock, 1).0, [number]);
            send(&mut *tx, clock, number);
        }
    });
    let (mut rx, mut tx) = left.queue_pair(0).unwrap();
    let mut sleeps = 0;
    for number in 0..ROUNDS {
        send(&mut *tx, clock, number);
        let (numbers, slept) = receive(&mut *rx, clock, 1);
        assert_eq!(numbers, [number]);
        sleeps += slept;
    }
    echo.join().unwrap();
    assert!(sleeps > 0, "the handshake was exercised");
}

#[test]
fn a_stream_of_frames_arrives_whole_and_in_order() {
    // The sender waits when the receiver falls behind, so that nothing overflows.
    let limit = 4096;
    let config = WireConfig { in_flight_limit: limit as usize, ..WireConfig::default() };
    let (mut left, mut right) = WirePort::pair(&config).unwrap();
    let clock = Clock(std::time::Instant::now());
    let (_, mut tx) = left.queue_pair(0).unwrap();
    let (mut rx, _) = right.queue_pair(0).unwrap();
    let (credit, credits) = mpsc::sync_channel(FRAMES as usize);
    let sender = thread::spawn(move || {
        for number in 0..FRAMES {
            if number >= limit / 2 {
                credits.recv_timeout(PATIENCE).unwrap();
            }
            send(&mut *tx, clock, number);
        }
    });
    let mut numbers = Vec::new();
    while numbers.len() < FRAMES as usize {
        let (more, _) = receive(&mut *rx, clock, 1);
        more.iter().for_each(|_| credit.send(()).unwrap_or(()));
        numbers.extend(more);
    }
    sender.join().unwrap();
    assert_eq!(numbers, (0..FRAMES).collect::<Vec<_>>());
    assert_eq!(right.rx_wire_stats().delivered, u64::from(FRAMES));
}

#[test]
fn delayed_frames_wake_a_receiver_that_sleeps_without_deadline() {
    let config = WireConfig { delay: Duration::from_micros(300), ..WireConfig::default() };
    let (mut left, mut right) = WirePort::pair(&config).unwrap();
    let clock = Clock(std::time::Instant::now());
    let (_, mut tx) = left.queue_pair(0).unwrap();
    let (mut rx, _) = right.queue_pair(0).unwrap();
    let (asleep, begun) = mpsc::sync_channel(0);
    let receiver = thread::spawn(move || {
        for round in 0..200 {
            asleep.send(()).unwrap();
            assert_eq!(receive(&mut *rx, clock, 1).0, [round]);
        }
    });
    for round in 0..200 {
        begun.recv_timeout(PATIENCE).unwrap();
        send(&mut *tx, clock, round);
    }
    receiver.join().unwrap();
}

#[test]
fn two_senders_share_a_direction() {
    let config = WireConfig { queues: 2, loss: 0.25, duplicate: 0.25, ..WireConfig::default() };
    let (mut left, mut right) = WirePort::pair(&config).unwrap();
    let clock = Clock(std::time::Instant::now());
    let senders: Vec<_> = (0..2)
        .map(|index| {
            let (_, mut tx) = left.queue_pair(index).unwrap();
            thread::spawn(move || (0..FRAMES / 20).for_each(|n| send(&mut *tx, clock, n)))
        })
        .collect();
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    let stats = left.tx_wire_stats();
    assert_eq!(stats.sent, u64::from(FRAMES / 10));
    let (mut rx, _) = right.queue_pair(0).unwrap();
    let (numbers, _) = receive(&mut *rx, clock, stats.in_flight as u32);
    assert_eq!(numbers.len() as u64, stats.sent - stats.lost + stats.duplicated);
}

#[test]
fn the_doorbell_rings_only_for_who_asked() {
    let (mut left, mut right) = WirePort::pair(&WireConfig::default()).unwrap();
    let (_, mut tx) = left.queue_pair(0).unwrap();
    let (mut rx, _) = right.queue_pair(0).unwrap();
    let clock = Clock(std::time::Instant::now());
    let Wake::Fd(fd) = rx.wake() else { panic!("a wire wakes by descriptor") };
    let readable = || {
        // SAFETY: `rx` keeps its doorbell open to the end of the test.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        ppoll(&mut fds, Some(TimeSpec::from_duration(Duration::ZERO)), None).unwrap() > 0
    };
    send(&mut *tx, clock, 0);
    assert!(!readable(), "not armed");
    assert_eq!(rx.burst(clock.now()).len(), 1);
    rx.arm().unwrap();
    send(&mut *tx, clock, 1);
    assert!(readable());
    assert_eq!(rx.burst(clock.now()).len(), 1);
    rx.disarm();
    assert!(!readable(), "drained");
    send(&mut *tx, clock, 2);
    assert!(!readable(), "disarmed");
}
