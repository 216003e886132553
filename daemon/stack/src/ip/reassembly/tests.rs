//! What the reassembler makes of any fragmentation, and of nonsense.

use dmm_port::flow::parse;
use etherparse::PacketBuilder;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// A whole frame with a UDP datagram, and where its IP payload begins.
fn datagram(v4: bool, source: u8, payload: &[u8]) -> (Vec<u8>, usize) {
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let mut frame = Vec::new();
    if v4 {
        let packet = link.ipv4([10, 0, 0, source], [10, 0, 0, 1], 64).udp(7, 9);
        packet.write(&mut frame, payload).unwrap();
        // The builder sets "don't fragment", which a packet of several pieces does not have.
        set_word(&mut frame, 0);
        (frame, 34)
    } else {
        link.ipv6([source; 16], [1; 16], 64).udp(7, 9).write(&mut frame, payload).unwrap();
        (frame, 54)
    }
}

/// Sets an IPv4 frame's flags and offset, and its header's checksum.
fn set_word(frame: &mut [u8], word: u16) {
    frame[20..22].copy_from_slice(&word.to_be_bytes());
    mend(frame);
}

fn mend(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let mut sum: u32 =
        frame[14..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    sum = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
}

/// The fragment with `data` at `offset` of the packet that `whole` holds, identified by `id`.
fn fragment(whole: &(Vec<u8>, usize), id: u16, offset: usize, more: bool, data: &[u8]) -> Vec<u8> {
    let (frame, payload_at) = whole;
    let mut piece = frame[..*payload_at].to_vec();
    if frame[12] == 8 {
        piece[16..18].copy_from_slice(&(20 + data.len() as u16).to_be_bytes());
        piece[18..20].copy_from_slice(&id.to_be_bytes());
        set_word(&mut piece, u16::from(more) << 13 | (offset / 8) as u16);
    } else {
        piece[18..20].copy_from_slice(&(8 + data.len() as u16).to_be_bytes());
        let protocol = std::mem::replace(&mut piece[20], 44);
        piece.extend([protocol, 0]);
        piece.extend((offset as u16 | u16::from(more)).to_be_bytes());
        piece.extend([0, 0]);
        piece.extend(id.to_be_bytes());
    }
    piece.extend(data);
    piece
}

/// All fragments of a frame, cut at the given units of 8 bytes.
fn cut(whole: &(Vec<u8>, usize), id: u16, units: &[usize]) -> Vec<Vec<u8>> {
    let payload = &whole.0[whole.1..];
    let mut places: Vec<_> = units.iter().map(|unit| unit * 8).collect();
    places.retain(|place| (1..payload.len()).contains(place));
    places.extend([0, payload.len()]);
    places.sort_unstable();
    places.dedup();
    let pairs = places.windows(2);
    pairs
        .map(|ends| {
            let data = &payload[ends[0]..ends[1]];
            fragment(whole, id, ends[0], ends[1] < payload.len(), data)
        })
        .collect()
}

/// A frame as it comes out again: with the identification that its pieces had.
fn expected(whole: &(Vec<u8>, usize), id: u16) -> Vec<u8> {
    let mut frame = whole.0.clone();
    if frame[12] == 8 {
        frame[18..20].copy_from_slice(&id.to_be_bytes());
        mend(&mut frame);
    }
    frame
}

fn held(reassembler: &Reassembler) -> (usize, usize) {
    (reassembler.packets.len(), reassembler.packets.iter().map(Packet::cost).sum())
}

const FAMILIES: [bool; 2] = [true, false];

#[test]
fn the_longest_packets_come_out() {
    for (v4, longest) in [(true, 65_507), (false, 65_527)] {
        let whole = datagram(v4, 2, &vec![7; longest]);
        let units: Vec<_> = (0..48).map(|n| n * 181).collect();
        let mut reassembler = Reassembler::default();
        let mut frames = cut(&whole, 5, &units).into_iter().rev();
        let out = frames.find_map(|frame| reassembler.receive(Instant::ZERO, &frame));
        assert_eq!(out, Some(expected(&whole, 5)));
        assert!(matches!(parse(&out.unwrap()), Traffic::Udp(_)));
        assert_eq!((held(&reassembler), frames.next()), ((0, 0), None));
        assert_eq!(reassembler.take_losses(), Losses::default());
    }
}

#[test]
fn what_reaches_beyond_the_longest_packet_is_malformed() {
    for v4 in FAMILIES {
        let whole = datagram(v4, 2, &[7; 16]);
        let mut reassembler = Reassembler::default();
        let beyond = fragment(&whole, 5, 65_528, false, &[1; 8]);
        assert_eq!(reassembler.receive(Instant::ZERO, &beyond), None);
        assert_eq!(reassembler.take_losses(), Losses { malformed: 1, ..Losses::default() });
        assert_eq!(held(&reassembler), (0, 0));
    }
}

#[test]
fn overlaps_void_the_packet_and_what_still_comes_of_it() {
    for v4 in FAMILIES {
        let whole = datagram(v4, 2, &[7; 40]);
        let pieces = cut(&whole, 5, &[2, 4]);
        let now = Instant::ZERO;
        let others = [
            fragment(&whole, 5, 8, true, &[7; 16]),
            fragment(&whole, 5, 0, true, &[9; 16]),
            fragment(&whole, 5, 0, true, &[7; 24]),
            fragment(&whole, 5, 8, false, &[7; 4]),
        ];
        for other in others {
            let mut reassembler = Reassembler::default();
            for piece in [&pieces[0], &pieces[1], &other, &pieces[2], &pieces[0]] {
                assert_eq!(reassembler.receive(now, piece), None);
            }
            assert_eq!(reassembler.take_losses(), Losses { overlap: 5, ..Losses::default() });
            assert_eq!(held(&reassembler), (1, 0));
            reassembler.expire(now + LIFE);
            assert_eq!(reassembler.take_losses(), Losses::default());
            assert_eq!(held(&reassembler), (0, 0));
        }
    }
}

#[test]
fn two_ends_contradict_each_other() {
    for v4 in FAMILIES {
        let whole = datagram(v4, 2, &[7; 40]);
        let mut reassembler = Reassembler::default();
        reassembler.receive(Instant::ZERO, &fragment(&whole, 5, 16, false, &[1; 8]));
        reassembler.receive(Instant::ZERO, &fragment(&whole, 5, 24, true, &[1; 8]));
        assert_eq!(reassembler.take_losses().overlap, 2);
        reassembler.receive(Instant::ZERO, &fragment(&whole, 6, 24, true, &[1; 8]));
        reassembler.receive(Instant::ZERO, &fragment(&whole, 6, 16, false, &[1; 8]));
        assert_eq!(reassembler.take_losses().overlap, 2);
    }
}

#[test]
fn ragged_empty_and_damaged_pieces_are_malformed_and_harm_nobody() {
    for v4 in FAMILIES {
        let whole = datagram(v4, 2, &[7; 40]);
        let pieces = cut(&whole, 5, &[2]);
        let mut reassembler = Reassembler::default();
        let mut bad = vec![
            fragment(&whole, 5, 16, true, &[7; 15]),
            fragment(&whole, 5, 16, true, &[]),
            fragment(&whole, 5, 0, false, &[7; 16]),
        ];
        if v4 {
            let mut damaged = pieces[1].clone();
            damaged[22] ^= 1;
            bad.push(damaged);
        }
        assert_eq!(reassembler.receive(Instant::ZERO, &pieces[0]), None);
        for piece in &bad {
            assert_eq!(reassembler.receive(Instant::ZERO, piece), None);
        }
        assert_eq!(reassembler.take_losses().malformed, bad.len() as u64);
        let out = reassembler.receive(Instant::ZERO, &pieces[1]);
        assert_eq!(out, Some(expected(&whole, 5)));
    }
}

#[test]
fn options_tags_and_extension_headers_of_the_first_piece_stay() {
    // A VLAN tag, and 4 bytes of IPv4 options.
    let payload: Vec<u8> = (0..40).collect();
    let head = |word: u16, len: u16| {
        let mut frame = vec![2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 0x81, 0, 0, 5, 8, 0];
        frame.extend([0x46, 0]);
        frame.extend(len.to_be_bytes());
        frame.extend([0, 9]);
        frame.extend(word.to_be_bytes());
        frame.extend([64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1, 1, 1, 1, 1]);
        let sum =
            (18..42).step_by(2).map(|at| u32::from(frame[at]) << 8 | u32::from(frame[at + 1]));
        let sum = sum.sum::<u32>();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        frame[28..30].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    let mut reassembler = Reassembler::default();
    let first = [head(0x2000, 40), payload[..16].to_vec()].concat();
    let last = [head(2, 48), payload[16..].to_vec()].concat();
    assert_eq!(reassembler.receive(Instant::ZERO, &last), None);
    let out = reassembler.receive(Instant::ZERO, &first);
    assert_eq!(out, Some([head(0, 64), payload.clone()].concat()));
    // Destination options before the fragment header, and a piece that names another protocol.
    let head = |extra: &[u8], len: u16| {
        let mut frame = vec![2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 0x86, 0xdd, 0x60, 0, 0, 0];
        frame.extend(len.to_be_bytes());
        frame.extend([60, 64]);
        frame.extend([[3; 16], [1; 16]].concat());
        frame.extend(extra);
        frame
    };
    let first = head(&[44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9], 32);
    let last = head(&[44, 0, 1, 4, 0, 0, 0, 0, 6, 0, 0, 16, 0, 0, 0, 9], 40);
    let first = [first, payload[..16].to_vec()].concat();
    let last = [last, payload[16..].to_vec()].concat();
    assert_eq!(reassembler.receive(Instant::ZERO, &first), None);
    let out = reassembler.receive(Instant::ZERO, &last);
    assert_eq!(out, Some([head(&[17, 0, 1, 4, 0, 0, 0, 0], 48), payload].concat()));
}

#[test]
fn a_packet_that_is_a_fragment_again_is_malformed() {
    let whole = datagram(false, 2, &[7; 40]);
    let inner = &fragment(&whole, 5, 0, true, &whole.0[whole.1..][..32])[54..];
    let mut reassembler = Reassembler::default();
    let mut pieces =
        [fragment(&whole, 6, 0, true, &inner[..16]), fragment(&whole, 6, 16, false, &inner[16..])];
    pieces.iter_mut().for_each(|piece| piece[54] = 44);
    for piece in &pieces {
        assert_eq!(reassembler.receive(Instant::ZERO, piece), None);
    }
    assert_eq!(reassembler.take_losses(), Losses { malformed: 2, ..Losses::default() });
}

#[test]
fn the_oldest_gives_way_and_a_sender_has_a_share() {
    for v4 in FAMILIES {
        let now = Instant::ZERO;
        let mut reassembler = Reassembler::default();
        let good = datagram(v4, 200, &[7; 40]);
        let pieces = cut(&good, 1, &[2]);
        reassembler.receive(now, &pieces[0]);
        // One sender pushes out its own alone.
        let bad = datagram(v4, 2, &[7; 40]);
        for id in 0..1000 {
            reassembler.receive(now, &fragment(&bad, id, 16, true, &[1; 8]));
        }
        let theirs = PACKETS_PER_SOURCE as u64;
        assert_eq!(
            reassembler.take_losses(),
            Losses { evicted: 1000 - theirs, ..Losses::default() }
        );
        assert_eq!(reassembler.receive(now, &pieces[1]), Some(expected(&good, 1)));
        // Many push out the oldest.
        reassembler.receive(now, &pieces[0]);
        for source in 0..PACKETS_MAX as u8 {
            let bad = datagram(v4, source, &[7; 40]);
            reassembler.receive(now, &fragment(&bad, 2000, 16, true, &[1; 8]));
        }
        assert_eq!(reassembler.packets.len(), PACKETS_MAX);
        assert_eq!(reassembler.receive(now, &pieces[1]), None);
        assert_eq!(reassembler.receive(now, &pieces[0]), Some(expected(&good, 1)));
    }
}

#[test]
fn what_takes_too_long_is_given_up() {
    for v4 in FAMILIES {
        let whole = datagram(v4, 2, &[7; 40]);
        let pieces = cut(&whole, 5, &[2, 4]);
        let mut reassembler = Reassembler::default();
        reassembler.receive(Instant::ZERO, &pieces[0]);
        let later = Instant::ZERO + LIFE / 2;
        reassembler.receive(later, &pieces[1]);
        assert_eq!(reassembler.next_expiry(), Some(Instant::ZERO + LIFE));
        assert_eq!(reassembler.receive(Instant::ZERO + LIFE, &pieces[2]), None);
        assert_eq!(reassembler.take_losses(), Losses { timeout: 2, ..Losses::default() });
        assert_eq!(reassembler.next_expiry(), Some(Instant::ZERO + LIFE + LIFE));
    }
}

#[test]
fn pieces_of_a_packet_are_limited() {
    for v4 in FAMILIES {
        let whole = datagram(v4, 2, &vec![7; 8 * PIECES_MAX]);
        let units: Vec<_> = (0..=PIECES_MAX).collect();
        let mut reassembler = Reassembler::default();
        for piece in cut(&whole, 5, &units) {
            assert_eq!(reassembler.receive(Instant::ZERO, &piece), None);
        }
        assert_eq!(reassembler.take_losses().malformed, PIECES_MAX as u64 + 1);
    }
}

/// A packet, where it is cut, the order in which its pieces go, and which of them go twice.
fn fragmentation() -> impl Strategy<Value = ((Vec<u8>, usize), Vec<usize>, Vec<Index>)> {
    let payload = proptest::collection::vec(any::<u8>(), 9..3000);
    let units = proptest::collection::vec(0..376_usize, 1..100);
    let order = proptest::collection::vec(any::<Index>(), 0..200);
    (any::<bool>(), payload, units, order)
        .prop_map(|(v4, payload, units, order)| (datagram(v4, 2, &payload), units, order))
}

/// A fragment of any sort, few of which fit together.
fn any_fragment() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![0..40_usize, 1000..1480_usize];
    let offset = prop_oneof![0..20_usize, 0..8192_usize];
    (any::<bool>(), 0..6_u8, 0..40_u16, offset, any::<bool>(), len).prop_map(
        |(v4, source, id, unit, more, len)| {
            let whole = datagram(v4, source, &[]);
            fragment(
                &whole,
                id,
                unit * 8,
                more,
                &vec![len as u8; if more { len & !7 } else { len }],
            )
        },
    )
}

proptest! {
    #[test]
    fn any_order_with_duplicates_gives_the_packet_back(
        (whole, units, order) in fragmentation(),
    ) {
        let pieces = cut(&whole, 77, &units);
        prop_assume!(pieces.len() > 1);
        let mut reassembler = Reassembler::default();
        // Some go in any order and more than once, then all of them do.
        let some = order.iter().map(|index| index.get(&pieces));
        let mut out = Vec::new();
        for piece in some.chain(&pieces) {
            out.extend(reassembler.receive(Instant::ZERO, piece));
        }
        prop_assert!(!out.is_empty());
        prop_assert!(out.iter().all(|frame| *frame == expected(&whole, 77)));
        prop_assert_eq!(reassembler.take_losses(), Losses::default());
    }

    #[test]
    fn bounds_hold_and_every_piece_is_accounted_for(
        fragments in proptest::collection::vec(any_fragment(), 0..600),
    ) {
        let mut reassembler = Reassembler::default();
        let (mut total, mut lost) = (0, 0);
        for (n, piece) in fragments.iter().enumerate() {
            // The last of them see the first expire.
            let now = Instant::ZERO + LIFE / 400 * n as u32;
            let before: usize = reassembler.packets.iter().map(|packet| packet.pieces.len()).sum();
            let whole = reassembler.receive(now, piece).is_some();
            let Losses { timeout, evicted, overlap, malformed } = reassembler.take_losses();
            let after: usize = reassembler.packets.iter().map(|packet| packet.pieces.len()).sum();
            let loss = timeout + evicted + overlap + malformed;
            // What was held and is not any more is lost, unless it came out or was there already.
            let vanished = before + 1 - after - loss as usize;
            prop_assert!(whole || vanished == usize::from(vanished == 1 && fragments[..n].contains(piece)));
            (total, lost) = (total + 1, lost + loss);
            prop_assert!(reassembler.packets.len() <= PACKETS_MAX);
            prop_assert!(held(&reassembler).1 <= BYTES_MAX);
            for source in reassembler.packets.iter().map(|packet| packet.key.remote) {
                let theirs = || reassembler.packets.iter().filter(|p| p.key.remote == source);
                prop_assert!(theirs().count() <= PACKETS_PER_SOURCE);
                prop_assert!(theirs().map(Packet::cost).sum::<usize>() <= BYTES_PER_SOURCE);
            }
        }
        prop_assert!(lost <= total);
    }

    #[test]
    fn nonsense_does_no_harm(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
        v4 in any::<bool>(),
        at in any::<Index>(),
        (value, len) in (any::<u8>(), any::<Index>()),
    ) {
        let mut reassembler = Reassembler::default();
        reassembler.receive(Instant::ZERO, &bytes);
        let head = if v4 { [8, 0, 0x45] } else { [0x86, 0xdd, 0x60] };
        if bytes.len() > 14 {
            bytes[12..15].copy_from_slice(&head);
        }
        reassembler.receive(Instant::ZERO, &bytes);
        let whole = datagram(v4, 2, &[7; 40]);
        for mut piece in cut(&whole, 5, &[2, 4]) {
            let place = at.index(piece.len());
            piece[place] = value;
            piece.truncate(len.index(piece.len() + 1));
            if v4 && piece.len() >= 34 {
                mend(&mut piece);
            }
            reassembler.receive(Instant::ZERO, &piece);
        }
    }
}
