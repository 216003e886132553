//! The sequence numbers of acknowledgements, put right.
//!
//! Owns: for each connection, how far it has ever sent (SND.MAX). Called for each segment in and
//! out. Must never: touch a segment that carries data or flags of its own.
//!
//! After a retransmission timeout the library forgets how far it had sent, and gives acknowledgements
//! without data the number that it will send from again. The peer, which may have received more
//! than that, finds them below its window and must ignore what they acknowledge (RFC 9293 section
//! 3.10.7.4). When both ends time out at once, neither ever hears of an acknowledgement again. So
//! such a segment is given the number that the standard asks for (section 3.10.7.4: SEQ=SND.NXT).
#![forbid(unsafe_code)]

use ::smoltcp::wire::TcpSeqNumber;

const ETHERNET_HEADER_BYTES: usize = 14;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;

/// How far a connection has sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sequence {
    /// The number after the highest one sent.
    highest: Option<TcpSeqNumber>,
    /// The peer's window is closed, so that what goes beyond it is a probe.
    closed: bool,
}

impl Sequence {
    /// Looks at a segment of the peer.
    pub(super) fn received(&mut self, frame: &[u8]) {
        if let Some(segment) = Segment::find(frame) {
            self.closed = segment.window == 0;
        }
    }

    /// Looks at a segment of ours, and corrects it if need be.
    pub(super) fn sending(&mut self, frame: &mut [u8]) {
        let Some(segment) = Segment::find(frame) else { return };
        let own = segment.payload + usize::from(segment.flags & (SYN | FIN) != 0);
        let end = segment.number + own;
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
        let number = u32::from_be_bytes(*tcp.get(4..)?.first_chunk()?);
        Some(Self {
            header: ETHERNET_HEADER_BYTES + header_len,
            number: TcpSeqNumber(number.cast_signed()),
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
        for half in halves(!self.number.0.cast_unsigned()).into_iter().chain(halves(number.0.cast_unsigned())) {
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
}
