//! Captures of ports while they run: from the instances, through a recorder, into an operator's pipe.
//!
//! ```text
//!   instance ─ Tap ─┐
//!   instance ─ Tap ─┴▶ bounded queue ─▶ recorder's thread ─ pcapng ─▶ pipe ─▶ dmm capture
//! ```
//!
//! A tap copies frames into a queue and never waits: what finds no room is counted, and the capture
//! says so (interface statistics blocks). The recorder waits for its reader alone, and ends with it;
//! taps end with the recorder. Must never: hold up a worker, or the control thread.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant as Clock, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use dmm_port::Instant;
use dmm_port::pcap::{Capture, Way};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

/// Captures under way at most: each may hold a full queue.
pub const CAPTURES_MAX: usize = 8;

/// Frames that wait for a recorder at most: with an MTU of 1500, 12 MB.
const QUEUE_FRAMES: usize = 8192;

/// Bytes of the pipe, if the system allows (`/proc/sys/fs/pipe-max-size`).
const PIPE_BYTES: i32 = 1 << 20;

/// How often a recorder without frames looks whether its reader is still there.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// One instance's end of a capture.
pub struct Tap {
    to: Sender<Record>,
    interface: usize,
    missed: Arc<[AtomicU64]>,
}

/// A frame on its way.
struct Record {
    interface: usize,
    way: Way,
    at: Instant,
    frame: Vec<u8>,
}

impl Tap {
    /// Takes frames that pass at `now`. Returns false once nobody records any more.
    pub fn take<'a>(&self, now: Instant, way: Way, frames: impl Iterator<Item = &'a [u8]>) -> bool {
        for frame in frames {
            let record = Record { interface: self.interface, way, at: now, frame: frame.to_vec() };
            match self.to.try_send(record) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    self.missed[self.interface].fetch_add(1, Ordering::Relaxed);
                }
                Err(TrySendError::Disconnected(_)) => return false,
            }
        }
        true
    }
}

/// Starts a capture of queue pairs with these names. `origin` is when [`Instant::ZERO`] was. Returns a
/// tap for each, and the pipe to read from. `running` is held while it goes on.
///
/// # Errors
/// If there is no descriptor or thread for it.
pub fn start(
    names: &[String],
    origin: Clock,
    running: &Arc<()>,
) -> io::Result<(Vec<Tap>, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    // Without privilege it may be refused, and the pipe is smaller.
    let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    let (to, from) = bounded(QUEUE_FRAMES);
    let missed: Arc<[AtomicU64]> = names.iter().map(|_| AtomicU64::new(0)).collect();
    let tap = |interface| Tap { to: to.clone(), interface, missed: Arc::clone(&missed) };
    let taps = (0..names.len()).map(tap).collect();
    let recorder = Recorder { names: names.to_vec(), from, missed, writer: File::from(writer) };
    let running = Arc::clone(running);
    let name = "dmm-capture".to_owned();
    std::thread::Builder::new().name(name).spawn(move || {
        let _running = running;
        // Its reader is gone, which is how captures end.
        let _ = recorder.run(origin);
    })?;
    Ok((taps, reader))
}

struct Recorder {
    names: Vec<String>,
    from: Receiver<Record>,
    missed: Arc<[AtomicU64]>,
    writer: File,
}

impl Recorder {
    fn run(self, origin: Clock) -> io::Result<()> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let capture =
            Capture::new(self.writer.try_clone()?, since_epoch.saturating_sub(origin.elapsed()))?;
        for name in &self.names {
            capture.interface(name)?;
        }
        let mut told = vec![0; self.missed.len()];
        loop {
            let goes_on = match self.from.recv_timeout(LOOK_EVERY) {
                Ok(Record { interface, way, at, frame }) => {
                    self.tell_missed(&capture, at, &mut told)
                        && capture.write(
                            interface as u32,
                            way,
                            at,
                            std::iter::once(frame.as_slice()),
                        )
                }
                Err(RecvTimeoutError::Timeout) => self.has_reader(),
                Err(RecvTimeoutError::Disconnected) => false,
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Tells the reader of frames that found no room, as soon as there is a frame to follow.
    fn tell_missed(&self, capture: &Capture<File>, now: Instant, told: &mut [u64]) -> bool {
        (0_u32..).zip(self.missed.iter()).zip(told).all(|((interface, missed), told)| {
            let missed = missed.load(Ordering::Relaxed);
            if missed == *told {
                return true;
            }
            *told = missed;
            capture.note_missed(interface, now, missed)
        })
    }

    fn has_reader(&self) -> bool {
        let mut polled = [PollFd::new(self.writer.as_fd(), PollFlags::empty())];
        match poll(&mut polled, PollTimeout::ZERO) {
            Ok(_) => polled[0].revents().is_none_or(|events| events.is_empty()),
            Err(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Waits for what must come.
    fn wait_until(mut done: impl FnMut() -> bool) {
        let give_up = Clock::now() + Duration::from_secs(30);
        while !done() {
            assert!(Clock::now() < give_up);
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_capture_ends_with_its_reader() {
        let running = Arc::new(());
        let (taps, reader) = start(&["p0".to_owned()], Clock::now(), &running).expect("a pipe");
        let frame = [7_u8; 60];
        let take = || taps[0].take(Instant::ZERO, Way::In, std::iter::once(&frame[..]));
        assert!(take());
        let mut bytes = Vec::<u8>::new();
        let mut reader = File::from(reader);
        while !bytes.windows(60).any(|window| window == frame) {
            let mut some = [0; 4096];
            let count = reader.read(&mut some).expect("a pipe");
            bytes.extend(&some[..count]);
        }
        drop(reader);
        // Without a frame it looks by itself.
        wait_until(|| Arc::strong_count(&running) == 1);
        assert!(!take());
    }

    #[test]
    fn a_reader_that_does_not_read_costs_frames_and_is_told_how_many() {
        let running = Arc::new(());
        let (taps, reader) = start(&["p0".to_owned()], Clock::now(), &running).expect("a pipe");
        let frame = [7_u8; 1514];
        let sent = 3 * QUEUE_FRAMES as u64;
        for _ in 0..sent {
            assert!(taps[0].take(Instant::ZERO, Way::Out, std::iter::once(&frame[..])));
        }
        let missed = taps[0].missed[0].load(Ordering::Relaxed);
        assert!(missed > 0);
        drop(taps);
        let mut bytes = Vec::new();
        File::from(reader).read_to_end(&mut bytes).expect("it ends with the taps");
        let (mut packets, mut told, mut at) = (0, 0, 0);
        while at < bytes.len() {
            let word = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap());
            match word(at) {
                6 => packets += 1,
                5 => told = u64::from_le_bytes(*bytes[at + 24..].first_chunk().unwrap()),
                _ => {}
            }
            at += word(at + 4) as usize;
        }
        assert_eq!((packets + missed, told), (sent, missed));
    }
}
