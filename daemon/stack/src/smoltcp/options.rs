//! Socket options, kept by listeners for the connections that they will accept.
//!
//! Owns: the meaning of each [`SocketOption`] in this kind. Must never: accept a value that the
//! library would panic on.
#![forbid(unsafe_code)]

use std::time::Duration;

use ::smoltcp::socket::tcp;
use ::smoltcp::time::Duration as LibraryDuration;
use dmm_proto::op::SocketOption;
use nix::errno::Errno;

use crate::config::TcpConfig;

/// The options of a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    no_delay: bool,
    /// Hops that its packets may make, if not the default.
    pub(super) hop_limit: Option<u8>,
    /// How long it may be silent before the peer is asked for a sign of life.
    pub(super) keep_alive: Option<Duration>,
    /// How long the peer may not answer.
    pub(super) user_timeout: Duration,
    default_timeout: Duration,
    /// Whether closing it is a reset.
    pub(super) reset_on_close: bool,
}

impl Options {
    /// The defaults of a stack.
    pub(super) fn new(config: &TcpConfig) -> Self {
        let default_timeout = Duration::from_secs(config.user_timeout_s.into());
        let keep_alive = config.keepalive_s.map(|seconds| Duration::from_secs(seconds.into()));
        Self {
            no_delay: false,
            hop_limit: None,
            keep_alive,
            user_timeout: default_timeout,
            default_timeout,
            reset_on_close: false,
        }
    }

    /// Sets one.
    pub(super) fn set(&mut self, option: SocketOption, value: u32) -> Result<(), Errno> {
        match option {
            SocketOption::NoDelay => self.no_delay = value != 0,
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
        }
        Ok(())
    }

    /// Tells the library's socket those that it carries out. Timeouts are not among them: its own
    /// would end idle connections.
    pub(super) fn apply(&self, socket: &mut tcp::Socket<'_>) {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        socket.set_nagle_enabled(!self.no_delay);
        socket.set_hop_limit(self.hop_limit);
        socket
            .set_keep_alive(self.keep_alive.map(|span| LibraryDuration::from_micros(micros(span))));
    }
}
