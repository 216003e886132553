//! The socket calls, as far as scripts of TCP use them.
//!
//! Each returns at once: `EAGAIN` where a blocking socket would wait, which is the caller's to do.
#![forbid(unsafe_code)]

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use dmm_proto::op::{How, SocketOption};
use dmm_stack::Request;
use dmm_stack::pair::End;
use nix::errno::Errno;

use crate::buffer::{LIMIT_MAX, SendBuffer};
use crate::notices::Notices;
use crate::socket::{Listener, Role, Socket, Stream, Watch};
use crate::world::World;

/// Bytes of the FIFOs: more than scripts fill to receive, and as far as a send buffer grows.
const FIFO_BYTES: (u32, u32) = (1 << 18, LIMIT_MAX as u32);
/// Connections that are taken off a listener's backlog before somebody asks for them.
const CREDITS: usize = 4;

impl World {
    /// socket(2).
    pub fn socket(&mut self) -> i32 {
        // A descriptor of its own in the process: at the end packetdrill closes them by libc's close.
        let held: OwnedFd = File::open("/dev/null").expect("/dev/null").into();
        let fd = held.as_raw_fd();
        let mut buffer = SendBuffer::new(self.send_buffer);
        buffer.set_low_water(self.low_water);
        let socket = Socket {
            _held: held,
            local: None,
            nonblocking: false,
            corked: false,
            fast: false,
            deferred: None,
            more: false,
            buffer,
            low_water: 0,
            notices: Notices::default(),
            tells_rest: false,
            role: Role::Fresh,
            options: Vec::new(),
        };
        self.sockets.insert(fd, socket);
        fd
    }

    /// The socket of a descriptor.
    pub fn get(&mut self, fd: i32) -> Result<&mut Socket, Errno> {
        self.sockets.get_mut(&fd).ok_or(Errno::EBADF)
    }

    /// The connection of a descriptor.
    pub fn stream(&mut self, fd: i32) -> Result<&mut Stream, Errno> {
        match &mut self.get(fd)?.role {
            Role::Stream(stream) => Ok(stream),
            _ => Err(Errno::ENOTCONN),
        }
    }

    /// bind(2).
    pub fn bind(&mut self, fd: i32, mut local: SocketAddr) -> Result<(), Errno> {
        if local.port() == 0 {
            local.set_port(self.new_port());
        }
        self.get(fd)?.local = Some(local);
        Ok(())
    }

    /// listen(2).
    pub fn listen(&mut self, fd: i32, backlog: i32) -> Result<(), Errno> {
        let local = self.get(fd)?.local.ok_or(Errno::EINVAL)?;
        if let Role::Listener(_) = self.get(fd)?.role {
            return Ok(());
        }
        let (id, backlog) = (self.new_id(), u32::try_from(backlog).unwrap_or(0).max(1));
        self.submit(Request::Listen { socket: id, local, backlog })?;
        self.get(fd)?.role =
            Role::Listener(Listener { id, credits: Vec::new(), accepted: Vec::new() });
        let options = self.get(fd)?.options.clone();
        // As public scripts set the system: on every listener, without its asking.
        let fast = self.fast_open.then_some((SocketOption::FastOpen, backlog));
        for (option, value) in fast.into_iter().chain(options) {
            self.submit(Request::SetOption { socket: id, option, value })?;
        }
        (0..CREDITS).try_for_each(|_| self.credit(fd))
    }

    fn credit(&mut self, fd: i32) -> Result<(), Errno> {
        let socket = self.new_id();
        let (fifos, client) = self.quota.open_sized(End::Right, socket, FIFO_BYTES);
        let Role::Listener(listener) = &mut self.get(fd)?.role else { return Err(Errno::EINVAL) };
        listener.credits.push(client);
        let id = listener.id;
        self.submit(Request::Accept { listener: id, socket, fifos })
    }

