//! Instructions of a segment in a stack: two on an in-memory wire, one connection that is established.
//!
//! A figure is the difference between a long and a short run, divided by what is between them.

use tempfile::TempDir;

use super::Measured;
use crate::bench::{Effort, program};
use crate::callgrind::{callgrind, total};
use crate::figure::{Better, Figure};
use crate::process::{PATIENCE, Process};

/// Segments with payload in the short and in the long run.
const SEGMENTS: [usize; 2] = [4000, 12_000];

/// What goes, and by which calls.
struct Case {
    name: &'static str,
    what: &'static str,
    /// Segments with payload of one.
    segments: usize,
    calls: &'static [&'static str],
    /// Instructions of a segment when they were last written down: x86-64, Rust 1.95.
    recorded: f64,
}

const RECEIVE: &[&str] = &["receive"];
const REST: &[&str] = &["poll", "submit", "deadline"];

const CASES: [Case; 4] = [
    Case {
        name: "64 bytes, received",
        what: "requests",
        segments: 2,
        calls: RECEIVE,
        recorded: 2769.0,
    },
    Case { name: "64 bytes, sent", what: "requests", segments: 2, calls: REST, recorded: 4351.0 },
    Case {
        name: "1448 bytes, received",
        what: "segments",
        segments: 1,
        calls: RECEIVE,
        recorded: 3109.0,
    },
    Case { name: "1448 bytes, sent", what: "segments", segments: 1, calls: REST, recorded: 3308.0 },
];

/// All cases, beside what is recorded.
pub fn in_a_stack(_effort: &Effort) -> anyhow::Result<Measured> {
    let mut figures = Vec::new();
    for case in &CASES {
        let native = count("native", case)?;
        let figure = Figure::new(case.name, "instr/seg", Better::Less, vec![native])?;
        figures.push(figure.beside("recorded", vec![case.recorded]));
        let smoltcp = count("smoltcp", case)?;
        let name = format!("{}, and with smoltcp", case.name);
        let figure = Figure::new(name, "instr/seg", Better::Less, vec![native])?;
        figures.push(figure.beside("smoltcp", vec![smoltcp]));
    }
    let setup = vec![
        "both ends' stacks together: received is Stack::receive, sent is all else that is asked of a \
         stack, Stack::poll above all; acknowledgements are the cost of what they acknowledge"
            .to_owned(),
    ];
    Ok(Measured { setup, figures })
}

/// Of one segment with payload.
fn count(kind: &str, case: &Case) -> anyhow::Result<f64> {
    let mut counts = [0; 2];
    for (count, segments) in counts.iter_mut().zip(SEGMENTS) {
        let folder = TempDir::new()?;
        let only = case
            .calls
            .iter()
            .map(|call| format!("--toggle-collect=*Stack as dmm_stack::Stack>::{call}"));
        let only: Vec<String> = only.collect();
        let options: Vec<&str> = only.iter().map(String::as_str).collect();
        let mut command = callgrind(&folder, &options, &program("dmm-bench")?);
        command.args(["exercise", kind, case.what, &(segments / case.segments).to_string()]);
        Process::start("exercise", &mut command)?.finish(4 * PATIENCE)?;
        *count = total(&folder, "out")?;
    }
    Ok((counts[1] as f64 - counts[0] as f64) / (SEGMENTS[1] - SEGMENTS[0]) as f64)
}
