//! Round trips and streams: the library over two stacks of one daemon that a wire joins, beside the
//! same program over the kernel's loopback.
//!
//! Each run has a daemon of its own, which is gone while the kernel's turn is on. With two cores,
//! three processes share what the kernel's two have to themselves: that is the cost of a daemon on
//! so small a machine, and is left in.

use anyhow::Context;

use super::Measured;
use crate::bench::Effort;
use crate::daemon::{Daemon, WIRE, on_wire};
use crate::echo::{End, Facts, Outcome, Run};
use crate::figure::{Better, Figure};
use crate::namespace::Namespace;

/// Bytes of a message of the echo.
const MESSAGE_BYTES: u64 = 64;

/// How both sides of a comparison wait and where they run.
#[derive(Clone, Copy)]
struct Manner {
    polling: bool,
    pinned: bool,
}

impl Manner {
    const ALL: [Self; 4] = [
        Self { polling: false, pinned: true },
        Self { polling: false, pinned: false },
        Self { polling: true, pinned: true },
        Self { polling: true, pinned: false },
    ];

    const fn name(self) -> &'static str {
        match (self.polling, self.pinned) {
            (false, true) => "blocking pinned",
            (false, false) => "blocking unpinned",
            (true, true) => "polling pinned",
            (true, false) => "polling unpinned",
        }
    }

    const fn core(self, core: usize) -> Option<usize> {
        if self.pinned { Some(core) } else { None }
    }
}

/// Latency and cost of a message that is sent back.
pub fn round_trips(effort: &Effort) -> anyhow::Result<Measured> {
    let size = format!("--size={MESSAGE_BYTES}");
    let mut measured = Measured { setup: setup(), ..Measured::default() };
    for manner in Manner::ALL {
        let (ours, kernel) = compare(effort, manner, &[], &size)?;
        let figure = |what: &str, of: fn(&Outcome) -> Option<f64>| -> anyhow::Result<Figure> {
            let name = format!("{} {what}", manner.name());
            let values = |outcomes: &[Outcome]| outcomes.iter().filter_map(of).collect();
            Ok(Figure::new(name, "us", Better::Less, values(&ours))?
                .beside("kernel", values(&kernel)))
        };
        measured.figures.push(figure("p50", |o| Some(o.client.latency_us.as_ref()?.p50))?);
        measured.figures.push(figure("p99", |o| Some(o.client.latency_us.as_ref()?.p99))?);
        measured.figures.push(figure("cpu a message", |o| {
            Some(o.cpu_s * 1e6 / (o.bytes_received / MESSAGE_BYTES) as f64)
        })?);
        tell_kernel(&mut measured, &kernel);
    }
    Ok(measured)
}

/// Rate and cost of a stream.
pub fn streams(effort: &Effort) -> anyhow::Result<Measured> {
    let mut measured = Measured { setup: setup(), ..Measured::default() };
    for manner in Manner::ALL {
        let (ours, kernel) = compare(effort, manner, &["--bulk"], "--size=65536")?;
        let figure = |what: &str, unit, better, of: fn(&Outcome) -> f64| {
            let values = |outcomes: &[Outcome]| outcomes.iter().map(of).collect();
            let name = format!("{} {what}", manner.name());
            Ok::<_, anyhow::Error>(
                Figure::new(name, unit, better, values(&ours))?.beside("kernel", values(&kernel)),
            )
        };
        measured
            .figures
            .push(figure("rate", "Gb/s", Better::More, |outcome| outcome.client.gbit_per_s)?);
        measured.figures.push(figure("cpu", "s/GB", Better::Less, |outcome| {
            outcome.cpu_s * 1e9 / outcome.bytes_received as f64
        })?);
        tell_kernel(&mut measured, &kernel);
    }
    Ok(measured)
}

fn setup() -> Vec<String> {
    let config = dmm_admin::config::TcpConfig::default();
    vec![
        format!(
            "dmm: buffers {} in and {} out, mtu 1500 (mss 1460), {:?}; a worker for both stacks",
            config.rx_buffer, config.tx_buffer, config.congestion
        ),
        "pinned: dmm's worker on core 1, server and client on core 0; the kernel's server on core \
         1, client on core 0"
            .to_owned(),
        "blocking: workers.idle adaptive; polling: busy".to_owned(),
    ]
}

/// Notes once how the kernel's sockets are set.
fn tell_kernel(measured: &mut Measured, kernel: &[Outcome]) {
    let Some(line) = kernel.first().and_then(|o| o.client.socket.as_ref()).map(Facts::describe)
    else {
        return;
    };
    if !measured.setup.contains(&line) {
        measured.setup.push(line);
    }
}

/// Runs both sides in turns.
fn compare(
    effort: &Effort,
    manner: Manner,
    both: &[&'static str],
    size: &str,
) -> anyhow::Result<(Vec<Outcome>, Vec<Outcome>)> {
    let loopback = Namespace::new()?;
    let mut both = both.to_vec();
    if manner.polling {
        both.push("--polling");
    }
    let only_client = vec![size.to_owned(), format!("--seconds={}", effort.span.as_secs_f64())];
    let (mut ours, mut kernel) = (Vec::new(), Vec::new());
    for _ in 0..effort.runs {
        let over_dmm = || over_wire(effort, manner, &both, &only_client);
        ours.push(over_dmm().with_context(|| format!("dmm, {}", manner.name()))?);
        let end = |core| End { namespace: Some(&loopback), via: "kernel", core, ..End::default() };
        let run = Run {
            server: end(manner.core(1)),
            client: end(manner.core(0)),
            address: "127.0.0.1:7000".to_owned(),
            both: both.clone(),
            only_client: only_client.clone(),
        };
        kernel.push(run.go(effort, None).with_context(|| format!("kernel, {}", manner.name()))?);
    }
    Ok((ours, kernel))
}

fn over_wire(
    effort: &Effort,
    manner: Manner,
    both: &[&'static str],
    only_client: &[String],
) -> anyhow::Result<Outcome> {
    let idle = if manner.polling { "busy" } else { "adaptive" };
    let daemon = Daemon::start(&on_wire([1, 1], idle), None)?;
    let end =
        |via| End { namespace: None, socket: Some(daemon.socket()), via, core: manner.core(0) };
    let run = Run {
        server: end("right"),
        client: end("left"),
        address: format!("{}:7000", WIRE[1]),
        both: both.to_vec(),
        only_client: only_client.to_vec(),
    };
    let outcome = run.go(effort, Some(&daemon))?;
    daemon.end()?;
    Ok(outcome)
}
