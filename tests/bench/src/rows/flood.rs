//! A flood of datagrams from `dpdk-testpmd`, read from one UDP socket, beside what another testpmd
//! counts on the same wire: the cost of a stack and of two processes against that of no stack at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dmm::{Client, UdpSocket};
use dmm_tests::testpmd::Testpmd;
use serde_json::json;
use tempfile::TempDir;

use super::Measured;
use crate::bench::Effort;
use crate::daemon::{Daemon, on_device};
use crate::figure::{Better, Figure};

const OURS: &str = "10.80.0.2";
const THEIRS: &str = "10.80.0.1";
const THEIR_MAC: &str = "02:00:00:00:80:01";
const PORT: u16 = 4000;
/// Bytes of a frame.
const FRAME_BYTES: u32 = 64;

#[derive(Clone, Copy)]
pub(super) enum Wire {
    VhostUser,
    Memif,
}

impl Wire {
    /// The end that listens at a socket in `folder`.
    pub(super) fn listening(self, folder: &TempDir) -> String {
        let socket = folder.path().join("port").display().to_string();
        match self {
            Self::VhostUser => format!("net_vhost0,iface={socket}"),
            Self::Memif => format!("net_memif0,role=server,socket={socket},socket-abstract=no"),
        }
    }

    /// The end that connects there.
    pub(super) fn coming(self, folder: &TempDir) -> String {
        let socket = folder.path().join("port").display().to_string();
        match self {
            Self::VhostUser => {
                format!("net_virtio_user0,path={socket},mac={THEIR_MAC},queue_size=512")
            }
            Self::Memif => {
                format!("net_memif0,role=client,socket={socket},socket-abstract=no,mac={THEIR_MAC}")
            }
        }
    }
}

/// Over vhost-user.
pub fn over_vhost_user(effort: &Effort) -> anyhow::Result<Measured> {
    measure(effort, Wire::VhostUser)
}

/// Over memif.
pub fn over_memif(effort: &Effort) -> anyhow::Result<Measured> {
    measure(effort, Wire::Memif)
}

fn measure(effort: &Effort, wire: Wire) -> anyhow::Result<Measured> {
    let (mut read, mut taken, mut counted) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.runs {
        let (datagrams, frames) = by_socket(effort, wire)?;
        read.push(datagrams);
        taken.push(frames);
        counted.push(by_testpmd(effort, wire)?);
    }
    let setup = vec![format!(
        "testpmd txonly, frames of {FRAME_BYTES} bytes, on threads that float over both cores; a \
         worker on core 1 (adaptive), a socket of 4 MiB, a reader that floats; beside it, testpmd \
         rxonly in place of the daemon"
    )];
    let figure = |name, runs| -> anyhow::Result<Figure> {
        Ok(Figure::new(name, "M/s", Better::More, runs)?.beside("rxonly", counted.clone()))
    };
    let figures = vec![
        figure("datagrams read by one socket", read)?,
        figure("frames taken by the stack", taken)?,
    ];
    Ok(Measured { setup, figures })
}

/// Millions a second that a socket's reader got, and that the stack got.
fn by_socket(effort: &Effort, wire: Wire) -> anyhow::Result<(f64, f64)> {
    let folder = tempfile::tempdir()?;
    let device = wire.listening(&folder);
    let mut config = on_device(&device, &format!("{OURS}/24"), 1, "adaptive");
    config["stacks"][0]["neighbours"] = json!([{"address": THEIRS, "mac": THEIR_MAC}]);
    config["stacks"][0]["udp"] = json!({"rx_buffer": 4 << 20});
    let daemon = Daemon::start(&config, None)?;
    let client = Client::attach(daemon.socket())?;
    let socket = client.bind_udp(None, (OURS, PORT))?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let reader = {
        let (count, stop) = (Arc::clone(&count), Arc::clone(&stop));
        thread::spawn(move || read(&socket, &count, &stop))
    };
    let mac = daemon.status()?.ports[0].mac.clone();
    let mut flood = start_flood(&wire.coming(&folder), &mac);
    flood.forward();
    thread::sleep(effort.warmup);
    let frames = || daemon.counter("stack.default.0.rx.frames");
    let (began, first, first_frames) = (Instant::now(), count.load(Ordering::Relaxed), frames()?);
    thread::sleep(effort.span);
    let span = began.elapsed().as_secs_f64();
    let rate = |first: u64, last: u64| (last - first) as f64 / 1e6 / span;
    let rates = (rate(first, count.load(Ordering::Relaxed)), rate(first_frames, frames()?));
    flood.stop();
    stop.store(true, Ordering::Relaxed);
    let _ = reader.join();
    drop(client);
    daemon.end()?;
    Ok(rates)
}

fn read(socket: &UdpSocket, count: &AtomicU64, stop: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        if socket.recv_from(&mut buffer).is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Millions a second that another testpmd counts.
fn by_testpmd(effort: &Effort, wire: Wire) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir()?;
    let mut counter = Testpmd::start(&wire.listening(&folder), "rxonly", &[]);
    counter.forward();
    let mut flood = start_flood(&wire.coming(&folder), "02:00:00:00:80:02");
    flood.forward();
    thread::sleep(effort.warmup);
    let (began, first) = (Instant::now(), counter.so_far().rx);
    thread::sleep(effort.span);
    let last = counter.so_far().rx;
    let rate = (last - first) as f64 / 1e6 / began.elapsed().as_secs_f64();
    flood.stop();
    Ok(rate)
}

fn start_flood(device: &str, mac: &str) -> Testpmd {
    let options = [
        format!("--txpkts={FRAME_BYTES}"),
        format!("--eth-peer=0,{mac}"),
        format!("--tx-ip={THEIRS},{OURS}"),
        format!("--tx-udp=9,{PORT}"),
    ];
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    Testpmd::start(device, "txonly", &options)
}