    /// accept(2).
    pub fn accept(&mut self, fd: i32) -> Result<(i32, SocketAddr), Errno> {
        let Role::Listener(listener) = &mut self.get(fd)?.role else { return Err(Errno::EINVAL) };
        if listener.accepted.is_empty() {
            return Err(Errno::EAGAIN);
        }
        let stream = listener.accepted.remove(0);
        let peer = stream.peer;
        let socket = self.get(fd)?;
        let (local, buffer) = (socket.local, socket.buffer.of_accepted());
        let zerocopy = socket.notices.zerocopy;
        self.credit(fd)?;
        let new = self.socket();
        let socket = self.get(new)?;
        (socket.buffer, socket.notices.zerocopy) = (buffer, zerocopy);
        (socket.local, socket.role) = (local, Role::Stream(Box::new(stream)));
        self.look();
        Ok((new, peer))
    }

    /// connect(2). `EINPROGRESS` whether or not the socket blocks; [`World::is_connected`] tells the end.
    pub fn connect(&mut self, fd: i32, peer: SocketAddr) -> Result<(), Errno> {
        match &self.get(fd)?.role {
            Role::Fresh => {}
            Role::Listener(_) | Role::Epoll(_) => return Err(Errno::EISCONN),
            Role::Stream(_) => return self.is_connected(fd, true),
        }
        let fast = self.get(fd)?.fast;
        if fast && self.fast_open_room(peer.ip()).is_some() {
            self.get(fd)?.deferred = Some(peer);
            return Ok(());
        }
        self.begin(fd, peer, fast)?;
        self.act();
        Err(Errno::EINPROGRESS)
    }

    /// sendto(2) with `MSG_FASTOPEN`: what goes with the SYN. `EINPROGRESS` if nothing does.
    pub fn open_with(&mut self, fd: i32, peer: SocketAddr, bytes: &[u8]) -> Result<usize, Errno> {
        match &self.get(fd)?.role {
            Role::Fresh => {}
            Role::Listener(_) | Role::Epoll(_) => return Err(Errno::EISCONN),
            Role::Stream(_) => {
                return self.is_connected(fd, true).and(Err(Errno::EISCONN));
            }
        }
        let room = self.fast_open_room(peer.ip());
        self.begin(fd, peer, true)?;
        let stream = self.stream(fd)?;
        let (socket, len) = (stream.client.socket, bytes.len().min(room.unwrap_or(0)));
        let written = stream.client.writer.write(&[&bytes[..len]], false);
        self.get(fd)?.buffer.wrote(written as u64);
        self.submit(Request::Send { socket })?;
        if written == 0 { Err(Errno::EINPROGRESS) } else { Ok(written) }
    }

    /// Whom the next write is to connect to.
    pub fn take_deferred(&mut self, fd: i32) -> Option<SocketAddr> {
        self.get(fd).ok()?.deferred.take()
    }

    /// Begins a connection attempt.
    fn begin(&mut self, fd: i32, peer: SocketAddr, fast: bool) -> Result<(), Errno> {
        let mut local = match self.get(fd)?.local {
            Some(local) => local,
            None => SocketAddr::new(self.source_for(peer.ip())?, self.new_port()),
        };
        if local.ip().is_unspecified() {
            local.set_ip(self.source_for(peer.ip())?);
        }
        let socket = self.new_id();
        let (fifos, client) = self.quota.open_sized(End::Right, socket, FIFO_BYTES);
        let entry = self.get(fd)?;
        entry.local = Some(local);
        entry.role = Role::Stream(Box::new(Stream::new(client, peer, None)));
        let options = entry.options.clone();
        if let Err(errno) = self.ask(Request::Connect { socket, local, remote: peer, fifos }) {
            self.get(fd)?.role = Role::Fresh;
            return Err(errno);
        }
        let fast = (SocketOption::FastOpen, u32::from(fast));
        let options = options.into_iter().filter(|(option, _)| *option != SocketOption::FastOpen);
        for (option, value) in options.chain([fast]) {
            self.ask(Request::SetOption { socket, option, value })?;
        }
        Ok(())
    }

