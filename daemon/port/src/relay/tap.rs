//! A kernel TAP interface as a port.
//!
//! Owns: the descriptor on `/dev/net/tun`. Driven by the relay, or by any worker. Must never:
//! configure the interface; whoever wants it up or moved to a namespace does that.

#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;

use crate::buffer::{FrameBuffer, RxRow, TxRow, mac_from_name};
use crate::tun_ioctl::{self, NAME_BYTES};
use crate::wire::HEADER_BYTES;
use crate::{
    BURST, Instant, Link, Port, PortInfo, PortStats, RxFrame, RxQueue, TxBurst, TxQueue, Wake,
};

const DEVICE: &str = "/dev/net/tun";

/// Why a TAP cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name is no interface name.
    #[error("interface name {0:?}; give 1 to 15 bytes without '/' or white space")]
    Name(String),
    /// The TUN driver cannot be reached.
    #[error(
        "cannot open {DEVICE} ({0}); load the module tun, and run as root or with CAP_NET_ADMIN"
    )]
    Open(#[source] io::Error),
    /// The kernel refused to attach the interface.
    #[error("cannot attach TAP {name} ({source}); needs CAP_NET_ADMIN, and nobody else attached")]
    Attach {
        /// The interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The interface's MTU cannot be read.
    #[error("cannot read the MTU of TAP {name} ({source})")]
    Mtu {
        /// The interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is one queue pair.
    #[error("queue pair {0} is not to be had; a TAP has pair 0, once")]
    Queue(u16),
    /// The interface was deleted.
    #[error("TAP {0} was deleted; start again with one that exists")]
    Gone(String),
}

impl From<TapError> for io::Error {
    fn from(error: TapError) -> Self {
        Self::other(error)
    }
}

/// A TAP interface, seen from the side that is not the kernel's.
pub struct TapPort {
    info: PortInfo,
    tap: Arc<Tap>,
    taken: bool,
}

/// What the port and its queues share.
struct Tap {
    file: File,
    counters: Counters,
}

/// Each has one writer: the worker of the queue pair.
#[derive(Default)]
struct Counters {
    rx_frames: AtomicU64,
    rx_bytes: AtomicU64,
    rx_errors: AtomicU64,
    tx_frames: AtomicU64,
    tx_bytes: AtomicU64,
    tx_errors: AtomicU64,
}

impl TapPort {
    /// Attaches to the TAP called `name` in the caller's network namespace, and creates it if there
    /// is none; one created here goes away with the port. The port's Ethernet address differs from
    /// the kernel side's.
    ///
    /// # Errors
    /// See [`TapError`].
    pub fn open(name: &str) -> Result<Self, TapError> {
        let bad = |byte: u8| byte == 0 || byte == b'/' || byte.is_ascii_whitespace();
        if name.is_empty() || name.len() >= NAME_BYTES || name.bytes().any(bad) {
            return Err(TapError::Name(name.to_owned()));
        }
        let mut padded = [0; NAME_BYTES];
        padded[..name.len()].copy_from_slice(name.as_bytes());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)
            .map_err(TapError::Open)?;
        tun_ioctl::attach_tap(file.as_fd(), &padded)
            .map_err(|source| TapError::Attach { name: name.to_owned(), source })?;
        let mtu =
            read_mtu(&padded).map_err(|source| TapError::Mtu { name: name.to_owned(), source })?;
        let info = PortInfo {
            name: name.to_owned(),
            device: DEVICE.to_owned(),
            driver: "tap".to_owned(),
            mac: mac_from_name(name),
            mtu,
            queues: 1,
            rss: false,
            tx_checksum: false,
            rx_checksum: false,
            numa_node: None,
        };
        let tap = Arc::new(Tap { file, counters: Counters::default() });
        Ok(Self { info, tap, taken: false })
    }

    /// A descriptor that is readable when frames wait, and in error when the interface is gone.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.tap.file.as_fd().try_clone_to_owned()
    }

    fn frame_capacity(&self) -> u32 {
        u32::from(self.info.mtu) + HEADER_BYTES
    }
}

