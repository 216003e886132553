//! Idle daemons: what they cost, and what a request after silence pays.

use std::thread;
use std::time::Instant;

use anyhow::{Context, ensure};
use dmm_admin::report::WakeKind;

use super::Measured;
use crate::bench::Effort;
use crate::daemon::{Daemon, on_device};
use crate::echo::{End, Run};
use crate::figure::{Better, Figure};
use crate::namespace::Namespace;

/// What an idle daemon may cost, in percent of a core.
const IDLE_PERCENT: f64 = 1.0;

/// Milliseconds of silence before each request: longer than a worker spins, and than it naps.
const SILENCE_MS: u64 = 20;

/// Requests in one run.
const REQUESTS: usize = 50;

/// The stack's address and the kernel's at the other end of the veth.
const STACK: &str = "10.0.0.2";
const PEER: &str = "10.0.0.1";

/// CPU on a port with a descriptor.
pub fn with_descriptor(effort: &Effort) -> anyhow::Result<Measured> {
    let namespace = Namespace::new()?;
    let config = on_device("net_tap0,iface=dmm0", &format!("{STACK}/24"), 1, "adaptive");
    let daemon = Daemon::start(&config, Some(&namespace))?;
    namespace.ip(&["link", "set", "dmm0", "up"])?;
    let figure = watch(effort, &daemon, WakeKind::Fd)?.below(IDLE_PERCENT);
    daemon.end()?;
    let setup = vec!["net_tap, workers.idle adaptive, no client".to_owned()];
    Ok(Measured { setup, figures: vec![figure] })
}

/// CPU on a port without one.
pub fn with_timer(effort: &Effort) -> anyhow::Result<Measured> {
    let link = Veth::new()?;
    let daemon = link.daemon("adaptive")?;
    let figure = watch(effort, &daemon, WakeKind::Timer)?;
    daemon.end()?;
    let setup = vec!["net_af_packet on a veth, workers.idle adaptive, no client".to_owned()];
    Ok(Measured { setup, figures: vec![figure] })
}

/// Watches a daemon that has nothing to do, several times.
fn watch(effort: &Effort, daemon: &Daemon, wake: WakeKind) -> anyhow::Result<Figure> {
    let port = daemon.status()?.ports.into_iter().next().context("the daemon has a port")?;
    ensure!(port.wake == wake, "port {} wakes by {:?}, not {wake:?}", port.name, port.wake);
    let mut percent = Vec::new();
    for _ in 0..effort.runs.min(3) {
        let (started, before) = (Instant::now(), daemon.cpu_seconds()?);
        thread::sleep(effort.idle);
        let used = daemon.cpu_seconds()? - before;
        percent.push(used * 100.0 / started.elapsed().as_secs_f64());
    }
    Figure::new("cpu of the daemon", "% of a core", Better::Less, percent)
}

/// Latency of requests after silence, beside a daemon that never sleeps.
pub fn latency(effort: &Effort) -> anyhow::Result<Measured> {
    let link = Veth::new()?;
    let (mut napping, mut busy) = (Vec::new(), Vec::new());
    for _ in 0..effort.runs {
        napping.push(link.request_after_silence(effort, "adaptive")?);
        busy.push(link.request_after_silence(effort, "busy")?);
    }
    let pick = |runs: &[(f64, f64)], of: fn(&(f64, f64)) -> f64| runs.iter().map(of).collect();
    let figure = |name, of: fn(&(f64, f64)) -> f64| -> anyhow::Result<Figure> {
        let ours = pick(&napping, of);
        Ok(Figure::new(name, "us", Better::Less, ours)?.beside("busy", pick(&busy, of)))
    };
    let setup = vec![format!(
        "net_af_packet on a veth; the kernel asks, the library answers; {SILENCE_MS} ms of silence \
         before each of {REQUESTS} requests; worker on core 1, server and client on core 0"
    )];
    let added: Vec<f64> = napping.iter().zip(&busy).map(|(nap, busy)| nap.0 - busy.0).collect();
    let figures = vec![
        figure("p50 adaptive", |run| run.0)?,
        figure("p99 adaptive", |run| run.1)?,
        Figure::new("added to p50 by napping", "us", Better::Less, added)?,
    ];
    Ok(Measured { setup, figures })
}

/// A veth between a daemon's namespace and a kernel's.
struct Veth {
    daemons: Namespace,
    kernels: Namespace,
}

impl Veth {
    fn new() -> anyhow::Result<Self> {
        let (daemons, kernels) = (Namespace::new()?, Namespace::new()?);
        daemons.join("dmm0", &kernels, "peer0")?;
        kernels.ip(&["address", "add", &format!("{PEER}/24"), "dev", "peer0"])?;
        Ok(Self { daemons, kernels })
    }

    fn daemon(&self, idle: &str) -> anyhow::Result<Daemon> {
        let config = on_device("net_af_packet0,iface=dmm0", &format!("{STACK}/24"), 1, idle);
        Daemon::start(&config, Some(&self.daemons))
    }

    /// The median and the 99th percentile of one run, in microseconds.
    fn request_after_silence(&self, effort: &Effort, idle: &str) -> anyhow::Result<(f64, f64)> {
        let daemon = self.daemon(idle)?;
        let server =
            End { namespace: None, socket: Some(daemon.socket()), via: "default", core: Some(0) };
        let client =
            End { namespace: Some(&self.kernels), via: "kernel", core: Some(0), ..End::default() };
        let run = Run {
            server,
            client,
            address: format!("{STACK}:7000"),
            both: Vec::new(),
            only_client: vec![format!("--interval-ms={SILENCE_MS}"), format!("--count={REQUESTS}")],
        };
        let outcome = run.go(effort, Some(&daemon))?;
        daemon.end()?;
        let latency = outcome.client.latency_us.context("the client reports latencies")?;
        Ok((latency.p50, latency.p99))
    }
}
