//! What a program sees of a connection after this or that happened to it: the same calls on any
//! kind of socket, so that what Linux's own sockets answer is what is expected of ours.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use dmm::errno;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

/// A connection of either kind.
pub trait Stream: Read + Write + Sized {
    fn peek(&self, bytes: &mut [u8]) -> io::Result<usize>;
    fn shut(&self, how: Shutdown) -> io::Result<()>;
    fn peer(&self) -> io::Result<SocketAddr>;
    fn error(&self) -> io::Result<Option<io::Error>>;
    fn set_nonblocking(&self);
    /// Closes it so that it resets the connection (`SO_LINGER` in socket(7)).
    fn reset(self);
}

macro_rules! stream {
    ($kind:ty, $stream:ident: $linger:expr) => {
        impl Stream for $kind {
            fn peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
                self.peek(bytes)
            }

            fn shut(&self, how: Shutdown) -> io::Result<()> {
                self.shutdown(how)
            }

            fn peer(&self) -> io::Result<SocketAddr> {
                self.peer_addr()
            }

            fn error(&self) -> io::Result<Option<io::Error>> {
                self.take_error()
            }

            fn set_nonblocking(&self) {
                self.set_nonblocking(true).unwrap();
            }

            fn reset(self) {
                let $stream = self;
                $linger;
            }
        }
    };
}

stream!(dmm::TcpStream, stream: stream.set_linger(Some(Duration::ZERO)).unwrap());
stream!(std::net::TcpStream, stream: {
    let now = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &now).unwrap();
});

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    Nothing,
    DataCame,
    ResetCame,
    DataThenResetCame,
    FinCame,
    /// The peer closed, and answered what came then with a reset.
    FinThenResetCame,
    FinSent,
    FinCameThenSent,
    FinSentThenCame,
    ShutForReading,
    /// Data came after reading was shut down.
    ShutForReadingThenDataCame,
}

pub const PASTS: [Past; 11] = [
    Past::Nothing,
    Past::DataCame,
    Past::ResetCame,
    Past::DataThenResetCame,
    Past::FinCame,
    Past::FinThenResetCame,
    Past::FinSent,
    Past::FinCameThenSent,
    Past::FinSentThenCame,
    Past::ShutForReading,
    Past::ShutForReadingThenDataCame,
];

/// Calls on the connection, in this order. See [`call`].
pub const CALLS: [&str; 10] = [
    "read read write write read error",
    "write write read read error",
    "peek read0 peek0 read write",
    "read0 peek0 write0 error read",
    "write0 write0 read0 error",
    "error error write read",
    "peer shut-read read",
    "shut-write write write0 read",
    "shut-both peek read write",
    "shut-read shut-read shut-write write",
];

impl Past {
    /// What `calls` answer on `a` after this, where `b` is its other end.
    pub fn answers(self, calls: &str, mut a: impl Stream, mut b: impl Stream) -> String {
        a.set_nonblocking();
        b.set_nonblocking();
        let kept = match self {
            Self::ResetCame => {
                b.reset();
                over(&a);
                None
            }
            Self::DataThenResetCame => {
                b.write_all(b"data").unwrap();
                there(&a, 4);
                b.reset();
                over(&a);
                None
            }
            Self::FinThenResetCame => {
                drop(b);
                there(&a, 0);
                a.write_all(b"x").unwrap();
                over(&a);
                None
            }
            _ => {
                self.bring_about_between(&a, &mut b);
                Some(b)
            }
        };
        let mut answers = String::new();
        for name in calls.split(' ') {
            match call(&mut a, name) {
                Ok(number) => write!(answers, "{name}={number} ").unwrap(),
                Err(error) => {
                    write!(answers, "{name}={:?} ", Errno::from_raw(errno(&error))).unwrap();
                }
            }
        }
        drop(kept);
        answers
    }

    /// As far as both ends stay.
    fn bring_about_between(self, a: &impl Stream, b: &mut impl Stream) {
        match self {
            Self::Nothing => {}
            Self::DataCame => {
                b.write_all(b"data").unwrap();
                there(a, 4);
            }
            Self::FinCame | Self::FinCameThenSent => {
                b.shut(Shutdown::Write).unwrap();
                there(a, 0);
                if self == Self::FinCameThenSent {
                    a.shut(Shutdown::Write).unwrap();
                    over(a);
                }
            }
            Self::FinSent | Self::FinSentThenCame => {
                a.shut(Shutdown::Write).unwrap();
                there(b, 0);
                if self == Self::FinSentThenCame {
                    b.shut(Shutdown::Write).unwrap();
                    over(a);
                }
            }
            Self::ShutForReading => a.shut(Shutdown::Read).unwrap(),
            Self::ShutForReadingThenDataCame => {
                a.shut(Shutdown::Read).unwrap();
                b.write_all(b"late").unwrap();
                there(a, 4);
            }
            _ => unreachable!("the other end goes"),
        }
    }
}

/// One call, and the number that it gives: bytes, or the errno of a pending error.
fn call(stream: &mut impl Stream, name: &str) -> io::Result<usize> {
    let mut bytes = [0; 16];
    match name {
        "read" => stream.read(&mut bytes),
        "read0" => stream.read(&mut []),
        "peek" => stream.peek(&mut bytes),
        "peek0" => stream.peek(&mut []),
        "write" => stream.write(b"x"),
        "write0" => stream.write(b""),
        "peer" => stream.peer().map(|_| 0),
        "error" => stream.error().map(|error| error.map_or(0, |error| errno(&error) as usize)),
        "shut-read" => stream.shut(Shutdown::Read).map(|()| 0),
        "shut-write" => stream.shut(Shutdown::Write).map(|()| 0),
        "shut-both" => stream.shut(Shutdown::Both).map(|()| 0),
        _ => panic!("no call {name:?}"),
    }
}

/// Waits until as many bytes can be read, or with 0 until the end of the stream can.
fn there(stream: &impl Stream, len: usize) {
    let mut bytes = [0; 16];
    until("arrival", || stream.peek(&mut bytes).is_ok_and(|there| there == len));
}

/// Waits for the end of the connection, without taking its error.
fn over(stream: &impl Stream) {
    until("the end", || stream.peer().is_err());
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what} did not come");
        std::thread::yield_now();
    }
}

/// Two ends of a connection through this machine's own TCP.
pub fn kernel_pair() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (connected, listener.accept().unwrap().0)
}
