//! Where the daemon lets go of what a client made.
//!
//! Owns: the closing of clients' sockets. Called by the control thread in place of a close. Must
//! never: let the control thread drop the last reference to a descriptor that came from a client.
//!
//! A last close may take as long as its maker likes: `SO_LINGER` holds up that of a TCP socket
//! (socket(7)), a file of a FUSE file system asks its server. Such a descriptor need not be received
//! to do harm: it waits in a packet, and closing the unix socket with that packet unread closes it
//! too. Hence the rule: the control thread never receives descriptors, and before it closes a
//! client's socket it makes sure that no more can come and that none is there. A socket with
//! descriptors in its queue is closed by a thread that may be lost to it.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, recvmsg, setsockopt, shutdown, sockopt};
use tracing::warn;

/// Threads at most. What comes while all are lost waits behind them, bounded by what its senders
/// may have in flight: as many as they may have open (unix(7), `ETOOMANYREFS`).
const THREADS_MAX: usize = 64;
/// How long a thread without work waits for more.
const IDLE: Duration = Duration::from_secs(5);
/// Unread packets looked at before a close: more than a queue holds (`net.unix.max_dgram_qlen` is
/// 512, and a sender's buffer of 208 KiB holds fewer).
const PACKETS_MAX: usize = 1024;

/// The first packet in a socket's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// There is none, or the other end is gone.
    Nothing,
    /// One without descriptors.
    Plain,
    /// One with descriptors.
    Descriptors,
}

/// Looks at the first packet in a socket's queue without taking it or anything that comes with it.
pub fn look(socket: impl AsFd, bytes: &mut [u8]) -> Result<(Waiting, usize), Errno> {
    let mut parts = [std::io::IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut parts, None, flags)?;
    // Without room for control data the kernel says that there was some, and installs nothing
    // (unix(7)). What it drops are references of the peek's own.
    if message.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Ok((Waiting::Descriptors, message.bytes));
    }
    let waiting = if message.bytes == 0 { Waiting::Nothing } else { Waiting::Plain };
    Ok((waiting, message.bytes))
}

/// Takes the first packet, which came without descriptors, out of a socket's queue.
pub fn discard(socket: impl AsFd) -> Result<(), Errno> {
    recv(socket.as_fd().as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT).map(|_| ())
}

/// Threads that close what may take long, started as they are needed.
#[derive(Clone, Default)]
pub struct Graveyard(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<OwnedFd>,
    threads: usize,
    idle: usize,
}

impl Graveyard {
    /// Closes a client's socket: here if that cannot take long, else on a thread.
    pub fn bury(&self, socket: OwnedFd) {
        // From here on, a peer's packet is refused: what is not there now does not come.
        if is_clean(&socket) {
            return;
        }
        self.hand_over(socket);
    }

    /// Closes a descriptor on a thread, whatever it is.
    pub fn hand_over(&self, fd: OwnedFd) {
        let mut state = self.0.lock();
        state.waiting.push_back(fd);
        if state.waiting.len() <= state.idle {
            self.0.arrived.notify_one();
            return;
        }
        if state.threads == THREADS_MAX {
            return;
        }
        let shared = Arc::clone(&self.0);
        let started = std::thread::Builder::new()
            .name("dmm-graveyard".into())
            .stack_size(64 << 10)
            .spawn(move || shared.work());
        match started {
            Ok(_) => state.threads += 1,
            // It waits for the next thread to have time or to be started.
            Err(error) => warn!(%error, "cannot start a thread to close a client's descriptors"),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let mut state = self.lock();
            if state.waiting.is_empty() {
                state.idle += 1;
                let waited =
                    self.arrived.wait_timeout_while(state, IDLE, |state| state.waiting.is_empty());
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                state.idle -= 1;
            }
            let Some(fd) = state.waiting.pop_front() else {
                state.threads -= 1;
                return;
            };
            drop(state);
            // A socket closed with something unread takes its last words back from its peer.
            while recv(fd.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT).is_ok_and(|len| len > 0) {}
            drop(fd);
        }
    }
}

