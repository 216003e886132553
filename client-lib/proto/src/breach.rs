//! The ways in which a client can break the contract.
//!
//! The daemon answers each with the end of that client's session and one count under the name
//! given here; it never panics and never guesses what was meant.
#![forbid(unsafe_code)]

/// What a client wrote that the contract forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Breach {
    /// A submission ring's tail lies more than a ring's length ahead of what was consumed.
    #[error("submission ring tail out of range")]
    RingTail,
    /// A completion ring's head is ahead of what was produced, or ran backwards.
    #[error("completion ring head out of range")]
    RingHead,
    /// A receive FIFO's head is ahead of what was delivered, or ran backwards.
    #[error("receive FIFO head out of range")]
    RxHead,
    /// A transmit FIFO's tail is ahead of what was granted, or ran backwards.
    #[error("transmit FIFO tail out of range")]
    TxTail,
    /// A framed datagram's header does not fit what was written.
    #[error("datagram frame malformed")]
    Datagram,
    /// An operation code that does not exist, or one with impossible arguments.
    #[error("operation malformed")]
    Operation,
    /// A socket slot beyond the session's quota.
    #[error("socket slot out of range")]
    Slot,
    /// An operation for a slot that holds no socket, or a second socket for one that does.
    #[error("socket slot in the wrong state")]
    SlotState,
    /// The generation does not match the socket in the slot.
    #[error("socket generation mismatch")]
    Generation,
    /// An operation that does not suit the socket's protocol.
    #[error("operation on a socket of the wrong kind")]
    Kind,
    /// An address with an unknown family.
    #[error("address malformed")]
    Address,
    /// A context index beyond the session's contexts.
    #[error("context out of range")]
    Context,
    /// A shared page was made unusable, so that touching it raised SIGBUS.
    #[error("shared memory made unusable")]
    Memory,
    /// A packet on the session socket that is no request of this protocol.
    #[error("session request malformed")]
    Request,
    /// More requests on the session socket than the daemon grants.
    #[error("session request flood")]
    Flood,
}

impl Breach {
    /// All reasons, in the order of [`Breach::index`].
    pub const ALL: [Self; 15] = [
        Self::RingTail,
        Self::RingHead,
        Self::RxHead,
        Self::TxTail,
        Self::Datagram,
        Self::Operation,
        Self::Slot,
        Self::SlotState,
        Self::Generation,
        Self::Kind,
        Self::Address,
        Self::Context,
        Self::Memory,
        Self::Request,
        Self::Flood,
    ];

    /// A dense index for tables of counters.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The counter's name, as in `refused.ring_tail`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RingTail => "ring_tail",
            Self::RingHead => "ring_head",
            Self::RxHead => "rx_head",
            Self::TxTail => "tx_tail",
            Self::Datagram => "datagram",
            Self::Operation => "operation",
            Self::Slot => "slot",
            Self::SlotState => "slot_state",
            Self::Generation => "generation",
            Self::Kind => "kind",
            Self::Address => "address",
            Self::Context => "context",
            Self::Memory => "memory",
            Self::Request => "request",
            Self::Flood => "flood",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_in_index_order_and_names_are_unique() {
        for (index, breach) in Breach::ALL.into_iter().enumerate() {
            assert_eq!(breach.index(), index);
            assert_eq!(Breach::ALL.iter().filter(|b| b.name() == breach.name()).count(), 1);
        }
    }
}
