//! What a connection knows of itself (`TCP_INFO`, tcp(7)).
#![forbid(unsafe_code)]

use std::time::Duration;

use dmm_port::Instant;

use super::fast::Fast;
use super::{Connection, State};
use crate::TcpInfo;

/// Bits of `tcpi_options`.
const TIMESTAMPS: u8 = 1;
const SACK: u8 = 2;
const SCALE: u8 = 4;
const ECN: u8 = 8;
const ECN_SEEN: u8 = 16;
const SYN_DATA: u8 = 32;

impl State {
    /// Linux's number of the state.
    const fn number(self) -> u8 {
        match self {
            Self::Established => 1,
            Self::SynSent => 2,
            Self::SynReceived => 3,
            Self::FinWait1 => 4,
            Self::FinWait2 => 5,
            Self::TimeWait => 6,
            Self::Closed => 7,
            Self::CloseWait => 8,
            Self::LastAck => 9,
            Self::Closing => 11,
        }
    }
}

impl Connection {
    /// What it knows of itself.
    pub(in super::super) fn info(&mut self, now: Instant) -> TcpInfo {
        let mut info = TcpInfo {
            state: self.shown_state().number(),
            shifts: (self.sender.shift, self.receiver.shift),
            ato: self.acks.delay(),
            adv_mss: u32::from(self.mss),
            segs_in: self.arrived,
            last: (
                Duration::ZERO,
                now.since(self.acks.heard_at().unwrap_or(self.synchronized_at)),
                now.since(self.heard_at),
            ),
            rcv_mss: u32::try_from(self.acks.mss()).unwrap_or(u32::MAX),
            bytes_received: self.receiver.next.saturating_sub(1 + u64::from(self.ended)),
            ..TcpInfo::default()
        };
        if !self.is_opening() {
            info.options |= if self.stamps.on { TIMESTAMPS } else { 0 };
            info.options |= if self.sender.sack { SACK } else { 0 };
            info.options |= if self.offer.scale { SCALE } else { 0 };
            info.options |= if self.ecn.on { ECN } else { 0 };
            info.options |= if self.ecn.seen { ECN_SEEN } else { 0 };
            info.options |= if self.fast == Fast::Taken { SYN_DATA } else { 0 };
        }
        self.sender.inform(now, &mut info);
        info
    }
}
