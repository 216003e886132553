//! FIFOs against a `VecDeque`, driven by one enum of operations.

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;

use super::datagram::Header;
use super::{FifoParts, RxFifo, RxReader, TxFifo, TxWriter};
use crate::arena::{CHUNK_BYTES, ChunkPool};
use crate::breach::Breach;
use crate::op::Address;
use crate::sync::Ordering;

const CHUNKS: u32 = 6;
const CAPACITY: u32 = 3 * CHUNK_BYTES as u32;

struct World {
    parts: FifoParts,
    pool: Arc<ChunkPool>,
    rx: RxFifo,
    reader: RxReader,
    tx: TxFifo,
    writer: TxWriter,
}

fn world() -> World {
    let parts = FifoParts::heap(CHUNKS);
    let pool = Arc::new(ChunkPool::new(CHUNKS));
    parts.daemon.reset(CAPACITY);
    World {
        rx: RxFifo::new(&parts, Arc::clone(&pool), CAPACITY),
        reader: RxReader::new(&parts),
        tx: TxFifo::new(&parts, Arc::clone(&pool), CAPACITY),
        writer: TxWriter::new(&parts),
        parts,
        pool,
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Write(usize),
    Read(usize),
    Peek(usize),
    LetGo,
    Grant,
}

fn operation() -> impl Strategy<Value = Operation> {
    let len = || prop_oneof![0..64_usize, 0..2 * CHUNK_BYTES, Just(CHUNK_BYTES)];
    prop_oneof![
        3 => len().prop_map(Operation::Write),
        3 => len().prop_map(Operation::Read),
        1 => len().prop_map(Operation::Peek),
        1 => Just(Operation::LetGo),
        1 => Just(Operation::Grant),
    ]
}

/// Bytes that differ from their neighbours and from other chunks' bytes.
fn bytes(counter: &mut u64, len: usize) -> Vec<u8> {
    (0..len)
        .map(|_| {
            *counter += 1;
            (counter.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
        })
        .collect()
}

proptest! {
    #[test]
    fn rx_behaves_as_a_bounded_deque(operations in prop::collection::vec(operation(), 0..80)) {
        let mut w = world();
        let (mut model, mut counter) = (VecDeque::new(), 0);
        for operation in operations {
            match operation {
                Operation::Write(len) => {
                    w.rx.refresh().unwrap();
                    let room = w.rx.room() as usize;
                    let data = bytes(&mut counter, len);
                    let written = w.rx.write(&data);
                    w.rx.publish();
                    prop_assert_eq!(written, len.min(room));
                    model.extend(&data[..written]);
                }
                Operation::Read(len) => {
                    let mut data = vec![0; len];
                    let read = w.reader.read(&mut data);
                    let expected: Vec<u8> = model.drain(..len.min(model.len())).collect();
                    prop_assert_eq!(&data[..read], &expected[..]);
                }
                Operation::Peek(len) => {
                    let mut data = vec![0; len];
                    let read = w.reader.peek(&mut data);
                    let expected: Vec<u8> = model.iter().copied().take(len).collect();
                    prop_assert_eq!(&data[..read], &expected[..]);
                }
                Operation::LetGo => prop_assert_eq!(
                    w.rx.let_go().unwrap(),
                    w.rx.chunks() == 0
                ),
                Operation::Grant => {}
            }
        }
        let mut rest = vec![0; model.len()];
        prop_assert_eq!(w.reader.read(&mut rest), model.len());
        prop_assert!(w.rx.let_go().unwrap());
        prop_assert_eq!(w.pool.used(), 0);
    }

    #[test]
    fn tx_behaves_as_a_bounded_deque(operations in prop::collection::vec(operation(), 0..80)) {
        let mut w = world();
        let (mut model, mut counter) = (VecDeque::new(), 0);
        for operation in operations {
            match operation {
                Operation::Write(len) => {
                    let room = w.writer.room(len);
                    let data = bytes(&mut counter, len);
                    let (left, right) = data.split_at(len / 3);
                    let written = w.writer.write(&[left, right], false);
                    prop_assert_eq!(written, len.min(room));
                    model.extend(&data[..written]);
                }
                Operation::Read(len) => {
                    w.tx.hear().unwrap();
                    prop_assert_eq!(w.tx.queued() as usize, model.len());
                    let mut data = vec![0; len];
                    let read = w.tx.copy_out(0, &mut data);
                    w.tx.consume(read);
                    let expected: Vec<u8> = model.drain(..len.min(model.len())).collect();
                    prop_assert_eq!(&data[..read], &expected[..]);
                }
                Operation::Peek(len) => {
                    w.tx.refresh().unwrap();
                    let mut data = vec![0; len];
                    let read = w.tx.copy_out(len / 2, &mut data);
                    let expected: Vec<u8> = model.iter().copied().skip(len / 2).take(len).collect();
                    prop_assert_eq!(&data[..read], &expected[..]);
                }
                Operation::LetGo => {
                    prop_assert_eq!(w.tx.let_go().unwrap(), model.is_empty() || w.tx.chunks() == 0);
                }
                Operation::Grant => { w.tx.refresh().unwrap(); w.tx.grant(); }
            }
            prop_assert!(w.tx.chunks() <= CAPACITY as usize / CHUNK_BYTES + 2);
        }
        w.tx.refresh().unwrap();
        w.tx.consume(model.len());
        prop_assert!(w.tx.let_go().unwrap());
        prop_assert_eq!(w.pool.used(), 0);
    }

    #[test]
    fn datagrams_behave_as_a_deque(lens in prop::collection::vec((0..9000_usize, any::<bool>()), 0..60)) {
        let mut w = world();
        let peer = Address("10.0.0.1:7".parse().unwrap());
        let (mut rx_model, mut tx_model) = (VecDeque::new(), VecDeque::new());
        let mut counter = 0;
        w.tx.grant();
        for (len, drain) in lens {
            let data = bytes(&mut counter, len);
            let header = Header { len, peer: Some(peer), local: None };
            w.rx.refresh().unwrap();
            if w.rx.write_datagram(&header, &data) { rx_model.push_back(data.clone()); }
            w.rx.publish();
            w.tx.refresh().unwrap();
            w.tx.grant();
            if w.writer.write_datagram(&header, &data) { tx_model.push_back(data); }
            if drain {
                let mut buffer = vec![0; 9000];
                let received = w.reader.read_datagram(&mut buffer, false);
                prop_assert_eq!(received.map(|h| buffer[..h.len].to_vec()), rx_model.pop_front());
                w.tx.refresh().unwrap();
                let header = w.tx.next_datagram().unwrap();
                let sent = header.map(|h| {
                    let mut payload = vec![0; h.len];
                    w.tx.copy_payload(&mut payload);
                    w.tx.consume_datagram(&h);
                    payload
                });
                prop_assert_eq!(sent, tx_model.pop_front());
            }
        }
    }
}

#[test]
fn out_of_order_bytes_wait_behind_the_tail() {
    let mut w = world();
    assert_eq!(w.rx.reserve(10), 10);
    w.rx.write_at(5, b"world");
    assert!(!w.rx.publish());
    w.rx.write_at(0, b"hello");
    w.rx.advance(10);
    assert!(w.rx.publish());
    let mut data = [0; 10];
    assert_eq!((w.reader.read(&mut data), &data), (10, b"helloworld"));
}

#[test]
fn an_idle_socket_holds_no_chunk_and_wakes_up_again() {
    let mut w = world();
    assert!(w.tx.grant());
    assert_eq!(w.writer.write(&[b"abc"], false), 3);
    w.tx.refresh().unwrap();
    assert!(!w.tx.let_go().unwrap(), "unsent bytes keep their chunk");
    w.tx.consume(3);
    assert!(w.tx.let_go().unwrap());
    assert_eq!(w.pool.used(), 0);
    assert_eq!(w.writer.write(&[b"def"], false), 0, "no room until granted");
    w.writer.want_room();
    assert!(w.tx.grant() && w.tx.take_wanted());
    assert_eq!(w.writer.write(&[b"def"], false), 3);
    let mut data = [0; 3];
    w.tx.refresh().unwrap();
    assert_eq!((w.tx.copy_out(0, &mut data), &data), (3, b"def"));
}

#[test]
fn room_taken_and_granted_anew_unseen_is_noticed() {
    let mut w = world();
    w.tx.grant();
    assert_eq!(w.writer.write(&[b"abc"], false), 3);
    w.tx.refresh().unwrap();
    w.tx.consume(3);
    assert!(w.tx.let_go().unwrap());
    let taken = w.pool.take().unwrap();
    assert!(w.tx.grant());
    assert_eq!(w.writer.write(&[b"def"], false), 3);
    let mut data = [0; 3];
    w.tx.refresh().unwrap();
    assert_eq!((w.tx.copy_out(0, &mut data), &data), (3, b"def"));
    w.pool.give(taken);
}

#[test]
fn cursors_out_of_range_are_breaches() {
    let mut w = world();
    w.rx.write(b"abc");
    w.rx.publish();
    for lie in [4, u64::MAX] {
        w.parts.client.rx_head.store(lie, Ordering::Relaxed);
        assert_eq!(w.rx.refresh(), Err(Breach::RxHead));
    }
    w.parts.client.rx_head.store(2, Ordering::Relaxed);
    assert_eq!(w.rx.refresh(), Ok(()));
    w.parts.client.rx_head.store(1, Ordering::Relaxed);
    assert_eq!(w.rx.refresh(), Err(Breach::RxHead));
    w.tx.grant();
    w.parts.client.tx_tail.store(CHUNK_BYTES as u64 + 1, Ordering::Relaxed);
    assert_eq!(w.tx.hear(), Err(Breach::TxTail));
}

#[test]
fn a_malformed_datagram_is_a_breach() {
    let mut w = world();
    w.tx.grant();
    for frame in [&[0_u8; 8][..], &[0xff; 56], &{
        let mut long = [0_u8; 56];
        long[0] = 1;
        long
    }] {
        assert_eq!(w.writer.write(&[frame], true), frame.len());
        w.tx.refresh().unwrap();
        assert_eq!(w.tx.next_datagram(), Err(Breach::Datagram));
        w.tx.consume(frame.len());
    }
}

#[test]
fn sealing_keeps_what_was_written_and_forgets_the_client() {
    let mut w = world();
    w.tx.grant();
    w.writer.write(&[b"last words"], false);
    w.tx.seal().unwrap();
    w.parts.client.reset();
    let mut data = [0; 10];
    w.tx.refresh().unwrap();
    assert_eq!((w.tx.copy_out(0, &mut data), &data), (10, b"last words"));
    w.tx.consume(10);
    assert!(w.tx.let_go().unwrap());
}

#[test]
fn an_exhausted_quota_closes_the_window_and_opens_it_again() {
    let mut w = world();
    let taken: Vec<_> = std::iter::from_fn(|| w.pool.take()).collect();
    assert_eq!((w.rx.reserve(100), w.tx.grant()), (0, false));
    taken.into_iter().for_each(|chunk| w.pool.give(chunk));
    assert_eq!((w.rx.reserve(100), w.tx.grant()), (100, true));
}

#[test]
fn a_stall_that_came_between_a_look_and_a_reading_is_answered() {
    let mut w = world();
    w.rx.write(&[1; 100]);
    w.rx.publish();
    assert_eq!(w.reader.available(), 100);
    // Before the client reads what it saw, the daemon fills the FIFO and stalls.
    let rest = w.rx.reserve(usize::MAX);
    w.rx.write(&vec![2; rest]);
    w.rx.publish();
    w.rx.stall();
    w.rx.refresh().unwrap();
    assert_eq!(w.rx.room(), 0);
    let mut data = vec![0; CAPACITY as usize];
    assert_eq!(w.reader.read(&mut data), data.len());
    assert!(w.reader.owes_receive(), "nothing else will bring the client here");
    assert!(!w.reader.owes_receive(), "once for each stall");
}

#[test]
fn a_stall_is_answered_when_a_quarter_is_free() {
    let mut w = world();
    w.rx.write(&vec![1; CAPACITY as usize]);
    w.rx.publish();
    w.rx.stall();
    let mut data = vec![0; CAPACITY as usize / 4 - 1];
    assert_eq!((w.reader.read(&mut data), w.reader.owes_receive()), (data.len(), false));
    assert_eq!((w.reader.skip(1), w.reader.owes_receive()), (1, true));
}

#[test]
fn room_for_a_datagram_longer_than_a_chunk_is_granted() {
    let mut w = world();
    w.tx.grant();
    let payload = vec![7; 2 * CHUNK_BYTES];
    let header = Header { len: payload.len(), peer: None, local: None };
    assert!(!w.writer.write_datagram(&header, &payload));
    w.writer.want_room();
    w.tx.hear().unwrap();
    assert!(w.tx.grant() && w.tx.take_wanted());
    assert!(w.writer.write_datagram(&header, &payload));
    w.tx.hear().unwrap();
    assert_eq!(w.tx.next_datagram(), Ok(Some(header)));
}

#[test]
fn a_wish_beyond_the_capacity_gets_the_capacity() {
    let mut w = world();
    w.parts.client.tx_wanted.store(u32::MAX, Ordering::Relaxed);
    assert!(w.tx.grant());
    assert_eq!(w.writer.room(usize::MAX), CAPACITY as usize);
}

#[test]
fn unread_bytes_can_be_copied_to_another_arena() {
    let mut w = world();
    let data = bytes(&mut 0, CHUNK_BYTES + 100);
    w.rx.write(&data);
    w.rx.publish();
    assert_eq!(w.reader.skip(50), 50);
    w.rx.refresh().unwrap();
    let mut copy = vec![0; data.len()];
    assert_eq!(w.rx.copy_unread(10, &mut copy), data.len() - 60);
    assert_eq!(copy[..data.len() - 60], data[60..]);
}
