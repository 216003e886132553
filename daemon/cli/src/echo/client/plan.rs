//! When a run measures, and when it ends. One for all connections, so that they do so together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::ClientArgs;
use super::super::interrupt::Interrupt;

/// How long a run without any limit measures.
const DEFAULT_SPAN: Duration = Duration::from_secs(5);

/// What each connection is to do.
pub(super) struct Plan {
    /// Bytes of a message or of a write.
    pub(super) size: usize,
    /// Messages in flight.
    pub(super) depth: usize,
    /// What is sent from here on counts.
    pub(super) measure_from: Instant,
    /// Nothing is sent from here on.
    until: Option<Instant>,
    /// Messages that count.
    count: Option<u64>,
    /// Bytes that count.
    pub(super) bytes: Option<u64>,
    /// Pause before each message.
    interval: Option<Duration>,
    interrupt: Arc<Interrupt>,
}

impl Plan {
    /// The plan of a run that starts now.
    pub(super) fn starting_now(args: &ClientArgs, size: usize, interrupt: &Arc<Interrupt>) -> Self {
        interrupt.measure();
        let measure_from = Instant::now() + args.warmup;
        let unlimited = args.count.is_none() && args.bytes.is_none();
        let span = args.seconds.or_else(|| unlimited.then_some(DEFAULT_SPAN));
        Self {
            size,
            depth: usize::try_from(args.depth).unwrap_or(usize::MAX),
            measure_from,
            until: span.map(|span| measure_from + span),
            count: args.count,
            bytes: args.bytes,
            interval: args.interval_ms.map(Duration::from_millis),
            interrupt: Arc::clone(interrupt),
        }
    }

    /// Whether what is sent now counts.
    pub(super) fn counts(&self, now: Instant) -> bool {
        now >= self.measure_from
    }

    /// Whether what is on the way is not waited for.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupt.came()
    }

    /// Pauses before a message, if that is wanted.
    pub(super) fn pause(&self) {
        if let Some(interval) = self.interval {
            self.interrupt.sleep(interval);
        }
    }

    /// Whether the time is over, or `sent` messages that count were enough.
    pub(super) fn is_over(&self, now: Instant, sent: u64) -> bool {
        self.is_interrupted()
            || self.until.is_some_and(|until| now >= until)
            || self.count.is_some_and(|count| sent >= count)
    }
}
