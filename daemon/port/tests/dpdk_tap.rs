//! A TAP in a network namespace: the kernel is the peer, and its counters are the witness.

#![cfg(feature = "dpdk")]

mod dpdk_support;

use std::net::UdpSocket;
use std::time::Duration;

use dmm_port::dpdk::{DpdkPort, DpdkPortConfig, Eal, EalConfig, Error};
use dmm_port::{Instant, Port, RxChecksum, RxQueue, Wake};
use dpdk_support::*;
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

const DEVICE: &str = "net_tap0,iface=dmmtest0";

#[test]
fn a_tap_carries_frames_both_ways() {
    enter_new_namespace();
    let affinity = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).expect("mask");
    let eal = start_eal();
    let now = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).expect("mask");
    assert_eq!(affinity, now, "the calling thread must not be pinned");
    assert!(matches!(Eal::init(&EalConfig::default()), Err(Error::AlreadyInitialised)));
    std::thread::scope(|scope| {
        let registered = || eal.register_thread().map(drop).map_err(|error| error.to_string());
        scope.spawn(registered).join().expect("no panic")
    })
    .expect("a worker registers");

    errors_name_the_device_and_the_remedy(&eal);
    let mut port = start_port(&eal, DEVICE, 1);
    port_describes_itself(&port);
    run("ip addr add 10.77.0.1/24 dev dmmtest0");
    let (mut rx, mut tx) = port.queue_pair(0).expect("first time");
    assert!(port.queue_pair(0).is_err());
    assert!(port.queue_pair(1).is_err());

    receives_the_kernels_arp_request(rx.as_mut());
    sends_to_the_kernel(&mut port, tx.as_mut(), rx.as_mut());
    checksums_are_verified_and_filled_in(tx.as_mut(), rx.as_mut());
    sleeps_without_losing_or_spinning(rx.as_mut());
    no_buffer_leaks(&mut port, rx.as_mut(), tx.as_mut());
    counters_agree(&port);
    a_deleted_interface_cannot_be_slept_on(&eal);

    drop(port);
    assert!(interface_exists("dmmtest0"), "the queues keep the device");
    drop((rx, tx));
    assert!(!interface_exists("dmmtest0"), "the last holder closes the device");
    starts_again_under_the_same_name(&eal);
}

fn errors_name_the_device_and_the_remedy(eal: &Eal) {
    run("ip link add dmmbusy type veth peer name dmmbusy1");
    let config = |device: &str| DpdkPortConfig::new("p0", device);
    let cases = [
        (config("eth0"), "neither a PCI address"),
        (config("0000:ff:1f.7"), "no PCI device 0000:ff:1f.7 on this machine"),
        (config("net_nonsense0"), "net_nonsense0 was taken by no driver"),
        (
            config("net_tap1,iface=dmmbusy"),
            "interface dmmbusy of device net_tap1,iface=dmmbusy exists",
        ),
        (config("net_tap1,iface=dmmtest1,nonsense=1"), "does not know \"nonsense\""),
        (config("net_tap1,ifce=dmmtest1"), "does not know \"ifce\""),
        (config("net_tap1,iface=sixteencharacter"), "a name has 1 to 15 bytes"),
        (config("net_af_packet1,iface=none0"), "no interface none0"),
        (
            DpdkPortConfig { queues: 0, ..config("net_tap1") },
            "cannot have 0 queue pairs: choose 1 to 16",
        ),
        (
            DpdkPortConfig { queues: 99, ..config("net_tap1") },
            "cannot have 99 queue pairs: choose 1 to 16",
        ),
        (
            DpdkPortConfig { mtu: 9000, ..config("net_tap1") },
            "cannot have an MTU of 9000 bytes: choose 68 to 1504",
        ),
    ];
    for (config, expected) in cases {
        let message = error_of(eal, &config);
        println!("{message}");
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        assert!(message.lines().count() == 1, "{message:?}");
    }
    assert!(!interface_exists("dtap0") && !interface_exists("dmmtest1"), "nothing is left behind");
    let first_pci = std::fs::read_dir("/sys/bus/pci/devices").ok().and_then(|mut all| all.next());
    if let Some(Ok(first_pci)) = first_pci {
        let message = error_of(eal, &config(&first_pci.file_name().to_string_lossy()));
        assert!(message.contains("not on the allow-list"), "{message}");
    }
}

