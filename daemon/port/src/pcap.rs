//! A tee that writes what passes a queue pair as pcapng, for any capture viewer.
//!
//! Owns: one capture in the pcapng format (draft-ietf-opsawg-pcapng) with an interface per queue
//! pair. Called in place of the queues that it wraps, or by whoever was told of frames. Must never:
//! change, delay or drop a frame; a burst waits for one write of the capture's writer and nothing more.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Instant, RxFrame, RxQueue, TxBurst, TxQueue, Wake};

/// A capture that queue pairs can be attached to.
///
/// Frames are written when they pass: received ones as a burst returns them, sent ones as a flush
/// begins, whether or not the device then takes them. After a write that fails nothing more is
/// written, and the frames missed are counted.
pub struct Capture<W> {
    writer: Arc<Mutex<Writer<W>>>,
}

impl<W> Clone for Capture<W> {
    /// Another handle to the same capture.
    fn clone(&self) -> Self {
        Self { writer: Arc::clone(&self.writer) }
    }
}

impl<W: Write + Send + 'static> Capture<W> {
    /// Starts a capture on `out`. `origin` is the Unix time of [`Instant::ZERO`]: zero in a
    /// simulation.
    ///
    /// # Errors
    /// What `out` gives.
    pub fn new(mut out: W, origin: Duration) -> io::Result<Self> {
        out.write_all(&section_header())?;
        let block = Vec::new();
        let writer = Writer { out, origin, block, interfaces: 0, failed: false, missed: 0 };
        Ok(Self { writer: Arc::new(Mutex::new(writer)) })
    }

    /// Wraps a queue pair, which appears in the capture as an interface called `name`.
    ///
    /// # Errors
    /// What the capture's writer gives.
    pub fn tee(
        &self,
        name: &str,
        rx: Box<dyn RxQueue>,
        tx: Box<dyn TxQueue>,
    ) -> io::Result<(Box<dyn RxQueue>, Box<dyn TxQueue>)> {
        let interface = self.interface(name)?;
        let rx = TeeRx { inner: rx, capture: self.clone(), interface };
        let tx = TeeTx { inner: tx, capture: self.clone(), interface };
        Ok((Box::new(rx), Box::new(tx)))
    }

    /// Adds an interface called `name`, and returns its number.
    ///
    /// # Errors
    /// What the capture's writer gives.
    pub fn interface(&self, name: &str) -> io::Result<u32> {
        let mut writer = lock(&self.writer);
        writer.out.write_all(&interface_description(name))?;
        writer.interfaces += 1;
        Ok(writer.interfaces - 1)
    }

    /// Writes frames that passed `interface` at `now`. Returns whether that went well, and all before.
    pub fn write<'a>(
        &self,
        interface: u32,
        way: Way,
        now: Instant,
        frames: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> bool {
        let mut writer = lock(&self.writer);
        writer.write(interface, way, now, frames);
        !writer.failed
    }

    /// Notes that by `now` the capture lacks `missed` frames of `interface`, all told. Returns as
    /// [`Capture::write`] does.
    pub fn note_missed(&self, interface: u32, now: Instant, missed: u64) -> bool {
        let mut writer = lock(&self.writer);
        writer.write_statistics(interface, now, missed);
        !writer.failed
    }

    /// Frames that are missing from the capture because a write failed.
    #[must_use]
    pub fn missed(&self) -> u64 {
        lock(&self.writer).missed
    }

    /// Flushes the capture's writer.
    ///
    /// # Errors
    /// What the writer gives.
    pub fn flush(&self) -> io::Result<()> {
        lock(&self.writer).out.flush()
    }
}

struct TeeRx<W> {
    inner: Box<dyn RxQueue>,
    capture: Capture<W>,
    interface: u32,
}

impl<W: Write + Send> RxQueue for TeeRx<W> {
    fn burst(&mut self, now: Instant) -> &[RxFrame<'_>] {
        let frames = self.inner.burst(now);
        if !frames.is_empty() {
            let frames = frames.iter().map(|frame| frame.bytes);
            lock(&self.capture.writer).write(self.interface, Way::In, now, frames);
        }
        frames
    }

    fn wake(&self) -> Wake {
        self.inner.wake()
    }

    fn arm(&mut self) -> io::Result<()> {
        self.inner.arm()
    }

    fn disarm(&mut self) {
        self.inner.disarm();
    }

    fn deadline(&self) -> Option<Instant> {
        self.inner.deadline()
    }
}

struct TeeTx<W> {
    inner: Box<dyn TxQueue>,
    capture: Capture<W>,
    interface: u32,
}

