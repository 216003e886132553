//! One hop through a ring: an entry goes to another thread and back, over a ring each way, beside
//! bounded channels that carry the same bytes.

use std::sync::mpsc::{SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::Instant;

use anyhow::{Context, ensure};
use dmm_proto::layout::RING_ENTRIES;
use dmm_proto::ring::{Consumer, Entry, Producer, pair};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::Measured;
use crate::bench::Effort;
use crate::figure::{Better, Figure};

/// Round trips of one run for each millisecond that it is to measure: some 400 ns each.
const TRIPS_PER_MS: u64 = 1000;

/// Nanoseconds per hop.
pub fn hops(effort: &Effort) -> anyhow::Result<Measured> {
    let trips = u64::try_from(effort.span.as_millis())? * TRIPS_PER_MS;
    let (mut rings, mut std, mut crossbeam) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.runs {
        rings.push(over_rings(trips)?);
        std.push(over_std(trips)?);
        crossbeam.push(over_crossbeam(trips)?);
    }
    let figure = |name| Figure::new(name, "ns/hop", Better::Less, rings.clone());
    let setup = vec![format!(
        "{trips} round trips, rings and channels of {RING_ENTRIES} entries of 64 bytes, one entry \
         under way, both threads polling, on cores 0 and 1"
    )];
    let figures = vec![
        figure("ring beside std")?.beside("std::sync::mpsc", std),
        figure("ring beside crossbeam")?.beside("crossbeam", crossbeam),
    ];
    Ok(Measured { setup, figures })
}

/// Measures `trip`, which sends an entry and waits for its return, against `echo`, which sends back
/// what comes until it is told to end.
fn measure(
    trips: u64,
    mut trip: impl FnMut(Entry) -> anyhow::Result<Entry>,
    echo: impl FnOnce() -> anyhow::Result<()> + Send,
) -> anyhow::Result<f64> {
    let before = sched_getaffinity(Pid::from_raw(0))?;
    let result = thread::scope(|scope| {
        let other = scope.spawn(|| pin(1).and_then(|()| echo()));
        pin(0)?;
        let mut run = |trips: u64| -> anyhow::Result<()> {
            for number in 1..=trips {
                let entry = [number; 8];
                ensure!(trip(entry)? == entry, "entry {number} came back changed");
            }
            Ok(())
        };
        run(trips / 10)?;
        let started = Instant::now();
        run(trips)?;
        let nanos = started.elapsed().as_nanos() as f64;
        // An entry of zeroes ends the other side, and comes back.
        trip([0; 8])?;
        let ended = other.join();
        ended.map_err(|_| anyhow::anyhow!("the other thread panicked"))??;
        Ok(nanos / (2 * trips) as f64)
    });
    sched_setaffinity(Pid::from_raw(0), &before)?;
    result
}

fn pin(core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &cores)
        .with_context(|| format!("cannot run on core {core}"))
}

fn over_rings(trips: u64) -> anyhow::Result<f64> {
    let (mut there, mut arrives) = pair(RING_ENTRIES as usize);
    let (mut back, mut returns) = pair(RING_ENTRIES as usize);
    let echo = move || loop {
        let entry = take(&mut arrives)?;
        give(&mut back, &entry)?;
        if entry[0] == 0 {
            return Ok(());
        }
    };
    let trip = |entry| {
        give(&mut there, &entry)?;
        take(&mut returns)
    };
    measure(trips, trip, echo)
}

fn give(ring: &mut Producer, entry: &Entry) -> anyhow::Result<()> {
    ensure!(ring.stage(entry)?, "the ring is full");
    ring.publish();
    Ok(())
}

fn take(ring: &mut Consumer) -> anyhow::Result<Entry> {
    loop {
        if let Some(entry) = ring.pop()? {
            ring.release();
            return Ok(entry);
        }
        std::hint::spin_loop();
    }
}

fn over_std(trips: u64) -> anyhow::Result<f64> {
    let (there, arrives) = sync_channel::<Entry>(RING_ENTRIES as usize);
    let (back, returns): (SyncSender<Entry>, _) = sync_channel(RING_ENTRIES as usize);
    let poll = |receiver: &std::sync::mpsc::Receiver<Entry>| loop {
        match receiver.try_recv() {
            Ok(entry) => return Ok(entry),
            Err(TryRecvError::Empty) => std::hint::spin_loop(),
            Err(error) => return Err(anyhow::Error::from(error)),
        }
    };
    let echo = move || loop {
        let entry = poll(&arrives)?;
        back.send(entry)?;
        if entry[0] == 0 {
            return Ok(());
        }
    };
    let trip = |entry| {
        there.send(entry)?;
        poll(&returns)
    };
    measure(trips, trip, echo)
}

fn over_crossbeam(trips: u64) -> anyhow::Result<f64> {
    let (there, arrives) = crossbeam_channel::bounded::<Entry>(RING_ENTRIES as usize);
    let (back, returns) = crossbeam_channel::bounded::<Entry>(RING_ENTRIES as usize);
    let poll = |receiver: &crossbeam_channel::Receiver<Entry>| loop {
        match receiver.try_recv() {
            Ok(entry) => return Ok(entry),
            Err(crossbeam_channel::TryRecvError::Empty) => std::hint::spin_loop(),
            Err(error) => return Err(anyhow::Error::from(error)),
        }
    };
    let echo = move || loop {
        let entry = poll(&arrives)?;
        back.send(entry)?;
        if entry[0] == 0 {
            return Ok(());
        }
    };
    let trip = |entry| {
        there.send(entry)?;
        poll(&returns)
    };
    measure(trips, trip, echo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_over_each_kind() {
        for over in [over_rings, over_std, over_crossbeam] {
            assert!(over(100).unwrap() > 0.0);
        }
    }
}