fn port_describes_itself(port: &DpdkPort) {
    let info = port.info();
    println!("{info:?}");
    assert_eq!((info.driver.as_str(), info.queues, info.mtu), ("net_tap", 1, 1500));
    assert!(!info.rss, "one queue has nothing to spread");
    assert!(info.rx_checksum && info.tx_checksum);
    assert!(port.link().up && port.link().speed_mbps == 10_000);
    let shown = run("ip -o link show dmmtest0");
    let mac = info.mac.map(|byte| format!("{byte:02x}")).join(":");
    assert!(
        shown.contains(&mac) && shown.contains("mtu 1500") && shown.contains("PROMISC"),
        "{shown}"
    );
}

/// Makes the kernel ask for 10.77.0.2, without waiting for an answer.
fn provoke_arp() {
    let socket = UdpSocket::bind("10.77.0.1:0").expect("address");
    socket.send_to(b"hello", "10.77.0.2:9").expect("queued behind the ARP request");
}

fn receives_the_kernels_arp_request(rx: &mut dyn RxQueue) {
    provoke_arp();
    receive(rx, |frame| {
        let is_request = frame.bytes[12..14] == [8, 6] && frame.bytes[38..42] == [10, 77, 0, 2];
        is_request.then_some(())
    });
}

fn sends_to_the_kernel(port: &mut DpdkPort, tx: &mut dyn dmm_port::TxQueue, rx: &mut dyn RxQueue) {
    let before = kernel_counter("dmmtest0", "rx_packets");
    for _ in 0..300 {
        send(tx, &arp_request([2, 0, 0, 0, 0, 2], [10, 77, 0, 2], [10, 77, 0, 1]));
    }
    // Larger than the MTU: refused before the driver sees it.
    assert!(tx.burst().next(1500 + 14 + 4 + 1).is_none());
    assert!(tx.burst().next(1500 + 14 + 4).is_some());
    assert_eq!(kernel_counter("dmmtest0", "rx_packets"), before + 300);
    assert_eq!((tx.dropped(), port.stats().tx_frames), (0, 300));
    receive(rx, |frame| (frame.bytes[20..22] == [0, 2]).then_some(())); // its reply
    // The frame laid out above is sent now: zeroes that the kernel counts.
    tx.flush(Instant::ZERO);
    assert_eq!(kernel_counter("dmmtest0", "rx_packets"), before + 301);
}

/// A UDP datagram without checksums reaches a kernel socket, so the port filled them in; the
/// kernel's answer is good; and one with a wrong checksum, reflected by nobody, is not claimed.
fn checksums_are_verified_and_filled_in(tx: &mut dyn dmm_port::TxQueue, rx: &mut dyn RxQueue) {
    let socket = UdpSocket::bind("10.77.0.1:7000").expect("address");
    socket.set_read_timeout(Some(DEADLINE)).expect("option");
    let mac = nix_mac("dmmtest0");
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], mac)
        .ipv4([10, 77, 0, 2], [10, 77, 0, 1], 64)
        .udp(7001, 7000);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"sum me").expect("in memory");
    frame[14 + 10..14 + 12].copy_from_slice(&[0xde, 0xad]);
    frame[34 + 6..34 + 8].copy_from_slice(&[0xbe, 0xef]);
    send(tx, &frame);
    let mut text = [0; 16];
    let (len, from) = socket.recv_from(&mut text).expect("the kernel found both checksums right");
    assert_eq!((&text[..len], from.to_string().as_str()), (&b"sum me"[..], "10.77.0.2:7001"));

    socket.send_to(b"answer", from).expect("the kernel learnt the neighbour");
    let verdict =
        receive(rx, |frame| match SlicedPacket::from_ethernet(frame.bytes).ok()?.transport? {
            TransportSlice::Udp(udp) if udp.payload() == b"answer" => Some(frame.checksum),
            _ => None,
        });
    assert_eq!(verdict, RxChecksum::Good);
}

fn nix_mac(interface: &str) -> [u8; 6] {
    let shown = run(&format!("ip -o link show {interface}"));
    let (_, rest) = shown.split_once("link/ether ").expect("ethernet");
    let mut bytes = rest[..17].split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hex"));
    std::array::from_fn(|_| bytes.next().expect("six"))
}

fn drain(rx: &mut dyn RxQueue) {
    while !rx.burst(Instant::ZERO).is_empty() {}
}

