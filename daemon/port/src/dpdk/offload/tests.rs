//! Frames from an independent builder, through what a device would do.

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;

const BOTH: TxChecksums = TxChecksums { ipv4: true, transport: true };
const TRANSPORT: TxChecksums = TxChecksums { ipv4: false, transport: true };

fn build(tcp: bool, v6: bool, vlan: bool, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let mut frame = Vec::new();
    let addresses_v6 = |b: u8| [0xfd, b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b];
    macro_rules! finish {
        ($builder:expr) => {
            if tcp {
                $builder.tcp(80, 4000, 7, 9).write(&mut frame, payload).expect("in memory")
            } else {
                $builder.udp(53, 4000).write(&mut frame, payload).expect("in memory")
            }
        };
    }
    match (vlan, v6) {
        (false, false) => finish!(builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)),
        (false, true) => finish!(builder.ipv6(addresses_v6(1), addresses_v6(2), 64)),
        (true, false) => {
            finish!(builder.single_vlan(etherparse::VlanId::try_new(5).expect("small")).ipv4(
                [10, 0, 0, 1],
                [10, 0, 0, 2],
                64
            ))
        }
        (true, true) => {
            finish!(builder.single_vlan(etherparse::VlanId::try_new(5).expect("small")).ipv6(
                addresses_v6(1),
                addresses_v6(2),
                64
            ))
        }
    }
    frame
}

/// What a device does with a request: the checksums from the given lengths and flags.
fn as_device(frame: &mut [u8], request: Request) {
    let l3 = usize::from(request.l2_len);
    let l4 = l3 + usize::from(request.l3_len);
    if request.ol_flags & dpdk::RTE_MBUF_F_TX_IP_CKSUM != 0 {
        assert_eq!(frame[l3 + 10..l3 + 12], [0, 0]);
        let checksum = !fold(sum(&frame[l3..l4]));
        frame[l3 + 10..l3 + 12].copy_from_slice(&checksum.to_be_bytes());
    }
    let at = match request.ol_flags & dpdk::RTE_MBUF_F_TX_L4_MASK {
        dpdk::RTE_MBUF_F_TX_TCP_CKSUM => l4 + 16,
        dpdk::RTE_MBUF_F_TX_UDP_CKSUM => l4 + 6,
        _ => return,
    };
    let mut segment = frame[l4..].to_vec();
    if segment.len() % 2 == 1 {
        segment.push(0);
    }
    let mut checksum = !fold(sum(&segment));
    if checksum == 0 {
        checksum = 0xffff;
    }
    frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

fn spoil_checksums(frame: &mut [u8]) {
    let l4 = match network(frame).expect("built above") {
        Network::V4(ip) => {
            frame[ip + 10] ^= 0xa5;
            ip + 20
        }
        Network::V6(ip) => ip + 40,
    };
    let checksum_at = if frame_protocol(frame) == TCP { 16 } else { 6 };
    frame[l4 + checksum_at] ^= 0x5a;
}

fn frame_protocol(frame: &[u8]) -> u8 {
    match network(frame) {
        Some(Network::V4(at)) => frame[at + 9],
        Some(Network::V6(at)) => frame[at + 6],
        None => 0,
    }
}

proptest! {
    #[test]
    fn a_device_completes_what_was_prepared(
        tcp in any::<bool>(), v6 in any::<bool>(), vlan in any::<bool>(), whole in any::<bool>(),
        payload in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let expected = build(tcp, v6, vlan, &payload);
        let mut frame = expected.clone();
        spoil_checksums(&mut frame);
        let request = prepare(&mut frame, if whole { BOTH } else { TRANSPORT });
        as_device(&mut frame, request);
        prop_assert_eq!(frame, expected);
        prop_assert_eq!(usize::from(request.l4_len), if tcp { 20 } else { 8 });
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
        ethertype in prop_oneof![Just([8, 0]), Just([0x86, 0xdd]), Just([0x81, 0])],
        flags in any::<u64>(),
    ) {
        if bytes.len() >= 14 {
            bytes[12..14].copy_from_slice(&ethertype);
        }
        let _ = verdict(flags, &bytes);
        let request = prepare(&mut bytes, BOTH);
        let end = usize::from(request.l2_len) + usize::from(request.l3_len);
        prop_assert!(end + usize::from(request.l4_len) <= bytes.len());
    }
}

#[test]
fn a_fragment_keeps_its_transport_checksum() {
    let mut frame = build(false, false, false, b"data");
    frame[14 + 6] = 0x20; // more fragments
    let before = frame.clone();
    let request = prepare(&mut frame, BOTH);
    let expected = dpdk::RTE_MBUF_F_TX_IPV4 | dpdk::RTE_MBUF_F_TX_IP_CKSUM;
    assert_eq!(request.ol_flags, expected);
    assert_eq!(frame[34..], before[34..]);
}

#[test]
fn frames_of_other_kinds_are_left_alone() {
    let mut arp = vec![0xff; 60];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let before = arp.clone();
    assert_eq!(prepare(&mut arp, BOTH), Request::default());
    assert_eq!(arp, before);
}

#[test]
fn verdicts_need_every_checksum() {
    let v4 = build(true, false, false, b"x");
    let v6 = build(true, true, false, b"x");
    let mut wrong_header = v4.clone();
    wrong_header[14 + 8] ^= 1;
    let (ip_good, ip_bad) = (dpdk::RTE_MBUF_F_RX_IP_CKSUM_GOOD, dpdk::RTE_MBUF_F_RX_IP_CKSUM_BAD);
    let (l4_good, l4_bad) = (dpdk::RTE_MBUF_F_RX_L4_CKSUM_GOOD, dpdk::RTE_MBUF_F_RX_L4_CKSUM_BAD);
    let l4_none = dpdk::RTE_MBUF_F_RX_L4_CKSUM_NONE;
    let cases = [
        (0, &v4, RxChecksum::Unknown),
        (ip_good, &v4, RxChecksum::Unknown),
        (ip_good | l4_good, &v4, RxChecksum::Good),
        (ip_good | l4_none, &v4, RxChecksum::Good),
        (l4_good, &v4, RxChecksum::Good),
        (l4_good, &wrong_header, RxChecksum::Bad),
        (ip_bad | l4_good, &v4, RxChecksum::Bad),
        (ip_good | l4_bad, &v4, RxChecksum::Bad),
        (l4_good, &v6, RxChecksum::Good),
        (0, &v6, RxChecksum::Unknown),
    ];
    for (flags, frame, expected) in cases {
        assert_eq!(verdict(flags, frame), expected, "flags {flags:#x}");
    }
}
