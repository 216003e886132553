//! One client's connection, as the server sees it.

use std::io::{self, Read, Write};
use std::sync::Arc;

use super::super::SIZE_MAX;
use super::super::flow::{Flow, Turn};
use super::super::message::Pattern;
use super::super::sockets::{Stream, is_idle};

/// What the server says after a stream: bytes taken and bytes wrong, 64 bits each, little-endian.
pub(in super::super) const TRAILER_BYTES: usize = 16;

/// Bytes that one read takes at most.
const READ_BYTES: usize = 64 << 10;

const _: () = assert!(READ_BYTES as u64 <= SIZE_MAX, "the server's pattern is long enough");

/// What passed through a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) received: u64,
    pub(super) sent: u64,
    /// Bytes that were not what they should be.
    pub(super) wrong: u64,
}

/// A connection that counts.
pub(super) trait Peer: Flow {
    fn counts(&self) -> Counts;
}

/// Sends back what comes.
pub(in super::super) struct Echo {
    stream: Stream,
    /// What is to be sent back: from `start` to `end`.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    counts: Counts,
}

impl Echo {
    pub(in super::super) fn new(stream: Stream) -> Self {
        Self { stream, bytes: vec![0; READ_BYTES], start: 0, end: 0, counts: Counts::default() }
    }
}

impl Flow for Echo {
    fn turn(&mut self) -> io::Result<Turn> {
        if self.start == self.end {
            match self.stream.read(&mut self.bytes) {
                Ok(0) => return Ok(Turn::Done),
                Ok(len) => (self.start, self.end) = (0, len),
                Err(error) if is_idle(&error) => return Ok(Turn::Idle),
                Err(error) => return Err(error),
            }
            self.counts.received += self.end as u64;
        }
        match self.stream.write(&self.bytes[self.start..self.end]) {
            Ok(len) => {
                self.start += len;
                self.counts.sent += len as u64;
                Ok(Turn::Progress)
            }
            Err(error) if is_idle(&error) => Ok(Turn::Idle),
            Err(error) => Err(error),
        }
    }
}

impl Peer for Echo {
    fn counts(&self) -> Counts {
        self.counts
    }
}

/// Takes a stream, compares it with the pattern, and says what it found.
pub(in super::super) struct Sink {
    stream: Stream,
    pattern: Arc<Pattern>,
    bytes: Vec<u8>,
    counts: Counts,
    /// What is left to be said, once the stream has ended.
    trailer: Option<Vec<u8>>,
}

impl Sink {
    pub(in super::super) fn new(stream: Stream, pattern: Arc<Pattern>) -> Self {
        let bytes = vec![0; READ_BYTES];
        Self { stream, pattern, bytes, counts: Counts::default(), trailer: None }
    }

    fn take(&mut self, len: usize) {
        let (found, position) = (&self.bytes[..len], self.counts.received);
        let expected = self.pattern.at(position, len);
        if found != expected {
            let wrong = found.iter().zip(expected).filter(|(a, b)| a != b).count();
            self.counts.wrong += wrong as u64;
        }
        self.counts.received += len as u64;
    }
}

impl Flow for Sink {
    fn turn(&mut self) -> io::Result<Turn> {
        if let Some(trailer) = &mut self.trailer {
            if trailer.is_empty() {
                return Ok(Turn::Done);
            }
            return match self.stream.write(trailer) {
                Ok(len) => {
                    trailer.drain(..len);
                    self.counts.sent += len as u64;
                    Ok(Turn::Progress)
                }
                Err(error) if is_idle(&error) => Ok(Turn::Idle),
                Err(error) => Err(error),
            };
        }
        match self.stream.read(&mut self.bytes) {
            Ok(0) => {
                let words = [self.counts.received, self.counts.wrong];
                self.trailer = Some(words.into_iter().flat_map(u64::to_le_bytes).collect());
                Ok(Turn::Progress)
            }
            Ok(len) => {
                self.take(len);
                Ok(Turn::Progress)
            }
            Err(error) if is_idle(&error) => Ok(Turn::Idle),
            Err(error) => Err(error),
        }
    }
}

impl Peer for Sink {
    fn counts(&self) -> Counts {
        self.counts
    }
}
