//! A socket as POSIX knows it: it exists before it has an address, a peer or a stack's attention.
//!
//! ```text
//!   Fresh ──bind──▶ Fresh with an address ──listen──▶ Listener
//!     └──────────connect────┴─────────────connect───▶ Stream
//!   Fresh ──bind, connect, send──▶ Datagram
//! ```
//!
//! A TCP socket's address is told to the stack when it listens or connects. Options set before are
//! kept, and set then.
#![forbid(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use dmm::{
    Client, CongestionControl, ConnectOptions, ListenOptions, Received, Reserved, TcpListener,
    TcpStream, UdpSocket,
};
use nix::errno::Errno;

use crate::datagrams;
use crate::epoll::Epoll;
use crate::errors::os;

/// What a socket is now. A clone is another handle to the same one.
pub(crate) enum State {
    /// Nothing yet.
    Fresh(Option<SocketAddr>),
    /// A TCP listener.
    Listener(TcpListener),
    /// A TCP connection, or an attempt at one.
    Stream(TcpStream),
    /// A UDP socket.
    Datagram(UdpSocket),
}

/// Address family and type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// IPv6, else IPv4.
    pub(crate) v6: bool,
    /// TCP, else UDP.
    pub(crate) stream: bool,
}

/// What was chosen for the socket, whatever it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Choices {
    pub(crate) nonblocking: bool,
    pub(crate) read_timeout: Option<Duration>,
    pub(crate) write_timeout: Option<Duration>,
    pub(crate) nodelay: bool,
    pub(crate) keepalive: bool,
    pub(crate) keepalive_s: Option<u32>,
    pub(crate) user_timeout_ms: u32,
    pub(crate) hops: Option<u32>,
    pub(crate) traffic_class: u8,
    pub(crate) max_segment: Option<u16>,
    pub(crate) cork: bool,
    pub(crate) congestion: Option<CongestionControl>,
    /// Bytes per second at most, 0 if that was never chosen.
    pub(crate) pacing_rate: u32,
    /// Of a listener.
    pub(crate) fast_open: u32,
    /// Of a connection.
    pub(crate) fast_connect: bool,
    pub(crate) reset_on_close: bool,
    pub(crate) reuse_address: bool,
    pub(crate) datagrams: datagrams::Choices,
}

/// What is lent to the program, and goes with the socket.
#[derive(Default)]
pub(crate) struct Loans {
    pub(crate) received: Option<Received>,
    pub(crate) reserved: Option<Reserved>,
}

/// A socket.
pub(crate) struct Socket {
    pub(crate) kind: Kind,
    client: Client,
    stack: Option<String>,
    state: Mutex<State>,
    choices: Mutex<Choices>,
    loans: Mutex<Loans>,
    /// Groups that a UDP socket is to be a member of once it is one.
    groups: Mutex<Vec<datagrams::Group>>,
    /// Epoll instances that want to be told when it becomes something, and by which number.
    watchers: Mutex<Vec<(Weak<Epoll>, c_int)>>,
}

impl State {
    fn copy(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Fresh(local) => Self::Fresh(*local),
            Self::Listener(listener) => Self::Listener(listener.try_clone()?),
            Self::Stream(stream) => Self::Stream(stream.try_clone()?),
            Self::Datagram(socket) => Self::Datagram(socket.try_clone()?),
        })
    }
}

impl Socket {
    /// A socket on the named stack of the process's daemon, or its first.
    pub(crate) fn new(kind: Kind, stack: Option<String>, nonblocking: bool) -> io::Result<Self> {
        let client = Client::global()?;
        if let Some(name) = &stack {
            let known = client.stacks();
            if !known.contains(name) {
                return Err(dmm::Error::UnknownStack { name: name.clone(), known }.into());
            }
        }
        let choices = Mutex::new(Choices { nonblocking, ..Choices::default() });
        let (state, watchers) = (Mutex::new(State::Fresh(None)), Mutex::default());
        let (loans, groups) = (Mutex::default(), Mutex::default());
        Ok(Self { kind, client, stack, state, choices, loans, groups, watchers })
    }

