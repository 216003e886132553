//! What the tests share: a daemon with loopback semantics, and ways to wait without a clock.

pub mod alike;
pub mod fake;
mod pump;
mod world;

pub use world::{BLACK_HOLE, REFUSED_HOPS, UNROUTABLE};

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dmm::{Client, TcpListener, TcpStream};

pub use fake::{FakeDaemon, Setup};

/// How long anything may take before a test gives up.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Asks until the answer is yes.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "{what} did not happen");
        std::thread::yield_now();
    }
}

/// Bytes that differ from their neighbours and from those of another seed.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Any port.
pub fn any() -> SocketAddr {
    "10.0.0.1:0".parse().unwrap()
}

/// A connection's two ends: the one that connected, and the one that was accepted.
pub fn pair(client: &Client) -> (TcpStream, TcpStream, TcpListener) {
    let listener = client.listen(None, any()).unwrap();
    let connected = client.connect(None, listener.local_addr().unwrap()).unwrap();
    let (accepted, peer) = listener.accept().unwrap();
    assert_eq!(peer, connected.local_addr().unwrap());
    assert_eq!(accepted.peer_addr().unwrap(), peer);
    assert_eq!(accepted.local_addr().unwrap(), connected.peer_addr().unwrap());
    (connected, accepted, listener)
}

/// A session with the daemon.
pub fn attach(daemon: &FakeDaemon) -> Client {
    Client::attach(daemon.path()).unwrap()
}
