//! Why a configuration was refused: always which key, and what to do.
//!
//! Each text is whole, with the text of what caused it in the middle and the remedy at its end. So
//! none has a [`std::error::Error::source`]: whoever prints the chain would print the cause twice.

#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

use serde_json::error::Category;

use super::limits::FILE_BYTES_MAX;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}: {error}: {}", path.display(), read_remedy(error))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The text is longer than [`FILE_BYTES_MAX`].
    #[error("{bytes} bytes or more are too long for a configuration: keep below {FILE_BYTES_MAX}")]
    TooLong {
        /// The text's length as far as it was read.
        bytes: usize,
    },
    /// The text is no JSON.
    #[error(
        "line {line} column {column}{}: {problem}: correct the JSON there (double quotes, no \
         comments, no comma before a closing bracket)",
        at_key(key)
    )]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// The key that was being read, such as `stacks[0].cores`; empty at the top.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// A key is unknown, missing or given twice, or a value has the wrong type or form.
    #[error("line {line} column {column}{}: {problem}{}", at_key(key), value_remedy(problem))]
    Value {
        /// The line on which the value ends, from 1.
        line: usize,
        /// The column at which the value ends, from 1.
        column: usize,
        /// The key, such as `stacks[0].addresses[1]`; empty at the top.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// Values that are each well formed do not fit each other or this machine.
    #[error("key {key}: {problem}")]
    Unfit {
        /// The key, such as `stacks[0].port`.
        key: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The cores of this machine could not be found out.
    #[error("cannot find out which cores may be used: {0}: is /sys mounted?")]
    Cores(io::Error),
    /// One of the above, in this file.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<ConfigError>,
    },
}

impl ConfigError {
    pub(super) fn in_file(self, path: &Path) -> Self {
        Self::File { path: path.to_owned(), error: Box::new(self) }
    }

    /// The error that serde_json found in `text` while it read `key`.
    pub(super) fn in_text(key: String, error: &serde_json::Error, text: &str) -> Self {
        let (line, column) = (error.line(), error.column());
        let key = if key == "." { String::new() } else { key };
        let whole = error.to_string();
        let suffix = format!(" at line {line} column {column}");
        let problem = in_the_files_words(whole.strip_suffix(&suffix).unwrap_or(&whole));
        // What is wrong before the first byte was taken is told of a column 0.
        let column = column.max(1);
        match error.classify() {
            Category::Data => Self::Value { line, column, key, problem },
            _ if text.trim().is_empty() => {
                Self::Syntax { line, column, key, problem: "the file is empty".into() }
            }
            _ => Self::Syntax { line, column, key, problem },
        }
    }
}

/// serde's message without the names of Rust's types: an object is what it calls a struct, and it
/// would also take a list for one, its items being the fields in their order.
fn in_the_files_words(problem: &str) -> String {
    match problem.split_once(", expected struct ") {
        Some((found, _)) if found.starts_with("invalid length") => {
            "invalid type: sequence, expected an object".to_owned()
        }
        Some((found, _)) => format!("{found}, expected an object"),
        None => problem.to_owned(),
    }
}

fn at_key(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!(", key {key}") }
}

/// The remedy for serde's own messages; those of this crate's types carry theirs.
fn value_remedy(problem: &str) -> &'static str {
    let remedies = [
        ("unknown field", ": remove or correct the key (`dmm schema` lists them all)"),
        ("missing field", ": add the key (`dmm schema` describes it)"),
        ("duplicate field", ": keep one of the two"),
        ("unknown variant", ": write one of these"),
        ("invalid type", ": write a value of that type (`dmm schema` describes it)"),
        ("invalid value", ": write a value in that range (`dmm schema` describes it)"),
        ("invalid IP address", ": write it as 10.1.0.1 or fd00:1::1"),
    ];
    let found = remedies.iter().find(|(start, _)| problem.starts_with(start));
    found.map_or("", |(_, remedy)| remedy)
}

fn read_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "write one, or start dmmd without it for the embedded default",
        io::ErrorKind::PermissionDenied => "run as a user that may read it",
        io::ErrorKind::InvalidData => "save it as UTF-8 text",
        _ => "see that it is a readable file",
    }
}
