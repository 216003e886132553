//! Frames by an independent builder (etherparse), frames by hand where it builds none, and noise.

use etherparse::{
    IcmpEchoHeader, Icmpv4Type, Icmpv6Type, IpNumber, PacketBuilder, VlanId, icmpv4, icmpv6,
};
use proptest::prelude::*;

use super::*;

const A4: [u8; 4] = [10, 0, 0, 1];
const B4: [u8; 4] = [10, 0, 0, 2];
const A6: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const B6: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

macro_rules! build {
    ($builder:expr, $payload:expr) => {{
        let builder = $builder;
        let mut frame = Vec::new();
        builder.write(&mut frame, $payload).unwrap();
        frame
    }};
}

fn link() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
}

/// The flow of a frame from A:1000 to B:2000, as B sees it.
fn flow4() -> Flow {
    Flow { local: (B4, 2000).into(), remote: (A4, 1000).into() }
}

fn flow6() -> Flow {
    Flow { local: (B6, 2000).into(), remote: (A6, 1000).into() }
}

/// An Ethernet frame with an IPv6 packet whose payload, from `protocol` on, is given.
fn frame6(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend([protocol, 64]);
    frame.extend(A6);
    frame.extend(B6);
    frame.extend(payload);
    frame
}

/// A UDP datagram 1000 -> 2000 without data.
const UDP_HEADER: [u8; 8] = [0x03, 0xe8, 0x07, 0xd0, 0, 8, 0, 0];

#[test]
fn flows_of_both_families_and_transports() {
    let tcp4 = build!(link().ipv4(A4, B4, 64).tcp(1000, 2000, 7, 100), b"hello");
    assert_eq!(parse(&tcp4), Traffic::Tcp(flow4()));
    let udp4 = build!(link().ipv4(A4, B4, 64).udp(1000, 2000), b"");
    assert_eq!(parse(&udp4), Traffic::Udp(flow4()));
    let tcp6 = build!(link().ipv6(A6, B6, 64).tcp(1000, 2000, 7, 100), b"");
    assert_eq!(parse(&tcp6), Traffic::Tcp(flow6()));
    let udp6 = build!(link().ipv6(A6, B6, 64).udp(1000, 2000), b"hello");
    assert_eq!(parse(&udp6), Traffic::Udp(flow6()));
}

#[test]
fn vlan_tags_are_skipped_up_to_two() {
    let id = VlanId::try_new(7).unwrap();
    let single = build!(link().single_vlan(id).ipv4(A4, B4, 64).udp(1000, 2000), b"x");
    assert_eq!(parse(&single), Traffic::Udp(flow4()));
    let double = build!(link().double_vlan(id, id).ipv6(A6, B6, 64).udp(1000, 2000), b"x");
    assert_eq!(parse(&double), Traffic::Udp(flow6()));
    let mut triple = double;
    triple.splice(12..12, [0x81, 0x00, 0, 7]);
    assert_eq!(parse(&triple), Traffic::Other);
}

#[test]
fn ipv4_options_are_skipped() {
    let mut header = etherparse::Ipv4Header::new(8, 64, IpNumber::UDP, A4, B4).unwrap();
    header.options = [1, 1, 1, 1, 1, 1, 1, 0].into();
    header.header_checksum = header.calc_header_checksum();
    let frame = build!(
        link()
            .ip(etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default()))
            .udp(1000, 2000),
        b""
    );
    assert_eq!(parse(&frame), Traffic::Udp(flow4()));
}

#[test]
fn ethernet_padding_is_no_payload() {
    // Two bytes of UDP according to the IP header; padding to the least frame makes up the rest.
    let mut frame = build!(link().ipv4(A4, B4, 64).udp(1000, 2000), b"");
    frame[16..18].copy_from_slice(&22u16.to_be_bytes());
    frame.resize(60, 0);
    assert_eq!(parse(&frame), Traffic::Other);
}