fn sleeps_without_losing_or_spinning(rx: &mut dyn RxQueue) {
    let flags = fcntl(wake_fd(rx), FcntlArg::F_GETFL).expect("open");
    let flags = OFlag::from_bits_retain(flags);
    assert!(!flags.contains(OFlag::O_ASYNC), "the driver's signals are off");
    assert!(flags.contains(OFlag::O_NONBLOCK));
    run("ip neigh flush dev dmmtest0");
    for round in 0..200 {
        drain(rx);
        rx.arm().expect("the interface exists");
        drain(rx);
        // Nothing waits: a sleeper is not woken at once, again and again. The kernel may send a frame of
        // its own at any time (RFC 4861 section 6.3.7): who is woken finds it.
        while is_readable(wake_fd(rx), Duration::ZERO) {
            assert!(!rx.burst(Instant::ZERO).is_empty(), "round {round}: would spin");
        }
        let socket = UdpSocket::bind("10.77.0.1:0").expect("address");
        if round % 2 == 0 {
            // The frame comes before the sleep.
            socket.send_to(b"x", "10.77.0.255:9").ok();
            socket.set_broadcast(true).expect("option");
            socket.send_to(b"x", "10.77.0.255:9").expect("sent");
            assert!(is_readable(wake_fd(rx), DEADLINE), "round {round}: lost");
        } else {
            // And while asleep.
            socket.set_broadcast(true).expect("option");
            let descriptor = wake_fd(rx);
            let woken = std::thread::scope(|scope| {
                let sleeper = scope.spawn(move || is_readable(descriptor, DEADLINE));
                socket.send_to(b"x", "10.77.0.255:9").expect("sent");
                sleeper.join().expect("no panic")
            });
            assert!(woken, "round {round}: lost");
        }
        // Level-triggered: readable until it is read.
        assert!(is_readable(wake_fd(rx), Duration::ZERO));
        receive(rx, |frame| (frame.bytes[12..14] == [8, 0]).then_some(()));
        rx.disarm();
    }
}

fn no_buffer_leaks(port: &mut DpdkPort, rx: &mut dyn RxQueue, tx: &mut dyn dmm_port::TxQueue) {
    drain(rx);
    tx.burst();
    let before = port.buffers_in_use(0).expect("pair 0");
    let socket = UdpSocket::bind("10.77.0.1:0").expect("address");
    socket.set_broadcast(true).expect("option");
    for _ in 0..5000 {
        socket.send_to(b"x", "10.77.0.255:9").expect("sent");
        receive(rx, |frame| (frame.bytes[12..14] == [8, 0]).then_some(()));
        send(tx, &arp_request([2, 0, 0, 0, 0, 2], [10, 77, 0, 2], [10, 77, 0, 1]));
        drain(rx);
    }
    // A cache of the calling thread (64 mbufs, up to 96) moves the count.
    tx.burst();
    let after = port.buffers_in_use(0).expect("pair 0");
    assert!(after.abs_diff(before) <= 2 * 96, "{before} buffers became {after}");
    assert_eq!(port.buffers_in_use(1), None);
}

fn counters_agree(port: &DpdkPort) {
    let stats = port.stats();
    assert_eq!(stats.rx_frames, kernel_counter("dmmtest0", "tx_packets"));
    assert_eq!(stats.tx_frames, kernel_counter("dmmtest0", "rx_packets"));
    assert_eq!((stats.tx_errors, stats.rx_errors, stats.rx_missed), (0, 0, 0));
    let xstats = port.xstats();
    let named = |name: &str| xstats.iter().find(|(n, _)| n == name).map(|(_, value)| *value);
    assert_eq!(named("rx_good_packets"), Some(stats.rx_frames), "{xstats:?}");
}

fn a_deleted_interface_cannot_be_slept_on(eal: &Eal) {
    let mut port = start_port(eal, "net_tap5,iface=dmmgone", 1);
    let (mut rx, mut tx) = port.queue_pair(0).expect("first time");
    rx.arm().expect("alive");
    run("ip link delete dmmgone");
    assert!(rx.arm().is_err());
    assert!(matches!(rx.wake(), Wake::Fd(_)));
    assert!(rx.burst(Instant::ZERO).is_empty());
    send(tx.as_mut(), &[0; 60]);
    assert_eq!((tx.dropped(), port.stats().tx_errors >= 1), (1, true), "refused and counted");
}

fn starts_again_under_the_same_name(eal: &Eal) {
    let port = start_port(eal, DEVICE, 2);
    let busy = error_of(eal, &DpdkPortConfig::new("p1", DEVICE));
    assert_eq!(
        busy,
        format!(
            "device {DEVICE} is in use by another port of this process: give each port its own"
        )
    );
    drop(port);
    assert!(!interface_exists("dmmtest0"));
}
