//! A packet socket on a veth pair: the kernel's half answers ping.

#![cfg(feature = "dpdk")]

mod dpdk_support;

use dmm_port::{Port, RxChecksum, Wake};
use dpdk_support::*;
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

#[test]
fn a_veth_carries_frames_both_ways() {
    enter_new_namespace();
    run("ip link add dmmveth0 type veth peer name dmmveth1");
    run("ip link set dmmveth0 up");
    run("ip link set dmmveth1 up");
    run("ip addr add 10.79.0.1/24 dev dmmveth1");
    let eal = start_eal();
    let mut port = start_port(&eal, "net_af_packet0,iface=dmmveth0", 1);
    println!("{:?} {:?}", port.info(), port.link());
    assert!(port.link().up);
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
