//! Options of TCP sockets.
//!
//! Setting one is an operation that the stack does not confirm; a value that it refuses later shows
//! in [`TcpStream::take_error`]. What was set is remembered here for the getters.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dmm_proto::congestion::CongestionControl;
use dmm_proto::info::TcpInfo;
use dmm_proto::op::{SocketOption, Submission};
use nix::errno::Errno;

use super::{TcpListener, TcpStream};
use crate::error::{errno, os};
use crate::socket::Phase;

/// The hop limit of a packet unless set (RFC 1700's recommendation, and Linux's default).
pub(crate) const DEFAULT_HOP_LIMIT: u32 = 64;

/// The bits of a connection's traffic class that are the stack's (RFC 3168 section 5).
pub(crate) const ECN_BITS: u8 = 0x03;

/// States of a connection that the daemon need not be asked about (`tcp_states.h`).
const SYN_SENT: u8 = 2;
const CLOSE: u8 = 7;

impl TcpStream {
    /// With `true`, reads, writes and peeks that would wait fail with `EAGAIN`.
    ///
    /// # Errors
    /// None at present.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.core().options.nonblocking.store(nonblocking, Ordering::Relaxed);
        Ok(())
    }

    /// How long a read may wait; it then fails with `EAGAIN`.
    ///
    /// # Errors
    /// `EINVAL` for zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.core().options.set_read_timeout(timeout)
    }

    /// What [`TcpStream::set_read_timeout`] set.
    ///
    /// # Errors
    /// None at present.
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.core().options.read_timeout())
    }

    /// How long a write may wait; it then gives what was written, or `EAGAIN` if nothing was.
    ///
    /// # Errors
    /// `EINVAL` for zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.core().options.set_write_timeout(timeout)
    }

    /// What [`TcpStream::set_write_timeout`] set.
    ///
    /// # Errors
    /// None at present.
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.core().options.write_timeout())
    }

    /// Switches Nagle's algorithm (RFC 896) off, or on again.
    ///
    /// # Errors
    /// `ECONNRESET` if the daemon ended.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.set(SocketOption::NoDelay, u32::from(nodelay))?;
        self.core().options.nodelay.store(nodelay, Ordering::Relaxed);
        Ok(())
    }

    /// Whether Nagle's algorithm was switched off.
    ///
    /// # Errors
    /// None at present.
    pub fn nodelay(&self) -> io::Result<bool> {
        Ok(self.core().options.nodelay.load(Ordering::Relaxed))
    }

    /// Sets the hop limit of packets sent: 1 to 255.
    ///
    /// # Errors
    /// `EINVAL` beyond that; `ECONNRESET` if the daemon ended.
    pub fn set_ttl(&self, hops: u32) -> io::Result<()> {
        check_hops(hops)?;
        self.set(SocketOption::HopLimit, hops)?;
        self.core().options.hop_limit.store(hops, Ordering::Relaxed);
        Ok(())
    }

    /// The hop limit that was set, 64 if none was.
    ///
    /// # Errors
    /// None at present.
    pub fn ttl(&self) -> io::Result<u32> {
        Ok(hops_of(self.core().options.hop_limit.load(Ordering::Relaxed)))
    }

    /// Probes the peer after the connection was idle for so long (`SO_KEEPALIVE` and
    /// `TCP_KEEPIDLE`, RFC 9293 section 3.8.4); whole seconds, rounded up. `None` switches it off.
    ///
    /// # Errors
    /// `EINVAL` for zero or beyond 32,767 s (tcp(7)); `ECONNRESET` if the daemon ended.
    pub fn set_keepalive(&self, idle: Option<Duration>) -> io::Result<()> {
        const IDLE_S_MAX: u64 = 32_767;
        let seconds = match idle {
            None => 0,
            Some(idle) => {
                let seconds = idle.as_secs() + u64::from(idle.subsec_nanos() > 0);
                if !(1..=IDLE_S_MAX).contains(&seconds) {
                    return Err(os(Errno::EINVAL));
                }
                seconds as u32
            }
        };
        self.set(SocketOption::KeepAlive, seconds)?;
        self.core().options.keepalive_s.store(seconds, Ordering::Relaxed);
        Ok(())
    }

    /// What [`TcpStream::set_keepalive`] set.
    ///
    /// # Errors
    /// None at present.
    pub fn keepalive(&self) -> io::Result<Option<Duration>> {
        let seconds = self.core().options.keepalive_s.load(Ordering::Relaxed);
        Ok((seconds > 0).then(|| Duration::from_secs(u64::from(seconds))))
    }

    /// How long sent data may stay unacknowledged (`TCP_USER_TIMEOUT`, RFC 5482), in whole
    /// milliseconds; `None` leaves that to the stack.
    ///
    /// # Errors
    /// `EINVAL` for less than a millisecond or beyond 2^32 of them; `ECONNRESET` if the daemon ended.
    pub fn set_user_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        let millis = match timeout.map(|timeout| u32::try_from(timeout.as_millis())) {
            None => 0,
            Some(Ok(millis)) if millis > 0 => millis,
            Some(_) => return Err(os(Errno::EINVAL)),
        };
        self.set(SocketOption::UserTimeout, millis)
    }

    /// With zero, closing discards what was not sent and resets the connection (`SO_LINGER` in
    /// socket(7)). With `None`, or any other time, closing returns at once and the daemon sends
    /// what was written.
    ///
    /// # Errors
    /// `ECONNRESET` if the daemon ended.
    pub fn set_linger(&self, linger: Option<Duration>) -> io::Result<()> {
        let reset = linger == Some(Duration::ZERO);
        self.set(SocketOption::ResetOnClose, u32::from(reset))?;
        self.core().options.reset_on_close.store(reset, Ordering::Relaxed);
        Ok(())
    }

    /// Zero if closing will reset the connection, else `None`.
    ///
    /// # Errors
    /// None at present.
    pub fn linger(&self) -> io::Result<Option<Duration>> {
        let reset = self.core().options.reset_on_close.load(Ordering::Relaxed);
        Ok(reset.then_some(Duration::ZERO))
    }

    /// With `true`, segments that are not full wait for more to be written (`TCP_CORK`), but for what is written
    /// when that ends; with `false`, none waits for that.
    ///
    /// # Errors
    /// `ECONNRESET` if the daemon ended.
    pub fn set_cork(&self, cork: bool) -> io::Result<()> {
        self.set(SocketOption::Cork, u32::from(cork))?;
        self.core().options.cork.store(cork, Ordering::Relaxed);
        Ok(())
    }

    /// What [`TcpStream::set_cork`] set.
    ///
    /// # Errors
    /// None at present.
    pub fn cork(&self) -> io::Result<bool> {
        Ok(self.core().options.cork.load(Ordering::Relaxed))
    }

    /// Sets the traffic class of packets sent (`IP_TOS`, `IPV6_TCLASS`). Its lower two bits are the stack's
    /// (RFC 3168), and ignored.
    ///
    /// # Errors
    /// `ECONNRESET` if the daemon ended.
    pub fn set_traffic_class(&self, class: u8) -> io::Result<()> {
        let class = u32::from(class & !ECN_BITS);
        self.set(SocketOption::TrafficClass, class)?;
        self.core().options.traffic_class.store(class, Ordering::Relaxed);
        Ok(())
    }

    /// The traffic class that was set, 0 if none was.
    ///
    /// # Errors
    /// None at present.
    pub fn traffic_class(&self) -> io::Result<u8> {
        Ok(self.core().options.traffic_class.load(Ordering::Relaxed) as u8)
    }

    /// Chooses the congestion control (`TCP_CONGESTION`). One that the kind of stack does not have shows in
    /// [`TcpStream::take_error`] as `ENOENT`. DCTCP needs marks, which a connection's SYN asks for: see
    /// [`crate::ConnectOptions::congestion`].
    ///
    /// # Errors
    /// `ECONNRESET` if the daemon ended.
    pub fn set_congestion_control(&self, control: CongestionControl) -> io::Result<()> {
        self.set(SocketOption::CongestionControl, (control as u8).into())
    }

    /// The connection's congestion control; `None` if it has none, or is not open yet.
    ///
    /// # Errors
    /// As [`TcpStream::info`].
    pub fn congestion_control(&self) -> io::Result<Option<CongestionControl>> {
        Ok(CongestionControl::from_number(self.info()?.congestion.into()))
    }

    /// Sends so many bytes a second at most, spread evenly (`SO_MAX_PACING_RATE`). `None`: as many as the peer
    /// and the network take.
    ///
    /// # Errors
    /// `EINVAL` for 0; `ECONNRESET` if the daemon ended.
    pub fn set_max_pacing_rate(&self, rate: Option<u32>) -> io::Result<()> {
        if rate == Some(0) {
            return Err(os(Errno::EINVAL));
        }
        self.set(SocketOption::PacingRate, rate.unwrap_or(u32::MAX))
    }

    /// Payload of a segment at most, in bytes (`TCP_MAXSEG`).
    ///
    /// # Errors
    /// As [`TcpStream::info`].
    pub fn max_segment(&self) -> io::Result<u32> {
        Ok(self.info()?.snd_mss)
    }

    /// What the connection knows of itself (`TCP_INFO`): of one that is not open, its state alone. Waits for the
    /// daemon, whether the socket is non-blocking or not.
    ///
    /// # Errors
    /// `EOPNOTSUPP` if the kind of stack cannot tell; `ECONNRESET` if the daemon ended.
    pub fn info(&self) -> io::Result<TcpInfo> {
        let (session, core) = (&self.client().session, self.core());
        let state = match core.phase() {
            Phase::Opening => SYN_SENT,
            Phase::Deferred | Phase::Failed => CLOSE,
            Phase::Open => return session.inform(core, core.instance()),
        };
        Ok(TcpInfo { state, ..TcpInfo::default() })
    }

    /// The error that ended the connection, or an option's that the stack refused; each is told once
    /// (`SO_ERROR`).
    ///
    /// # Errors
    /// None at present.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        if self.client().session.is_dead() {
            return Ok(Some(os(Errno::ECONNRESET)));
        }
        self.client().session.drain();
        Ok(self.core().take_error())
    }

    pub(super) fn set(&self, option: SocketOption, value: u32) -> io::Result<()> {
        let core = self.core();
        // Until then the connect may be redirected, and the instance that was asked forget it.
        if core.keep_early(option, value) {
            return Ok(());
        }
        // The daemon knows nothing of it any more: to name it would be a breach of the contract.
        if core.phase() == Phase::Failed {
            return Ok(());
        }
        let socket = core.socket();
        self.client().session.ask(core.instance(), Submission::SetOption { socket, option, value })
    }
}

