//! FIFOs: bytes and memory change hands.

use super::*;

fn rx_hand_over() {
    let World { mut rx, mut reader, .. } = world(2, 4);
    let daemon = thread::spawn(move || {
        let mut written = u8::try_from(rx.write(&[1, 2, 3])).unwrap();
        rx.publish();
        rx.let_go().unwrap();
        let more: Vec<u8> = (written + 1..=written + 3).collect();
        written += u8::try_from(rx.write(&more)).unwrap();
        rx.publish();
        (rx, written)
    });
    let mut seen = 0;
    read_on(&mut reader, &mut seen);
    read_on(&mut reader, &mut seen);
    let (mut rx, written) = daemon.join().unwrap();
    read_on(&mut reader, &mut seen);
    assert_eq!(seen, written);
    assert!(rx.let_go().unwrap());
}

#[test]
fn rx_crosses_chunks_and_begins_anew() {
    check(rx_hand_over);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn must_fail_without_the_release_of_received_bytes() {
    check_weakened(Handover::RxTail, rx_hand_over);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn must_fail_without_the_release_of_read_memory() {
    check_weakened(Handover::RxHead, rx_hand_over);
}

fn end_of_stream() {
    let World { parts, mut rx, mut reader, .. } = world(2, 4);
    let daemon = thread::spawn(move || {
        rx.write(&[1]);
        rx.publish();
        parts.daemon.raise(State::RX_ENDED);
        rx
    });
    let mut seen = 0;
    read_on(&mut reader, &mut seen);
    if reader.at_end() {
        assert_eq!(seen, 1, "the end came before the last byte");
    }
    drop(daemon.join().unwrap());
}

#[test]
fn the_end_of_a_stream_comes_behind_its_last_byte() {
    check(end_of_stream);
}

fn tx_hand_over() {
    let World { mut tx, mut writer, .. } = world(3, 4);
    tx.grant();
    let client = thread::spawn(move || {
        let mut written = u8::try_from(writer.write(&[&[1], &[2]], false)).unwrap();
        let more: Vec<u8> = (written + 1..=written + 2).collect();
        written += u8::try_from(writer.write(&[&more], false)).unwrap();
        (writer, written)
    });
    let mut seen = 0;
    tx.refresh().unwrap();
    tx.grant();
    consume_on(&mut tx, &mut seen);
    let (_writer, written) = client.join().unwrap();
    tx.refresh().unwrap();
    consume_on(&mut tx, &mut seen);
    assert_eq!(seen, written);
    assert!(written >= 2 && tx.let_go().unwrap());
}

#[test]
fn tx_crosses_chunks() {
    check(tx_hand_over);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn must_fail_without_the_release_of_written_bytes() {
    check_weakened(Handover::TxTail, tx_hand_over);
}

fn letting_go() {
    let World { parts, pool, mut tx, mut writer, .. } = world(2, 2);
    tx.grant();
    let client = thread::spawn(move || {
        let mut written = u8::try_from(writer.write(&[&[1]], false)).unwrap();
        written += u8::try_from(writer.write(&[&[written + 1]], false)).unwrap();
        (writer, written)
    });
    let mut seen = 0;
    tx.refresh().unwrap();
    consume_on(&mut tx, &mut seen);
    if tx.let_go().unwrap() {
        // Another socket gets the chunk and fills it.
        let chunk = pool.take().unwrap();
        parts.arena.copy_in(chunk, 0, &[99, 99]);
    }
    tx.grant();
    let (mut writer, mut written) = client.join().unwrap();
    tx.refresh().unwrap();
    consume_on(&mut tx, &mut seen);
    tx.grant();
    written += u8::try_from(writer.write(&[&[written + 1]], false)).unwrap();
    tx.refresh().unwrap();
    consume_on(&mut tx, &mut seen);
    assert_eq!(seen, written, "what was written is read");
    assert!(written > 0);
}

#[test]
fn room_is_taken_back_only_while_nobody_writes() {
    check(letting_go);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn must_fail_without_the_release_of_the_claim() {
    check_weakened(Handover::TxClaim, letting_go);
}
