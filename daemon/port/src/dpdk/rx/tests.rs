//! Chained mbufs, made by hand: no virtual device at hand delivers any.

use super::*;
use crate::dpdk::{Eal, EalConfig};

/// Two mbufs chained, `head` and `tail` bytes of a running count.
fn chain(pool: &crate::dpdk::pool::Pool, head: u16, tail: u16) -> *mut rte_mbuf {
    let mut mbufs = [std::ptr::null_mut::<rte_mbuf>(); 2];
    // SAFETY: a pool of ours, and room for two.
    let returned = unsafe { dpdk::rte_pktmbuf_alloc_bulk(pool.as_ptr(), mbufs.as_mut_ptr(), 2) };
    assert_eq!(returned, 0);
    let mut next = 0_u8;
    for (mbuf, len) in mbufs.iter().zip([head, tail]) {
        // SAFETY: a fresh mbuf with more room than that.
        let data = unsafe { dpdk::rte_pktmbuf_append(*mbuf, len) }.cast::<u8>();
        assert!(!data.is_null());
        // SAFETY: the bytes just appended.
        for byte in unsafe { std::slice::from_raw_parts_mut(data, usize::from(len)) } {
            *byte = next;
            next = next.wrapping_add(1);
        }
    }
    // SAFETY: two single mbufs of ours.
    assert_eq!(unsafe { dpdk::rte_pktmbuf_chain(mbufs[0], mbufs[1]) }, 0);
    mbufs[0]
}

#[test]
fn chained_mbufs_become_one_frame_within_the_mtu() {
    let _eal = Eal::init(&EalConfig::default()).expect("root, and the only test to do so here");
    let pool = crate::dpdk::pool::Pool::new("test", 511, 1500, -1).expect("memory");
    let whole = chain(&pool, 1000, 500);
    let long = chain(&pool, 1500, 1500);
    let mut scratch = Scratch::new(1500);

    let frame = scratch.linearise(0, whole, 1500).expect("fits");
    let expected: Vec<u8> = (0..1500_u32).map(|n| n as u8).collect();
    assert_eq!(frame, expected);
    assert_eq!(scratch.linearise(1, long, 3000), None);
    assert_eq!(scratch.linearise(1, whole, 1501), None, "longer than the chain");

    let mut both = [whole, long];
    // SAFETY: two chains of ours; their frames are not used any more.
    unsafe { dpdk::rte_pktmbuf_free_bulk(both.as_mut_ptr(), 2) };
    assert_eq!(pool.in_use(), 0);
}
