//! The native stack beside smoltcp, each twice on an in-memory wire, in one thread and virtual time: what a
//! request, a byte, a connection cost.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use dmm_port::wire::WireConfig;
use dmm_stack::Request;
use dmm_stack::pair::{Client, End, Pair, Quota, address_v4, config};

use super::Measured;
use crate::bench::Effort;
use crate::figure::{Better, Figure};

/// Bytes of a request and of its answer.
const MESSAGE: [u8; 64] = [7; 64];
/// Connections of the row that has many.
const MANY: u32 = 10_000;
/// Ports of one server that a client can come from, in this row.
const PORTS: u32 = 50_000;
const KINDS: [&str; 2] = ["native", "smoltcp"];
/// Virtual time for something that takes next to none.
const SOON: Duration = Duration::from_secs(60);

/// Two stacks of a kind, and connections between them.
struct World {
    pair: Pair,
    quotas: [Quota; 2],
    ends: Vec<[Client; 2]>,
}

impl World {
    fn new(kind: &str, connections: u32) -> anyhow::Result<Self> {
        let tuned = |station| {
            let mut config = config(station);
            config.sockets_max = 1 << 20;
            // smoltcp reserves them for each connection.
            (config.tcp.rx_buffer, config.tcp.tx_buffer) = (1 << 16, 1 << 16);
            config
        };
        let wire = WireConfig { in_flight_limit: 1 << 16, ..WireConfig::default() };
        let pair = Pair::with(kind, &wire, &tuned(1), &tuned(2));
        // Two for each connection's directions, and one that a FIFO takes before it gives one back.
        let chunks = 1024 + 3 * connections;
        let quotas = [Quota::new(chunks), Quota::new(chunks)];
        let mut world = Self { pair, quotas, ends: Vec::new() };
        for server in 0..connections.div_ceil(PORTS).max(1) {
            world.pair.listen(End::Right, server, port(1000 + server), 1024);
        }
        for number in 0..connections {
            world.connect(number)?;
        }
        Ok(world)
    }

    /// Opens a connection, and waits for it.
    fn connect(&mut self, number: u32) -> anyhow::Result<()> {
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
    fn close(&mut self) -> anyhow::Result<()> {
        let Some([left, right]) = self.ends.pop() else { return Ok(()) };
        self.pair.close(&left);
        self.pair.close(&right);
        let gone = self.pair.run_until(SOON, |pair| pair.of(&right).gone || pair.of(&left).gone);
        ensure!(gone, "a connection did not close");
        Ok(())
    }

    /// Sends a message over a connection from one end, and waits for it at the other.
    fn message(&mut self, connection: usize, from: usize) -> anyhow::Result<()> {
        let [left, right] = &mut self.ends[connection];
        let (sender, receiver) = if from == 0 { (left, right) } else { (right, left) };
        ensure!(sender.writer.write(&[&MESSAGE], true) == MESSAGE.len(), "no room for a message");
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

    /// Nanoseconds of a request and its answer, over one connection after the other.
    fn round_trips(&mut self, span: Duration) -> anyhow::Result<f64> {
        let (started, mut count) = (Instant::now(), 0);
        while started.elapsed() < span {
            let connection = count % self.ends.len();
            self.message(connection, 0)?;
            self.message(connection, 1)?;
            count += 1;
        }
        Ok(started.elapsed().as_nanos() as f64 / count as f64)
    }

    /// Nanoseconds of a byte of one stream.
    fn stream(&mut self, span: Duration) -> anyhow::Result<f64> {
        let (mut buffer, pattern) = (vec![0; 1 << 16], vec![7; 1 << 16]);
        let (started, mut bytes) = (Instant::now(), 0);
        while started.elapsed() < span {
            let [left, right] = &mut self.ends[0];
            left.writer.write(&[&pattern], false);
            left.writer.want_room();
            if left.writer.must_tell() {
                self.pair.submit(End::Left, Request::Send { socket: left.socket });
            }
            self.pair.run_until(Duration::from_micros(1), |pair| {
                loop {
                    let len = right.reader.read(&mut buffer);
                    bytes += len;
                    if right.reader.owes_receive() {
                        pair.submit(End::Right, Request::Receive { socket: right.socket });
                    }
                    if len == 0 {
                        return false;
                    }
                }
            });
        }
        Ok(started.elapsed().as_nanos() as f64 / bytes as f64)
    }

    /// Nanoseconds of a connection, opened and closed.
    fn life_cycles(&mut self, span: Duration) -> anyhow::Result<f64> {
        let (started, mut count) = (Instant::now(), 0_u32);
        while started.elapsed() < span {
            // No time passes by itself, and the ends that close first wait for some.
            if count.is_multiple_of(PORTS / 2) {
                self.pair.run(SOON);
            }
            self.connect(count % PORTS)?;
            self.close()?;
            count += 1;
        }
        Ok(started.elapsed().as_nanos() as f64 / f64::from(count))
    }
}

fn port(port: u32) -> SocketAddr {
    SocketAddr::new(address_v4(2), u16::try_from(port).unwrap_or(u16::MAX))
}

/// What one kind costs, and the other.
fn compare(
    effort: &Effort,
    connections: u32,
    measure: impl Fn(&mut World, Duration) -> anyhow::Result<f64>,
) -> anyhow::Result<[Vec<f64>; 2]> {
    let mut worlds = Vec::new();
    for kind in KINDS {
        worlds.push(World::new(kind, connections)?);
    }
    let mut results = [Vec::new(), Vec::new()];
    for _ in 0..effort.runs {
        for (world, results) in worlds.iter_mut().zip(&mut results) {
            measure(world, effort.warmup)?;
            results.push(measure(world, effort.span)?);
        }
    }
    Ok(results)
}

/// Both kinds, in all respects.
pub fn side_by_side(effort: &Effort) -> anyhow::Result<Measured> {
    let mut figures = Vec::new();
    let mut add = |name: &str, unit, [native, smoltcp]: [Vec<f64>; 2]| -> anyhow::Result<()> {
        figures.push(Figure::new(name, unit, Better::Less, native)?.beside("smoltcp", smoltcp));
        Ok(())
    };
    add("request of 64 bytes, 1 connection", "ns", compare(effort, 1, World::round_trips)?)?;
    let many = compare(effort, MANY, World::round_trips)?;
    add("request of 64 bytes, 10,000 connections", "ns", many)?;
    add("bulk, a byte", "ns", compare(effort, 1, World::stream)?)?;
    add("connection, opened and closed", "ns", compare(effort, 0, World::life_cycles)?)?;
    let setup = vec![
        "two stacks of the kind on an in-memory wire without delay, MTU 1500, one thread; the same \
         harness for both"
            .to_owned(),
    ];
    Ok(Measured { setup, figures })
}
