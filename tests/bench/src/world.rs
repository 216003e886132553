//! Two stacks of a kind on an in-memory wire, in one thread and virtual time, and what is done with their
//! connections. Used by the rows about stacks, and by the program that callgrind counts.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use dmm_port::wire::WireConfig;
use dmm_stack::Request;
use dmm_stack::pair::{Client, End, Pair, Quota, address_v4, config};

/// Bytes of a request and of its answer.
const MESSAGE: [u8; 64] = [7; 64];
/// Ports of one server that a client can come from.
pub const PORTS: u32 = 50_000;
/// Chunks of an end at most: 8 GiB, of which a page each is touched.
const CHUNKS_MAX: u32 = 1 << 19;
/// New connections between two times at which idle ones give back what they do not need.
const TRIM_EVERY: u32 = 64;
/// Virtual time for something that takes next to none.
const SOON: Duration = Duration::from_secs(60);

/// Two stacks of a kind, and connections between them.
pub struct World {
    pair: Pair,
    quotas: [Quota; 2],
    ends: Vec<[Client; 2]>,
    pattern: Vec<u8>,
}

impl World {
    pub fn new(kind: &str, connections: u32) -> anyhow::Result<Self> {
        let tuned = |station| {
            let mut config = config(station);
            config.sockets_max = 1 << 20;
            // smoltcp reserves them for each connection.
            (config.tcp.rx_buffer, config.tcp.tx_buffer) = (1 << 16, 1 << 16);
            config
        };
        let wire = WireConfig { in_flight_limit: 1 << 16, ..WireConfig::default() };
        let pair = Pair::with(kind, &wire, &tuned(1), &tuned(2));
        // Two for each connection's directions, and one that a FIFO takes before it gives one back; of very many,
        // those that are idle give theirs back.
        let chunks = (1024 + 3 * connections).min(CHUNKS_MAX);
        let quotas = [Quota::new(chunks), Quota::new(chunks)];
        let mut world = Self { pair, quotas, ends: Vec::new(), pattern: vec![7; 1 << 16] };
        for server in 0..connections.div_ceil(PORTS).max(1) {
            world.pair.listen(End::Right, server, port(1000 + server), 1024);
        }
        for number in 0..connections {
            world.connect(number)?;
            if number % TRIM_EVERY == 0 {
                world.trim();
            }
        }
        Ok(world)
    }

    /// Opens a connection, and waits for it.
    pub fn connect(&mut self, number: u32) -> anyhow::Result<()> {
        let (server, socket) = (number / PORTS, 100 + number);
        let pair = &mut self.pair;
        let right = pair.credit(End::Right, &self.quotas[1], server, socket);
        let from = SocketAddr::new(address_v4(1), u16::try_from(10_000 + number % PORTS)?);
        let left = pair.connect(End::Left, &self.quotas[0], socket, (from, port(1000 + server)));
        let opened = pair.run_until(SOON, |pair| {
            pair.of(&left).connected == Some(Ok(())) && pair.of(&right).accepted.is_some()
        });
        ensure!(opened, "connection {number} did not open");
        self.ends.push([left, right]);
        Ok(())
    }

    /// Closes the connection that was opened last, and waits until the end that closes second is gone.
    pub fn close(&mut self) -> anyhow::Result<()> {
        let Some([left, right]) = self.ends.pop() else { return Ok(()) };
        self.pair.close(&left);
        self.pair.close(&right);
        let gone = self.pair.run_until(SOON, |pair| pair.of(&right).gone || pair.of(&left).gone);
        ensure!(gone, "a connection did not close");
        Ok(())
    }

    /// Sends a request over a connection and waits for its answer.
    pub fn round_trip(&mut self, connection: usize) -> anyhow::Result<()> {
        self.message(connection, 0)?;
        self.message(connection, 1)
    }

    /// Sends a message over a connection from one end, and waits for it at the other.
    fn message(&mut self, connection: usize, from: usize) -> anyhow::Result<()> {
        let [left, right] = &mut self.ends[connection];
        let (sender, receiver) = if from == 0 { (left, right) } else { (right, left) };
        let mut sent = sender.writer.write(&[&MESSAGE], true);
        if sent == 0 {
            // The room of one that was idle was taken back.
            sender.writer.want_room();
            self.pair.submit(sender.end, Request::Send { socket: sender.socket });
            self.pair.run_until(SOON, |_| {
                sent = sender.writer.write(&[&MESSAGE], true);
                sent > 0
            });
        }
        ensure!(sent == MESSAGE.len(), "no room for a message");
        if sender.writer.must_tell() {
            self.pair.submit(sender.end, Request::Send { socket: sender.socket });
        }
        let (mut bytes, mut came) = ([0; MESSAGE.len()], 0);
        let arrived = self.pair.run_until(SOON, |_| {
            came += receiver.reader.read(&mut bytes[came..]);
            came == MESSAGE.len()
        });
        if receiver.reader.owes_receive() {
            self.pair.submit(receiver.end, Request::Receive { socket: receiver.socket });
        }
        ensure!(arrived && bytes == MESSAGE, "{came} bytes of a message came");
        Ok(())
    }

    /// Writes as much to the first connection as there is room for, and reads all that arrives. Returns how
    /// many bytes that is.
    pub fn stream(&mut self, buffer: &mut [u8]) -> usize {
        let [left, right] = &mut self.ends[0];
        left.writer.write(&[&self.pattern], false);
        left.writer.want_room();
        if left.writer.must_tell() {
            self.pair.submit(End::Left, Request::Send { socket: left.socket });
        }
        let mut bytes = 0;
        self.pair.run_until(Duration::from_micros(1), |pair| {
            loop {
                let len = right.reader.read(buffer);
                bytes += len;
                if right.reader.owes_receive() {
                    pair.submit(End::Right, Request::Receive { socket: right.socket });
                }
                if len == 0 {
                    return false;
                }
            }
        });
        bytes
    }

    /// Lets those that closed first be gone.
    pub fn rest(&mut self) {
        self.pair.run(SOON);
    }

    /// Lets all connections that are idle give back what they do not need.
    pub fn give_back(&mut self) {
        for _ in 0..2 * (self.ends.len() / 1024 + 1) {
            self.trim();
        }
    }

    fn trim(&mut self) {
        let now = self.pair.now;
        for end in [End::Left, End::Right] {
            self.pair.stack(end).trim(now);
        }
    }

    /// Lets all connections be idle for so long that they have given back what they can.
    pub fn idle(&mut self) {
        for _ in 0..10 {
            self.pair.run(Duration::from_secs(10));
            self.give_back();
        }
    }

    /// Replaces both stacks by new ones without sockets. Nothing can be done with the connections after that.
    pub fn drop_stacks(&mut self) -> anyhow::Result<()> {
        for (end, station) in [(End::Left, 1), (End::Right, 2)] {
            self.pair.replace(end, dmm_stack::build("native", &config(station))?, &[]);
        }
        Ok(())
    }

    /// How many connections there are.
    pub const fn len(&self) -> usize {
        self.ends.len()
    }
}

fn port(port: u32) -> SocketAddr {
    SocketAddr::new(address_v4(2), u16::try_from(port).unwrap_or(u16::MAX))
}