/// Stops a socket's peer from sending, and takes what it sent up to the first packet with
/// descriptors. Returns whether there is none.
fn is_clean(socket: &OwnedFd) -> bool {
    if shutdown(socket.as_raw_fd(), Shutdown::Read).is_err() {
        return false;
    }
    let mut byte = [0];
    for _ in 0..PACKETS_MAX {
        match look(socket, &mut byte) {
            Ok((Waiting::Plain, _)) => {
                if discard(socket).is_err() {
                    return false;
                }
            }
            Ok((Waiting::Nothing, _)) => return is_empty(socket),
            // Told once.
            Err(Errno::ECONNRESET) => {}
            Ok((Waiting::Descriptors, _)) | Err(_) => return false,
        }
    }
    false
}

/// Whether nothing at all is unread: a packet without bytes looks like the end, but comes with its
/// sender's credentials if they are asked for (unix(7), `SO_PASSCRED`).
fn is_empty(socket: &OwnedFd) -> bool {
    setsockopt(socket, sockopt::PassCred, &true).is_ok()
        && matches!(look(socket, &mut [0]), Ok((Waiting::Nothing, _)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmm_proto::message::send;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC;
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
    }

    /// A connection whose last close waits for its peer to read, and that peer.
    fn lingering() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let there = listener.accept().unwrap().0;
        let linger = libc::linger { l_onoff: 1, l_linger: 600 };
        setsockopt(&here, sockopt::Linger, &linger).unwrap();
        here.set_nonblocking(true).unwrap();
        while here.write(&[0; 65_536]).is_ok() {}
        here.set_nonblocking(false).unwrap();
        (here, there)
    }

    #[test]
    fn packets_are_told_apart_without_being_taken() {
        let (ours, theirs) = pair();
        assert_eq!(look(&ours, &mut [0; 8]), Err(Errno::EAGAIN));
        send(theirs.as_fd(), b"plain", &[]).unwrap();
        let mut bytes = [0; 8];
        for _ in 0..2 {
            assert_eq!(look(&ours, &mut bytes), Ok((Waiting::Plain, 5)));
        }
        recv(ours.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
        send(theirs.as_fd(), b"more", &[theirs.as_fd()]).unwrap();
        assert_eq!(look(&ours, &mut bytes), Ok((Waiting::Descriptors, 4)));
        assert_eq!(&bytes[..4], b"more");
    }

    #[test]
    fn a_clean_socket_is_closed_at_once_with_what_it_had_to_say() {
        let (ours, theirs) = pair();
        send(theirs.as_fd(), b"unread", &[]).unwrap();
        send(ours.as_fd(), b"answer", &[]).unwrap();
        assert!(is_clean(&ours));
        assert_eq!(
            send(theirs.as_fd(), b"late", &[]).unwrap_err().raw_os_error(),
            Some(libc::EPIPE)
        );
        Graveyard::default().bury(ours);
        let mut bytes = [0; 8];
        assert_eq!(recv(theirs.as_raw_fd(), &mut bytes, MsgFlags::empty()), Ok(6));
        assert_eq!(recv(theirs.as_raw_fd(), &mut bytes, MsgFlags::empty()), Ok(0));
    }

    #[test]
    fn descriptors_behind_packets_without_bytes_are_not_overlooked() {
        let (ours, theirs) = pair();
        send(theirs.as_fd(), b"", &[]).unwrap();
        send(theirs.as_fd(), b"", &[theirs.as_fd()]).unwrap();
        assert!(!is_clean(&ours));
    }

    #[test]
    fn closes_that_take_long_hold_up_neither_the_caller_nor_each_other() {
        let graveyard = Graveyard::default();
        let mut peers: Vec<_> = (0..3)
            .map(|_| {
                let (ours, theirs) = pair();
                let (here, there) = lingering();
                send(theirs.as_fd(), b"take this", &[here.as_fd()]).unwrap();
                drop(here);
                graveyard.bury(ours);
                there
            })
            .collect();
        // The caller is here although every close still waits. The last can end before the first.
        for peer in peers.iter_mut().rev() {
            let mut bytes = vec![0; 1 << 16];
            while peer.read(&mut bytes).unwrap() > 0 {}
        }
        assert_eq!(graveyard.0.lock().waiting.len(), 0);
    }
}
