//! What the library forgets about a connection's segments, remembered.
//!
//! Owns: for each connection, how far it has ever sent (SND.MAX), what it expects next (RCV.NXT),
//! and the state of its loss recovery. Called for each segment in and out. Must never: touch a segment that carries data or
//! flags of its own, or show the library anything that the peer did not say.
//!
//! *Acknowledgements put right.* After a retransmission timeout the library forgets how far it had
//! sent, and gives acknowledgements without data the number that it will send from again. The
//! peer, which may have received more than that, finds them below its window and must ignore what
//! they acknowledge (RFC 9293 section 3.10.7.4). When both ends time out at once, neither ever
//! hears of an acknowledgement again. So such a segment is given the number that the standard asks
//! for: SEQ=SND.NXT.
//!
//! *Recovery carried on.* The library retransmits one segment when an acknowledgement was repeated
//! three times, and leaves any further loss to a timeout of a second or more. RFC 6582 section 3.2
//! retransmits the next segment when an acknowledgement shows that more is missing; and RFC 8985
//! section 7 probes when an acknowledgement stays out. In both cases the library is shown the
//! latest acknowledgement as if it had been repeated, which is what makes it retransmit.
//!
//! *Words that end a connection.* The library takes any reset within the window, and says nothing
//! to a SYN on a connection that exists. RFC 5961 sections 3 and 4 ask the peer whether it meant
//! it, by a challenge: an acknowledgement of what was received; a peer that did answers with a
//! reset of the very number expected. RFC 9293 section 3.10.7.4 lets a SYN beyond the old numbers
//! take the place of a connection in TIME-WAIT.
#![forbid(unsafe_code)]

use std::time::Duration;

use ::smoltcp::socket::tcp::State;
use ::smoltcp::wire::TcpSeqNumber;
use dmm_port::Instant;

const ETHERNET_HEADER_BYTES: usize = 14;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// RFC 5681 section 3.2: so many repetitions of an acknowledgement stand for a loss.
pub(super) const REPETITIONS: u32 = 3;

/// How long an acknowledgement may stay out, at least, before the first segment in flight is sent
/// again: what Linux takes for the least retransmission timeout, far beyond a delayed
/// acknowledgement (40 ms there).
const PROBE_AFTER: Duration = Duration::from_millis(200);

/// The longest acknowledgement that is kept: Ethernet, IPv6 and the longest TCP header.
const FRAME_MAX: usize = ETHERNET_HEADER_BYTES + 40 + 60;

/// How far from what is expected a segment's numbers may be and still be the peer's: as much as is
/// in flight on a long path. Others are somebody's guesses, of which one in 17 million is right.
const PLAUSIBLE: usize = 1 << 20;

/// How long after a challenge none is sent (Linux's `tcp_invalid_ratelimit`).
pub(super) const CHALLENGE_EVERY: Duration = Duration::from_millis(500);

/// What is to become of a segment of a connection that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The library gets it. If its numbers are such as the peer would use, it shows that the peer
    /// is there.
    Pass { plausible: bool },
    /// Nobody gets it.
    Refuse,
    /// It would end the connection, and whether the peer means that is asked first.
    Challenge,
    /// It begins a new connection in the place of this one.
    Reopen,
}

/// What is remembered of a connection's segments.
#[derive(Clone, Debug, Default)]
pub(super) struct Sequence {
    /// The number after the highest one sent.
    highest: Option<TcpSeqNumber>,
    /// The peer's window is closed, so that what goes beyond it is a probe.
    closed: bool,
    /// The latest acknowledgement, and how often it was repeated.
    acknowledged: Option<TcpSeqNumber>,
    repeated: u32,
    /// What was in flight when a loss was noticed ended here.
    recover: Option<TcpSeqNumber>,
    /// The latest segment of the peer, if it was an acknowledgement and nothing else.
    latest: Vec<u8>,
    /// That was shown again because no other came.
    probed: bool,
    /// The number that the peer's next byte has.
    next: Option<TcpSeqNumber>,
    /// The window as last announced, not scaled.
    window: u16,
}

