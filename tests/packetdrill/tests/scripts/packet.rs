//! Segments of a script, and packets of the wire.

use anyhow::{Context, Result, ensure};
use dmm_port::checksum::{fold, sum};
use etherparse::{IpEcn, IpNumber, Ipv4Header, Ipv4HeaderSlice, TcpHeader, TcpSlice};

/// Where scripts' packets come from, and where they go.
pub const REMOTE: [u8; 4] = [192, 0, 2, 1];
pub const LOCAL: [u8; 4] = [192, 168, 0, 1];

/// A TCP option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Option_ {
    Mss(u16),
    Scale(u8),
    Nop,
    End,
    SackPermitted,
    Stamps(u32, u32),
    Sack(Vec<(u32, u32)>),
    /// A Fast Open cookie; without bytes the request for one.
    FastOpen(Vec<u8>),
}

/// A segment with numbers as the script has them.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The packet's ECN field, if it matters.
    pub class: Option<u8>,
    /// Letters of `SFRP.UEW`; the dot is ACK, W is CWR.
    pub flags: String,
    pub first: u32,
    pub len: u32,
    pub ack: Option<u32>,
    pub window: Option<u16>,
    pub options: Vec<Option_>,
}

impl Segment {
    pub fn has(&self, flag: char) -> bool {
        self.flags.contains(flag)
    }
}

fn write_options(options: &[Option_]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for option in options {
        match option {
            Option_::Mss(mss) => bytes.extend([2, 4].into_iter().chain(mss.to_be_bytes())),
            Option_::Scale(shift) => bytes.extend([3, 3, *shift]),
            Option_::Nop => bytes.push(1),
            Option_::End => bytes.push(0),
            Option_::SackPermitted => bytes.extend([4, 2]),
            Option_::Stamps(value, echo) => {
                bytes.extend([8, 10]);
                bytes.extend(value.to_be_bytes().into_iter().chain(echo.to_be_bytes()));
            }
            Option_::Sack(ranges) => {
                bytes.extend([5, 2 + 8 * ranges.len() as u8]);
                for (first, last) in ranges {
                    bytes.extend(first.to_be_bytes().into_iter().chain(last.to_be_bytes()));
                }
            }
            Option_::FastOpen(cookie) => {
                bytes.extend([34, 2 + cookie.len() as u8]);
                bytes.extend(cookie);
            }
        }
    }
    while bytes.len() % 4 != 0 {
        bytes.push(0);
    }
    bytes
}

fn read_options(mut bytes: &[u8]) -> Result<Vec<Option_>> {
    let mut options = Vec::new();
    while let [kind, rest @ ..] = bytes {
        match kind {
            0 => options.push(Option_::End),
            1 => options.push(Option_::Nop),
            _ => {
                let len = usize::from(*rest.first().context("an option without a length")?);
                let value = bytes.get(2..len).context("an option beyond the header")?;
                let word = |at: usize| -> Result<u32> {
                    Ok(u32::from_be_bytes(
                        *value.get(at..).and_then(<[u8]>::first_chunk).context("short")?,
                    ))
                };
                options.push(match (kind, value) {
                    (2, &[high, low]) => Option_::Mss(u16::from_be_bytes([high, low])),
                    (3, &[shift]) => Option_::Scale(shift),
                    (4, &[]) => Option_::SackPermitted,
                    (8, _) => Option_::Stamps(word(0)?, word(4)?),
                    (5, _) => {
                        let ranges =
                            (0..value.len() / 8).map(|at| Ok((word(8 * at)?, word(8 * at + 4)?)));
                        Option_::Sack(ranges.collect::<Result<_>>()?)
                    }
                    (34, cookie) => Option_::FastOpen(cookie.to_vec()),
                    _ => anyhow::bail!("option {kind} is unknown"),
                });
                bytes = &bytes[len..];
                continue;
            }
        }
        bytes = rest;
    }
    Ok(options)
}

/// Makes a packet of a segment whose numbers are those of the wire.
pub fn write(segment: &Segment, ports: (u16, u16)) -> Result<Vec<u8>> {
    let mut tcp = TcpHeader::new(ports.0, ports.1, segment.first, segment.window.unwrap_or(0));
    tcp.syn = segment.has('S');
    tcp.fin = segment.has('F');
    tcp.rst = segment.has('R');
    tcp.psh = segment.has('P');
    tcp.ack = segment.has('.');
    tcp.urg = segment.has('U');
    tcp.ece = segment.has('E');
    tcp.cwr = segment.has('W');
    tcp.acknowledgment_number = segment.ack.unwrap_or(0);
    tcp.set_options_raw(&write_options(&segment.options))?;
    let payload = vec![0x5a; segment.len as usize];
    let len = u16::try_from(tcp.header_len() + payload.len())?;
    let mut ip = Ipv4Header::new(len, 64, IpNumber::TCP, REMOTE, LOCAL)?;
    ip.ecn = IpEcn::try_new(segment.class.unwrap_or(0))?;
    tcp.checksum = tcp.calc_checksum_ipv4(&ip, &payload)?;
    let mut packet = Vec::new();
    ip.write(&mut packet)?;
    tcp.write(&mut packet)?;
    packet.extend(payload);
    Ok(packet)
}

/// Makes an ICMP error (RFC 792: destination unreachable) about a segment of ours.
pub fn write_trouble(code: u8, mtu: u16, number: u32, ports: (u16, u16)) -> Result<Vec<u8>> {
    let quoted = Ipv4Header::new(20, 64, IpNumber::TCP, LOCAL, REMOTE)?;
    let mut message = vec![3, code, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    quoted.write(&mut message)?;
    message.extend(ports.0.to_be_bytes().into_iter().chain(ports.1.to_be_bytes()));
    message.extend(number.to_be_bytes());
    let checksum = !fold(sum(&message));
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut packet = Vec::new();
    Ipv4Header::new(u16::try_from(message.len())?, 64, IpNumber::ICMP, REMOTE, LOCAL)?
        .write(&mut packet)?;
    packet.extend(message);
    Ok(packet)
}

/// Reads a packet: its segment with numbers of the wire, and its ports.
pub fn read(packet: &[u8]) -> Result<(Segment, (u16, u16))> {
    let ip = Ipv4HeaderSlice::from_slice(packet)?;
    ensure!(ip.source() == LOCAL && ip.destination() == REMOTE, "a packet of somebody else's");
    ensure!(ip.header_checksum() == ip.to_header().calc_header_checksum(), "a wrong IP checksum");
    let tcp = TcpSlice::from_slice(&packet[ip.slice().len()..usize::from(ip.total_len())])?;
    let sum = tcp.to_header().calc_checksum_ipv4_raw(LOCAL, REMOTE, tcp.payload())?;
    ensure!(sum == tcp.checksum(), "a wrong TCP checksum");
    let letters = [
        ('S', tcp.syn()),
        ('F', tcp.fin()),
        ('R', tcp.rst()),
        ('P', tcp.psh()),
        ('.', tcp.ack()),
        ('U', tcp.urg()),
        ('E', tcp.ece()),
        ('W', tcp.cwr()),
    ];
    let segment = Segment {
        class: Some(packet[1] & 3),
        flags: letters.into_iter().filter(|(_, set)| *set).map(|(letter, _)| letter).collect(),
        first: tcp.sequence_number(),
        len: u32::try_from(tcp.payload().len())?,
        ack: tcp.ack().then(|| tcp.acknowledgment_number()),
        window: Some(tcp.window_size()),
        options: read_options(tcp.options())?,
    };
    Ok((segment, (tcp.source_port(), tcp.destination_port())))
}
