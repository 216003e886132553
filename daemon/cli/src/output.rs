//! Printing: JSON, and tables of text. A reader that hangs up early (`dmm sockets | head`) is no
//! error.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

/// Prints text as it is.
pub(crate) fn text(text: &str) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::anyhow!("cannot write the output: {e}"))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Prints a document as indented JSON.
pub(crate) fn json(document: &impl Serialize) -> anyhow::Result<ExitCode> {
    text(&(serde_json::to_string_pretty(document)? + "\n"))
}

/// Rows under a heading, each column as wide as its widest cell.
pub(crate) struct Table<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
    right: [bool; COLUMNS],
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// A table with these headings. One that starts with `>` sets its column to the right.
    pub(crate) fn new(headings: [&str; COLUMNS]) -> Self {
        let right = headings.map(|heading| heading.starts_with('>'));
        Self { rows: vec![headings.map(|h| h.trim_start_matches('>').to_owned())], right }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: [&dyn Display; COLUMNS]) {
        self.rows.push(cells.map(|cell| visible(&cell.to_string())));
    }

    /// The table as lines.
    pub(crate) fn render(&self) -> String {
        let width =
            |c: usize| self.rows.iter().map(|row| row[c].chars().count()).max().unwrap_or(0);
        let widths: [usize; COLUMNS] = std::array::from_fn(width);
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(widths).zip(self.right) {
                let cell =
                    if right { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
                line += &cell;
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// The text without control characters: a program's name is its own choice, and a terminal obeys.
pub(crate) fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["NAME", ">COUNT", "END"]);
        table.row([&"a", &7, &"x"]);
        table.row([&"längere", &1234, &""]);
        assert_eq!(table.render(), "NAME     COUNT  END\na            7  x\nlängere   1234\n");
    }

    #[test]
    fn terminals_are_not_steered_by_names() {
        let mut table = Table::new(["NAME"]);
        table.row([&"a\x1b[2J\nb"]);
        assert_eq!(table.render(), "NAME\na?[2J?b\n");
    }
}
