//! Counters: single-writer words that a report may read at any time.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that one thread writes and any may read.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`; for the one writer.
    pub fn add(&self, count: u64) {
        // One writer: a load and a store make an update, without a locked instruction.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident {
        $($(#[doc = $meaning:literal])* $field:ident = $shown:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Default)]
        pub struct $name { $($(#[doc = $meaning])* pub $field: Counter,)* }

        impl $name {
            /// Each counter's name and what it counts.
            pub const MEANINGS: &[(&str, &str)] = &[$(($shown, concat!($($meaning),*)),)*];

            /// Shows each counter under its name.
            pub fn show(&self, show: &mut dyn FnMut(&'static str, u64)) {
                $(show($shown, self.$field.get());)*
            }
        }
    };
}

counters! {
    /// What a worker counts.
    WorkerCounters {
        /// Turns of the loop.
        turns = "turns",
        /// Turns that found work.
        busy_turns = "busy_turns",
        /// Times it slept.
        sleeps = "sleeps",
        /// Times something other than a timer ended a sleep.
        wakeups = "wakeups",
    }
}

counters! {
    /// What an instance counts, beside its stack's own.
    InstanceCounters {
        /// Frames received from the port.
        rx_frames = "rx.frames",
        /// Bytes received from the port.
        rx_bytes = "rx.bytes",
        /// Frames written for the port.
        tx_frames = "tx.frames",
        /// Bytes written for the port.
        tx_bytes = "tx.bytes",
        /// Frames handed to another shard.
        shard_out = "shard.frames_out",
        /// Frames got from another shard.
        shard_in = "shard.frames_in",
        /// Frames dropped because another shard's inbox was full.
        drop_shard_full = "drop.shard_full",
        /// Fragments dropped because too many waited for their first piece.
        drop_fragment_overflow = "drop.fragment_overflow",
        /// Fragments dropped because their first piece never came.
        drop_fragment_timeout = "drop.fragment_timeout",
        /// Operations taken from clients.
        operations = "client.operations",
        /// Completions given to clients.
        completions = "client.completions",
        /// Completions that waited because a client's ring was full.
        completions_deferred = "client.completions_deferred",
        /// Doorbells rung.
        doorbells = "client.doorbells",
        /// Sockets opened: listeners, connections either way, UDP sockets.
        sockets_opened = "sockets.opened",
        /// Sockets that a client's death or breach closed.
        sockets_reclaimed = "sockets.reclaimed",
        /// Sockets refused because the instance has all that it may have.
        sockets_refused = "sockets.refused",
        /// Sockets aborted at their close because there were as many orphans as there may be.
        orphans_aborted = "sockets.orphans_aborted",
    }
}
