//! What a TCP connection knows of itself (`TCP_INFO`), and how that travels in completions.
//!
//! Made by a stack, read by programs. Must never: take more than [`PARTS`] entries of a ring.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Words of one completion.
pub const PART_WORDS: usize = 6;
/// Completions that it takes.
pub const PARTS: usize = 3;
/// Bytes of Linux's structure in its longest version so far; what is not named here is zero.
pub const LINUX_BYTES: usize = 280;

/// What a TCP connection knows of itself, as `TCP_INFO` has it (tcp(7)). Segments are full ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Its state by Linux's number (`tcp_states.h`).
    pub state: u8,
    /// What is done about loss: open 0, recovery 3, loss 4.
    pub ca_state: u8,
    /// Timeouts without progress.
    pub retransmits: u8,
    /// Zero-window probes without answer.
    pub probes: u8,
    /// Timestamps 1, SACK 2, window scaling 4, ECN 8, ECN seen 16, payload on the
    /// SYN taken 32.
    pub options: u8,
    /// By how many bits the peer's windows are shifted, and ours.
    pub shifts: (u8, u8),
    /// The retransmission timeout.
    pub rto: Duration,
    /// How long an acknowledgement is held back.
    pub ato: Duration,
    /// Payload of our segments at most, in bytes.
    pub snd_mss: u32,
    /// Payload of the peer's, in bytes.
    pub rcv_mss: u32,
    /// What we told the peer to send at most, in bytes.
    pub adv_mss: u32,
    /// Segments under way.
    pub unacked: u32,
    /// Those of them that came out of order.
    pub sacked: u32,
    /// Those that are taken for lost.
    pub lost: u32,
    /// Those that were sent again and not answered.
    pub retrans: u32,
    /// The smoothed round trip time and its variation.
    pub rtt: (Duration, Duration),
    /// The least round trip time.
    pub min_rtt: Duration,
    /// The threshold of slow start in segments; `i32::MAX` before the first loss.
    pub snd_ssthresh: u32,
    /// The congestion window in segments.
    pub snd_cwnd: u32,
    /// Segments by which one may be overtaken and not be taken for lost.
    pub reordering: u32,
    /// Since payload was sent last, payload came, an acknowledgement came.
    pub last: (Duration, Duration, Duration),
    /// Time with something to send, and that of it in which the peer's window held it back.
    pub busy: (Duration, Duration),
    /// Segments sent again, ever.
    pub total_retrans: u32,
    /// Segments delivered, ever.
    pub delivered: u32,
    /// Bytes written and not sent.
    pub notsent_bytes: u32,
    /// Bytes that the peer acknowledged, ever.
    pub bytes_acked: u64,
    /// Bytes received, ever.
    pub bytes_received: u64,
    /// The number of its [`crate::congestion::CongestionControl`], 0 for none. Not in Linux's structure.
    pub congestion: u8,
    /// Segments that came, in all, and with payload.
    pub segs_in: u32,
    /// Segments sent.
    pub segs_out: u32,
    /// The largest window that the peer had, in bytes; Linux keeps it to itself.
    pub window_max: u32,
}

/// Microseconds, as far as 32 bits hold them.
fn micros(span: Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX)
}

fn long_micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}

impl TcpInfo {
    /// The shared form. Times have microseconds, or milliseconds if [`TcpInfo::last`] has them.
    #[must_use]
    pub fn encode(&self) -> [[u64; PART_WORDS]; PARTS] {
        let bytes = [
            self.state,
            self.ca_state,
            self.retransmits,
            self.probes,
            self.options,
            self.shifts.0,
            self.shifts.1,
            self.congestion,
        ];
        let halves = [
            micros(self.rto),
            micros(self.ato),
            self.snd_mss,
            self.rcv_mss,
            self.adv_mss,
            self.unacked,
            self.sacked,
            self.lost,
            self.retrans,
            micros(self.rtt.0),
            micros(self.rtt.1),
            micros(self.min_rtt),
            self.snd_ssthresh,
            self.snd_cwnd,
            self.reordering,
            millis(self.last.0),
            millis(self.last.1),
            millis(self.last.2),
            self.total_retrans,
            self.delivered,
            self.notsent_bytes,
            self.segs_in,
            self.segs_out,
            self.window_max,
        ];
        let wholes = [
            long_micros(self.busy.0),
            long_micros(self.busy.1),
            self.bytes_acked,
            self.bytes_received,
        ];
        let mut words = [0; PARTS * PART_WORDS];
        words[0] = u64::from_le_bytes(bytes);
        for (word, pair) in words[1..].iter_mut().zip(halves.as_chunks::<2>().0) {
            *word = u64::from(pair[0]) | u64::from(pair[1]) << 32;
        }
        words[13..17].copy_from_slice(&wholes);
        std::array::from_fn(|part| std::array::from_fn(|at| words[part * PART_WORDS + at]))
    }

