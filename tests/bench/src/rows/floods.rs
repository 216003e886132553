//! What a frame of a flood costs the native stack, and what memory the flood takes.

use std::time::{Duration, Instant};

use anyhow::Context;
use dmm_port::wire::WireConfig;
use dmm_stack::pair::{End, Flood, Known, Pair, Quota, address_v4};

use super::Measured;
use crate::ALLOCATOR;
use crate::bench::Effort;
use crate::figure::{Better, Figure};

/// Frames of a flood.
const FRAMES: u64 = 100_000;
/// Frames that arrive at once.
const BURST: u64 = 32;
/// Virtual time between bursts: 3 million frames a second.
const GAP: Duration = Duration::from_micros(10);

/// Each flood, beside a frame that is taken.
pub fn borne(effort: &Effort) -> anyhow::Result<Measured> {
    let mut figures = Vec::new();
    for flood in Flood::ALL {
        let (mut nanos, mut bytes) = (Vec::new(), Vec::new());
        for _ in 0..effort.runs {
            let (cost, memory) = run(flood)?;
            nanos.push(cost);
            bytes.push(memory);
        }
        let name = format!("a frame of a flood of {}", flood.name());
        figures.push(Figure::new(name, "ns", Better::Less, nanos)?);
        let name = format!("memory that a flood of {} takes", flood.name());
        figures.push(Figure::new(name, "KiB", Better::Less, bytes)?);
    }
    let setup = vec![format!(
        "{FRAMES} frames in bursts of {BURST}, 3 million a second, at a native stack with a listener and a \
         connection, which works afterwards; both ends' turns counted, memory at its highest"
    )];
    Ok(Measured { setup, figures })
}

/// Nanoseconds of a frame, and KiB of memory at most.
fn run(flood: Flood) -> anyhow::Result<(f64, f64)> {
    let mut pair =
        Pair::new("native", &WireConfig { in_flight_limit: 1 << 20, ..WireConfig::default() });
    let quota = Quota::new(256);
    let (mut one, mut other) = pair.joined([&quota, &quota], (address_v4(1), address_v4(2)));
    pair.keep_frames(End::Left);
    pair.exchange(Duration::from_secs(5), &mut one, &mut other, (1000, 1000));
    pair.run(Duration::from_secs(1));
    let known = pair.take_frames(End::Left).last().and_then(|frame| Known::from_frame(frame));
    let known = known.context("the connection sent nothing")?;
    let frames: Vec<_> = (0..FRAMES).map(|number| flood.frame(number, known)).collect();
    // Not kept any more.
    pair.take_frames(End::Left);
    let before = ALLOCATOR.current_usage();
    let (mut spent, mut most) = (Duration::ZERO, before);
    for burst in frames.chunks(BURST as usize) {
        let started = Instant::now();
        burst.iter().for_each(|frame| pair.inject(End::Right, frame));
        pair.run(GAP);
        spent += started.elapsed();
        pair.take_frames(End::Left);
        most = most.max(ALLOCATOR.current_usage());
    }
    pair.exchange(Duration::from_secs(60), &mut one, &mut other, (0, 10_000));
    let nanos = spent.as_nanos() as f64 / FRAMES as f64;
    Ok((nanos, (most - before) as f64 / 1024.0))
}