#[test]
fn every_truncation_of_a_flow_is_malformed() {
    for frame in [
        build!(link().ipv4(A4, B4, 64).tcp(1000, 2000, 7, 100), b"hello"),
        build!(link().ipv6(A6, B6, 64).udp(1000, 2000), b"hello"),
    ] {
        for len in 0..14 {
            assert_eq!(parse(&frame[..len]), Traffic::Other, "cut to {len} bytes");
        }
        for len in 14..frame.len() {
            assert_eq!(parse(&frame[..len]), Traffic::Malformed, "cut to {len} bytes");
        }
    }
}

#[test]
fn ipv6_extension_headers_are_skipped() {
    // Hop-by-hop (8), routing (8), destination (16), authentication (12), then UDP.
    let mut payload = vec![43, 0, 1, 4, 0, 0, 0, 0];
    payload.extend([60, 0, 0, 0, 0, 0, 0, 0]);
    payload.extend([51, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    payload.extend([17, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
    payload.extend(UDP_HEADER);
    assert_eq!(parse(&frame6(0, &payload)), Traffic::Udp(flow6()));
}

#[test]
fn extension_headers_out_of_place_or_number_are_malformed() {
    let hop_after_destination =
        [&[0, 0, 1, 4, 0, 0, 0, 0][..], &[17, 0, 1, 4, 0, 0, 0, 0], &UDP_HEADER].concat();
    assert_eq!(parse(&frame6(60, &hop_after_destination)), Traffic::Malformed);
    let mut endless = [60, 0, 1, 4, 0, 0, 0, 0].repeat(EXTENSION_HEADERS_MAX);
    endless.extend(UDP_HEADER);
    let last = endless.len() - UDP_HEADER.len() - 8;
    endless[last] = UDP;
    assert_eq!(parse(&frame6(60, &endless)), Traffic::Malformed);
    assert_eq!(parse(&frame6(60, &[17, 200, 0, 0, 0, 0, 0, 0])), Traffic::Malformed);
    assert_eq!(parse(&frame6(59, &UDP_HEADER)), Traffic::Other);
}

#[test]
fn ipv4_fragments_carry_their_key_and_first_its_ports() {
    let key = FragmentKey { local: B4.into(), remote: A4.into(), id: 0x1234, protocol: UDP };
    let mut first = build!(link().ipv4(A4, B4, 64).udp(1000, 2000), &[0; 16]);
    first[18..22].copy_from_slice(&[0x12, 0x34, 0x20, 0x00]);
    let ports = Some(Ports { local: 2000, remote: 1000 });
    assert_eq!(parse(&first), Traffic::Fragment { key, first: true, ports });
    let mut last = first.clone();
    last[20..22].copy_from_slice(&[0x00, 0x03]);
    assert_eq!(parse(&last), Traffic::Fragment { key, first: false, ports: None });
    // "Don't fragment" alone makes no fragment.
    let mut whole = first;
    whole[20..22].copy_from_slice(&[0x40, 0x00]);
    assert_eq!(parse(&whole), Traffic::Udp(flow4()));
}

#[test]
fn ipv6_fragments_carry_their_key_and_first_its_ports() {
    let key = FragmentKey { local: B6.into(), remote: A6.into(), id: 0x0102_0304, protocol: UDP };
    let fragment = |position: u16| {
        let mut payload = vec![17, 0];
        payload.extend(position.to_be_bytes());
        payload.extend([1, 2, 3, 4]);
        payload.extend(UDP_HEADER);
        parse(&frame6(44, &payload))
    };
    let ports = Some(Ports { local: 2000, remote: 1000 });
    assert_eq!(fragment(0x0001), Traffic::Fragment { key, first: true, ports });
    assert_eq!(fragment(0x0008), Traffic::Fragment { key, first: false, ports: None });
    assert_eq!(fragment(0x0009), Traffic::Fragment { key, first: false, ports: None });
    assert_eq!(fragment(0x0000), Traffic::Udp(flow6()), "an atomic fragment is a whole packet");
}

#[test]
fn arp_requests_and_replies() {
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend([0; 20]);
    assert_eq!(parse(&frame), Traffic::Arp { request: true });
    frame[21] = 2;
    assert_eq!(parse(&frame), Traffic::Arp { request: false });
    frame[21] = 3;
    assert_eq!(parse(&frame), Traffic::Other);
    frame[21] = 1;
    frame.pop();
    assert_eq!(parse(&frame), Traffic::Other);
}

#[test]
fn echo_and_neighbour_discovery() {
    let ping4 = build!(link().ipv4(A4, B4, 64).icmpv4_echo_request(1, 2), b"x");
    assert_eq!(parse(&ping4), Traffic::IcmpEchoRequest);
    let pong4 = build!(
        link().ipv4(A4, B4, 64).icmpv4(Icmpv4Type::EchoReply(IcmpEchoHeader { id: 1, seq: 2 })),
        b"x"
    );
    assert_eq!(parse(&pong4), Traffic::IcmpEchoReply);
    let ping6 = build!(link().ipv6(A6, B6, 64).icmpv6_echo_request(1, 2), b"x");
    assert_eq!(parse(&ping6), Traffic::IcmpEchoRequest);
    let pong6 = build!(link().ipv6(A6, B6, 64).icmpv6_echo_reply(1, 2), b"x");
    assert_eq!(parse(&pong6), Traffic::IcmpEchoReply);
    for (kind, solicitation) in [(133, true), (134, false), (135, true), (136, false), (137, false)]
    {
        let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &B6].concat();
        assert_eq!(parse(&frame6(ICMPV6, &message)), Traffic::Ndp { solicitation });
    }
    // ICMPv6's number in IPv4, and the other way round, mean nothing.
    assert_eq!(parse(&frame6(ICMP, &[8, 0, 0, 0, 0, 0, 0, 0])), Traffic::Other);
}

#[test]
fn icmp_errors_name_the_flow_they_are_about() {
    // B sent 1000 -> 2000; a router tells B about it, quoting the header and 8 bytes of payload.
    let flow = Flow { local: (B4, 1000).into(), remote: (A4, 2000).into() };
    let sent = build!(link().ipv4(B4, A4, 64).tcp(1000, 2000, 7, 100), b"hello");
    let error = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
    let frame = build!(link().ipv4([10, 0, 0, 9], B4, 64).icmpv4(error), &sent[14..14 + 28]);
    assert_eq!(parse(&frame), Traffic::IcmpError { embedded: Some((Transport::Tcp, flow)) });

    let flow = Flow { local: (B6, 1000).into(), remote: (A6, 2000).into() };
    let sent = build!(link().ipv6(B6, A6, 64).udp(1000, 2000), &[0; 1200]);
    let error = Icmpv6Type::PacketTooBig { mtu: 1280 };
    let frame = build!(link().ipv6(A6, B6, 64).icmpv6(error), &sent[14..1000]);
    assert_eq!(parse(&frame), Traffic::IcmpError { embedded: Some((Transport::Udp, flow)) });
}

#[test]
fn icmp_errors_without_a_readable_flow_are_still_errors() {
    let unknown = Traffic::IcmpError { embedded: None };
    let error = || Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit);
    let sent = build!(link().ipv4(B4, A4, 64).udp(1000, 2000), &[0; 16]);
    let short = build!(link().ipv4(A4, B4, 64).icmpv4(error()), &sent[14..14 + 23]);
    assert_eq!(parse(&short), unknown);
    let mut later_fragment = sent;
    later_fragment[21] = 1;
    let frame = build!(link().ipv4(A4, B4, 64).icmpv4(error()), &later_fragment[14..]);
    assert_eq!(parse(&frame), unknown);
    let error = Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded);
    let frame = build!(link().ipv6(A6, B6, 64).icmpv6(error), b"noise");
    assert_eq!(parse(&frame), unknown);
}

#[test]
fn questions_and_reports_of_groups_are_of_membership() {
    // An IGMP query, and behind a router alert the messages of MLD.
    let mut query = build!(link().ipv4(A4, B4, 1).udp(1000, 2000), &[0; 4]);
    query[23] = 2;
    assert_eq!(parse(&query), Traffic::Membership);
    for kind in [130, 131, 132, 143] {
        let alert = [58, 0, 5, 2, 0, 0, 1, 0];
        let frame = frame6(0, &[&alert[..], &[kind, 0, 0, 0, 0, 0, 0, 0]].concat());
        assert_eq!(parse(&frame), Traffic::Membership, "{kind}");
        assert_eq!(parse(&frame[..frame.len() - 1]), Traffic::Malformed);
    }
}

#[test]
fn other_protocols_are_other() {
    // PPPoE, SCTP.
    let mut frame = build!(link().ipv4(A4, B4, 64).udp(1000, 2000), b"");
    frame[12..14].copy_from_slice(&0x8864u16.to_be_bytes());
    assert_eq!(parse(&frame), Traffic::Other);
    assert_eq!(parse(&frame6(132, &[0; 32])), Traffic::Other);
}

/// A frame with a plausible beginning, so that noise reaches the inner parsers.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let ethertype =
        prop_oneof![Just(0x0800u16), Just(0x0806), Just(0x86dd), Just(0x8100), any::<u16>()];
    let protocol = prop::sample::select(vec![0u8, 1, 6, 17, 43, 44, 51, 58, 60]);
    (ethertype, protocol, prop::collection::vec(any::<u8>(), 0..160)).prop_map(
        |(ethertype, protocol, noise)| {
            let mut frame = vec![0; 12];
            frame.extend(ethertype.to_be_bytes());
            frame.extend(&noise);
            let len = frame.len();
            if ethertype == 0x0800 && len > 34 {
                frame[14] = 0x45 | (frame[14] & 1);
                frame[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
                frame[20] &= 0x40;
                frame[23] = protocol;
            } else if ethertype == 0x86dd && len > 54 {
                frame[14] = 0x60;
                frame[18..20].copy_from_slice(&((len - 54) as u16).to_be_bytes());
                frame[20] = protocol;
            }
            frame
        },
    )
}

proptest! {
    #[test]
    fn noise_never_panics(frame in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = parse(&frame);
    }

    #[test]
    fn plausible_noise_agrees_with_an_independent_parser(frame in plausible()) {
        let ours = parse(&frame);
        if let Traffic::Tcp(flow) | Traffic::Udp(flow) = ours {
            let theirs = etherparse::LaxSlicedPacket::from_ethernet(&frame).unwrap();
            let ends = match theirs.net.unwrap() {
                etherparse::LaxNetSlice::Ipv4(ip) => (
                    IpAddr::from(ip.header().destination_addr()),
                    IpAddr::from(ip.header().source_addr()),
                ),
                etherparse::LaxNetSlice::Ipv6(ip) => (
                    IpAddr::from(ip.header().destination_addr()),
                    IpAddr::from(ip.header().source_addr()),
                ),
                etherparse::LaxNetSlice::Arp(_) => panic!("a flow in ARP"),
            };
            prop_assert_eq!(ends, (flow.local.ip(), flow.remote.ip()));
            let ports = match theirs.transport {
                Some(etherparse::TransportSlice::Tcp(tcp)) => {
                    (tcp.destination_port(), tcp.source_port())
                }
                Some(etherparse::TransportSlice::Udp(udp)) => {
                    (udp.destination_port(), udp.source_port())
                }
                // It also refuses a bad TCP data offset or UDP length, which are the stack's affair.
                _ => return Ok(()),
            };
            prop_assert_eq!(ports, (flow.local.port(), flow.remote.port()));
        }
    }
}
