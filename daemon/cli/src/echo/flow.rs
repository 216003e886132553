//! What the two roles share: a connection as something that takes turns.
//!
//! With blocking sockets each flow has a thread, and a turn lasts until something happened. When
//! polling, one thread gives all flows turns, and a turn in which nothing happened is idle. The
//! flows themselves do not know which.

use std::io;
use std::thread;

/// What came of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Something was sent or received.
    Progress,
    /// There was nothing to do.
    Idle,
    /// The flow is over.
    Done,
}

/// A connection, or a datagram socket, of either role.
pub(super) trait Flow: Send {
    /// Does what can be done now.
    fn turn(&mut self) -> io::Result<Turn>;
}

/// Bytes of stack for a flow's thread: its buffers are on the heap.
const STACK_BYTES: usize = 256 << 10;

/// Gives one flow turns until it is over.
pub(super) fn drive(flow: &mut impl Flow) -> io::Result<()> {
    while flow.turn()? != Turn::Done {}
    Ok(())
}

/// Drives all flows to their end, each on a thread of its own or, when polling, all on this one.
/// Gives each back with what it ended with.
pub(super) fn drive_all<F: Flow + 'static>(
    flows: Vec<F>,
    polling: bool,
) -> io::Result<Vec<(F, io::Result<()>)>> {
    if polling {
        return Ok(poll_all(flows));
    }
    let start = |mut flow: F| {
        let run = move || {
            let result = drive(&mut flow);
            (flow, result)
        };
        thread::Builder::new().stack_size(STACK_BYTES).spawn(run)
    };
    let threads = flows.into_iter().map(start).collect::<io::Result<Vec<_>>>()?;
    let join = |thread: thread::JoinHandle<_>| {
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    };
    Ok(threads.into_iter().map(join).collect())
}

fn poll_all<F: Flow>(flows: Vec<F>) -> Vec<(F, io::Result<()>)> {
    let mut running: Vec<Option<F>> = flows.into_iter().map(Some).collect();
    let mut ended = Vec::with_capacity(running.len());
    while ended.len() < running.len() {
        let mut idle = true;
        for slot in &mut running {
            let Some(mut flow) = slot.take() else { continue };
            let turn = flow.turn();
            idle &= matches!(turn, Ok(Turn::Idle));
            match turn {
                Ok(Turn::Progress | Turn::Idle) => *slot = Some(flow),
                Ok(Turn::Done) => ended.push((flow, Ok(()))),
                Err(error) => ended.push((flow, Err(error))),
            }
        }
        if idle {
            pause();
        }
    }
    ended
}

/// Between two rounds of polling in which nothing happened. Yields, since the peer may have to run on
/// this very core: without that, each would poll in vain until the scheduler took its turn away.
pub(super) fn pause() {
    thread::yield_now();
}

/// Starts a thread for one flow, which tells `done` when it is over.
pub(super) fn spawn<F: Flow + 'static>(
    mut flow: F,
    done: impl FnOnce(F, io::Result<()>) + Send + 'static,
) -> io::Result<()> {
    let run = move || {
        let result = drive(&mut flow);
        done(flow, result);
    };
    thread::Builder::new().stack_size(STACK_BYTES).spawn(run).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Countdown(u32);

    impl Flow for Countdown {
        fn turn(&mut self) -> io::Result<Turn> {
            match self.0 {
                0 => Ok(Turn::Done),
                13 => Err(io::Error::other("thirteen")),
                _ => {
                    self.0 -= 1;
                    Ok(Turn::Progress)
                }
            }
        }
    }

    #[test]
    fn both_ways_drive_every_flow_to_its_own_end() {
        for polling in [false, true] {
            let flows = [3, 13, 0, 20].map(Countdown).into();
            let ended = drive_all(flows, polling).unwrap();
            let count = |wanted: bool| ended.iter().filter(|(_, r)| r.is_ok() == wanted).count();
            assert_eq!((count(true), count(false)), (2, 2), "polling {polling}");
        }
    }
}
