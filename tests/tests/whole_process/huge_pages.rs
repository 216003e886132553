//! Packet memory in huge pages: the kernel's count of free ones drops while the daemon runs, and is
//! as before once it has ended. The one test that reserves pages; it gives them back.

use std::fs;
use std::process::Command;

use dmm_tests::command::{program, run};
use dmm_tests::deadline::eventually;
use dmm_tests::lab::{FAMILIES, Lab, PortKind, ROLES};

/// Pages of 2 MiB for the least that the daemon wants, 128 MiB.
const PAGES: u64 = 64;

#[test]
fn packet_memory_lies_in_huge_pages_and_they_come_back() {
    let reservation = Reservation::of(PAGES);
    let before = free_pages();
    assert!(before >= PAGES, "{reservation:?}, and {before} are free");
    let mut lab = Lab::in_huge_pages(PortKind::Tap, 2);
    let during = free_pages();
    assert!(during < before, "{before} pages were free, and {during} are now");
    assert!(lab.daemon.status().hugepages);

    let exchange = "exchange --bytes 1000000";
    for (family, role) in FAMILIES.into_iter().zip(ROLES) {
        let pair = lab.pair(family, role, exchange, exchange);
        let (client, server) = (pair.client.outcome(), pair.server.outcome());
        assert_eq!((client.received, server.received), (1_000_000, 1_000_000));
        assert_eq!(client.received_sha256, server.sent_sha256);
    }

    assert!(lab.daemon.terminate().success(), "{}", lab.daemon.log());
    eventually("the return of the pages", || match free_pages() {
        free if free == before => Ok(()),
        free => Err(format!("{free} are free, and {before} were")),
    });
}

/// Pages that were reserved beside those that there were.
#[derive(Debug)]
struct Reservation {
    before: u64,
}

impl Reservation {
    fn of(pages: u64) -> Self {
        let reservation = Self { before: memory_info("HugePages_Total") };
        reserve(reservation.before + pages);
        reservation
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        reserve(self.before);
    }
}

fn reserve(count: u64) {
    let count = count.to_string();
    run(Command::new(program("dmm")).args(["hugepages", "reserve", "--count", &count]));
}

fn free_pages() -> u64 {
    memory_info("HugePages_Free")
}

/// A line of proc_meminfo(5).
fn memory_info(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("procfs");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = line.unwrap_or_else(|| panic!("no {name}: this kernel has no huge pages"));
    value.trim().parse().expect("a number")
}
