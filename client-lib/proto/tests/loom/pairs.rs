//! Pairs of clients.

use super::*;

fn pair_hand_over() {
    let [first, second] = PairParts::heap(2);
    let (mut tx, _) = pair::open(&first, 1, 0);
    let (_, mut rx) = pair::open(&second, 1, 0);
    let writing = thread::spawn(move || {
        let mut written = u8::try_from(tx.write(&[&[1, 2, 3]], false).unwrap()).unwrap();
        let more: Vec<u8> = (written + 1..=written + 2).collect();
        written += u8::try_from(tx.write(&[&more], false).unwrap()).unwrap();
        tx.finish();
        (tx, written)
    });
    let mut seen = 0;
    let mut read = |seen: &mut u8| {
        let mut bytes = [0; 4];
        let len = rx.read(&mut bytes).unwrap();
        for byte in &bytes[..len] {
            *seen += 1;
            assert_eq!(byte, seen);
        }
    };
    read(&mut seen);
    read(&mut seen);
    let (_tx, written) = writing.join().unwrap();
    read(&mut seen);
    assert_eq!(seen, written);
    assert_eq!(rx.at_end(), Ok(true));
}

#[test]
fn a_pair_hands_bytes_over_around_the_end_of_its_ring() {
    check(pair_hand_over);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn must_fail_without_the_release_of_a_pairs_bytes() {
    check_weakened(Handover::TxTail, pair_hand_over);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn must_fail_without_the_release_of_a_pairs_memory() {
    check_weakened(Handover::RxHead, pair_hand_over);
}

fn pair_opening() {
    let [first, second] = PairParts::heap(1);
    let (mut old, _) = pair::open(&first, 1, 0);
    assert_eq!(old.write(&[&[9]], true), Ok(1));
    let (_, mut rx) = pair::open(&second, 2, 0);
    let opening = thread::spawn(move || {
        let (mut tx, _) = pair::open(&first, 2, 0);
        assert_eq!(tx.write(&[&[7, 8]], true), Ok(2));
    });
    let mut bytes = [0; 2];
    let len = rx.read(&mut bytes).unwrap();
    assert_eq!(bytes[..len], [7, 8][..len]);
    opening.join().unwrap();
}

#[test]
fn a_connection_that_is_opened_anew_shows_nothing_old() {
    check(pair_opening);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn must_fail_without_the_release_of_a_pairs_generation() {
    check_weakened(Handover::PairOpen, pair_opening);
}

fn pair_told() {
    let [first, second] = PairParts::heap(2);
    let (mut tx, _) = pair::open(&first, 1, 0);
    let (_, mut rx) = pair::open(&second, 1, 0);
    let looks = Sends::new();
    let writing = thread::spawn({
        let looks = looks.clone();
        move || {
            for byte in 1..=2 {
                assert_eq!(tx.write(&[&[byte]], true), Ok(1));
                if tx.must_tell() {
                    looks.send();
                }
            }
        }
    });
    let mut seen = 0;
    let mut turn = || {
        if looks.take() {
            rx.hear();
            seen += rx.skip(4).unwrap();
        }
    };
    turn();
    turn();
    writing.join().unwrap();
    turn();
    assert_eq!(seen, 2, "bytes that nobody told of");
}

#[test]
fn one_message_of_a_pair_suppresses_others_and_loses_nothing() {
    check(pair_told);
}

#[test]
#[should_panic(expected = "nobody told of")]
fn must_fail_without_the_order_of_a_pairs_told_word() {
    check_weakened(Handover::Told, pair_told);
}
