//! Sleep and wake: a flag in shared memory, and a bell behind it.
//!
//! Whoever is about to sleep raises its [`SleepFlag`], looks for work once more, and only then
//! blocks on its bell. Whoever publishes work asks the flag afterwards and rings only if it is up.
//!
//! A bell must not let one side hold up the other. A pipe does: the kernel holds its lock while it
//! copies from or to a process, which can see to it that the copy never ends (userfaultfd(2), a
//! mapped file of a FUSE server). There are two kinds instead, by who sleeps.
//!
//! ```text
//!   a client sleeps:  Ringer ── unix socket ──▶ Listener   daemon ▶ client, and client ▶ client
//!   a worker sleeps:  WorkerBell ── eventfd ──▶ epoll      client ▶ daemon
//! ```
//!
//! A client is rung by packets on a pair of sockets (SOCK_SEQPACKET), of which each side has one: a
//! send takes no lock that the receiver holds while it copies, nothing makes it block, a full socket
//! means that the bell rings already, and its end of file tells that the other side died. Packets go
//! one way, so that a client cannot send the daemon any.
//!
//! A worker takes nothing that a client sends, not even a packet to throw away: with it may come a
//! descriptor that only the worker still holds then, and whose close blocks (SO_LINGER). It watches
//! an eventfd for edges, of which each write is one (epoll(7)), and never reads or writes it.
//!
//! With nobody asleep, a worker's bell costs 750 ns (the write and epoll's word of it; a pipe took
//! 1140 ns, with the read that empties it) and a client's 2030 ns (880 ns to ring, the rest to empty;
//! a pipe took 660 ns), beside some 30 us for waking a thread on another core (Linux 6.18, virtual
//! machine).
//!
//! ```text
//!   sleeper                      waker
//!   flag = 1                     publish work
//!   fence(SeqCst)                fence(SeqCst)
//!   look for work ─┐  at least   read flag ─┐
//!   block          ┘  one sees   ring bell  ┘
//! ```
#![forbid(unsafe_code)]

use crate::sync::{AtomicU32, Handover, Ordering, fence_at};

#[cfg(not(loom))]
pub use bell::{Heard, Listener, Ringer, WorkerBell, bell};

/// Up while its owner sleeps or is about to.
#[repr(C)]
#[derive(Default)]
pub struct SleepFlag(AtomicU32);

impl SleepFlag {
    /// Raises the flag. The caller looks for work once more before it blocks.
    pub fn raise(&self) {
        self.0.store(1, Ordering::Relaxed);
        fence_at(Handover::Sleep);
    }

    /// Lowers the flag: the owner is awake.
    pub fn lower(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// For the waker, after publishing: whether to ring.
    #[must_use]
    pub fn is_up(&self) -> bool {
        fence_at(Handover::Sleep);
        self.0.load(Ordering::Relaxed) != 0
    }
}

#[cfg(not(loom))]
mod bell {
    use nix::errno::Errno;
    use nix::sys::eventfd::{EfdFlags, EventFd};
    use nix::sys::socket::{
        AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, send, setsockopt, shutdown,
        socketpair, sockopt,
    };
    use std::io;
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

    /// Packets that are taken from a bell at a time: more than fit unless its ringer made room for
    /// more.
    const DRAIN_PACKETS: usize = 16;

    /// The waker's end.
    #[derive(Debug)]
    pub struct Ringer(OwnedFd);

    /// The sleeper's end, a client's.
    #[derive(Debug)]
    pub struct Listener(OwnedFd);

    /// A worker's doorbell for one client, the same eventfd on both sides.
    #[derive(Debug)]
    pub struct WorkerBell(OwnedFd);

    /// What a listener found.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Heard {
        /// It was rung since it was last asked.
        Rung,
        /// It was not.
        Nothing,
        /// The waker is gone.
        Ended,
    }

