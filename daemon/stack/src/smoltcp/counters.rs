//! What this kind alone counts.
#![forbid(unsafe_code)]

use crate::counters::counters;

counters! {
    /// Acknowledgements that showed a further loss (RFC 6582).
    recoveries = "tcp.partial_acknowledgements",
    /// Segments sent again because an acknowledgement stayed out.
    probes = "tcp.loss_probes",
    /// SYNs for which there is no memory.
    drop_memory = "drop.tcp_no_memory",
}
