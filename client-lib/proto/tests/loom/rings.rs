//! Rings, and moving from one to another.

use super::*;

fn ring_hand_over() {
    let (mut producer, mut consumer) = ring::pair(2);
    let producing = thread::spawn(move || {
        let mut staged = 0;
        for n in 1..=3 {
            if producer.stage(&entry(n)).unwrap() {
                staged = n;
            } else {
                break;
            }
            producer.publish();
        }
        (producer, staged)
    });
    let mut seen = 0;
    for _ in 0..2 {
        if let Some(popped) = consumer.pop().unwrap() {
            seen += 1;
            assert_eq!(popped, entry(seen));
            consumer.release();
        }
    }
    let (mut producer, staged) = producing.join().unwrap();
    for n in staged + 1..=3 {
        assert!(producer.stage(&entry(n)).unwrap() || n > seen + 2);
    }
    producer.publish();
    while let Some(popped) = consumer.pop().unwrap() {
        seen += 1;
        assert_eq!(popped, entry(seen));
    }
    assert!(seen >= 2);
}

#[test]
fn a_ring_hands_entries_over_in_order_around_its_end() {
    check(ring_hand_over);
}

#[test]
#[should_panic(expected = "left == right")]
fn must_fail_without_the_release_of_a_rings_tail() {
    check_weakened(Handover::RingTail, ring_hand_over);
}

fn rehoming() {
    let socket = Socket { slot: 1, generation: 1 };
    let ((old, mut old_theirs), (new, mut new_theirs)) = (ring::pair(2), ring::pair(2));
    let daemon = thread::spawn(move || {
        let (mut old, mut new) = (Outbox::new(old, 4), Outbox::new(new, 4));
        old.push(Completion::Look { socket }).unwrap();
        rehome(&mut old, &mut new, socket).unwrap();
        new.flush().unwrap();
    });
    if let Some(popped) = new_theirs.pop().unwrap() {
        assert_eq!(Completion::decode(&popped), Ok(Completion::Rehomed { socket }));
        let before = old_theirs.pop().unwrap().expect("what came before is there");
        assert_eq!(Completion::decode(&before), Ok(Completion::Look { socket }));
    }
    daemon.join().unwrap();
}

#[test]
fn who_sees_rehomed_sees_all_that_came_before() {
    check(rehoming);
}

#[test]
#[should_panic(expected = "left == right")]
fn must_fail_without_the_release_that_shows_rehomed() {
    check_weakened(Handover::RingTail, rehoming);
}
