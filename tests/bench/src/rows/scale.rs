//! How the native stack bears a million connections: what a request costs then, and what memory a connection that
//! is idle keeps.

use std::time::{Duration, Instant};

use super::Measured;
use crate::ALLOCATOR;
use crate::bench::Effort;
use crate::figure::{Better, Figure};
use crate::world::World;

/// Connections of the two worlds.
const FEW: u32 = 1000;
const MANY: u32 = 1_000_000;
/// Connections whose memory is counted.
const COUNTED: u32 = 20_000;

/// Nanoseconds of a request and its answer, over one connection after the other.
fn requests(world: &mut World, next: &mut usize, span: Duration) -> anyhow::Result<f64> {
    let (started, mut count) = (Instant::now(), 0_u32);
    while started.elapsed() < span {
        world.round_trip(*next % world.len())?;
        *next += 1;
        count += 1;
    }
    Ok(started.elapsed().as_nanos() as f64 / f64::from(count))
}

/// Both, of the native stack.
pub fn of_connections(effort: &Effort) -> anyhow::Result<Measured> {
    let memory = memory()?;
    let mut worlds = [World::new("native", FEW)?, World::new("native", MANY)?];
    let mut results = [Vec::new(), Vec::new()];
    let mut next = [0, 0];
    for _ in 0..effort.runs {
        for ((world, results), next) in worlds.iter_mut().zip(&mut results).zip(&mut next) {
            // A worker does so all the time, and seldom: ten times a second.
            world.give_back();
            requests(world, next, effort.warmup)?;
            results.push(requests(world, next, effort.span)?);
        }
    }
    let [few, many] = results;
    let figures = vec![
        Figure::new("request, 1,000,000 connections", "ns", Better::Less, many)?
            .beside("with 1,000", few),
        Figure::new("private memory of an idle connection", "B/end", Better::Less, vec![memory])?
            .beside("at most", vec![512.0]),
    ];
    let setup = vec![
        "two native stacks on an in-memory wire without delay, one thread, requests of 64 bytes over one \
         connection after the other; both ends keep all connections"
            .to_owned(),
        format!(
            "memory: what {COUNTED} connections have allocated beyond one, each used once and idle since, without \
             the lines of their FIFOs, which are shared; tables included, the allocator's own words not"
        ),
    ];
    Ok(Measured { setup, figures })
}

/// Bytes allocated for an end of a connection that is idle, without shared lines.
fn memory() -> anyhow::Result<f64> {
    let mut bytes = [0; 2];
    for (bytes, connections) in bytes.iter_mut().zip([1, COUNTED]) {
        let mut world = World::new("native", connections)?;
        for connection in 0..world.len() {
            world.round_trip(connection)?;
        }
        world.idle();
        // What goes with the stacks was theirs; the clients still have the lines.
        let before = ALLOCATOR.current_usage();
        world.drop_stacks()?;
        *bytes = before.saturating_sub(ALLOCATOR.current_usage());
    }
    let ends = 2.0 * f64::from(COUNTED - 1);
    Ok((bytes[1] as f64 - bytes[0] as f64) / ends)
}
