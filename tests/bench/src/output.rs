//! How a run is shown: one table, or one JSON document.

use std::fmt::Write;

use serde::Serialize;

use crate::figure::{Better, Figure, Sample};
use crate::machine::Machine;

/// Everything that a run printed.
#[derive(Debug, Serialize)]
pub struct Run {
    /// Where and how it ran.
    pub machine: Machine,
    /// The rows in the order that they ran.
    pub rows: Vec<RowResult>,
}

/// What came of one row.
#[derive(Debug, Serialize)]
pub struct RowResult {
    /// The row's name, as a filter takes it.
    pub name: &'static str,
    /// How it was set up.
    pub setup: Vec<String>,
    /// What it measured.
    pub figures: Vec<Figure>,
    /// Why it could not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// One row as text.
pub fn render(row: &RowResult) -> String {
    let mut text = format!("== {}\n", row.name);
    for line in &row.setup {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "   {line}");
    }
    let heading = ["figure", "unit", "median (min..max)", "beside it", "ratio", "target"];
    let mut cells: Vec<[String; 6]> = vec![heading.map(str::to_owned)];
    cells.extend(row.figures.iter().map(columns));
    let width = |column: usize| cells.iter().map(|c| c[column].len()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    if !row.figures.is_empty() {
        for row in &cells {
            let padded = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            let line = padded.collect::<Vec<_>>().join("  ");
            let _ = writeln!(text, "   {}", line.trim_end());
        }
    }
    if let Some(failure) = &row.failure {
        let _ = writeln!(text, "   COULD NOT RUN: {failure}");
    }
    text
}

fn columns(figure: &Figure) -> [String; 6] {
    let beside = figure.beside.as_ref();
    let direction = match figure.better {
        Better::Less => "less is better",
        Better::More => "more is better",
    };
    [
        figure.name.clone(),
        figure.unit.to_owned(),
        spread(&figure.sample),
        beside.map_or_else(String::new, |b| format!("{}: {}", b.name, spread(&b.sample))),
        beside.map_or_else(String::new, |b| format!("{:.2} ({direction})", b.ratio)),
        figure.target.map_or_else(String::new, |target| {
            format!("< {}: {}", target.below, if target.met { "met" } else { "missed" })
        }),
    ]
}

fn spread(sample: &Sample) -> String {
    let Sample { median, min, max, .. } = sample;
    if sample.runs.len() == 1 {
        return number(*median);
    }
    format!("{} ({}..{})", number(*median), number(*min), number(*max))
}

/// Three significant digits, or all before the point.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        0.0 => 0,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let shown = [12_345.6, 123.4, 12.34, 1.234, 0.1234, 0.0].map(number);
        assert_eq!(shown, ["12346", "123", "12.3", "1.23", "0.123", "0"]);
    }

    #[test]
    fn a_row_shows_ratio_target_and_failure() {
        let figure = Figure::new("p50", "us", Better::Less, vec![10.0, 30.0, 20.0]).unwrap();
        let figure = figure.beside("kernel", vec![40.0]).below(5.0);
        let row = RowResult {
            name: "rtt",
            setup: vec!["how".into()],
            figures: vec![figure],
            failure: Some("why".into()),
        };
        let text = render(&row);
        for part in ["20.0 (10.0..30.0)", "kernel: 40.0", "0.50", "< 5: missed", "RUN: why"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
