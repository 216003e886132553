//! `dmm-bench exercise`: two stacks in memory that do one thing for so many times, for callgrind to count.

use anyhow::bail;

use crate::world::World;

/// Arguments of `dmm-bench exercise`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The kind of stack
    kind: String,
    /// `requests` or `segments`
    what: String,
    /// How many at least
    count: usize,
}

/// Payload of a full segment: an MTU of 1500 bytes without headers and timestamps.
pub const SEGMENT_BYTES: usize = 1448;

/// Does it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut world = World::new(&args.kind, 1)?;
    match args.what.as_str() {
        "requests" => (0..args.count).try_for_each(|_| world.round_trip(0))?,
        "segments" => {
            let (mut buffer, mut bytes) = (vec![0; 1 << 16], 0);
            while bytes < args.count * SEGMENT_BYTES {
                bytes += world.stream(&mut buffer);
            }
        }
        what => bail!("{what:?} is neither requests nor segments"),
    }
    Ok(())
}