    /// Makes a doorbell that wakes a client.
    pub fn bell() -> io::Result<(Ringer, Listener)> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let (ringer, listener) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        // The least that there is (socket(7)): some packets of a byte.
        setsockopt(&ringer, sockopt::SndBuf, &0)?;
        // The listener can send nothing: whoever rings holds nothing of its own making.
        shutdown(ringer.as_raw_fd(), Shutdown::Read)?;
        Ok((Ringer(ringer), Listener(listener)))
    }

    impl Ringer {
        /// The end that was received from the daemon.
        #[must_use]
        pub const fn from_fd(fd: OwnedFd) -> Self {
            Self(fd)
        }

        /// Rings, without ever blocking or raising a signal. Returns false if the sleeper is gone.
        pub fn ring(&self) -> bool {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            // A full one (EAGAIN) has been rung already. One that its listener left with rings in it
            // says ECONNRESET once.
            !matches!(
                send(self.0.as_raw_fd(), &[1], flags),
                Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN)
            )
        }
    }

    impl Listener {
        /// The end that was received from the daemon.
        #[must_use]
        pub const fn from_fd(fd: OwnedFd) -> Self {
            Self(fd)
        }

        /// Takes out what was rung, up to a bound: who rings faster than we read must not keep us
        /// here, and what is left only makes the next sleep a short one. Whoever rings with an empty
        /// packet counts as gone.
        pub fn drain(&self) -> Heard {
            let mut heard = Heard::Nothing;
            for _ in 0..DRAIN_PACKETS {
                match recv(self.0.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
                    Ok(1..) => heard = Heard::Rung,
                    Err(Errno::EINTR) => {}
                    Err(Errno::EAGAIN) => return heard,
                    Ok(0) | Err(_) => return Heard::Ended,
                }
            }
            heard
        }
    }

    impl WorkerBell {
        /// Makes a doorbell that wakes a worker.
        pub fn new() -> io::Result<Self> {
            let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
            Ok(Self(EventFd::from_value_and_flags(0, flags)?.into()))
        }

        /// The one that was received from the daemon.
        #[must_use]
        pub const fn from_fd(fd: OwnedFd) -> Self {
            Self(fd)
        }

        /// Rings. For the client: it may make its own calls block, which share the file's flags.
        pub fn ring(&self) {
            // EAGAIN after 2^64 - 2 rings.
            let _ = nix::unistd::write(&self.0, &1_u64.to_ne_bytes());
        }
    }

    impl AsFd for Listener {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    impl AsFd for Ringer {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    impl AsFd for WorkerBell {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

        #[test]
        fn a_full_bell_has_been_rung() -> io::Result<()> {
            let (ringer, listener) = bell()?;
            assert_eq!(listener.drain(), Heard::Nothing);
            for _ in 0..70_000 {
                assert!(ringer.ring());
            }
            assert_eq!(listener.drain(), Heard::Rung);
            assert_eq!(listener.drain(), Heard::Nothing, "one call does not empty it");
            drop(ringer);
            assert_eq!(listener.drain(), Heard::Ended);
            Ok(())
        }

        #[test]
        fn whoever_rings_faster_than_we_read_does_not_keep_us() -> io::Result<()> {
            let (ringer, listener) = bell()?;
            // A hostile ringer makes room for more: as good as one that never stops.
            setsockopt(&ringer, sockopt::SndBuf, &(1 << 17))?;
            let packets = std::iter::repeat_with(|| {
                send(ringer.0.as_raw_fd(), &[1; 512], MsgFlags::MSG_DONTWAIT).is_ok()
            });
            let sent = packets.take_while(|sent| *sent).count();
            assert!(sent > 2 * DRAIN_PACKETS, "{sent}");
            for _ in 0..sent / DRAIN_PACKETS {
                assert_eq!(listener.drain(), Heard::Rung);
            }
            let rest = sent % DRAIN_PACKETS;
            assert_eq!(listener.drain() == Heard::Rung, rest > 0, "a call takes a bounded number");
            Ok(())
        }

        #[test]
        fn ringing_for_nobody_raises_no_signal() -> io::Result<()> {
            let (ringer, listener) = bell()?;
            assert!(ringer.ring());
            drop(listener);
            // The default disposition would kill the test, were there a signal.
            crate::region::default_sigpipe();
            assert!(!ringer.ring());
            assert!(!ringer.ring());
            Ok(())
        }

        #[test]
        fn a_listener_can_do_no_more_than_not_to_hear() -> io::Result<()> {
            let (ringer, listener) = bell()?;
            let raw = listener.0.as_raw_fd();
            let back = send(raw, &[1], MsgFlags::MSG_NOSIGNAL);
            assert_eq!(back, Err(Errno::EPIPE), "the other way is open");
            // Not even with a blocking end that is full.
            let flags = nix::fcntl::OFlag::empty();
            nix::fcntl::fcntl(&listener, nix::fcntl::FcntlArg::F_SETFL(flags))?;
            assert!((0..100).all(|_| ringer.ring()));
            shutdown(raw, Shutdown::Both)?;
            assert!(!ringer.ring());
            Ok(())
        }

        #[test]
        fn each_ring_is_an_edge_that_nobody_need_take() -> io::Result<()> {
            let bell = WorkerBell::new()?;
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            epoll.add(&bell, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 7))?;
            let mut events = [EpollEvent::empty(); 2];
            let mut heard = || epoll.wait(&mut events, EpollTimeout::ZERO);
            assert_eq!(heard(), Ok(0));
            for rings in [1, 1, 3] {
                (0..rings).for_each(|_| bell.ring());
                assert_eq!(heard(), Ok(1));
                assert_eq!(heard(), Ok(0), "it rings on");
            }
            Ok(())
        }
    }
}
