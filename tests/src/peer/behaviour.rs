//! What a program does with a TCP connection.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Subcommand, ValueEnum};
use sha2::{Digest, Sha256};

use super::generator::Generator;
use super::net::Stream;
use super::report::{Line, Outcome};

/// Bytes written or read at once.
const BLOCK: usize = 64 << 10;

/// What to do with each connection.
#[derive(Clone, Debug, Subcommand)]
pub enum Behaviour {
    /// Sends bytes and half-closes, and receives until the peer does.
    Exchange {
        /// How many bytes to send; without it, until standard input ends.
        #[arg(long)]
        bytes: Option<u64>,
        /// Where the bytes start.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Whether to send, or receive, everything first.
        #[arg(long, value_enum, default_value_t = Order::Both)]
        order: Order,
    },
    /// Sends back what it receives, and half-closes when the peer does.
    Echo,
    /// Sends until the connection ends.
    Pour,
    /// Receives until the connection ends.
    Drain,
    /// Waits for a byte, sends one, and resets the connection.
    Reset,
    /// Sends a byte, receives one, sends another, then receives until the connection ends.
    Witness,
    /// Sends datagrams of these sizes and waits for the echo of each.
    UdpAsk {
        /// Bytes of payload.
        #[arg(long, value_delimiter = ',')]
        sizes: Vec<usize>,
    },
    /// Sends datagrams back until it has seen this many different sizes.
    UdpEcho {
        /// How many.
        #[arg(long)]
        count: usize,
    },
}

/// Which direction of an exchange goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// Both at once.
    Both,
    /// Everything is sent and the direction closed before anything is read.
    Send,
    /// Everything is read up to the end before anything is sent.
    Receive,
}

impl Behaviour {
    /// Does it, to the connection's end. Says so when a direction has moved `announce` bytes.
    #[must_use]
    pub fn run(&self, stream: Stream, announce: u64) -> Outcome {
        let mut flow = Flow { stream, sent: Half::new(announce), received: Half::new(announce) };
        let result = match self {
            Self::Exchange { bytes, seed, order } => flow.exchange(*bytes, *seed, *order),
            Self::Echo => flow.echo(),
            Self::Pour => flow.sent.send(&flow.stream, None, &mut Generator::new(1), None),
            Self::Drain => flow.received.receive(&flow.stream),
            Self::Reset => return flow.reset(),
            Self::Witness => flow.witness(),
            Self::UdpAsk { .. } | Self::UdpEcho { .. } => {
                unreachable!("datagrams have no connection")
            }
        };
        flow.outcome(result)
    }
}

/// A connection and what went through it.
struct Flow {
    stream: Stream,
    sent: Half,
    received: Half,
}

impl Flow {
    fn exchange(&mut self, bytes: Option<u64>, seed: u64, order: Order) -> io::Result<()> {
        let Self { stream, sent, received } = self;
        let stop = Arc::new(AtomicBool::new(false));
        if bytes.is_none() {
            let stop = Arc::clone(&stop);
            // Nobody waits for this thread: it ends with standard input or the program.
            std::thread::spawn(move || {
                let _ = io::copy(&mut io::stdin(), &mut io::sink());
                stop.store(true, Ordering::Relaxed);
            });
        }
        let mut generator = Generator::new(seed);
        let mut send = || {
            sent.send(stream, bytes, &mut generator, Some(&*stop))?;
            stream.shutdown(Shutdown::Write)
        };
        match order {
            Order::Both => std::thread::scope(|scope| {
                let sending = scope.spawn(send);
                let received = received.receive(stream);
                sending.join().expect("the sender does not panic").and(received)
            }),
            Order::Send => send().and_then(|()| received.receive(stream)),
            Order::Receive => received.receive(stream).and_then(|()| send()),
        }
    }

    fn echo(&mut self) -> io::Result<()> {
        let mut block = vec![0; BLOCK];
        loop {
            let len = self.received.read(&self.stream, &mut block)?;
            if len == 0 {
                return self.stream.shutdown(Shutdown::Write);
            }
            self.sent.write(&self.stream, &block[..len])?;
        }
    }

    fn reset(mut self) -> Outcome {
        let mut byte = [0];
        let result = (|| {
            self.received.read(&self.stream, &mut byte)?;
            self.sent.write(&self.stream, &byte)
        })();
        let Self { stream, sent, received } = self;
        let result = result.and_then(|()| stream.reset());
        outcome(&sent, &received, result)
    }

    fn witness(&mut self) -> io::Result<()> {
        let mut byte = [0];
        self.sent.write(&self.stream, &byte)?;
        self.received.read(&self.stream, &mut byte)?;
        self.received.receive(&self.stream)
    }

    fn outcome(&self, result: io::Result<()>) -> Outcome {
        outcome(&self.sent, &self.received, result)
    }
}

fn outcome(sent: &Half, received: &Half, result: io::Result<()>) -> Outcome {
    let mut outcome = Outcome {
        sent: sent.bytes,
        sent_sha256: sent.sha256(),
        received: received.bytes,
        received_sha256: received.sha256(),
        end_of_file: received.end_of_file,
        ..Outcome::default()
    };
    if let Err(error) = result {
        outcome.fail(&error);
    }
    outcome
}

/// One direction of a connection.
struct Half {
    announce: u64,
    bytes: u64,
    hash: Sha256,
    end_of_file: bool,
}

impl Half {
    fn new(announce: u64) -> Self {
        Self { announce, bytes: 0, hash: Sha256::new(), end_of_file: false }
    }

    /// Sends `bytes` bytes, or until `stop`, or without end.
    fn send(
        &mut self,
        stream: &Stream,
        bytes: Option<u64>,
        generator: &mut Generator,
        stop: Option<&AtomicBool>,
    ) -> io::Result<()> {
        let mut block = vec![0; BLOCK];
        let mut left = bytes.unwrap_or(u64::MAX);
        while left > 0 && !stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            let len = left.min(BLOCK as u64);
            // No truncation: at most a block.
            let block = &mut block[..len as usize];
            generator.fill(block);
            self.write(stream, block)?;
            left -= len;
        }
        Ok(())
    }

    fn write(&mut self, mut stream: &Stream, bytes: &[u8]) -> io::Result<()> {
        stream.write_all(bytes)?;
        self.count(bytes);
        Ok(())
    }

    fn receive(&mut self, stream: &Stream) -> io::Result<()> {
        let mut block = vec![0; BLOCK];
        while self.read(stream, &mut block)? > 0 {}
        Ok(())
    }

    fn read(&mut self, mut stream: &Stream, block: &mut [u8]) -> io::Result<usize> {
        let len = stream.read(block)?;
        self.count(&block[..len]);
        self.end_of_file = len == 0;
        Ok(len)
    }

    fn count(&mut self, bytes: &[u8]) {
        let before = self.bytes;
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
        if before < self.announce && self.bytes >= self.announce {
            Line::UnderWay.print();
        }
    }

    fn sha256(&self) -> String {
        self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
