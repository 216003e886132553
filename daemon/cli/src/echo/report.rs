//! What the two roles report, as text and as JSON.

use std::fmt::Write;

use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;

use super::histogram::Histogram;
use super::sockets::Facts;

/// What the client measured.
#[derive(Debug, Serialize)]
pub(super) struct ClientReport {
    pub(super) via: String,
    pub(super) protocol: &'static str,
    pub(super) mode: &'static str,
    pub(super) waiting: &'static str,
    pub(super) size_bytes: usize,
    pub(super) connections: u64,
    pub(super) depth: u64,
    /// From the end of the warm-up until the last message was back.
    pub(super) seconds: f64,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) messages_per_s: f64,
    pub(super) gbit_per_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) latency_us: Option<Latency>,
    pub(super) errors: u64,
    pub(super) lost: u64,
    /// Of this process since it started.
    pub(super) cpu_s: CpuSeconds,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) socket: Option<Facts>,
}

/// What the server saw.
#[derive(Debug, Default, Serialize)]
pub(super) struct ServerReport {
    /// Clients that were served.
    pub(super) connections: u64,
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
    pub(super) errors: u64,
    /// Of this process since it started.
    pub(super) cpu_s: CpuSeconds,
}

/// Latencies in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    min: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
    mean: f64,
}

/// Seconds of processor time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct CpuSeconds {
    user: f64,
    system: f64,
}

/// What this process used so far (getrusage(2)).
pub(super) fn cpu_seconds() -> CpuSeconds {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return CpuSeconds::default() };
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    CpuSeconds { user: seconds(usage.user_time()), system: seconds(usage.system_time()) }
}

impl Latency {
    pub(super) fn of(histogram: &Histogram) -> Self {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let at = |share| micros(histogram.quantile(share));
        let min = if histogram.total() == 0 { 0 } else { histogram.min() };
        Self {
            min: micros(min),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: micros(histogram.max()),
            mean: histogram.mean() / 1e3,
        }
    }
}

impl ClientReport {
    pub(super) fn render(&self) -> String {
        let mut text = format!(
            "{} {} over {}, {}: {} connections",
            self.protocol, self.mode, self.via, self.waiting, self.connections
        );
        // Writing to a string cannot fail.
        let _ = match &self.latency_us {
            None => writeln!(text, ", writes of {} bytes", self.size_bytes),
            Some(_) => writeln!(
                text,
                ", {} messages of {} bytes in flight on each",
                self.depth, self.size_bytes
            ),
        };
        let _ = writeln!(text, "seconds    {:.3}", self.seconds);
        if let Some(latency) = &self.latency_us {
            let _ = writeln!(text, "messages   {} ({:.0}/s)", self.messages, self.messages_per_s);
            let _ = writeln!(
                text,
                "latency    min {:.1}  p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1} us",
                latency.min, latency.p50, latency.p90, latency.p99, latency.p99_9, latency.max
            );
        }
        let _ = writeln!(text, "bytes      {} ({:.3} Gb/s)", self.bytes, self.gbit_per_s);
        let _ = writeln!(text, "errors     {}, lost {}", self.errors, self.lost);
        let _ = writeln!(text, "cpu        {}", self.cpu_s.render());
        if let Some(socket) = &self.socket {
            let _ = writeln!(text, "socket     {}", socket.render());
        }
        text
    }
}

impl ServerReport {
    pub(super) fn render(&self) -> String {
        format!(
            "connections {}\nbytes       {} received, {} sent\nerrors      {}\ncpu         {}\n",
            self.connections,
            self.bytes_received,
            self.bytes_sent,
            self.errors,
            self.cpu_s.render()
        )
    }
}

impl CpuSeconds {
    fn render(self) -> String {
        format!("{:.3} s user, {:.3} s system", self.user, self.system)
    }
}
