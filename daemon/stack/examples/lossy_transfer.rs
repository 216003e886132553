//! Measures how long 20 MiB take over a path of 1 Gb/s and 1 ms that loses 2%, reorders 1% and
//! doubles 1% of all frames, in virtual time, for each kind, congestion control and buffer size.
#![forbid(unsafe_code)]

use std::time::Duration;

use dmm_port::wire::WireConfig;
use dmm_stack::config::Congestion;
use dmm_stack::pair::{Pair, Quota, address_v4, config};

const BYTES: u64 = 20 << 20;
const SEEDS: u64 = 5;

fn main() {
    println!("20 MiB over 1 Gb/s, 1 ms, 2% loss, 1% reorder, 1% duplicate; virtual seconds");
    for loss in [0.0, 0.02] {
        for (kind, congestion, buffer) in [
            ("native", Congestion::Cubic, 1 << 16),
            ("native", Congestion::Cubic, 1 << 18),
            ("native", Congestion::Reno, 1 << 18),
            ("native", Congestion::Bbr, 1 << 18),
            ("native", Congestion::None, 1 << 18),
            ("smoltcp", Congestion::Cubic, 1 << 15),
            ("smoltcp", Congestion::Cubic, 1 << 16),
            ("smoltcp", Congestion::Cubic, 1 << 18),
            ("smoltcp", Congestion::Reno, 1 << 16),
            ("smoltcp", Congestion::None, 1 << 15),
            ("smoltcp", Congestion::None, 1 << 16),
            ("test", Congestion::None, 1 << 16),
        ] {
            let seeds = if loss > 0.0 { SEEDS } else { 1 };
            let times: Vec<f64> =
                (0..seeds).map(|seed| transfer(kind, congestion, buffer, seed, loss)).collect();
            let mean = times.iter().sum::<f64>() / times.len() as f64;
            let most = times.iter().copied().fold(0.0, f64::max);
            println!(
                "loss {loss:.2} {kind:8} {congestion:?} {:4} KiB: mean {mean:7.2} s, longest {most:7.2} s",
                buffer >> 10
            );
        }
    }
}

/// Seconds of virtual time for one transfer.
fn transfer(kind: &str, congestion: Congestion, buffer: u32, seed: u64, loss: f64) -> f64 {
    let rare = loss / 2.0;
    let wire = WireConfig {
        seed,
        delay: Duration::from_micros(500),
        rate_mbps: Some(1000),
        loss,
        reorder: rare,
        duplicate: rare,
        ..WireConfig::default()
    };
    let tuned = |station| {
        let mut config = config(station);
        config.tcp.congestion = congestion;
        (config.tcp.rx_buffer, config.tcp.tx_buffer) = (buffer, buffer);
        config
    };
    let mut pair = Pair::with(kind, &wire, &tuned(1), &tuned(2));
    let quotas = [Quota::new(1024), Quota::new(1024)];
    let (mut one, mut other) =
        pair.joined([&quotas[0], &quotas[1]], (address_v4(1), address_v4(2)));
    let before = pair.now;
    pair.exchange(Duration::from_secs(3600), &mut one, &mut other, (BYTES, 0));
    (pair.now - before).as_secs_f64()
}
