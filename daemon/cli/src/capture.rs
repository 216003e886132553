//! `dmm capture`: the frames of a port as pcapng, while they pass.
//!
//! Owns: the reader's end of the daemon's pipe. Writes whole blocks, so that the output is a sound
//! capture whenever it ends.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::Options;
use crate::stop::Stop;

/// Captures a port's frames in both directions, to a file or to standard output:
/// `dmm capture p0 | tshark -r -`. Needs root. Frames that came faster than they were written are
/// counted in the capture and told at the end.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The port
    port: String,
    /// Where to, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// End after this many frames; without it, when interrupted
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Blocks of pcapng (draft-ietf-opsawg-pcapng sections 4.3 and 4.6).
const ENHANCED_PACKET: u32 = 6;
const INTERFACE_STATISTICS: u32 = 5;
/// Bytes of a block at most: a frame of 64 KiB with all about it.
const BLOCK_BYTES_MAX: usize = 1 << 17;

/// Starts the capture and writes it until it ends.
pub(crate) fn run(options: &Options, args: &Args) -> anyhow::Result<ExitCode> {
    let mut out = output(args.write.as_deref())?;
    let pipe = options.connect()?.capture(&args.port)?;
    let stop = Stop::on_signals()?;
    let mut blocks = Blocks { pipe: BufReader::with_capacity(1 << 16, pipe), stop };
    let (mut frames, mut missed) = (0, 0);
    let mut block = Vec::new();
    while args.count.is_none_or(|count| frames < count) && blocks.next(&mut block)? {
        match out.write_all(&block) {
            // As any filter ends whose reader had enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written.context("cannot write the capture")?,
        }
        match word(&block, 0) {
            ENHANCED_PACKET => frames += 1,
            // Interface, time, and one option: 4 bytes of head, and the count.
            INTERFACE_STATISTICS => missed = missed_in(&block).unwrap_or(missed),
            _ => {}
        }
        if blocks.pipe.buffer().is_empty() {
            out.flush().or_else(|error| match error.kind() {
                io::ErrorKind::BrokenPipe => Ok(()),
                _ => Err(error),
            })?;
        }
    }
    let _ = out.flush();
    eprintln!("{frames} frames captured, {missed} missed");
    Ok(ExitCode::SUCCESS)
}

fn output(file: Option<&Path>) -> anyhow::Result<Box<dyn Write>> {
    match file {
        Some(path) => {
            let file =
                File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(Box::new(io::BufWriter::with_capacity(1 << 16, file)))
        }
        None => {
            let stdout = io::stdout();
            anyhow::ensure!(
                !stdout.is_terminal(),
                "a capture is no text: give it a file (--write), or a reader (| tshark -r -)"
            );
            Ok(Box::new(io::BufWriter::with_capacity(1 << 16, stdout)))
        }
    }
}

struct Blocks {
    pipe: BufReader<File>,
    stop: Stop,
}

impl Blocks {
    /// Reads the next block. Returns false at the end, or when interrupted.
    fn next(&mut self, block: &mut Vec<u8>) -> anyhow::Result<bool> {
        block.resize(8, 0);
        if !self.fill(block)? {
            return Ok(false);
        }
        let len = word(block, 4) as usize;
        anyhow::ensure!(
            (12..=BLOCK_BYTES_MAX).contains(&len) && len.is_multiple_of(4),
            "the daemon's capture is not understood: a block of {len} bytes"
        );
        block.resize(len, 0);
        self.fill(&mut block[8..])
    }

    /// Fills `bytes`. Returns false at the end of the pipe, or when interrupted.
    fn fill(&mut self, mut bytes: &mut [u8]) -> anyhow::Result<bool> {
        while !bytes.is_empty() {
            if self.pipe.buffer().is_empty() && !self.wait()? {
                return Ok(false);
            }
            match self.pipe.read(bytes) {
                Ok(0) => return Ok(false),
                Ok(count) => bytes = &mut bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot read the capture"),
            }
        }
        Ok(true)
    }

    /// Waits until there is something to read. Returns false when interrupted.
    fn wait(&self) -> anyhow::Result<bool> {
        loop {
            if self.stop.came() {
                return Ok(false);
            }
            let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut polled = [readable(self.pipe.get_ref().as_fd()), readable(self.stop.as_fd())];
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) if polled[1].any().unwrap_or(true) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("cannot wait for the capture"),
            }
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word))
}

fn missed_in(block: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*block.get(24..)?.first_chunk()?))
}
