//! Packet sockets on veth pairs: the kernel's half answers ping, floods, and goes away.

#![cfg(feature = "dpdk")]

mod dpdk_support;

use std::net::UdpSocket;

use dmm_port::dpdk::Eal;
use dmm_port::{Instant, Link, Port, RxChecksum, Wake};
use dpdk_support::*;
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

#[test]
fn a_veth_carries_frames_both_ways() {
    enter_new_namespace();
    let eal = start_eal();
    frames_go_both_ways(&eal);
    what_the_ring_has_no_room_for_is_counted(&eal);
    the_link_is_the_interfaces(&eal);
    only_what_was_set_is_unset(&eal);
}

/// A veth pair whose ends send nothing by themselves.
fn make_quiet_pair(near: &str, far: &str) {
    run(&format!("ip link add {near} type veth peer name {far}"));
    for end in [near, far] {
        run(&format!("ip link set {end} addrgenmode none"));
        run(&format!("ip link set {end} up"));
    }
}

fn frames_go_both_ways(eal: &Eal) {
    run("ip link add dmmveth0 type veth peer name dmmveth1");
    run("ip link set dmmveth0 up");
    run("ip link set dmmveth1 up");
    run("ip addr add 10.79.0.1/24 dev dmmveth1");
    let mut port = start_port(eal, "net_af_packet0,iface=dmmveth0", 1);
    println!("{:?} {:?}", port.info(), port.link());
    wait_until("the link", || port.link().up);
    assert!(!port.info().rx_checksum && !port.info().tx_checksum);
    let (mut rx, mut tx) = port.queue_pair(0).expect("first time");
    assert_eq!(rx.wake(), Wake::Timer);

    let before = kernel_counter("dmmveth1", "rx_packets");
    let mac = port.info().mac;
    send(tx.as_mut(), &arp_request(mac, [10, 79, 0, 2], [10, 79, 0, 1]));
    let kernel_mac: [u8; 6] = receive(rx.as_mut(), |frame| {
        let is_reply = frame.bytes[12..14] == [8, 6] && frame.bytes[20..22] == [0, 2];
        is_reply.then(|| frame.bytes[6..12].try_into().expect("six"))
    });
    assert!(kernel_counter("dmmveth1", "rx_packets") > before);

    let mut echo = Vec::new();
    PacketBuilder::ethernet2(mac, kernel_mac)
        .ipv4([10, 79, 0, 2], [10, 79, 0, 1], 64)
        .icmpv4_echo_request(7, 1)
        .write(&mut echo, b"payload")
        .expect("in memory");
    send(tx.as_mut(), &echo);
    let verdict = receive(rx.as_mut(), |frame| {
        match SlicedPacket::from_ethernet(frame.bytes).ok()?.transport? {
            TransportSlice::Icmpv4(reply) if reply.payload() == b"payload" => Some(frame.checksum),
            _ => None,
        }
    });
    assert_eq!(verdict, RxChecksum::Unknown);
    drop((rx, tx, port));
    assert!(interface_exists("dmmveth0"), "the interface was there before");
}

/// A ring has 512 slots.
fn what_the_ring_has_no_room_for_is_counted(eal: &Eal) {
    const FLOOD: u64 = 2_000;
    make_quiet_pair("dmmveth2", "dmmveth3");
    run("ip addr add 10.79.1.1/24 dev dmmveth3");
    run("ip neigh add 10.79.1.2 lladdr 02:00:00:00:00:02 dev dmmveth3");
    let mut port = start_port(eal, "net_af_packet1,iface=dmmveth2", 2);
    let mut queues: Vec<_> = (0..2).map(|index| port.queue_pair(index).expect("first")).collect();
    let mut flooded = 0;
    for round in 1..=2 {
        // From a number of ports, so that both queues have some.
        let sockets: Vec<_> =
            (0..16).map(|_| UdpSocket::bind("10.79.1.1:0").expect("an address")).collect();
        for socket in sockets.iter().cycle().take(FLOOD as usize) {
            socket.send_to(b"flood", "10.79.1.2:9").expect("a neighbour");
        }
        flooded += FLOOD;
        let sent = kernel_counter("dmmveth3", "tx_packets");
        assert!(sent >= flooded - 100, "{sent} frames of {flooded} left the kernel");
        assert!(port.stats().rx_missed > 0, "round {round}");
        wait_until("the last of what was sent", || {
            queues.iter_mut().for_each(|(rx, _)| while !rx.burst(Instant::ZERO).is_empty() {});
            let stats = port.stats();
            assert!(stats.rx_frames + stats.rx_missed <= sent, "{sent} sent: {stats:?}");
            stats.rx_frames + stats.rx_missed == sent
        });
    }
    println!("{:?}", port.stats());
}

fn the_link_is_the_interfaces(eal: &Eal) {
    make_quiet_pair("dmmveth4", "dmmveth5");
    let port = start_port(eal, "net_af_packet2,iface=dmmveth4", 1);
    wait_until("the link", || port.link().up);
    run("ip link set dmmveth5 down");
    wait_until("the carrier's loss", || !port.link().up);
    run("ip link set dmmveth5 up");
    wait_until("the carrier", || port.link().up);
    run("ip link delete dmmveth4");
    assert_eq!(port.link(), Link { up: false, speed_mbps: 0 });
    // Another of its name is not the one that the socket is bound to.
    make_quiet_pair("dmmveth4", "dmmveth5");
    wait_until("the other's carrier", || run("ip link show dmmveth4").contains("state UP"));
    assert!(!port.link().up);
}

fn only_what_was_set_is_unset(eal: &Eal) {
    make_quiet_pair("dmmveth6", "dmmveth7");
    let promiscuity = || {
        let text = run("ip -d link show dmmveth6");
        let mut words = text.split_whitespace().skip_while(|word| *word != "promiscuity");
        words.nth(1).and_then(|count| count.parse::<u32>().ok()).unwrap_or_else(|| panic!("{text}"))
    };
    for (operators, count) in [("off", 0), ("on", 1)] {
        run(&format!("ip link set dmmveth6 promisc {operators}"));
        let port = start_port(eal, "net_af_packet3,iface=dmmveth6", 1);
        assert_eq!(promiscuity(), count + 1, "while the port runs");
        drop(port);
        assert_eq!(promiscuity(), count, "after its end");
    }
}