impl Sequence {
    /// What is to become of a segment of the peer in `state`.
    pub(super) fn judge(&self, frame: &[u8], state: State) -> Verdict {
        // What stands behind extension headers cannot be judged: it is refused, as a SYN there is.
        let Some(segment) = Segment::find(frame) else { return Verdict::Refuse };
        let pass = Verdict::Pass { plausible: self.is_plausible(&segment) };
        let Some(next) = self.next else { return pass };
        let reset = segment.flags & RST != 0;
        match state {
            State::Closed | State::Listen | State::SynSent => pass,
            _ if reset && segment.number == next => pass,
            _ if reset => Verdict::Challenge,
            // Our answer to the peer's first one was lost.
            State::SynReceived => pass,
            State::TimeWait
                if segment.flags & (SYN | ACK | FIN) == SYN && segment.number > next =>
            {
                Verdict::Reopen
            }
            _ if segment.flags & SYN != 0 => Verdict::Challenge,
            _ => pass,
        }
    }

    /// Whether a segment's numbers are such as the peer would use (RFC 9293 section 3.10.7.4; RFC
    /// 5961 section 5), so that it shows that the peer is there.
    fn is_plausible(&self, segment: &Segment) -> bool {
        let ack = segment.flags & ACK != 0;
        // The byte of a probe does not count in `highest`, and may have been taken.
        let sent = self.highest.is_none_or(|highest| segment.acknowledged <= highest + 1);
        let Some(next) = self.next else {
            // SYN-SENT: RFC 9293 section 3.10.7.3, "if SEG.ACK =< ISS, or SEG.ACK > SND.NXT".
            return !ack || self.highest.is_none_or(|highest| segment.acknowledged == highest);
        };
        let near = segment.number < next + PLAUSIBLE && next < segment.number + PLAUSIBLE;
        let recent = self.acknowledged.is_none_or(|last| last < segment.acknowledged + PLAUSIBLE);
        near && (ack && sent && recent || segment.flags & (SYN | RST) != 0)
    }

    /// What the peer is expected to send next.
    pub(super) const fn next(&self) -> Option<TcpSeqNumber> {
        self.next
    }

    /// `len` bytes came in order after `before`, which was [`Sequence::next`] then.
    pub(super) fn accepted(&mut self, before: Option<TcpSeqNumber>, len: usize) {
        let reached = before.map(|before| before + len);
        if let (Some(reached), Some(next)) = (reached, self.next)
            && reached > next
        {
            self.next = Some(reached);
        }
    }

    /// Number, acknowledgement and window of a segment that says only what was received.
    pub(super) fn acknowledgement(&self) -> Option<(TcpSeqNumber, TcpSeqNumber, u16)> {
        Some((self.highest?, self.next?, self.window))
    }

    /// Looks at a segment of the peer. Returns whether the library is to be shown it
    /// [`REPETITIONS`] times more.
    pub(super) fn received(&mut self, frame: &[u8]) -> bool {
        let Some(segment) = Segment::find(frame) else { return false };
        self.closed = segment.window == 0;
        self.latest.clear();
        let (Some(highest), ACK) = (self.highest, segment.flags & (ACK | SYN | FIN | RST)) else {
            return false;
        };
        let number = segment.acknowledged;
        if number > highest || self.acknowledged.is_some_and(|before| number < before) {
            return false;
        }
        let advanced = self.acknowledged.replace(number) != Some(number);
        let pure = segment.payload == 0 && frame.len() <= FRAME_MAX;
        if pure {
            self.latest.extend_from_slice(frame);
        }
        if !advanced {
            self.repeated += u32::from(pure && number < highest);
            if self.repeated == REPETITIONS {
                self.recover.get_or_insert(highest);
            }
            return false;
        }
        (self.repeated, self.probed) = (0, false);
        let partial = self.recover.is_some_and(|recover| number < recover);
        if !partial {
            self.recover = None;
        }
        partial && pure
    }

