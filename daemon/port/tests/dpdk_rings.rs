//! Two ports of one process, joined by rings: what one sends by a queue, the other receives by the same.

#![cfg(feature = "dpdk")]

mod dpdk_support;

use dmm_port::dpdk::{DpdkPort, DpdkPortConfig};
use dmm_port::{Instant, Port, Wake};
use dpdk_support::*;

#[test]
fn rings_join_two_ports_queue_by_queue() {
    let eal = start_eal();
    let config = |name| DpdkPortConfig { queues: 2, ..DpdkPortConfig::new(name, "ring:lab") };
    for _ in 0..2 {
        let (mut left, mut right) =
            DpdkPort::start_joined(&eal, &config("left"), &config("right")).expect("memory");
        assert!(left.link().up && right.link().up);
        assert_ne!(left.info().mac, right.info().mac);
        assert_eq!((left.info().driver.as_str(), right.info().queues), ("net_ring", 2));
        let [mut left0, mut left1] = [0, 1].map(|i| left.queue_pair(i).expect("first time"));
        let [mut right0, mut right1] = [0, 1].map(|i| right.queue_pair(i).expect("first time"));
        assert_eq!(left0.0.wake(), Wake::Timer);
        for round in 0..1000_u32 {
            let frame = |tag: u8| [&[tag; 60][..], &round.to_be_bytes()].concat();
            send(left0.1.as_mut(), &frame(1));
            send(left1.1.as_mut(), &frame(2));
            send(right1.1.as_mut(), &frame(3));
            for (rx, tag) in [(&mut right0.0, 1), (&mut right1.0, 2), (&mut left1.0, 3)] {
                let found = receive(rx.as_mut(), |frame| Some(frame.bytes.to_vec()));
                assert_eq!(found, frame(tag));
            }
            assert!(left0.0.burst(Instant::ZERO).is_empty());
        }
        assert_eq!((left.stats().tx_frames, right.stats().rx_frames), (2000, 2000));
        // More than there is room for is counted, and what is left behind is nobody's loss.
        for _ in 0..5000 {
            send(left0.1.as_mut(), &[7; 60]);
        }
        assert!(left0.1.dropped() > 0);
        assert_eq!(left0.1.dropped() + left.stats().tx_frames, 7000);
        drop((left0, left1, right0, right1, left, right));
    }
}