impl TcpListener {
    /// Takes payload with SYNs from now on (TCP Fast Open, RFC 7413; `TCP_FASTOPEN`): of so many connections at
    /// most, in each of the stack's instances, whose handshake is not complete. 0 ends it.
    ///
    /// # Errors
    /// `ECONNRESET` if the daemon ended.
    pub fn set_fast_open(&self, waiting: u32) -> io::Result<()> {
        self.set(SocketOption::FastOpen, waiting)
    }

    /// Payload of a segment at most, either way, of connections to come (`TCP_MAXSEG`): 88 to 32,767 bytes.
    /// `None`: the link's.
    ///
    /// # Errors
    /// `EINVAL` beyond that; `ECONNRESET` if the daemon ended.
    pub fn set_max_segment(&self, bytes: Option<u16>) -> io::Result<()> {
        bytes.map_or(Ok(()), check_segment)?;
        self.set(SocketOption::MaxSegment, bytes.unwrap_or(0).into())
    }

    /// As [`TcpStream::set_congestion_control`], of connections to come.
    ///
    /// # Errors
    /// `ECONNRESET` if the daemon ended.
    pub fn set_congestion_control(&self, control: CongestionControl) -> io::Result<()> {
        self.set(SocketOption::CongestionControl, (control as u8).into())
    }

