//! What a socket tells of what it sent (`MSG_ERRQUEUE`, recvmsg(2)): that bytes of a zerocopy send are free
//! again, and when bytes were sent and acknowledged (`SO_TIMESTAMPING`).
//!
//! Owns: [`Notices`]. Asked to look on whenever the stack acted. Payload is not handed back with a time.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use dmm_port::Instant;

/// Bits of `SO_TIMESTAMPING` (`linux/net_tstamp.h`).
pub mod stamping {
    pub const TX_SOFTWARE: u32 = 1 << 1;
    pub const SOFTWARE: u32 = 1 << 4;
    pub const OPT_ID: u32 = 1 << 7;
    pub const TX_SCHED: u32 = 1 << 8;
    pub const TX_ACK: u32 = 1 << 9;
}

/// How far a byte is (`linux/errqueue.h`: `SCM_TSTAMP_`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It was sent.
    Sent = 0,
    /// It was handed to the device.
    Scheduled = 1,
    /// It was acknowledged.
    Acknowledged = 2,
}

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Zerocopy sends from one to another, by number, were copied and are free.
    Copied(u32, u32),
    /// The last byte of a write, of such a key, got so far.
    Stamp(Stage, u32, Instant),
}

/// The notices of a socket, and what it will have notices of.
#[derive(Debug, Default)]
pub struct Notices {
    /// Oldest first.
    pub queue: VecDeque<Notice>,
    /// `SO_ZEROCOPY`.
    pub zerocopy: bool,
    /// `SO_TIMESTAMPING`.
    stamping: u32,
    /// The position that keys count from.
    base: u64,
    /// Zerocopy sends so far.
    sends: u32,
    /// Numbers of zerocopy sends, and where they end.
    copies: VecDeque<(u32, u64)>,
    /// Where writes end whose times are told: those not sent, and those not acknowledged.
    unsent: VecDeque<u64>,
    unacknowledged: VecDeque<u64>,
}

impl Notices {
    /// Sets `SO_TIMESTAMPING`, when so many bytes were acknowledged.
    pub const fn set_stamping(&mut self, flags: u32, acknowledged: u64) {
        (self.stamping, self.base) = (flags, acknowledged);
    }

    /// Bytes up to `end` were written.
    pub fn wrote(&mut self, end: u64, zerocopy: bool) {
        if zerocopy && self.zerocopy {
            self.copies.push_back((self.sends, end));
            self.sends = self.sends.wrapping_add(1);
        }
        if self.stamping & stamping::SOFTWARE != 0 {
            self.unsent.push_back(end);
            self.unacknowledged.push_back(end);
        }
    }

    /// So many bytes were sent and acknowledged by now. Returns whether there is news.
    pub fn look(&mut self, now: Instant, sent: u64, acknowledged: u64) -> bool {
        let before = self.queue.len();
        let mut news = false;
        while let Some((number, _)) = self.copies.pop_front_if(|(_, end)| *end <= acknowledged) {
            news = true;
            match self.queue.back_mut() {
                Some(Notice::Copied(_, last)) if last.wrapping_add(1) == number => *last = number,
                _ => self.queue.push_back(Notice::Copied(number, number)),
            }
        }
        while let Some(end) = self.unsent.pop_front_if(|end| *end <= sent) {
            self.stamp(now, Stage::Scheduled, stamping::TX_SCHED, end);
            self.stamp(now, Stage::Sent, stamping::TX_SOFTWARE, end);
        }
        while let Some(end) = self.unacknowledged.pop_front_if(|end| *end <= acknowledged) {
            self.stamp(now, Stage::Acknowledged, stamping::TX_ACK, end);
        }
        news || self.queue.len() > before
    }

    fn stamp(&mut self, now: Instant, stage: Stage, flag: u32, end: u64) {
        if self.stamping & flag == 0 {
            return;
        }
        // Without OPT_ID a time is told of nothing in particular.
        let keyed = self.stamping & stamping::OPT_ID != 0;
        let key = if keyed { end.saturating_sub(self.base + 1) } else { 0 };
        self.queue.push_back(Notice::Stamp(stage, key as u32, now));
    }
}
