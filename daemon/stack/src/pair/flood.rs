//! Floods that a stack must bear: frames that anybody can send, each as good as the last.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr};

use super::{address_v4, byte_at};
use crate::ip::packet::{Extent, Headers, checksum, headers_bytes, protocol, pseudo_sum};

/// Bytes of a TCP header without options.
const TCP_BYTES: usize = 20;
const SYN: u8 = 2;
const ACK: u8 = 16;
/// The port that is flooded.
const PORT: u16 = 80;

/// What is sent to port 80 of station 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// Handshakes that nobody completes, from addresses that are not there.
    Syn,
    /// Segments of connections that are not there, and each eighth of one that is, beyond its window.
    Ack,
    /// First fragments of packets whose rest never comes.
    Fragments,
    /// Bytes of a connection that a peer sends without the one before each.
    OutOfOrder,
}

/// What is known of the connection that is flooded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// The peer's port; it is station 1.
    pub port: u16,
    /// The number that is expected of it next.
    pub sequence: u32,
    /// What it acknowledges.
    pub acknowledgement: u32,
}

impl Known {
    /// What a segment over IPv4 shows that the peer sent.
    #[must_use]
    pub fn from_frame(frame: &[u8]) -> Option<Self> {
        let tcp = frame.get(34..54).filter(|_| frame[12..15] == [8, 0, 0x45] && frame[23] == 6)?;
        let u32_at =
            |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
        let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        let payload = total.checked_sub(20 + usize::from(tcp[12] >> 4) * 4)?;
        Some(Self {
            port: u16::from_be_bytes([tcp[0], tcp[1]]),
            sequence: u32_at(4).wrapping_add(u32::try_from(payload).ok()?),
            acknowledgement: u32_at(8),
        })
    }
}

impl Flood {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Syn, Self::Ack, Self::Fragments, Self::OutOfOrder];

    /// What it is of.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Syn => "SYNs",
            Self::Ack => "ACKs",
            Self::Fragments => "fragments",
            Self::OutOfOrder => "segments out of order",
        }
    }

    /// The frame of a number, which makes it differ from others.
    #[must_use]
    pub fn frame(self, number: u64, known: Known) -> Vec<u8> {
        let chance = u64::from_be_bytes(std::array::from_fn(|at| byte_at(8 * number + at as u64)));
        let port = 1024 + (chance >> 16) as u16 % 60_000;
        let (low, high) = (chance as u32, (chance >> 32) as u32);
        match self {
            Self::Syn => {
                // 10.0.0.10 to 249: none of them is there.
                let from = Ipv4Addr::new(10, 0, 0, 10 + (chance % 240) as u8).into();
                segment(from, port, (low, 0), SYN, &[])
            }
            Self::Ack if number.is_multiple_of(8) => {
                let beyond = known.sequence.wrapping_add((1 << 30) + low % (1 << 30));
                segment(address_v4(1), known.port, (beyond, known.acknowledgement), ACK, &[])
            }
            Self::Ack => segment(address_v4(1), port, (low, high), ACK, &[]),
            Self::Fragments => {
                let identification = number as u32;
                let extent = Extent::Part { identification, offset: 0, more: true };
                packet(address_v4(1), protocol::TCP, extent, &[7; 1000])
            }
            Self::OutOfOrder => {
                // Every second byte of 32,000, again and again.
                let offset = 1 + 2 * (number % 16_000) as u32;
                let numbers = (known.sequence.wrapping_add(offset), known.acknowledgement);
                segment(address_v4(1), known.port, numbers, ACK, &[7])
            }
        }
    }
}

fn segment(
    from: IpAddr,
    port: u16,
    (sequence, acknowledgement): (u32, u32),
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut message = vec![0; TCP_BYTES];
    message[0..2].copy_from_slice(&port.to_be_bytes());
    message[2..4].copy_from_slice(&PORT.to_be_bytes());
    message[4..8].copy_from_slice(&sequence.to_be_bytes());
    message[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
    message[12..16].copy_from_slice(&[(TCP_BYTES as u8 / 4) << 4, flags, 0x10, 0]);
    message.extend_from_slice(payload);
    let sum = checksum(pseudo_sum(from, address_v4(2), protocol::TCP, message.len()), &message);
    message[16..18].copy_from_slice(&sum);
    packet(from, protocol::TCP, Extent::Whole, &message)
}

fn packet(from: IpAddr, protocol: u8, extent: Extent, payload: &[u8]) -> Vec<u8> {
    let to = address_v4(2);
    let headers = Headers {
        from_mac: [2, 0, 0, 0, 0, 1],
        to_mac: [2, 0, 0, 0, 0, 2],
        from,
        to,
        protocol,
        hop_limit: 64,
        class: 0,
        extent,
    };
    let mut frame = vec![0; headers_bytes(to) + payload.len()];
    headers.write(&mut frame);
    frame[headers_bytes(to)..].copy_from_slice(payload);
    frame
}
