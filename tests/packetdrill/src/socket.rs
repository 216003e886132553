//! A script's socket: what the stack told of it, and its ends of the FIFOs.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use dmm_port::Instant;
use dmm_stack::pair::Client;
use dmm_stack::{Event, SocketId, TcpInfo};
use nix::errno::Errno;

use crate::buffer::SendBuffer;
use crate::notices::Notices;

/// How far a TCP or UDP socket is.
pub enum Role {
    /// Made, and perhaps bound.
    Fresh,
    /// A connection, or an attempt at one.
    Stream(Box<Stream>),
    /// A listener.
    Listener(Listener),
    /// An epoll instance.
    Epoll(Vec<Watch>),
}

/// A descriptor that an epoll instance watches.
pub struct Watch {
    /// Which.
    pub fd: i32,
    /// For what.
    pub events: u32,
    /// What to tell of it.
    pub data: u64,
    /// How often something had happened when it was last told.
    pub told: Option<u32>,
}

/// A connection.
pub struct Stream {
    /// Its memory.
    pub client: Client,
    /// The other end.
    pub peer: SocketAddr,
    /// How the attempt ended, once it has.
    pub connected: Option<Result<(), Errno>>,
    /// The attempt's failure was told.
    pub told: bool,
    /// The peer's FIN came.
    pub ended: bool,
    /// Why it broke; taken by the first call that tells.
    pub broken: Option<Errno>,
    /// It broke at some time.
    pub over: bool,
    /// We sent our FIN.
    pub shut: bool,
    /// We read no more.
    pub deaf: bool,
    /// How often something happened.
    pub news: u32,
    /// The stack was told that more of a write follows.
    pub follows: bool,
}

/// A listener.
pub struct Listener {
    /// Its id.
    pub id: SocketId,
    /// Connections to come, each with the memory that it will use.
    pub credits: Vec<Client>,
    /// Those that came, oldest first.
    pub accepted: Vec<Stream>,
}

/// A socket.
pub struct Socket {
    /// Holds its descriptor's number.
    pub _held: OwnedFd,
    /// Where it is bound.
    pub local: Option<SocketAddr>,
    /// Calls do not wait.
    pub nonblocking: bool,
    /// `TCP_CORK`.
    pub corked: bool,
    /// `TCP_FASTOPEN_CONNECT`.
    pub fast: bool,
    /// Whom the first write connects to.
    pub deferred: Option<SocketAddr>,
    /// The last write had `MSG_MORE`.
    pub more: bool,
    /// What it takes to send.
    pub buffer: SendBuffer,
    /// `TCP_NOTSENT_LOWAT`, 0 for the system's.
    pub low_water: u32,
    /// What it tells of what it sent.
    pub notices: Notices,
    /// `TCP_INQ`: recvmsg(2) tells how much is left.
    pub tells_rest: bool,
    /// What it is.
    pub role: Role,
    /// Options set before there was a connection.
    pub options: Vec<(dmm_proto::op::SocketOption, u32)>,
}

impl Stream {
    /// A connection that is not over.
    pub const fn new(
        client: Client,
        peer: SocketAddr,
        connected: Option<Result<(), Errno>>,
    ) -> Self {
        Self {
            client,
            peer,
            connected,
            told: false,
            ended: false,
            broken: None,
            over: false,
            shut: false,
            deaf: false,
            news: 0,
            follows: false,
        }
    }

    fn note(&mut self, event: Event) {
        // Room is what the send buffer says.
        self.news += u32::from(!matches!(event, Event::Writable { .. }));
        match event {
            Event::Connected { result, .. } => self.connected = Some(result),
            Event::Ended { .. } => self.ended = true,
            Event::Broken { errno, .. } => (self.broken, self.over) = (Some(errno), true),
            _ => {}
        }
    }

    /// Whether a read would not wait.
    pub fn is_readable(&mut self) -> bool {
        self.client.reader.available() > 0
            || self.ended
            || self.over
            || self.deaf
            || matches!(self.connected, Some(Err(_)))
    }
}

impl Socket {
    /// Whether a write would not wait.
    pub fn is_writable(&mut self) -> bool {
        match &self.role {
            Role::Stream(stream) => match stream.connected {
                None => false,
                Some(Err(_)) => true,
                Some(Ok(())) => stream.over || stream.shut || self.buffer.is_writable(),
            },
            Role::Fresh => true,
            Role::Listener(_) | Role::Epoll(_) => false,
        }
    }

    /// Looks at what the stack did, with what its connection knows of itself.
    pub fn look(&mut self, now: Instant, info: &TcpInfo) {
        let Role::Stream(stream) = &mut self.role else { return };
        let acknowledged = self.buffer.written - stream.client.writer.queued();
        let sent = self.buffer.written - u64::from(info.notsent_bytes);
        let told = self.buffer.look(now, (sent, acknowledged), info);
        let noticed = self.notices.look(now, sent, acknowledged);
        stream.news += u32::from(told || noticed);
    }

    /// Takes what the stack told of the socket `id`, if it is this one or one that it will accept.
    pub fn note(&mut self, id: SocketId, event: Event) -> bool {
        match &mut self.role {
            Role::Stream(stream) if stream.client.socket == id => {
                stream.note(event);
                true
            }
            Role::Listener(listener) => {
                if let Event::Accepted { peer, .. } = event
                    && let Some(at) = listener.credits.iter().position(|c| c.socket == id)
                {
                    let client = listener.credits.remove(at);
                    let stream = Stream::new(client, peer, Some(Ok(())));
                    listener.accepted.push(stream);
                    return true;
                }
                let waiting = listener.accepted.iter_mut().find(|s| s.client.socket == id);
                waiting.map(|stream| stream.note(event)).is_some()
            }
            _ => false,
        }
    }
}