    /// From the shared form. Every word stands for something.
    #[must_use]
    pub fn decode(parts: &[[u64; PART_WORDS]; PARTS]) -> Self {
        let words = parts.as_flattened();
        let bytes = words[0].to_le_bytes();
        let half = |at: usize| (words[1 + at / 2] >> (32 * (at % 2))) as u32;
        let span = |at| Duration::from_micros(half(at).into());
        let since = |at| Duration::from_millis(half(at).into());
        Self {
            state: bytes[0],
            ca_state: bytes[1],
            retransmits: bytes[2],
            probes: bytes[3],
            options: bytes[4],
            shifts: (bytes[5], bytes[6]),
            congestion: bytes[7],
            rto: span(0),
            ato: span(1),
            snd_mss: half(2),
            rcv_mss: half(3),
            adv_mss: half(4),
            unacked: half(5),
            sacked: half(6),
            lost: half(7),
            retrans: half(8),
            rtt: (span(9), span(10)),
            min_rtt: span(11),
            snd_ssthresh: half(12),
            snd_cwnd: half(13),
            reordering: half(14),
            last: (since(15), since(16), since(17)),
            total_retrans: half(18),
            delivered: half(19),
            notsent_bytes: half(20),
            segs_in: half(21),
            segs_out: half(22),
            window_max: half(23),
            busy: (Duration::from_micros(words[13]), Duration::from_micros(words[14])),
            bytes_acked: words[15],
            bytes_received: words[16],
        }
    }

    /// As Linux's `struct tcp_info` (`linux/tcp.h`).
    #[must_use]
    pub fn to_linux(&self) -> [u8; LINUX_BYTES] {
        let mut bytes = [0; LINUX_BYTES];
        bytes[..6].copy_from_slice(&[
            self.state,
            self.ca_state,
            self.retransmits,
            self.probes,
            self.retransmits,
            self.options,
        ]);
        bytes[6] = self.shifts.0 | self.shifts.1 << 4;
        for (at, word) in [
            (8, micros(self.rto)),
            (12, micros(self.ato)),
            (16, self.snd_mss),
            (20, self.rcv_mss),
            (24, self.unacked),
            (28, self.sacked),
            (32, self.lost),
            (36, self.retrans),
            (68, micros(self.rtt.0)),
            (72, micros(self.rtt.1)),
            (76, self.snd_ssthresh),
            (80, self.snd_cwnd),
            (44, millis(self.last.0)),
            (52, millis(self.last.1)),
            (56, millis(self.last.2)),
            (84, self.adv_mss),
            (88, self.reordering),
            (100, self.total_retrans),
            (136, self.segs_out),
            (140, self.segs_in),
            (144, self.notsent_bytes),
            (148, micros(self.min_rtt)),
            (192, self.delivered),
        ] {
            bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        for (at, word) in [
            (120, self.bytes_acked),
            (128, self.bytes_received),
            (168, long_micros(self.busy.0)),
            (176, long_micros(self.busy.1)),
        ] {
            bytes[at..at + 8].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_word_has_its_place(words in prop::array::uniform3(any::<[u64; PART_WORDS]>())) {
            let info = TcpInfo::decode(&words);
            prop_assert_eq!(TcpInfo::decode(&info.encode()), info);
            // All but the padding: the last word.
            let mut kept = info.encode();
            kept[2][5] = words[2][5];
            prop_assert_eq!(kept, words);
        }
    }

    #[test]
    fn fields_stand_where_linux_has_them() {
        let info = TcpInfo {
            state: 1,
            shifts: (7, 9),
            rtt: (Duration::from_micros(1234), Duration::ZERO),
            snd_cwnd: 10,
            bytes_received: 1 << 40,
            ..TcpInfo::default()
        };
        let bytes = info.to_linux();
        assert_eq!((bytes[0], bytes[6]), (1, 0x97));
        assert_eq!(bytes[68..72], 1234_u32.to_ne_bytes());
        assert_eq!(bytes[80..84], 10_u32.to_ne_bytes());
        assert_eq!(bytes[128..136], (1_u64 << 40).to_ne_bytes());
    }
}
