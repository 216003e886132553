//! What arrives over a path that loses: our stack as the sender beside the kernel, to the same receiver, which is
//! the kernel's.
//!
//! ```text
//!   ours:   dmmd ── memif ──┐
//!                           dmm-wire: 1 Gb/s, 20 ms there and back, loss ── TAP ── kernel's sink
//!   Linux:  kernel ── TAP ──┘
//! ```

use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use serde_json::json;

use super::Measured;
use crate::bench::{Effort, program};
use crate::daemon::{Daemon, on_device};
use crate::figure::{Better, Figure};
use crate::namespace::Namespace;
use crate::process::{PATIENCE, Process};

/// Both ends' addresses.
const SENDER: &str = "10.97.0.1";
const SINK: &str = "10.97.0.2";
/// Bytes of our buffers: three times what the path holds, as much as the kernel's grow to.
const BUFFER_BYTES: u32 = 8 << 20;
/// Frames that the path's queue holds: what the path holds.
const QUEUE_FRAMES: u32 = 1700;
/// A path has to be learned before it is measured, and loss is rare.
const TIMES: u32 = 10;

struct Case {
    loss: f64,
    ours: &'static str,
    linux: &'static str,
}

const CASES: [Case; 5] = [
    Case { loss: 0.001, ours: "cubic", linux: "cubic" },
    Case { loss: 0.01, ours: "cubic", linux: "cubic" },
    Case { loss: 0.001, ours: "bbr", linux: "bbr" },
    Case { loss: 0.01, ours: "bbr", linux: "bbr" },
    Case { loss: 0.05, ours: "bbr", linux: "cubic" },
];

/// Each case, both senders in turns.
pub fn beside_linux(effort: &Effort) -> anyhow::Result<Measured> {
    let mut figures = Vec::new();
    for case in &CASES {
        let (mut ours, mut linux) = (Vec::new(), Vec::new());
        for _ in 0..effort.runs {
            ours.push(run(effort, case, true)?);
            linux.push(run(effort, case, false)?);
        }
        let name = format!("{}% loss, {}", case.loss * 100.0, case.ours);
        let beside = if case.linux == "bbr" { "Linux's bbr" } else { "Linux's cubic" };
        figures.push(Figure::new(name, "Mb/s", Better::More, ours)?.beside(beside, linux));
    }
    let setup = vec![format!(
        "1 Gb/s, 20 ms there and back, a queue of {QUEUE_FRAMES} frames, chance losses both ways; {} s each after {} \
         s; our buffers {BUFFER_BYTES} bytes, the kernel's grow; bbr of Linux is version 1",
        (effort.span * TIMES).as_secs_f64(),
        (effort.warmup * TIMES).as_secs_f64()
    )];
    Ok(Measured { setup, figures })
}

/// Megabits a second that reach the sink.
fn run(effort: &Effort, case: &Case, ours: bool) -> anyhow::Result<f64> {
    let (middle, far) = (Namespace::new()?, Namespace::new()?);
    let folder = tempfile::tempdir()?;
    let memif = folder.path().join("memif");
    let device = |role: &str| {
        format!("net_memif0,role={role},socket={},socket-abstract=no", memif.display())
    };
    let daemon = if ours {
        let prefix = format!("{SENDER}/24");
        let mut config = on_device(&device("server"), &prefix, 1, "adaptive");
        config["stacks"][0]["tcp"] = json!({
            "congestion": case.ours, "tx_buffer": BUFFER_BYTES, "rx_buffer": BUFFER_BYTES,
        });
        Some(Daemon::start(&config, None)?)
    } else {
        None
    };
    let left = if ours { device("client") } else { "left".to_owned() };
    let mut command = middle.command(program("dmm-wire")?);
    command.args(["--left", &left, "--right", "right", "--delay-us", "10000"]);
    command.args(["--rate-mbps", "1000", "--loss", &case.loss.to_string()]);
    command.args(["--queue-limit", &QUEUE_FRAMES.to_string()]);
    let wire = Process::start("dmm-wire", &mut command)?;
    wire_is_there(&middle)?;
    place(&middle, "right", &far, SINK)?;
    let near = Namespace::new()?;
    if !ours {
        place(&middle, "left", &near, SENDER)?;
        let setting = format!("net.ipv4.tcp_congestion_control={}", case.linux);
        let status = near.command("sysctl").args(["-q", "-w", &setting]).status()?;
        anyhow::ensure!(status.success(), "the kernel has no {}", case.linux);
    }
    let me = std::env::current_exe()?;
    let address = format!("{SINK}:7000");
    let mut command = far.command(&me);
    command.args(["pour", "sink", &address]);
    command.arg(format!("--warmup={}", (effort.warmup * TIMES).as_secs_f64()));
    command.arg(format!("--span={}", (effort.span * TIMES).as_secs_f64()));
    let mut sink = Process::start("the sink", &mut command)?;
    sink.wait_for("listening")?;
    let mut command = if ours { Command::new(&me) } else { near.command(&me) };
    command.args(["pour", "source", &address]);
    if let Some(daemon) = &daemon {
        command.arg("--socket").arg(daemon.socket());
    }
    let source = Process::start("the source", &mut command)?;
    let (rate, _) = sink.finish((effort.warmup + effort.span) * TIMES + PATIENCE)?;
    source.end(Signal::SIGKILL)?;
    if let Some(daemon) = daemon {
        daemon.end()?;
    }
    wire.end(Signal::SIGTERM)?;
    rate.trim().parse().with_context(|| format!("the sink said {rate:?}"))
}

/// Waits until dmm-wire has made its TAP.
fn wire_is_there(middle: &Namespace) -> anyhow::Result<()> {
    let deadline = std::time::Instant::now() + PATIENCE;
    while middle.ip(&["link", "show", "right"]).is_err() {
        anyhow::ensure!(std::time::Instant::now() < deadline, "dmm-wire made no TAP");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Moves a TAP into a namespace, and gives it an address.
fn place(from: &Namespace, tap: &str, to: &Namespace, address: &str) -> anyhow::Result<()> {
    from.ip(&["link", "set", tap, "netns", to.name()])?;
    to.ip(&["address", "add", &format!("{address}/24"), "dev", tap])?;
    to.ip(&["link", "set", tap, "up"])
}
