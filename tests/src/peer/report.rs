//! What `dmm-peer` prints: one line of JSON per event, the last of which is the report.

use std::io::{self, Write};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A line of output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// It listens here.
    Ready(SocketAddr),
    /// A direction of a connection has moved as much as `--announce` says.
    UnderWay,
    /// A round ended.
    Round(Report),
}

/// What came of a round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Each connection, in the order in which they were made.
    pub outcomes: Vec<Outcome>,
}

/// What came of a connection, or of the attempt to make one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Bytes written.
    pub sent: u64,
    /// Their SHA-256.
    pub sent_sha256: String,
    /// Bytes read.
    pub received: u64,
    /// Their SHA-256.
    pub received_sha256: String,
    /// Whether it read the end of the peer's bytes.
    pub end_of_file: bool,
    /// The error that ended it.
    pub errno: Option<i32>,
    /// The same in words.
    pub error: Option<String>,
}

impl Line {
    /// Prints the line at once. A reader that is gone is no error: the test has ended.
    pub fn print(&self) {
        let text = serde_json::to_string(self).expect("plain data");
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}

impl Outcome {
    /// Notes the error that ended the connection.
    pub fn fail(&mut self, error: &io::Error) {
        self.errno = Some(dmm::errno(error));
        self.error = Some(error.to_string());
    }
}
