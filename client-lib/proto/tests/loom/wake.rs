//! Words that suppress a second message, wishes, stalls, sleep: no event is lost.

use super::*;

fn told_of_bytes() {
    let World { mut tx, mut writer, .. } = world(2, 4);
    tx.grant();
    let sends = Sends::new();
    let client = thread::spawn({
        let sends = sends.clone();
        move || {
            for byte in 1..=2 {
                assert_eq!(writer.write(&[&[byte]], false), 1);
                if writer.must_tell() {
                    sends.send();
                }
            }
        }
    });
    let mut seen = 0;
    let mut turn = |seen: &mut u8| {
        if sends.take() {
            tx.hear().unwrap();
            consume_on(&mut tx, seen);
        }
    };
    turn(&mut seen);
    turn(&mut seen);
    client.join().unwrap();
    turn(&mut seen);
    assert_eq!(seen, 2, "bytes that nobody told of");
}

#[test]
fn one_send_operation_suppresses_others_and_loses_nothing() {
    check(told_of_bytes);
}

#[test]
#[should_panic(expected = "nobody told of")]
fn must_fail_without_the_order_of_the_told_word() {
    check_weakened(Handover::Told, told_of_bytes);
}

fn told_to_look() {
    let World { mut rx, mut reader, .. } = world(2, 4);
    let looks = Sends::new();
    let daemon = thread::spawn({
        let looks = looks.clone();
        move || {
            for byte in 1..=2 {
                assert_eq!(rx.write(&[byte]), 1);
                rx.publish();
                if rx.must_tell() {
                    looks.send();
                }
            }
            rx
        }
    });
    let mut seen = 0;
    let mut turn = |seen: &mut u8| {
        if looks.take() {
            reader.hear();
            read_on(&mut reader, seen);
        }
    };
    turn(&mut seen);
    turn(&mut seen);
    drop(daemon.join().unwrap());
    turn(&mut seen);
    assert_eq!(seen, 2, "bytes that nobody told of");
}

#[test]
fn one_look_suppresses_others_and_loses_nothing() {
    check(told_to_look);
}

#[test]
#[should_panic(expected = "nobody told of")]
fn must_fail_without_the_order_of_the_look() {
    check_weakened(Handover::Told, told_to_look);
}

/// A client that finds no room wishes for it, looks again and sleeps; the daemon takes room back,
/// grants it and answers wishes. The arena has a single chunk: nothing but this can help.
fn wished_for_room() {
    let World { mut tx, mut writer, .. } = world(1, 2);
    tx.grant();
    let sends = Sends::new();
    let client = thread::spawn({
        let sends = sends.clone();
        move || {
            if writer.write(&[&[1]], false) == 1 && writer.must_tell() {
                sends.send();
            }
            if writer.room(1) > 0 {
                return (writer, false);
            }
            writer.want_room();
            if writer.room(1) > 0 {
                return (writer, false);
            }
            if writer.must_tell() {
                sends.send();
            }
            (writer, true)
        }
    });
    let (mut seen, mut woken) = (0, false);
    let mut turn = |idle: bool| {
        if sends.take() {
            tx.hear().unwrap();
            consume_on(&mut tx, &mut seen);
        } else if idle {
            tx.let_go().unwrap();
        } else {
            return;
        }
        woken |= tx.grant() && tx.take_wanted();
    };
    turn(true);
    let (mut writer, asleep) = client.join().unwrap();
    turn(false);
    assert!(!asleep || woken, "asleep with nobody to wake it");
    assert!(!woken || writer.room(1) > 0);
}

#[test]
fn a_wish_for_room_is_answered() {
    check(wished_for_room);
}

fn sleep_and_wake() {
    let (mut producer, mut consumer) = ring::pair(2);
    let flag = Shared::heap(SleepFlag::default());
    let bell = Arc::new(AtomicU32::new(0));
    let waker = thread::spawn({
        let (flag, bell) = (flag.clone(), Arc::clone(&bell));
        move || {
            for n in 1..=2 {
                assert!(producer.stage(&entry(n)).unwrap());
                producer.publish();
                if flag.is_up() {
                    bell.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    let (mut seen, mut asleep) = (0, false);
    for _ in 0..2 {
        flag.raise();
        asleep = !consumer.look().unwrap();
        if asleep {
            break;
        }
        flag.lower();
        while consumer.pop().unwrap().is_some() {
            seen += 1;
        }
    }
    waker.join().unwrap();
    if asleep && consumer.look().unwrap() {
        assert!(bell.load(Ordering::Relaxed) > 0, "asleep with {seen} of 2 and nobody rang");
    }
}

#[test]
fn no_wake_up_is_lost() {
    check(sleep_and_wake);
}

#[test]
#[should_panic(expected = "nobody rang")]
fn must_fail_without_the_fences_of_sleep_and_wake() {
    check_weakened(Handover::Sleep, sleep_and_wake);
}

fn stalling() {
    let World { mut rx, mut reader, .. } = world(2, 2);
    assert_eq!(rx.write(&[1]), 1);
    rx.publish();
    let daemon = thread::spawn(move || {
        // Nothing was seen of what the client reads meanwhile.
        rx.write(&[2]);
        rx.publish();
        if rx.room() > 0 {
            return (rx, false);
        }
        rx.stall();
        rx.refresh().unwrap();
        let stalled = rx.room() == 0;
        (rx, stalled)
    });
    let (mut seen, mut owes) = (0, false);
    for _ in 0..2 {
        read_on(&mut reader, &mut seen);
        owes |= reader.owes_receive();
    }
    let (_rx, stalled) = daemon.join().unwrap();
    if seen < 2 {
        read_on(&mut reader, &mut seen);
        owes |= reader.owes_receive();
    }
    assert!(!stalled || owes, "stalled, and the client does not know");
}

#[test]
fn a_daemon_that_stalled_hears_of_room() {
    check(stalling);
}

#[test]
#[should_panic(expected = "does not know")]
fn must_fail_without_the_fences_of_a_stall() {
    check_weakened(Handover::Stall, stalling);
}
