//! A TAP with two queues, each driven by a worker of its own.

#![cfg(feature = "dpdk")]

mod dpdk_support;

use std::net::UdpSocket;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant as Clock};

use dmm_port::{Instant, Port};
use dpdk_support::*;

const FLOWS: u64 = 400;

#[test]
fn two_workers_share_a_tap() {
    enter_new_namespace();
    let eal = start_eal();
    let mut port = start_port(&eal, "net_tap0,iface=dmmtwo", 2);
    println!("{:?}", port.info());
    assert_eq!(port.info().queues, 2);
    assert!(!port.info().rss, "net_tap's key is its own, and it has no table");
    run("ip addr add 10.78.0.1/24 dev dmmtwo");
    let pairs = [port.queue_pair(0).expect("pair 0"), port.queue_pair(1).expect("pair 1")];

    let total = AtomicU64::new(0);
    let per_queue = std::thread::scope(|scope| {
        let workers: Vec<_> = pairs
            .into_iter()
            .enumerate()
            .map(|(index, pair)| {
                let (eal, total) = (&eal, &total);
                scope.spawn(move || work(eal, index as u8, pair, total))
            })
            .collect();
        for _ in 0..FLOWS {
            // A new source port each: the kernel spreads flows over the queues by its own hash.
            let socket = UdpSocket::bind("10.78.0.1:0").expect("address");
            socket.set_broadcast(true).expect("option");
            socket.send_to(b"x", "10.78.0.255:9").expect("sent");
        }
        workers.into_iter().map(|worker| worker.join().expect("no panic")).collect::<Vec<_>>()
    });
    println!("received per queue: {per_queue:?}");
    assert!(per_queue.iter().all(|count| *count > 0), "both queues got some");
    assert_eq!(per_queue.iter().sum::<u64>(), FLOWS);
    assert_eq!(kernel_counter("dmmtwo", "rx_packets"), FLOWS, "one answer per frame");
    drop(port);
    assert!(!interface_exists("dmmtwo"));
}

/// Sleeps, receives, and sends one frame per received datagram, until both workers have all.
fn work(eal: &dmm_port::dpdk::Eal, index: u8, pair: Queues, total: &AtomicU64) -> u64 {
    let _registered = eal.register_thread().expect("room for two");
    let (mut rx, mut tx) = pair;
    let give_up = Clock::now() + DEADLINE;
    let mut received = 0;
    while total.load(Ordering::Relaxed) < FLOWS {
        assert!(Clock::now() < give_up, "frames were lost");
        rx.arm().expect("the interface exists");
        let datagrams =
            rx.burst(Instant::ZERO).iter().filter(|frame| frame.bytes[12..14] == [8, 0]).count();
        for _ in 0..datagrams {
            send(tx.as_mut(), &arp_request([2, 0, 0, 0, 0, index], [10, 78, 0, 9], [10, 78, 0, 8]));
        }
        received += datagrams as u64;
        total.fetch_add(datagrams as u64, Ordering::Relaxed);
        if datagrams == 0 {
            // Short, since nothing wakes this worker when the other one had the last frame.
            is_readable(wake_fd(rx.as_ref()), Duration::from_millis(10));
        }
        rx.disarm();
    }
    received
}
