//! What a program does with a UDP socket.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::generator::Generator;
use super::net::Datagrams;
use super::report::Outcome;

/// UDP may lose a datagram, and a first one may fall to address resolution: then it is sent again.
const AGAIN: Duration = Duration::from_secs(1);

/// After this the echo does not come.
const PATIENCE: Duration = Duration::from_secs(30);

/// More than any datagram, so that a longer one than was sent is noticed.
const DATAGRAM_MAX: usize = 65_536;

/// Sends a datagram of each size and waits for its echo. Counts those that came back the same.
pub fn ask(socket: &Datagrams, to: SocketAddr, sizes: &[usize]) -> Outcome {
    let mut outcome = Outcome::default();
    for &size in sizes {
        match ask_one(socket, to, size) {
            Ok(()) => {
                outcome.sent += size as u64;
                outcome.received += size as u64;
            }
            Err(error) => {
                outcome.fail(&error);
                outcome.error = Some(format!("{size} bytes: {error}"));
                return outcome;
            }
        }
    }
    outcome
}

fn ask_one(socket: &Datagrams, to: SocketAddr, size: usize) -> io::Result<()> {
    let mut datagram = vec![0; size];
    Generator::new(size as u64).fill(&mut datagram);
    let mut received = vec![0; DATAGRAM_MAX];
    socket.set_read_timeout(AGAIN)?;
    let give_up = Instant::now() + PATIENCE;
    loop {
        let sent = socket.send_to(&datagram, to)?;
        if sent != size {
            return Err(io::Error::other(format!("{sent} of {size} bytes sent")));
        }
        // An earlier size may come late, because it was sent twice.
        match receive(socket, to, &mut received, size) {
            Ok(echo) if Sha256::digest(echo) == Sha256::digest(&datagram) => return Ok(()),
            Ok(_) => return Err(io::Error::other("the echo differs")),
            Err(error) if dmm::errno(&error) == nix::libc::EAGAIN && Instant::now() < give_up => {}
            Err(error) => return Err(error),
        }
    }
}

/// Receives until a datagram of this size has come from there.
fn receive<'a>(
    socket: &Datagrams,
    from: SocketAddr,
    buffer: &'a mut [u8],
    size: usize,
) -> io::Result<&'a [u8]> {
    loop {
        let (len, sender) = socket.recv_from(buffer)?;
        if sender != from {
            return Err(io::Error::other(format!("a datagram from {sender}, not {from}")));
        }
        if len == size {
            return Ok(&buffer[..len]);
        }
    }
}

/// Sends every datagram back until it has seen `count` sizes and nothing more comes.
pub fn echo(socket: &Datagrams, count: usize) -> Outcome {
    let mut outcome = Outcome::default();
    if let Err(error) = try_echo(socket, count, &mut outcome) {
        outcome.fail(&error);
    }
    outcome
}

fn try_echo(socket: &Datagrams, count: usize, outcome: &mut Outcome) -> io::Result<()> {
    let mut buffer = vec![0; DATAGRAM_MAX];
    let mut sizes = BTreeSet::new();
    socket.set_read_timeout(PATIENCE)?;
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((len, sender)) => {
                outcome.received += len as u64;
                outcome.sent += socket.send_to(&buffer[..len], sender)? as u64;
                sizes.insert(len);
            }
            Err(error) if sizes.len() == count && dmm::errno(&error) == nix::libc::EAGAIN => {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        if sizes.len() == count {
            // The last echo may have been lost: stay for its repetition.
            socket.set_read_timeout(2 * AGAIN)?;
        }
    }
}
