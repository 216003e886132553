//! `net_vhost` and `net_virtio_user` joined in one process: rx interrupts, checksum offload, and a
//! peer that comes after the sleeper fell asleep.

#![cfg(feature = "dpdk")]

mod dpdk_support;

use dmm_port::dpdk::DpdkPort;
use dmm_port::{Instant, Port, RxChecksum};
use dpdk_support::*;
use etherparse::PacketBuilder;
use std::time::Duration;

#[test]
fn a_vhost_port_interrupts_and_offloads() {
    let eal = start_eal();
    let folder = std::env::temp_dir().join(format!("dmm-vhost-{}", std::process::id()));
    std::fs::create_dir(&folder).expect("fresh");
    let socket = folder.join("sock");
    let socket = socket.display();
    let mut back = start_port(&eal, &format!("net_vhost0,iface={socket},queues=1"), 1);
    println!("{:?}", back.info());
    let (mut back_rx, mut back_tx) = back.queue_pair(0).expect("first time");
    assert!(!back.link().up);

    // Asleep before there is a peer: its arrival wakes.
    back_rx.arm().expect("interrupts");
    assert!(back_rx.burst(Instant::ZERO).is_empty());
    assert!(!is_readable(wake_fd(back_rx.as_ref()), Duration::ZERO));
    let mut front = start_port(&eal, &format!("net_virtio_user0,path={socket},queues=1"), 1);
    println!("{:?}", front.info());
    assert!(is_readable(wake_fd(back_rx.as_ref()), DEADLINE), "the peer's arrival was missed");
    back_rx.disarm();
    let (mut front_rx, mut front_tx) = front.queue_pair(0).expect("first time");
    wait_for_link(&back);

    let frame = datagram(b"by interrupt");
    for round in 0..200 {
        while !back_rx.burst(Instant::ZERO).is_empty() {}
        back_rx.arm().expect("interrupts");
        assert!(back_rx.burst(Instant::ZERO).is_empty());
        assert!(
            !is_readable(wake_fd(back_rx.as_ref()), Duration::ZERO),
            "round {round}: would spin"
        );
        send(front_tx.as_mut(), &frame);
        assert!(is_readable(wake_fd(back_rx.as_ref()), DEADLINE), "round {round}: lost");
        assert!(is_readable(wake_fd(back_rx.as_ref()), Duration::ZERO), "level-triggered");
        back_rx.disarm();
        assert!(!is_readable(wake_fd(back_rx.as_ref()), Duration::ZERO), "drained");
        let (bytes, verdict) =
            receive(back_rx.as_mut(), |frame| Some((frame.bytes.to_vec(), frame.checksum)));
        assert_eq!(bytes.len(), frame.len());
        println_once(round, &format!("vhost receives: {verdict:?}"));
        while !front_rx.burst(Instant::ZERO).is_empty() {}
        front_rx.arm().expect("interrupts");
        assert!(front_rx.burst(Instant::ZERO).is_empty());
        assert!(!is_readable(wake_fd(front_rx.as_ref()), Duration::ZERO), "front would spin");
        send(back_tx.as_mut(), &frame);
        assert!(is_readable(wake_fd(front_rx.as_ref()), DEADLINE), "front round {round}: lost");
        front_rx.disarm();
        let verdict = receive(front_rx.as_mut(), |frame| {
            frame.bytes.ends_with(b"by interrupt").then_some(frame.checksum)
        });
        println_once(round, &format!("virtio-user receives: {verdict:?}"));
        assert_ne!(verdict, RxChecksum::Bad);
    }
    // Its departure wakes too, though no frame and no kick announces it.
    while !back_rx.burst(Instant::ZERO).is_empty() {}
    back_rx.arm().expect("interrupts");
    assert!(!is_readable(wake_fd(back_rx.as_ref()), Duration::ZERO));
    drop((front_rx, front_tx, front));
    assert!(is_readable(wake_fd(back_rx.as_ref()), DEADLINE), "the peer's departure was missed");
    assert!(!back.link().up);
    drop((back_rx, back_tx, back));
    std::fs::remove_dir_all(&folder).expect("ours");
}

fn println_once(round: u32, text: &str) {
    if round == 0 {
        println!("{text}");
    }
}

fn wait_for_link(port: &DpdkPort) {
    let give_up = std::time::Instant::now() + DEADLINE;
    while !port.link().up {
        assert!(std::time::Instant::now() < give_up, "no link");
        std::thread::yield_now();
    }
}

fn datagram(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(1, 2)
        .write(&mut frame, payload)
        .expect("in memory");
    frame
}
