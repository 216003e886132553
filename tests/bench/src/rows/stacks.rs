//! The native stack beside smoltcp, each twice on an in-memory wire, in one thread and virtual time: what a
//! request, a byte, a connection cost.

use std::time::{Duration, Instant};

use super::Measured;
use crate::bench::Effort;
use crate::figure::{Better, Figure};
use crate::world::{PORTS, World};

/// Connections of the row that has many.
const MANY: u32 = 10_000;
const KINDS: [&str; 2] = ["native", "smoltcp"];

/// Nanoseconds of a request and its answer, over one connection after the other.
fn round_trips(world: &mut World, span: Duration) -> anyhow::Result<f64> {
    let (started, mut count) = (Instant::now(), 0);
    while started.elapsed() < span {
        world.round_trip(count % world.len())?;
        count += 1;
    }
    Ok(started.elapsed().as_nanos() as f64 / count as f64)
}

/// Nanoseconds of a byte of one stream.
fn stream(world: &mut World, span: Duration) -> anyhow::Result<f64> {
    let mut buffer = vec![0; 1 << 16];
    let (started, mut bytes) = (Instant::now(), 0);
    while started.elapsed() < span {
        bytes += world.stream(&mut buffer);
    }
    Ok(started.elapsed().as_nanos() as f64 / bytes as f64)
}

/// Nanoseconds of a connection, opened and closed.
fn life_cycles(world: &mut World, span: Duration) -> anyhow::Result<f64> {
    let (started, mut count) = (Instant::now(), 0_u32);
    while started.elapsed() < span {
        // No time passes by itself, and the ends that close first wait for some.
        if count.is_multiple_of(PORTS / 2) {
            world.rest();
        }
        world.connect(count % PORTS)?;
        world.close()?;
        count += 1;
    }
    Ok(started.elapsed().as_nanos() as f64 / f64::from(count))
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
    add("request of 64 bytes, 1 connection", "ns", compare(effort, 1, round_trips)?)?;
    let many = compare(effort, MANY, round_trips)?;
    add("request of 64 bytes, 10,000 connections", "ns", many)?;
    add("bulk, a byte", "ns", compare(effort, 1, stream)?)?;
    add("connection, opened and closed", "ns", compare(effort, 0, life_cycles)?)?;
    let setup = vec![
        "two stacks of the kind on an in-memory wire without delay, MTU 1500, one thread; the same \
         harness for both"
            .to_owned(),
    ];
    Ok(Measured { setup, figures })
}