    /// When the latest acknowledgement is to be shown again if no other comes. `since` is when
    /// the peer was heard, or something was sent after all had been acknowledged; `round_trip` is
    /// how long the peer took to answer the first segment.
    pub(super) fn probe_at(&self, since: Instant, round_trip: Duration) -> Option<Instant> {
        let flying = self.highest > self.acknowledged && self.acknowledged.is_some();
        let sensible = flying && !self.probed && !self.closed && !self.latest.is_empty();
        sensible.then(|| since + PROBE_AFTER.max(2 * round_trip))
    }

    /// The acknowledgement to be shown [`REPETITIONS`] times, for want of another.
    pub(super) fn probe(&mut self) -> &[u8] {
        self.probed = true;
        self.recover = self.highest;
        &self.latest
    }

    /// Looks at a segment of ours, and corrects it if need be.
    pub(super) fn sending(&mut self, frame: &mut [u8]) {
        let Some(segment) = Segment::find(frame) else { return };
        if segment.flags & (ACK | RST) == ACK {
            self.window = segment.window;
            if self.next.is_none_or(|next| segment.acknowledged > next) {
                self.next = Some(segment.acknowledged);
            }
        }
        let own = segment.payload + usize::from(segment.flags & (SYN | FIN) != 0);
        let end = segment.number + own;
        // After a timeout everything is sent again: there is nothing left to recover.
        let again = self.highest.is_some_and(|highest| segment.number < highest);
        if own > 0 && again && self.acknowledged.is_some_and(|number| segment.number > number) {
            self.recover = None;
        }
        match self.highest {
            _ if segment.flags & RST != 0 => {}
            Some(highest) if own == 0 && highest > end => segment.renumber(frame, highest),
            // RFC 9293 section 3.8.6.1: the byte of a probe counts only if it is accepted.
            Some(_) if self.closed && segment.payload == 1 => {}
            Some(highest) if highest >= end => {}
            _ => self.highest = Some(end),
        }
    }
}

/// Where a TCP header lies in a frame, and what matters of it.
struct Segment {
    header: usize,
    number: TcpSeqNumber,
    acknowledged: TcpSeqNumber,
    flags: u8,
    window: u16,
    /// Bytes of payload.
    payload: usize,
}

impl Segment {
    /// The segment in a whole packet: IPv4, or IPv6 without extension headers.
    fn find(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(ETHERNET_HEADER_BYTES..)?;
        let (protocol, header_len, len) = match frame.get(12..14)? {
            [0x08, 0x00] => {
                (*ip.get(9)?, usize::from(*ip.first()? & 0x0f) * 4, usize::from(be16(ip, 2)?))
            }
            [0x86, 0xdd] => (*ip.get(6)?, 40, 40 + usize::from(be16(ip, 4)?)),
            _ => return None,
        };
        if protocol != 6 {
            return None;
        }
        let tcp = ip.get(header_len..len)?;
        let offset = usize::from(*tcp.get(12)? >> 4) * 4;
        let number = |at: usize| -> Option<TcpSeqNumber> {
            let number = u32::from_be_bytes(*tcp.get(at..)?.first_chunk()?);
            Some(TcpSeqNumber(number.cast_signed()))
        };
        Some(Self {
            header: ETHERNET_HEADER_BYTES + header_len,
            number: number(4)?,
            acknowledged: number(8)?,
            flags: *tcp.get(13)?,
            window: be16(tcp, 14)?,
            payload: tcp.len().checked_sub(offset)?,
        })
    }

