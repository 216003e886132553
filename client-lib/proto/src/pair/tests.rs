//! Pairs against a `VecDeque` a direction, and against a side that lies.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::arena::CHUNK_BYTES;
use crate::breach::Breach;
use crate::sync::Ordering;

const CHUNKS: u32 = 2;
const CAPACITY: usize = CHUNKS as usize * CHUNK_BYTES;

#[derive(Clone, Debug)]
enum Operation {
    Write(usize, bool),
    Read(usize),
    Peek(usize),
    Skip(usize),
}

fn operation() -> impl Strategy<Value = (usize, Operation)> {
    let len = || prop_oneof![0..64_usize, 0..CAPACITY + 9, Just(CHUNK_BYTES)];
    let what = prop_oneof![
        3 => (len(), any::<bool>()).prop_map(|(len, whole)| Operation::Write(len, whole)),
        2 => len().prop_map(Operation::Read),
        1 => len().prop_map(Operation::Peek),
        1 => len().prop_map(Operation::Skip),
    ];
    (0..2_usize, what)
}

proptest! {
    #[test]
    fn each_direction_behaves_as_a_bounded_deque(
        operations in prop::collection::vec(operation(), 0..100),
    ) {
        let mut ends = PairParts::heap(CHUNKS).map(|parts| open(&parts, 1, 0));
        let mut models = [VecDeque::new(), VecDeque::new()];
        let mut counter = 0_u64;
        for (writer, operation) in operations {
            let model = &mut models[writer];
            match operation {
                Operation::Write(len, whole) => {
                    let data: Vec<u8> = (0..len).map(|_| {
                        counter += 1;
                        (counter.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
                    }).collect();
                    let room = CAPACITY - model.len();
                    let expected = if whole && len > room { 0 } else { len.min(room) };
                    let (left, right) = data.split_at(len / 3);
                    prop_assert_eq!(ends[writer].0.write(&[left, right], whole), Ok(expected));
                    model.extend(&data[..expected]);
                    prop_assert_eq!(ends[writer].0.queued(), Ok(model.len() as u64));
                }
                Operation::Read(len) => {
                    let mut data = vec![0; len];
                    let read = ends[1 - writer].1.read(&mut data).unwrap();
                    let expected: Vec<u8> = model.drain(..len.min(model.len())).collect();
                    prop_assert_eq!(&data[..read], &expected[..]);
                }
                Operation::Peek(len) => {
                    let mut data = vec![0; len];
                    let read = ends[1 - writer].1.peek(&mut data).unwrap();
                    let expected: Vec<u8> = model.iter().copied().take(len).collect();
                    prop_assert_eq!(&data[..read], &expected[..]);
                }
                Operation::Skip(len) => {
                    let expected = len.min(model.len());
                    prop_assert_eq!(ends[1 - writer].1.skip(len), Ok(expected));
                    model.drain(..expected);
                }
            }
        }
    }

    #[test]
    fn no_scribbling_of_the_other_side_panics(
        lies in prop::collection::vec((0..6_usize, any::<u64>()), 0..60),
    ) {
        let [ours, theirs] = PairParts::heap(CHUNKS);
        let (mut tx, mut rx) = open(&ours, 1, 0);
        let _other = open(&theirs, 1, 0);
        let mut data = vec![0; CAPACITY];
        for (word, lie) in lies {
            let near = lie % (2 * CAPACITY as u64);
            match word {
                0 => theirs.ours.tx_tail.store(near, Ordering::Relaxed),
                1 => theirs.ours.rx_head.store(near, Ordering::Relaxed),
                2 => theirs.ours.tx_tail.store(lie, Ordering::Relaxed),
                3 => theirs.ours.rx_head.store(lie, Ordering::Relaxed),
                4 => theirs.ours.state.store(lie as u32, Ordering::Relaxed),
                // The other side may write our own line as well.
                _ => for word in [&ours.ours.tx_tail, &ours.ours.rx_head] {
                    word.store(lie, Ordering::Relaxed);
                },
            }
            if let Ok(read) = rx.read(&mut data) {
                prop_assert!(read <= CAPACITY);
            }
            if let Ok(room) = tx.room(CAPACITY) {
                prop_assert!(room <= CAPACITY);
            }
            let _ = (tx.write(&[&data[..100]], false), rx.at_end(), tx.queued(), tx.home());
        }
    }

    #[test]
    fn arbitrary_messages_never_panic(mut entry in any::<[u64; 8]>(), look in any::<bool>()) {
        if look { entry[0] = 1; }
        match PairMessage::decode(&entry, 8) {
            Ok(message @ PairMessage::Look { connection, .. }) => {
                prop_assert!(connection < 8);
                prop_assert_eq!(PairMessage::decode(&message.encode(), 8), Ok(message));
            }
            Err(breach) => prop_assert!(matches!(breach, Breach::Operation | Breach::Slot)),
        }
    }
}

#[test]
fn cursors_out_of_range_are_breaches() {
    let [ours, theirs] = PairParts::heap(CHUNKS);
    let ((mut tx, mut rx), (mut other, _)) = (open(&ours, 7, 0), open(&theirs, 7, 0));
    other.write(&[b"abc"], true).unwrap();
    assert_eq!(rx.available(), Ok(3));
    for lie in [2, CAPACITY as u64 + 1, u64::MAX] {
        theirs.ours.tx_tail.store(lie, Ordering::Relaxed);
        assert_eq!(rx.available(), Err(Breach::TxTail), "{lie}");
    }
    tx.write(&[&vec![0; CAPACITY]], true).unwrap();
    theirs.ours.rx_head.store(9, Ordering::Relaxed);
    assert_eq!(tx.room(1), Ok(9));
    for lie in [8, CAPACITY as u64 + 1, u64::MAX] {
        theirs.ours.rx_head.store(lie, Ordering::Relaxed);
        assert_eq!(tx.room(10), Err(Breach::RxHead), "{lie}");
    }
    theirs.ours.home.store(1, Ordering::Relaxed);
    assert_eq!(tx.home(), Err(Breach::Context));
}

#[test]
fn a_line_of_an_earlier_connection_is_not_looked_at() {
    let [ours, theirs] = PairParts::heap(CHUNKS);
    let (mut old, _) = open(&theirs, 1, 0);
    old.write(&[b"of the first connection"], true).unwrap();
    old.finish();
    // This side opens the second connection of that number first.
    let (mut tx, mut rx) = open(&ours, 2, 0);
    assert_eq!((rx.available(), rx.at_end()), (Ok(0), Ok(false)));
    tx.write(&[b"early"], true).unwrap();
    let (mut their_tx, mut their_rx) = open(&theirs, 2, 0);
    let mut data = [0; 5];
    assert_eq!((their_rx.read(&mut data), &data), (Ok(5), b"early"));
    their_tx.write(&[b"later"], true).unwrap();
    assert_eq!((rx.read(&mut data), &data, tx.queued()), (Ok(5), b"later", Ok(0)));
}

#[test]
fn nothing_comes_behind_the_end() {
    let [ours, theirs] = PairParts::heap(CHUNKS);
    let ((_, mut rx), (mut other, _)) = (open(&ours, 1, 0), open(&theirs, 1, 0));
    other.write(&[b"end"], true).unwrap();
    other.finish();
    assert_eq!(rx.at_end(), Ok(false), "three bytes are unread");
    other.write(&[b"!"], true).unwrap();
    theirs.ours.state.store(0, Ordering::Relaxed);
    assert_eq!((rx.skip(9), rx.at_end()), (Ok(3), Ok(true)));
}

#[test]
fn both_sides_of_a_region_meet_and_no_two_places_overlap() {
    let geometry = PairGeometry { connections: 3, contexts: [2, 3], chunks: CHUNKS };
    let first = PairMemory::create(geometry).unwrap();
    let fd = first.region().fd().try_clone_to_owned().unwrap();
    let second = PairMemory::open(geometry, Side::Second, fd).unwrap();
    let mut ends: Vec<_> = (0..3)
        .map(|n| (open(&first.connection(n), 1, 0), open(&second.connection(n), 1, 0)))
        .collect();
    for (n, ((tx, _), (other, _))) in ends.iter_mut().enumerate() {
        assert_eq!(tx.write(&[&vec![n as u8; CAPACITY]], true), Ok(CAPACITY));
        assert_eq!(other.write(&[&vec![n as u8 + 100; CAPACITY]], true), Ok(CAPACITY));
    }
    for ours in 0..2 {
        for theirs in 0..3 {
            let mut out = crate::ring::Producer::new(first.outgoing(ours, theirs));
            let mut back = crate::ring::Producer::new(second.outgoing(theirs, ours));
            let word = u64::from(ours * 3 + theirs);
            assert_eq!(out.stage(&[word; 8]), Ok(true));
            assert_eq!(back.stage(&[word + 50; 8]), Ok(true));
            assert!(out.publish() && back.publish());
            first.context(Side::First, ours).pending.fetch_or(1 << theirs, Ordering::Relaxed);
        }
    }
    for ours in 0..2 {
        assert_eq!(second.context(Side::First, ours).pending.load(Ordering::Relaxed), 0b111);
        for theirs in 0..3 {
            let mut inbox = crate::ring::Consumer::new(second.incoming(theirs, ours));
            let mut back = crate::ring::Consumer::new(first.incoming(ours, theirs));
            let word = u64::from(ours * 3 + theirs);
            assert_eq!(inbox.pop(), Ok(Some([word; 8])));
            assert_eq!(back.pop(), Ok(Some([word + 50; 8])));
        }
    }
    let mut data = vec![0; CAPACITY];
    for (n, ((_, rx), (_, other))) in ends.iter_mut().enumerate() {
        assert_eq!(rx.read(&mut data), Ok(CAPACITY));
        assert!(data.iter().all(|&byte| byte == n as u8 + 100));
        assert_eq!(other.read(&mut data), Ok(CAPACITY));
        assert!(data.iter().all(|&byte| byte == n as u8));
    }
}