/// Any socket of the namespace will do to ask.
fn read_mtu(name: &[u8; NAME_BYTES]) -> io::Result<u16> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    tun_ioctl::mtu(socket.as_fd(), name)
}

impl Port for TapPort {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn queue_pair(&mut self, index: u16) -> io::Result<(Box<dyn RxQueue>, Box<dyn TxQueue>)> {
        if index != 0 || self.taken {
            return Err(TapError::Queue(index).into());
        }
        self.taken = true;
        // One byte more than a frame may have tells longer ones apart.
        let capacity = self.frame_capacity() + 1;
        let spare = (0..BURST).map(|_| FrameBuffer::new(capacity)).collect();
        let rx = TapRx { tap: Arc::clone(&self.tap), row: RxRow::with_capacity(BURST), spare };
        let mut row = TxRow::new();
        for _ in 0..row.missing() {
            row.lay_out(FrameBuffer::new(self.frame_capacity()));
        }
        let tx = TapTx { tap: Arc::clone(&self.tap), row, dropped: 0, sent: Vec::new() };
        Ok((Box::new(rx), Box::new(tx)))
    }

    fn link(&self) -> Link {
        // The carrier is there as long as the descriptor is; whether the kernel uses the interface
        // is the kernel side's affair.
        Link { up: true, speed_mbps: 0 }
    }

    fn stats(&self) -> PortStats {
        let counters = &self.tap.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PortStats {
            rx_frames: read(&counters.rx_frames),
            rx_bytes: read(&counters.rx_bytes),
            rx_missed: 0,
            rx_errors: read(&counters.rx_errors),
            tx_frames: read(&counters.tx_frames),
            tx_bytes: read(&counters.tx_bytes),
            tx_errors: read(&counters.tx_errors),
        }
    }
}

struct TapRx {
    tap: Arc<Tap>,
    row: RxRow,
    spare: Vec<FrameBuffer>,
}

impl RxQueue for TapRx {
    fn burst(&mut self, _now: Instant) -> &[RxFrame<'_>] {
        let counters = &self.tap.counters;
        self.spare.extend(self.row.take());
        while let Some(mut buffer) = self.spare.pop() {
            buffer.set_len(usize::MAX);
            let capacity = buffer.bytes().len();
            let result = (&self.tap.file).read(buffer.bytes_mut());
            match result {
                Ok(len) if len < capacity => {
                    buffer.set_len(len);
                    add(&counters.rx_frames, 1);
                    add(&counters.rx_bytes, len as u64);
                    self.row.push(buffer, None);
                }
                // The kernel cut a frame beyond the MTU that the port was opened with.
                Ok(_) => {
                    add(&counters.rx_errors, 1);
                    self.spare.push(buffer);
                }
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        add(&counters.rx_errors, 1);
                    }
                    self.spare.push(buffer);
                    break;
                }
            }
        }
        self.row.frames()
    }

    fn wake(&self) -> Wake {
        Wake::Fd(self.tap.file.as_raw_fd())
    }
}

struct TapTx {
    tap: Arc<Tap>,
    row: TxRow,
    dropped: u64,
    /// Buffers on their way back into the row.
    sent: Vec<FrameBuffer>,
}

impl TxQueue for TapTx {
    fn burst(&mut self) -> TxBurst<'_> {
        self.row.burst()
    }

    fn flush(&mut self, _now: Instant) {
        let counters = &self.tap.counters;
        self.sent.extend(self.row.sent());
        for buffer in self.sent.drain(..) {
            match (&self.tap.file).write(buffer.bytes()) {
                Ok(len) => {
                    add(&counters.tx_frames, 1);
                    add(&counters.tx_bytes, len as u64);
                }
                // EIO: the interface is down. EAGAIN: its queue is full. EINVAL: no whole header.
                Err(_) => {
                    add(&counters.tx_errors, 1);
                    self.dropped += 1;
                }
            }
            self.row.lay_out(buffer);
        }
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