    /// Gives the segment another number and brings its checksum up to date (RFC 1624 section 3).
    fn renumber(&self, frame: &mut [u8], number: TcpSeqNumber) {
        let tcp = &mut frame[self.header..];
        let Some(checksum) = be16(tcp, 16) else { return };
        let halves = |number: u32| [number >> 16, number & 0xffff];
        let mut sum = u32::from(!checksum);
        for half in halves(!self.number.0.cast_unsigned())
            .into_iter()
            .chain(halves(number.0.cast_unsigned()))
        {
            sum += half;
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let checksum = !u16::try_from(sum).expect("folded to 16 bits");
        tcp[4..8].copy_from_slice(&number.0.to_be_bytes());
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, TcpHeader, TcpSlice};

    fn frame(number: u32, syn: bool, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([1, 2, 3, 4], [5, 6, 7, 8], 9);
        let builder = builder.tcp(1, 2, number, 100).ack(7);
        let builder = if syn { builder.syn() } else { builder };
        builder.write(&mut frame, payload).unwrap();
        frame
    }

    fn header(frame: &[u8]) -> TcpHeader {
        let tcp = TcpSlice::from_slice(&frame[34..]).unwrap();
        let checksum = tcp.calc_checksum_ipv4([1, 2, 3, 4], [5, 6, 7, 8]).unwrap();
        assert_eq!(tcp.checksum(), checksum);
        tcp.to_header()
    }

    #[test]
    fn acknowledgements_are_sent_from_the_highest_number() {
        let mut sequence = Sequence::default();
        let mut send = |number: u32, syn, payload: &[u8]| {
            let mut frame = frame(number, syn, payload);
            sequence.sending(&mut frame);
            header(&frame).sequence_number
        };
        let start = u32::MAX - 3;
        assert_eq!(send(start, true, b""), start);
        assert_eq!(send(start.wrapping_add(1), false, &[1; 1000]), start.wrapping_add(1));
        assert_eq!(send(start.wrapping_add(1), false, b""), start.wrapping_add(1001));
        assert_eq!(send(start.wrapping_add(1), false, b"again"), start.wrapping_add(1));
        assert_eq!(send(start.wrapping_add(1001), false, b""), start.wrapping_add(1001));
    }

    #[test]
    fn a_probe_of_a_closed_window_does_not_count() {
        let mut sequence = Sequence::default();
        sequence.sending(&mut frame(99, true, b""));
        let mut closed = frame(1, false, b"");
        closed[48..50].fill(0);
        sequence.received(&closed);
        sequence.sending(&mut frame(100, false, b"p"));
        let mut ack = frame(100, false, b"");
        sequence.sending(&mut ack);
        assert_eq!(header(&ack).sequence_number, 100);
    }

    /// A frame of the peer's that acknowledges everything before `number`.
    fn ack(number: u32) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([4; 6], [2; 6]).ipv4([5, 6, 7, 8], [1, 2, 3, 4], 9);
        builder.tcp(2, 1, 7, 100).ack(number).write(&mut frame, b"").unwrap();
        frame
    }

    #[test]
    fn an_acknowledgement_that_shows_a_further_loss_is_shown_again() {
        let mut sequence = Sequence::default();
        sequence.sending(&mut frame(99, true, b""));
        assert!(!sequence.received(&ack(100)));
        for number in [100, 200, 300] {
            sequence.sending(&mut frame(number, false, &[1; 100]));
        }
        assert!(!sequence.received(&ack(200)), "nothing is missing");
        for _ in 0..REPETITIONS {
            assert!(!sequence.received(&ack(200)), "the library sees these itself");
        }
        assert!(sequence.received(&ack(300)), "the segment at 300 is missing, too");
        assert!(!sequence.received(&ack(400)), "nothing is missing any more");
        assert!(!sequence.received(&ack(300)), "an old one");
    }

    #[test]
    fn a_probe_is_due_once_while_something_is_in_flight() {
        let mut sequence = Sequence::default();
        let at = |sequence: &Sequence| sequence.probe_at(Instant::ZERO, Duration::ZERO);
        sequence.sending(&mut frame(99, true, b""));
        assert_eq!(at(&sequence), None, "a handshake has its own timer");
        sequence.received(&ack(100));
        assert_eq!(at(&sequence), None, "nothing is in flight");
        sequence.sending(&mut frame(100, false, b"data"));
        assert_eq!(at(&sequence), Some(Instant::ZERO + PROBE_AFTER));
        let slow = sequence.probe_at(Instant::ZERO, Duration::from_secs(1));
        assert_eq!(slow, Some(Instant::ZERO + Duration::from_secs(2)));
        assert_eq!(sequence.probe(), ack(100));
        assert_eq!(at(&sequence), None, "the timeout's turn");
        sequence.received(&ack(104));
        assert_eq!(at(&sequence), None);
    }
}