    /// As [`TcpStream::set_max_pacing_rate`], of connections to come.
    ///
    /// # Errors
    /// As [`TcpStream::set_max_pacing_rate`].
    pub fn set_max_pacing_rate(&self, rate: Option<u32>) -> io::Result<()> {
        if rate == Some(0) {
            return Err(os(Errno::EINVAL));
        }
        self.set(SocketOption::PacingRate, rate.unwrap_or(u32::MAX))
    }

    /// As [`TcpStream::set_traffic_class`], of connections to come.
    ///
    /// # Errors
    /// `ECONNRESET` if the daemon ended.
    pub fn set_traffic_class(&self, class: u8) -> io::Result<()> {
        let class = u32::from(class & !ECN_BITS);
        self.set(SocketOption::TrafficClass, class)?;
        self.core().options.traffic_class.store(class, Ordering::Relaxed);
        Ok(())
    }

    /// As [`TcpStream::set_ttl`], of connections to come.
    ///
    /// # Errors
    /// As [`TcpStream::set_ttl`].
    pub fn set_ttl(&self, hops: u32) -> io::Result<()> {
        check_hops(hops)?;
        self.set(SocketOption::HopLimit, hops)?;
        self.core().options.hop_limit.store(hops, Ordering::Relaxed);
        Ok(())
    }

    /// The hop limit that was set, 64 if none was.
    ///
    /// # Errors
    /// None at present.
    pub fn ttl(&self) -> io::Result<u32> {
        Ok(hops_of(self.core().options.hop_limit.load(Ordering::Relaxed)))
    }

    /// Tells each instance, and waits until it has heard: who connects then is answered accordingly.
    fn set(&self, option: SocketOption, value: u32) -> io::Result<()> {
        let (session, core) = (&self.client().session, self.core());
        let socket = core.socket();
        self.instances().try_for_each(|instance| {
            session.ask(instance, Submission::SetOption { socket, option, value })
        })?;
        self.instances().try_for_each(|instance| match session.inform(core, instance) {
            // That a listener cannot tell is an answer.
            Err(error) if errno(&error) == Errno::EOPNOTSUPP as i32 => Ok(()),
            told => told.map(|_| ()),
        })
    }
}

/// `EINVAL` for payload of a segment that Linux does not allow (`TCP_MIN_MSS`, `MAX_TCP_WINDOW`).
pub(crate) fn check_segment(bytes: u16) -> io::Result<()> {
    if (88..=32_767).contains(&bytes) { Ok(()) } else { Err(os(Errno::EINVAL)) }
}

/// `EINVAL` for a hop limit that ip(7) does not allow.
pub(crate) fn check_hops(hops: u32) -> io::Result<()> {
    if (1..=255).contains(&hops) { Ok(()) } else { Err(os(Errno::EINVAL)) }
}

/// The hop limit in force, where 0 says that none was set.
pub(crate) fn hops_of(stored: u32) -> u32 {
    if stored == 0 { DEFAULT_HOP_LIMIT } else { stored }
}
