//! The rows: each measures one thing and gives its figures.

mod api;
mod cleanup;
mod flood;
mod floods;
mod goodput;
mod idle;
mod instructions;
mod memory;
mod ring;
mod scale;
mod segments;
mod stacks;
mod traffic;

use crate::bench::Effort;
use crate::figure::Figure;

/// What a row gives.
#[derive(Debug, Default)]
pub struct Measured {
    /// How it was set up, in lines.
    pub setup: Vec<String>,
    /// What it measured.
    pub figures: Vec<Figure>,
}

/// A row of the table.
pub struct Row {
    /// What a filter looks at.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Runs it.
    pub run: fn(&Effort) -> anyhow::Result<Measured>,
}

/// All rows, in the order in which they run.
pub const ALL: [Row; 18] = [
    Row {
        name: "rtt",
        about: "echo of 64 bytes over two stacks and a wire, beside kernel loopback",
        run: traffic::round_trips,
    },
    Row {
        name: "bulk",
        about: "one stream over two stacks and a wire, beside kernel loopback",
        run: traffic::streams,
    },
    Row {
        name: "idle-fd",
        about: "CPU of an idle daemon on a port that wakes it (net_tap)",
        run: idle::with_descriptor,
    },
    Row {
        name: "idle-timer",
        about: "CPU of an idle daemon on a port that does not wake it (net_af_packet)",
        run: idle::with_timer,
    },
    Row {
        name: "idle-latency",
        about: "what napping adds to a request that comes after silence",
        run: idle::latency,
    },
    Row {
        name: "ring",
        about: "one hop of a 64-byte entry between two threads, beside a channel",
        run: ring::hops,
    },
    Row {
        name: "stacks",
        about: "the native stack beside smoltcp: a request, a byte, a connection",
        run: stacks::side_by_side,
    },
    Row {
        name: "scale",
        about: "a million connections of the native stack: a request, and private memory",
        run: scale::of_connections,
    },
    Row {
        name: "hostile-floods",
        about: "what a frame of a flood costs the native stack, and what memory it takes",
        run: floods::borne,
    },
    Row {
        name: "goodput",
        about: "what arrives over a long path that loses, beside the kernel as the sender",
        run: goodput::beside_linux,
    },
    Row {
        name: "flood-vhost",
        about: "testpmd's flood read from one UDP socket over vhost-user, beside testpmd's rxonly",
        run: flood::over_vhost_user,
    },
    Row { name: "flood-memif", about: "the same over memif", run: flood::over_memif },
    Row {
        name: "in-place",
        about: "reading and writing in place, beside the same with copies",
        run: api::in_place,
    },
    Row { name: "c-api", about: "the C library, beside the Rust one", run: api::from_c },
    Row {
        name: "instructions",
        about: "instructions of a 64-byte message in the client and in the daemon, by callgrind",
        run: instructions::of_messages,
    },
    Row {
        name: "segments",
        about: "instructions of a segment in a stack, by callgrind",
        run: segments::in_a_stack,
    },
    Row {
        name: "memory",
        about: "shared memory of connections that do nothing",
        run: memory::of_idle_connections,
    },
    Row {
        name: "cleanup",
        about: "time until nothing is left of a client that was killed",
        run: cleanup::after_kill,
    },
];