impl<W: Write + Send> TxQueue for TeeTx<W> {
    fn burst(&mut self) -> TxBurst<'_> {
        self.inner.burst()
    }

    fn flush(&mut self, now: Instant) {
        let burst = self.inner.burst();
        let frames = burst.frames();
        if !frames.is_empty() {
            let frames = frames.iter().map(|slot| slot.bytes());
            lock(&self.capture.writer).write(self.interface, Way::Out, now, frames);
        }
        self.inner.flush(now);
    }

    fn dropped(&self) -> u64 {
        self.inner.dropped()
    }
}

/// The direction in an `epb_flags` option (section 4.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Received.
    In = 1,
    /// Sent.
    Out = 2,
}

struct Writer<W> {
    out: W,
    origin: Duration,
    /// The blocks of one burst, so that it costs one write; kept for the next.
    block: Vec<u8>,
    interfaces: u32,
    failed: bool,
    missed: u64,
}

impl<W: Write> Writer<W> {
    fn write<'a>(
        &mut self,
        interface: u32,
        way: Way,
        now: Instant,
        frames: impl ExactSizeIterator<Item = &'a [u8]>,
    ) {
        let count = frames.len() as u64;
        let time = self.origin + Duration::from_nanos(now.as_nanos());
        self.block.clear();
        for frame in frames {
            append_packet(&mut self.block, interface, way, time, frame);
        }
        if !self.write_block() {
            self.missed += count;
        }
    }

    fn write_statistics(&mut self, interface: u32, now: Instant, missed: u64) {
        self.block.clear();
        let time = self.origin + Duration::from_nanos(now.as_nanos());
        append_statistics(&mut self.block, interface, time, missed);
        self.write_block();
    }

    fn write_block(&mut self) -> bool {
        // A failed write may have cut a block in half: what follows could not be read.
        self.failed = self.failed || self.out.write_all(&self.block).is_err();
        !self.failed
    }
}

/// A panic elsewhere under the lock can at worst have cut the capture short.
fn lock<W>(writer: &Mutex<Writer<W>>) -> MutexGuard<'_, Writer<W>> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Section header block (section 4.1): little-endian, version 1.0, of unknown length.
fn section_header() -> Vec<u8> {
    let mut block = Vec::new();
    append_block(&mut block, 0x0a0d_0d0a, |body| {
        body.extend(0x1a2b_3c4du32.to_le_bytes());
        body.extend([1, 0, 0, 0]);
        body.extend(u64::MAX.to_le_bytes());
    });
    block
}

/// Interface description block (section 4.2): Ethernet, frames never cut, times in nanoseconds.
fn interface_description(name: &str) -> Vec<u8> {
    const ETHERNET: u16 = 1;
    const IF_NAME: u16 = 2;
    const IF_TSRESOL: u16 = 9;
    let mut block = Vec::new();
    append_block(&mut block, 1, |body| {
        body.extend(ETHERNET.to_le_bytes());
        body.extend([0; 2 + 4]);
        append_option(body, IF_NAME, name.as_bytes());
        append_option(body, IF_TSRESOL, &[9]);
        append_option(body, 0, &[]);
    });
    block
}

/// Enhanced packet block (section 4.3).
fn append_packet(out: &mut Vec<u8>, interface: u32, way: Way, time: Duration, frame: &[u8]) {
    const EPB_FLAGS: u16 = 2;
    // 64 bits of nanoseconds last until the year 2554.
    let nanos = time.as_nanos() as u64;
    let len = frame.len() as u32;
    append_block(out, 6, |body| {
        for word in [interface, (nanos >> 32) as u32, nanos as u32, len, len] {
            body.extend(word.to_le_bytes());
        }
        append_padded(body, frame);
        append_option(body, EPB_FLAGS, &(way as u32).to_le_bytes());
        append_option(body, 0, &[]);
    });
}

/// Interface statistics block (section 4.6).
fn append_statistics(out: &mut Vec<u8>, interface: u32, time: Duration, missed: u64) {
    const ISB_IFDROP: u16 = 5;
    let nanos = time.as_nanos() as u64;
    append_block(out, 5, |body| {
        for word in [interface, (nanos >> 32) as u32, nanos as u32] {
            body.extend(word.to_le_bytes());
        }
        append_option(body, ISB_IFDROP, &missed.to_le_bytes());
        append_option(body, 0, &[]);
    });
}

/// A block: type, total length, body, total length again (section 3.1).
fn append_block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    let total = (out.len() - start + 4) as u32;
    out.extend(total.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&total.to_le_bytes());
}

/// An option: code, length, value, padding (section 3.5). A value beyond its 16-bit length is cut.
fn append_option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.extend(code.to_le_bytes());
    out.extend(len.to_le_bytes());
    append_padded(out, &value[..usize::from(len)]);
}

/// Bytes, padded to a multiple of four.
fn append_padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes);
    out.extend(&[0; 3][..bytes.len().wrapping_neg() % 4]);
}

#[cfg(test)]
mod tests;
