//! What the tests of DPDK ports share: a network namespace, raw frames, and waiting.
//!
//! Each file of tests is one process with one test function, since DPDK starts once per process.

#![allow(dead_code, reason = "each file of tests uses some of it")]

use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;
use std::time::{Duration, Instant as Clock};

use dmm_port::dpdk::{DpdkPort, DpdkPortConfig, Eal, EalConfig};
use dmm_port::{Instant, RxQueue, TxQueue, Wake};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};

/// Generous: a test waits for the event, and fails only when it does not come at all.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub type Queues = (Box<dyn RxQueue>, Box<dyn TxQueue>);

/// Moves the calling thread into a network namespace of its own, which ends with it and with the
/// devices made in it.
pub fn enter_new_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).expect("root");
    run("ip link set lo up");
}

/// Runs a command in the calling thread's namespace and returns what it printed.
pub fn run(command: &str) -> String {
    let (program, arguments) = command.split_once(' ').expect("arguments");
    let output =
        Command::new(program).args(arguments.split(' ')).output().expect("command installed");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

pub fn interface_exists(name: &str) -> bool {
    nix::net::if_::if_nametoindex(name).is_ok()
}

/// A counter of an interface, as the kernel keeps it: `rx_packets`, `tx_packets`, ...
pub fn kernel_counter(interface: &str, counter: &str) -> u64 {
    // /sys shows the namespace that it was mounted in; /proc/thread-self shows this thread's.
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").expect("procfs");
    let line = table.lines().find_map(|line| line.trim().strip_prefix(&format!("{interface}:")));
    let fields: Vec<u64> = line
        .unwrap_or_else(|| panic!("no interface {interface}"))
        .split_whitespace()
        .map(|field| field.parse().expect("number"))
        .collect();
    match counter {
        "rx_bytes" => fields[0],
        "rx_packets" => fields[1],
        "rx_errs" => fields[2],
        "tx_packets" => fields[9],
        other => panic!("no counter {other}"),
    }
}

/// Waits for a condition that is named for messages.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Clock::now() + DEADLINE;
    while !condition() {
        assert!(Clock::now() < give_up, "{what} did not come");
        std::thread::yield_now();
    }
}

pub fn start_eal() -> Eal {
    Eal::init(&EalConfig::default()).expect("root, and DPDK's drivers installed")
}

pub fn start_port(eal: &Eal, device: &str, queues: u16) -> DpdkPort {
    let config = DpdkPortConfig { queues, ..DpdkPortConfig::new("p0", device) };
    DpdkPort::start(eal, &config).unwrap_or_else(|error| panic!("{error}"))
}

pub fn error_of(eal: &Eal, config: &DpdkPortConfig) -> String {
    DpdkPort::start(eal, config).map(|_| ()).expect_err("must not start").to_string()
}

/// Bursts until `wanted` accepts a frame, and returns what it made of it.
pub fn receive<T>(
    rx: &mut dyn RxQueue,
    mut wanted: impl FnMut(&dmm_port::RxFrame<'_>) -> Option<T>,
) -> T {
    let give_up = Clock::now() + DEADLINE;
    loop {
        if let Some(found) = rx.burst(Instant::ZERO).iter().find_map(&mut wanted) {
            return found;
        }
        assert!(Clock::now() < give_up, "the frame did not come");
        std::thread::yield_now();
    }
}

/// Sends one frame, whose bytes `write` fills in.
pub fn send(tx: &mut dyn TxQueue, frame: &[u8]) {
    tx.burst().next(frame.len()).expect("a free slot").copy_from_slice(frame);
    tx.flush(Instant::ZERO);
}

pub fn wake_fd(rx: &dyn RxQueue) -> BorrowedFd<'_> {
    match rx.wake() {
        // SAFETY: the queue keeps it open while it is borrowed.
        Wake::Fd(descriptor) => unsafe { BorrowedFd::borrow_raw(descriptor) },
        Wake::Timer => panic!("the queue cannot wake"),
    }
}

pub fn is_readable(descriptor: impl AsFd, within: Duration) -> bool {
    let mut polled = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    let within = PollTimeout::try_from(within).expect("short");
    poll(&mut polled, within).expect("poll") == 1
}

/// An ARP request (RFC 826) for `target` from `sender`.
pub fn arp_request(mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    frame.resize(60, 0);
    frame
}
