//! What a stack is made from: a checked, complete description without defaults.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

use dmm_proto::congestion::CongestionControl;

/// An address with the length of its subnet's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// Bits of the prefix: at most 32 or 128.
    pub len: u8,
}

/// A route through a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to; a length of 0 makes it the default route.
    pub to: Prefix,
    /// The gateway, of the same family.
    pub via: IpAddr,
}

/// A neighbour that is known without asking (ARP, NDP).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its IP address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: [u8; 6],
}

/// Congestion control.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// None: the peer's window alone.
    None,
    /// RFC 5681.
    Reno,
    /// RFC 9438.
    #[default]
    Cubic,
    /// RFC 8257, of the kind `native`.
    Dctcp,
    /// draft-ietf-ccwg-bbr, of the kind `native`.
    Bbr,
}

impl From<CongestionControl> for Congestion {
    fn from(control: CongestionControl) -> Self {
        match control {
            CongestionControl::Reno => Self::Reno,
            CongestionControl::Cubic => Self::Cubic,
            CongestionControl::Dctcp => Self::Dctcp,
            CongestionControl::Bbr => Self::Bbr,
        }
    }
}

/// TCP's tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpConfig {
    /// Bytes of a connection's receive buffer.
    pub rx_buffer: u32,
    /// Bytes of a connection's send buffer.
    pub tx_buffer: u32,
    /// Congestion control.
    pub congestion: Congestion,
    /// Seconds without progress before a connection is given up (RFC 9293 section 3.8.3).
    pub user_timeout_s: u32,
    /// Seconds of silence before the peer is asked for a sign of life, on sockets that do not choose
    /// for themselves (RFC 9293 section 3.8.4). `None`: never.
    pub keepalive_s: Option<u32>,
    /// What it may do about loss.
    pub features: Features,
    /// Explicit congestion notification.
    pub ecn: Ecn,
    /// Segments that go out as a train at least, if there are so many: Linux's `tcp_min_tso_segs`.
    pub train_min: u8,
    /// The key of the cookies of TCP Fast Open (RFC 7413), as `TCP_FASTOPEN_KEY` takes it. `None`: one that
    /// follows from the seed.
    pub fast_open_key: Option<[u8; 16]>,
}

/// [`TcpConfig::train_min`] as Linux has it: a receiver acknowledges every second segment.
pub const TRAIN_MIN: u8 = 2;

/// Explicit congestion notification (RFC 3168), of the kind `native`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ecn {
    /// None.
    Off,
    /// Where the peer asks for it, as Linux has it.
    #[default]
    Passive,
    /// Our SYNs ask for it as well.
    On,
}

/// Parts of TCP that can be left out, of the kind `native`: to see what they are good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "each stands for a standard of its own")]
pub struct Features {
    /// Selective acknowledgements (RFC 2018).
    pub sack: bool,
    /// Loss by time, and probes of the tail (RFC 8985); else by three segments beyond (RFC 6675).
    pub rack: bool,
    /// Retransmissions in proportion to what arrives (RFC 6937); else as the window allows.
    pub prr: bool,
    /// Whether a timeout was needed (RFC 5682).
    pub frto: bool,
    /// Segments older than what was received are dropped (RFC 7323 section 5).
    pub paws: bool,
    /// Timestamps (RFC 7323 section 3).
    pub stamps: bool,
    /// Segments become shorter where long ones never arrive (RFC 4821).
    pub black_holes: bool,
}

impl Features {
    /// All of them.
    pub const ALL: Self = Self {
        sack: true,
        rack: true,
        prr: true,
        frto: true,
        paws: true,
        stamps: true,
        black_holes: true,
    };
}

/// UDP's tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpConfig {
    /// Bytes of a socket's receive buffer.
    pub rx_buffer: u32,
    /// Bytes of a socket's send buffer.
    pub tx_buffer: u32,
}

/// Everything that one instance of a stack is made from.
#[derive(Clone, Debug)]
pub struct StackConfig {
    /// The port's Ethernet address.
    pub mac: [u8; 6],
    /// Largest layer-3 packet in bytes.
    pub mtu: u16,
    /// The VLAN that it is in, of the kind `native`: 1 to 4094.
    pub vlan: Option<u16>,
    /// Whether the port verifies checksums on receive.
    pub rx_checksum: bool,
    /// Own addresses.
    pub addresses: Vec<Prefix>,
    /// Routes, gateways included.
    pub routes: Vec<Route>,
    /// Static neighbours.
    pub neighbours: Vec<Neighbour>,
    /// TCP's tuning.
    pub tcp: TcpConfig,
    /// UDP's tuning.
    pub udp: UdpConfig,
    /// Sockets of the instance at most.
    pub sockets_max: u32,
    /// Seed of initial sequence numbers and identifiers; secret in a daemon, fixed in a simulation.
    pub seed: u64,
}