    /// A connection that was accepted.
    fn accepted(&self, stream: TcpStream, nonblocking: bool) -> io::Result<Self> {
        // socket(7), tcp(7): an accepted socket inherits its listener's options, but not O_NONBLOCK.
        let choices = Choices { nonblocking, ..self.choices() };
        apply_to_stream(&choices, &stream)?;
        Ok(Self {
            kind: self.kind,
            client: self.client.clone(),
            stack: self.stack.clone(),
            state: Mutex::new(State::Stream(stream)),
            choices: Mutex::new(choices),
            loans: Mutex::default(),
            groups: Mutex::default(),
            watchers: Mutex::default(),
        })
    }

    /// Has an epoll instance told when this becomes something else, and when its number is closed.
    pub(crate) fn tell(&self, epoll: Weak<Epoll>, number: c_int) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|(epoll, _)| epoll.strong_count() > 0);
        watchers.push((epoll, number));
    }

    /// The number is closed.
    pub(crate) fn closed(&self, number: c_int) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<_> = watchers.extract_if(.., |(_, of)| *of == number).collect();
        drop(watchers);
        for epoll in gone.into_iter().filter_map(|(epoll, _)| epoll.upgrade()) {
            epoll.forget(number);
        }
    }

    /// It became something. Not under the state's lock, which who is told takes.
    fn became(&self) {
        // One of another session's poll cannot be watched there, as epoll_ctl would say.
        self.each_watcher(|epoll, number| drop(epoll.watch(number)));
    }

    /// It is nothing again.
    fn begin_anew(&self) {
        *self.lock() = State::Fresh(None);
        self.each_watcher(Epoll::unwatch);
    }

    fn each_watcher(&self, tell: impl Fn(&Epoll, c_int)) {
        let watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (epoll, number) in watchers {
            if let Some(epoll) = epoll.upgrade() {
                tell(&epoll, number);
            }
        }
    }

    /// What it is now, to be used without holding others up.
    pub(crate) fn state(&self) -> io::Result<State> {
        self.lock().copy()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was chosen for it.
    pub(crate) fn choices(&self) -> Choices {
        *self.choices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What of it is lent.
    pub(crate) fn loans(&self) -> MutexGuard<'_, Loans> {
        self.loans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is chosen for it, at once if it is something already.
    pub(crate) fn choose(&self, change: impl FnOnce(&mut Choices)) -> io::Result<()> {
        let mut choices = self.choices();
        change(&mut choices);
        match self.state()? {
            State::Fresh(_) => {}
            State::Listener(listener) => apply_to_listener(&choices, &listener)?,
            State::Stream(stream) => apply_to_stream(&choices, &stream)?,
            State::Datagram(socket) => apply_to_datagram(&choices, &socket)?,
        }
        *self.choices.lock().unwrap_or_else(PoisonError::into_inner) = choices;
        Ok(())
    }

    fn stack(&self) -> Option<&str> {
        self.stack.as_deref()
    }

    fn fits(&self, address: SocketAddr) -> io::Result<()> {
        if address.is_ipv6() == self.kind.v6 { Ok(()) } else { Err(os(Errno::EAFNOSUPPORT)) }
    }

    fn any(&self) -> SocketAddr {
        match self.kind.v6 {
            true => (Ipv6Addr::UNSPECIFIED, 0).into(),
            false => (Ipv4Addr::UNSPECIFIED, 0).into(),
        }
    }

    pub(crate) fn bind(&self, address: SocketAddr) -> io::Result<()> {
        self.fits(address)?;
        let mut state = self.lock();
        match &*state {
            State::Fresh(None) if self.kind.stream => *state = State::Fresh(Some(address)),
            State::Fresh(None) => *state = State::Datagram(self.open_datagram(address)?),
            _ => return Err(os(Errno::EINVAL)),
        }
        drop(state);
        self.became();
        Ok(())
    }

    fn open_datagram(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        let socket = match self.choices().datagrams.reuse_port {
            true => self.client.bind_udp_shared(self.stack(), address)?,
            false => self.client.bind_udp(self.stack(), address)?,
        };
        apply_to_datagram(&self.choices(), &socket)?;
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        for group in groups.drain(..) {
            group.set(&socket, true)?;
        }
        drop(groups);
        Ok(socket)
    }

    /// Makes it a member of a group, or one no longer; before it is bound, once it is.
    pub(crate) fn set_group(&self, group: datagrams::Group, joins: bool) -> io::Result<()> {
        match &*self.lock() {
            State::Datagram(socket) => group.set(socket, joins),
            _ => {
                let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
                group.note(&mut groups, joins)
            }
        }
    }

    pub(crate) fn listen(&self, backlog: u32) -> io::Result<()> {
        if !self.kind.stream {
            return Err(os(Errno::EOPNOTSUPP));
        }
        let mut state = self.lock();
        let address = match &*state {
            State::Fresh(address) => address.unwrap_or_else(|| self.any()),
            // listen(2) again may change the backlog, which here stays.
            State::Listener(_) => return Ok(()),
            _ => return Err(os(Errno::EINVAL)),
        };
        let choices = self.choices();
        let options = ListenOptions {
            fast_open: choices.fast_open,
            max_segment: choices.max_segment,
            traffic_class: choices.traffic_class,
            hop_limit: choices.hops.and_then(|hops| u8::try_from(hops).ok()),
            congestion: choices.congestion,
        };
        let listener = self.client.listen_on(self.stack(), address, backlog, &options)?;
        listener.set_nonblocking(choices.nonblocking)?;
        *state = State::Listener(listener);
        drop(state);
        self.became();
        Ok(())
    }

    pub(crate) fn accept(&self, nonblocking: bool) -> io::Result<(Self, SocketAddr)> {
        if !self.kind.stream {
            return Err(os(Errno::EOPNOTSUPP));
        }
        let State::Listener(listener) = self.state()? else { return Err(os(Errno::EINVAL)) };
        let (stream, peer) = listener.accept()?;
        Ok((self.accepted(stream, nonblocking)?, peer))
    }

    pub(crate) fn connect(&self, to: SocketAddr) -> io::Result<()> {
        self.fits(to)?;
        if !self.kind.stream {
            return self.datagram()?.connect(to);
        }
        let started = {
            let mut state = self.lock();
            match &*state {
                State::Fresh(local) => {
                    let choices = self.choices();
                    let options = ConnectOptions {
                        local: *local,
                        fast_open: choices.fast_connect,
                        max_segment: choices.max_segment,
                        traffic_class: choices.traffic_class,
                        hop_limit: choices.hops.and_then(|hops| u8::try_from(hops).ok()),
                        congestion: choices.congestion,
                    };
                    let stream = self.client.start_connect_with(self.stack(), to, &options)?;
                    apply_to_stream(&choices, &stream)?;
                    let other = stream.try_clone()?;
                    *state = State::Stream(stream);
                    other
                }
                State::Stream(stream) if stream.is_connecting() => {
                    return Err(os(Errno::EALREADY));
                }
                State::Stream(stream) if stream.is_deferred() || stream.peer_addr().is_ok() => {
                    return Err(os(Errno::EISCONN));
                }
                // A failed attempt's error is told once, and the socket may try again.
                State::Stream(stream) => {
                    let error = stream.take_error()?;
                    drop(state);
                    self.begin_anew();
                    return Err(error.unwrap_or_else(|| os(Errno::ECONNABORTED)));
                }
                State::Listener(_) => return Err(os(Errno::EISCONN)),
                State::Datagram(_) => return Err(os(Errno::EINVAL)),
            }
        };
        self.became();
        let choices = self.choices();
        if choices.nonblocking {
            return Err(os(Errno::EINPROGRESS));
        }
        // socket(7): SO_SNDTIMEO bounds connect(2) too, with EINPROGRESS.
        started.wait_connected(choices.write_timeout).map_err(|error| {
            let goes_on = choices.write_timeout.is_some() && started.is_connecting();
            if goes_on { os(Errno::EINPROGRESS) } else { self.failed(error) }
        })
    }

    /// The socket of an attempt that failed may try again.
    fn failed(&self, error: io::Error) -> io::Error {
        self.begin_anew();
        error
    }

    /// The UDP socket that this is, or becomes by being used.
    pub(crate) fn datagram(&self) -> io::Result<UdpSocket> {
        let mut state = self.lock();
        let fresh = matches!(&*state, State::Fresh(_));
        if fresh {
            *state = State::Datagram(self.open_datagram(self.any())?);
        }
        let socket = match &*state {
            State::Datagram(socket) => socket.try_clone(),
            _ => Err(os(Errno::EOPNOTSUPP)),
        };
        drop(state);
        if fresh {
            self.became();
        }
        socket
    }

    /// The connection that this is.
    pub(crate) fn stream(&self) -> io::Result<TcpStream> {
        match &*self.lock() {
            State::Stream(stream) => stream.try_clone(),
            _ => Err(os(Errno::ENOTCONN)),
        }
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self.state()? {
            State::Stream(stream) => stream.shutdown(how),
            _ => Err(os(Errno::ENOTCONN)),
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self.state()? {
            State::Fresh(local) => Ok(local.unwrap_or_else(|| self.any())),
            State::Listener(listener) => listener.local_addr(),
            State::Stream(stream) => Ok(stream.local_addr().unwrap_or_else(|_| self.any())),
            State::Datagram(socket) => socket.local_addr(),
        }
    }

    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self.state()? {
            State::Stream(stream) => stream.peer_addr(),
            State::Datagram(socket) => socket.peer_addr(),
            State::Fresh(_) | State::Listener(_) => Err(os(Errno::ENOTCONN)),
        }
    }

    /// `SO_ERROR`: 0 without an error.
    pub(crate) fn take_error(&self) -> io::Result<i32> {
        let error = match self.state()? {
            State::Fresh(_) => None,
            State::Listener(listener) => listener.take_error()?,
            State::Stream(stream) => stream.take_error()?,
            State::Datagram(socket) => socket.take_error()?,
        };
        Ok(error.map_or(0, |error| dmm::errno(&error)))
    }
}

/// Seconds of idleness before keepalive asks, unless chosen: Linux's `tcp_keepalive_time`.
pub(crate) const KEEPALIVE_S: u32 = 7200;

/// The bits of a stream's traffic class that are the stack's (ip(7)).
pub(crate) const ECN_BITS: u8 = 0x03;

/// What its connections are to inherit.
fn apply_to_listener(choices: &Choices, listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(choices.nonblocking)?;
    if let Some(hops) = choices.hops {
        listener.set_ttl(hops)?;
    }
    listener.set_max_segment(choices.max_segment)?;
    listener.set_traffic_class(choices.traffic_class)?;
    if let Some(control) = choices.congestion {
        listener.set_congestion_control(control)?;
    }
    if choices.pacing_rate > 0 {
        listener.set_max_pacing_rate(Some(choices.pacing_rate))?;
    }
    listener.set_fast_open(choices.fast_open)
}

fn apply_to_stream(choices: &Choices, stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(choices.nonblocking)?;
    stream.set_read_timeout(choices.read_timeout)?;
    stream.set_write_timeout(choices.write_timeout)?;
    if stream.nodelay()? != choices.nodelay {
        stream.set_nodelay(choices.nodelay)?;
    }
    let idle = choices.keepalive_s.unwrap_or(KEEPALIVE_S);
    let idle = choices.keepalive.then(|| Duration::from_secs(idle.into()));
    if stream.keepalive()? != idle {
        stream.set_keepalive(idle)?;
    }
    if choices.user_timeout_ms > 0 {
        stream.set_user_timeout(Some(Duration::from_millis(choices.user_timeout_ms.into())))?;
    }
    if let Some(hops) = choices.hops
        && stream.ttl()? != hops
    {
        stream.set_ttl(hops)?;
    }
    if stream.traffic_class()? != choices.traffic_class & !ECN_BITS {
        stream.set_traffic_class(choices.traffic_class)?;
    }
    if let Some(control) = choices.congestion {
        stream.set_congestion_control(control)?;
    }
    if choices.pacing_rate > 0 {
        stream.set_max_pacing_rate(Some(choices.pacing_rate))?;
    }
    if stream.cork()? != choices.cork {
        stream.set_cork(choices.cork)?;
    }
    let linger = choices.reset_on_close.then_some(Duration::ZERO);
    if stream.linger()? == linger { Ok(()) } else { stream.set_linger(linger) }
}

fn apply_to_datagram(choices: &Choices, socket: &UdpSocket) -> io::Result<()> {
    socket.set_nonblocking(choices.nonblocking)?;
    socket.set_read_timeout(choices.read_timeout)?;
    socket.set_write_timeout(choices.write_timeout)?;
    if let Some(hops) = choices.hops {
        socket.set_ttl(hops)?;
    }
    if socket.traffic_class()? != choices.traffic_class {
        socket.set_traffic_class(choices.traffic_class)?;
    }
    choices.datagrams.apply(socket)
}