    /// How a connection attempt stands: `EALREADY` while it does not.
    pub fn is_connected(&mut self, fd: i32, again: bool) -> Result<(), Errno> {
        let stream = self.stream(fd)?;
        match stream.connected {
            None => Err(Errno::EALREADY),
            Some(Ok(())) if again => Err(Errno::EISCONN),
            Some(Ok(())) => Ok(()),
            Some(Err(errno)) => {
                stream.told = true;
                Err(errno)
            }
        }
    }

    /// read(2) and its like; `peek` leaves what is read.
    pub fn read(&mut self, fd: i32, bytes: &mut [u8], peek: bool) -> Result<usize, Errno> {
        let stream = self.stream(fd)?;
        match stream.connected {
            None => return Err(Errno::EAGAIN),
            Some(Err(errno)) => return if stream.told { Ok(0) } else { Err(errno) },
            Some(Ok(())) => {}
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        let reader = &mut stream.client.reader;
        let len = if peek { reader.peek(bytes) } else { reader.read(bytes) };
        if len > 0 {
            if reader.owes_receive() {
                let socket = stream.client.socket;
                self.submit(Request::Receive { socket })?;
            }
            return Ok(len);
        }
        if let Some(errno) = stream.broken.take() {
            return Err(errno);
        }
        if stream.ended || stream.over || stream.deaf { Ok(0) } else { Err(Errno::EAGAIN) }
    }

    /// write(2) and its like: as much as there is room for.
    pub fn write(&mut self, fd: i32, bytes: &[u8]) -> Result<usize, Errno> {
        if let Role::Fresh = self.get(fd)?.role {
            return Err(Errno::EPIPE);
        }
        let stream = self.stream(fd)?;
        match stream.connected {
            None => return Err(Errno::EAGAIN),
            Some(Err(errno)) if !std::mem::replace(&mut stream.told, true) => return Err(errno),
            Some(Err(_)) => return Err(Errno::EPIPE),
            Some(Ok(())) => {}
        }
        if let Some(errno) = stream.broken.take() {
            return Err(errno);
        }
        if stream.shut || stream.over {
            return Err(Errno::EPIPE);
        }
        let mut written = 0;
        let socket = self.get(fd)?;
        let plain = socket.corked || socket.more;
        while written < bytes.len() {
            let entry = self.get(fd)?;
            let room = usize::try_from(entry.buffer.room()).unwrap_or(usize::MAX);
            let Role::Stream(stream) = &mut entry.role else { break };
            let part = &bytes[written..][..room.min(bytes.len() - written)];
            if part.is_empty() {
                break;
            }
            let socket = stream.client.socket;
            // A piece that more of the write follows ends nothing.
            let follows =
                part.len() < bytes.len() - written && !entry.buffer.pushes(part.len() as u64);
            if follows != std::mem::replace(&mut stream.follows, follows) && !plain {
                let value = if follows { 2 } else { 0 };
                let option = SocketOption::Cork;
                self.ask(Request::SetOption { socket, option, value })?;
            }
            if let Some(push) = self.get(fd)?.buffer.begins() {
                let (option, value) = (SocketOption::TrainEnd, u32::from(push));
                self.ask(Request::SetOption { socket, option, value })?;
            }
            let entry = self.get(fd)?;
            let Role::Stream(stream) = &mut entry.role else { break };
            let writer = &mut stream.client.writer;
            let len = writer.write(&[part], false);
            entry.buffer.wrote(len as u64);
            if !follows {
                entry.buffer.pushed(written + len == bytes.len());
            }
            written += len;
            let full = len == 0;
            if full {
                writer.want_room();
            }
            let tell = writer.must_tell();
            // The stack grants room by steps, and sends what is there meanwhile.
            let before = writer.room(1);
            if tell || full {
                self.submit(Request::Send { socket })?;
            }
            if full && before == 0 && self.stream(fd)?.client.writer.room(1) == 0 {
                break;
            }
        }
        let entry = self.get(fd)?;
        if let Role::Stream(stream) = &mut entry.role
            && std::mem::take(&mut stream.follows)
        {
            // There was no room for what was to follow.
            let socket = stream.client.socket;
            entry.buffer.pushed(true);
            if !plain {
                self.submit(Request::SetOption { socket, option: SocketOption::Cork, value: 0 })?;
            }
        }
        if written == 0 && !bytes.is_empty() { Err(Errno::EAGAIN) } else { Ok(written) }
    }

    /// A write with `flags` was taken, perhaps in part.
    pub fn wrote(&mut self, fd: i32, flags: i32) {
        if let Ok(socket) = self.get(fd) {
            socket.notices.wrote(socket.buffer.written, flags & libc::MSG_ZEROCOPY != 0);
            self.act();
        }
    }

    /// What `TCP_INQ` tells of, if it is set: bytes to be read, one more if there will be no others.
    pub fn rest(&mut self, fd: i32) -> Option<i32> {
        let tells = self.get(fd).is_ok_and(|socket| socket.tells_rest);
        let stream = self.stream(fd).ok().filter(|_| tells)?;
        let bytes = i32::try_from(stream.client.reader.available()).unwrap_or(i32::MAX);
        Some(if bytes == 0 { i32::from(stream.ended) } else { bytes })
    }

    /// Tells the stack what a write's flags say before it begins.
    pub fn announce(&mut self, fd: i32, len: usize, flags: i32) -> Result<(), Errno> {
        let Ok(stream) = self.stream(fd) else { return Ok(()) };
        let (socket, tail) = (stream.client.socket, stream.client.writer.tail());
        let mut say = |option, value| self.submit(Request::SetOption { socket, option, value });
        if flags & libc::MSG_MORE != 0 {
            say(SocketOption::Cork, 2)?;
        }
        if flags & libc::MSG_EOR != 0 {
            say(SocketOption::RecordEnd, (tail + len as u64) as u32)?;
        }
        self.get(fd)?.more |= flags & libc::MSG_MORE != 0;
        Ok(())
    }

    /// Tells it that no more follows, if more was announced before.
    pub fn conclude(&mut self, fd: i32, flags: i32) -> Result<(), Errno> {
        let socket = self.get(fd)?;
        if flags & libc::MSG_MORE != 0 || !std::mem::take(&mut socket.more) {
            return Ok(());
        }
        let value = u32::from(socket.corked);
        let socket = self.stream(fd)?.client.socket;
        self.submit(Request::SetOption { socket, option: SocketOption::Cork, value })
    }

    /// shutdown(2).
    pub fn shutdown(&mut self, fd: i32, how: How) -> Result<(), Errno> {
        let stream = self.stream(fd)?;
        if stream.over || stream.connected != Some(Ok(())) {
            return Err(Errno::ENOTCONN);
        }
        stream.shut |= how != How::Read;
        stream.deaf |= how != How::Write;
        let socket = stream.client.socket;
        self.submit(Request::Shutdown { socket, how })
    }

    /// close(2).
    pub fn close(&mut self, fd: i32) -> Result<(), Errno> {
        let socket = self.sockets.remove(&fd).ok_or(Errno::EBADF)?;
        match socket.role {
            Role::Fresh | Role::Epoll(_) => Ok(()),
            Role::Stream(stream) => self.submit(Request::Close { socket: stream.client.socket }),
            Role::Listener(listener) => {
                for stream in listener.accepted {
                    self.submit(Request::Abort { socket: stream.client.socket })?;
                }
                self.submit(Request::Close { socket: listener.id })
            }
        }
    }

    /// Sets an option of the stack's, now or when there is something to set it on.
    pub fn set(&mut self, fd: i32, option: SocketOption, value: u32) -> Result<(), Errno> {
        let socket = self.get(fd)?;
        socket.options.push((option, value));
        let id = match &socket.role {
            Role::Fresh | Role::Epoll(_) => return Ok(()),
            Role::Stream(stream) => stream.client.socket,
            Role::Listener(listener) => listener.id,
        };
        self.submit(Request::SetOption { socket: id, option, value })
    }

    /// epoll_create(2).
    pub fn epoll(&mut self) -> i32 {
        let fd = self.socket();
        if let Ok(socket) = self.get(fd) {
            socket.role = Role::Epoll(Vec::new());
        }
        fd
    }

    /// epoll_ctl(2): watches a descriptor for events, telling the number given; or no more.
    pub fn watch(&mut self, epoll: i32, fd: i32, watch: Option<(u32, u64)>) -> Result<(), Errno> {
        self.get(fd)?;
        let Role::Epoll(watches) = &mut self.get(epoll)?.role else { return Err(Errno::EINVAL) };
        watches.retain(|watch| watch.fd != fd);
        watches.extend(watch.map(|(events, data)| Watch { fd, events, data, told: None }));
        Ok(())
    }

    /// epoll_wait(2), which does not wait: the events of descriptors that are ready, and their numbers.
    pub fn watched(&mut self, epoll: i32, most: usize) -> Result<Vec<(u32, u64)>, Errno> {
        let Role::Epoll(watches) = &mut self.get(epoll)?.role else { return Err(Errno::EINVAL) };
        let mut watches = std::mem::take(watches);
        let once = libc::EPOLLONESHOT.cast_unsigned();
        let mut ready = Vec::new();
        for watch in &mut watches {
            let always = (libc::EPOLLERR | libc::EPOLLHUP).cast_unsigned();
            let events = u32::from(self.ready(watch.fd).cast_unsigned());
            let asked = if watch.events == once { 0 } else { watch.events | always };
            let events = events & asked;
            let news = self.stream(watch.fd).map_or(0, |stream| stream.news);
            let edge = watch.events & libc::EPOLLET.cast_unsigned() != 0;
            if events == 0 || (edge && watch.told == Some(news)) || ready.len() == most {
                continue;
            }
            watch.told = Some(news);
            // It hears of no more until it is set again.
            watch.events = if watch.events & once == 0 { watch.events } else { once };
            ready.push((events, watch.data));
        }
        self.get(epoll)?.role = Role::Epoll(watches);
        Ok(ready)
    }

    /// poll(2)'s events of a descriptor.
    pub fn ready(&mut self, fd: i32) -> i16 {
        let Ok(socket) = self.get(fd) else { return libc::POLLNVAL };
        let writable = socket.is_writable();
        let noticed = !socket.notices.queue.is_empty();
        match &mut socket.role {
            Role::Fresh if socket.deferred.is_some() => libc::POLLOUT | libc::POLLWRNORM,
            Role::Fresh => libc::POLLOUT | libc::POLLHUP,
            Role::Epoll(_) => 0,
            Role::Listener(listener) if listener.accepted.is_empty() => 0,
            Role::Listener(_) => libc::POLLIN,
            Role::Stream(stream) => {
                let mut events = 0;
                if stream.is_readable() {
                    events |= libc::POLLIN | libc::POLLRDNORM;
                }
                if writable {
                    events |= libc::POLLOUT | libc::POLLWRNORM;
                }
                if stream.ended || stream.over || stream.deaf {
                    events |= libc::POLLRDHUP;
                }
                let both = (stream.ended || stream.deaf) && stream.shut;
                if both || stream.over || matches!(stream.connected, Some(Err(_))) {
                    events |= libc::POLLHUP;
                }
                if noticed || stream.broken.is_some() || matches!(stream.connected, Some(Err(_))) {
                    events |= libc::POLLERR;
                }
                events
            }
        }
    }
}
