//! The wire's frame path allocates nothing once its pool has grown.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use dmm_port::wire::{WireConfig, WirePort};
use dmm_port::{Instant, Port};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting for each thread.
struct Counting;

// SAFETY: every call is handed to the system's allocator unchanged; the count has no destructor
// and needs no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on, and `alloc` got the memory from there.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn the_frame_path_allocates_nothing_in_the_steady_state() {
    let config = WireConfig {
        delay: Duration::from_micros(50),
        rate_mbps: Some(10_000),
        duplicate: 1.0,
        rss: true,
        ..WireConfig::default()
    };
    let (mut left, mut right) = WirePort::pair(&config).unwrap();
    let (_, mut tx) = left.queue_pair(0).unwrap();
    let (mut rx, _) = right.queue_pair(0).unwrap();
    let mut received = 0;
    let mut exchange = |rounds: std::ops::Range<u64>| {
        for round in rounds {
            let now = Instant::from_micros(10 * round);
            for _ in 0..3 {
                tx.burst().next(1000).unwrap().fill(7);
            }
            tx.flush(now);
            received += rx.burst(now).len();
        }
    };
    exchange(0..1000);
    let before = ALLOCATIONS.get();
    exchange(1000..11_000);
    assert_eq!(ALLOCATIONS.get() - before, 0, "allocations in 10,000 rounds");
    assert!(received > 60_000, "{received} frames received");
    assert!(before > 0, "the count counts");
}
