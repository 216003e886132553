//! `net_ring` sends to itself: every byte comes back; and `net_null`, which offers RSS without a key.

#![cfg(feature = "dpdk")]

mod dpdk_support;

use dmm_port::{BURST, Instant, Port, RxChecksum, TX_SLOTS, Wake};
use dpdk_support::*;

#[test]
fn frames_come_back_in_order_and_in_whole() {
    let eal = start_eal();
    let mut port = start_port(&eal, "net_ring0", 1);
    println!("{:?}", port.info());
    assert_eq!(port.info().driver, "net_ring");
    assert!(!port.info().tx_checksum && !port.info().rx_checksum && !port.info().rss);
    let (mut rx, mut tx) = port.queue_pair(0).expect("first time");
    assert_eq!(rx.wake(), Wake::Timer);
    rx.arm().expect("nothing to do");
    assert_eq!(tx.burst().free(), TX_SLOTS);

    let mut sent = 0_u32;
    let mut received = 0_u32;
    for round in 0..2000_u32 {
        let batch = round as usize % (TX_SLOTS + 1);
        for _ in 0..batch {
            let len = 60 + sent as usize % 1459;
            let mut burst = tx.burst();
            let slot = burst.next(len).expect("a free slot");
            fill(slot, sent);
            sent += 1;
        }
        tx.flush(Instant::ZERO);
        loop {
            let frames = rx.burst(Instant::ZERO);
            assert!(frames.len() <= BURST);
            for frame in frames {
                let mut expected = vec![0; 60 + received as usize % 1459];
                fill(&mut expected, received);
                assert!(frame.bytes == expected, "frame {received}");
                assert_eq!((frame.checksum, frame.hash), (RxChecksum::Unknown, None));
                received += 1;
            }
            if frames.is_empty() {
                break;
            }
        }
    }
    assert_eq!((received, tx.dropped()), (sent, 0));
    let stats = port.stats();
    assert_eq!((stats.tx_frames, stats.rx_frames), (u64::from(sent), u64::from(sent)));
    overload_is_counted_and_leaks_nothing(&port, rx.as_mut(), tx.as_mut());
    drop((rx, tx, port));
    net_null_does_not_spread(&eal);
}

fn fill(slot: &mut [u8], number: u32) {
    slot.fill(number as u8);
    slot[..4].copy_from_slice(&number.to_be_bytes());
}

/// Without a reader the ring fills: what does not fit is refused and freed.
fn overload_is_counted_and_leaks_nothing(
    port: &dmm_port::dpdk::DpdkPort,
    rx: &mut dyn dmm_port::RxQueue,
    tx: &mut dyn dmm_port::TxQueue,
) {
    let frames = 10_000;
    let mut laid_out = 0;
    for _ in 0..frames {
        if let Some(slot) = tx.burst().next(64) {
            slot.fill(1);
            laid_out += 1;
        }
        tx.flush(Instant::ZERO);
    }
    let mut back = 0;
    loop {
        match rx.burst(Instant::ZERO).len() {
            0 => break,
            count => back += count as u64,
        }
    }
    println!("{laid_out} laid out, {} refused, {back} back", tx.dropped());
    assert!(laid_out < frames || tx.dropped() > 0, "the overload was one");
    assert_eq!(back + tx.dropped(), laid_out);
    // One object fewer to count: everything is in the pool, the caches, or the slots.
    assert_eq!(tx.burst().free(), TX_SLOTS);
    assert!(port.buffers_in_use(0).expect("pair 0") <= 64 + 96 + 96);
}

fn net_null_does_not_spread(eal: &dmm_port::dpdk::Eal) {
    let port = start_port(eal, "net_null0", 2);
    println!("{:?}", port.info());
    assert!(!port.info().rss, "net_null has a table, but takes no key");
}
