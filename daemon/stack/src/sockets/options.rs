//! Socket options, kept by listeners for the connections that they will accept.
//!
//! Owns: the meaning of each [`SocketOption`]. Must never: accept a value that a kind would panic on.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::time::Duration;

use dmm_proto::congestion::CongestionControl;
use dmm_proto::op::SocketOption;
use nix::errno::Errno;

use crate::config::TcpConfig;

/// The options of a socket.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Options {
    /// Whether short segments do not wait for acknowledgements (`TCP_NODELAY`).
    pub(crate) no_delay: bool,
    /// Hops that its packets may make, if not the default.
    pub(crate) hop_limit: Option<u8>,
    /// Payload of its segments at most, if it is to be less than the link's.
    pub(crate) max_segment: Option<u16>,
    /// The traffic class of its packets.
    pub(crate) class: u8,
    /// How long it may be silent before the peer is asked for a sign of life.
    pub(crate) keep_alive: Option<Duration>,
    /// How long the peer may not answer.
    pub(crate) user_timeout: Duration,
    default_timeout: Duration,
    /// Whether closing it is a reset.
    pub(crate) reset_on_close: bool,
    /// Connections of a listener's whose SYN had payload and whose handshake is not complete, at most.
    pub(crate) fast_open: u32,
    /// Whether it may send to a broadcast address (`SO_BROADCAST`).
    pub(crate) broadcast: bool,
    /// Hops that its packets to groups may make (`IP_MULTICAST_TTL`).
    pub(crate) group_hops: u8,
    /// Whether what it sends to many comes back to the stack's own sockets (`IP_MULTICAST_LOOP`).
    pub(crate) group_loop: bool,
    /// Its congestion control, if not the stack's.
    pub(crate) congestion: Option<CongestionControl>,
    /// Bytes per second that it sends at most.
    pub(crate) pacing_rate: Option<u32>,
}

impl Options {
    /// The defaults of a stack.
    pub(crate) fn new(config: &TcpConfig) -> Self {
        let default_timeout = Duration::from_secs(config.user_timeout_s.into());
        let keep_alive = config.keepalive_s.map(|seconds| Duration::from_secs(seconds.into()));
        Self {
            no_delay: false,
            hop_limit: None,
            max_segment: None,
            class: 0,
            keep_alive,
            user_timeout: default_timeout,
            default_timeout,
            reset_on_close: false,
            fast_open: 0,
            broadcast: false,
            // RFC 1112 section 6.1.
            group_hops: 1,
            group_loop: true,
            congestion: None,
            pacing_rate: None,
        }
    }

    /// Sets one.
    pub(crate) fn set(&mut self, option: SocketOption, value: u32) -> Result<(), Errno> {
        match option {
            SocketOption::NoDelay => self.no_delay = value != 0,
            // As Linux has it (`TCP_MIN_MSS`, `MAX_TCP_WINDOW`).
            SocketOption::MaxSegment => match u16::try_from(value) {
                Ok(0) => self.max_segment = None,
                Ok(bytes @ 88..=32_767) => self.max_segment = Some(bytes),
                _ => return Err(Errno::EINVAL),
            },
            SocketOption::TrafficClass => {
                self.class = u8::try_from(value).map_err(|_| Errno::EINVAL)?;
            }
            // They say something of the moment, which a listener cannot pass on.
            SocketOption::Cork | SocketOption::RecordEnd | SocketOption::TrainEnd => {}
            SocketOption::KeepAlive => {
                self.keep_alive = (value != 0).then(|| Duration::from_secs(value.into()));
            }
            // ip(7): 1 to 255.
            SocketOption::HopLimit => match u8::try_from(value) {
                Ok(limit) if limit > 0 => self.hop_limit = Some(limit),
                _ => return Err(Errno::EINVAL),
            },
            SocketOption::UserTimeout if value == 0 => self.user_timeout = self.default_timeout,
            SocketOption::UserTimeout => {
                self.user_timeout = Duration::from_millis(value.into());
            }
            SocketOption::ResetOnClose => self.reset_on_close = value != 0,
            SocketOption::FastOpen => self.fast_open = value,
            SocketOption::Broadcast => self.broadcast = value != 0,
            SocketOption::GroupHops => {
                self.group_hops = u8::try_from(value).map_err(|_| Errno::EINVAL)?;
            }
            SocketOption::GroupLoop => self.group_loop = value != 0,
            SocketOption::CongestionControl => {
                // As Linux has it for a name that it does not know.
                let control = CongestionControl::from_number(value).ok_or(Errno::ENOENT)?;
                self.congestion = Some(control);
            }
            // As Linux has it for a rate of nothing: no segment would ever leave.
            SocketOption::PacingRate if value == 0 => return Err(Errno::EINVAL),
            SocketOption::PacingRate => self.pacing_rate = (value < u32::MAX).then_some(value),
        }
        Ok(())
    }
}
