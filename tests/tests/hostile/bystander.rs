//! A pair of honest programs of the library that move bytes through the daemon meanwhile.

use std::process::Command;

use dmm_tests::command::program;
use dmm_tests::daemon::Daemon;
use dmm_tests::program::Program;

use crate::ground::RIGHT_ADDRESS;

/// The port of the honest server.
pub const PORT: u16 = 7000;

/// An honest client on `left` and its server on `right`, which sends everything back.
pub struct Bystander {
    server: Program,
    client: Program,
}

impl Bystander {
    /// Starts both, and waits until bytes flow; they do until [`Bystander::finish`].
    pub fn start(daemon: &Daemon) -> Self {
        let mut server =
            honest(daemon, &format!("--stack right --listen {RIGHT_ADDRESS}:{PORT} echo"));
        let to = server.ready();
        let mut client = honest(daemon, &format!("--stack left --connect {to} exchange"));
        client.under_way();
        Self { server, client }
    }

    /// Lets the last bytes come back. Returns how many there were.
    ///
    /// # Panics
    /// If one byte is missing or wrong, or either side met an error.
    pub fn finish(mut self) -> u64 {
        self.client.close_stdin();
        let (client, server) = (self.client.outcome(), self.server.outcome());
        assert_eq!((&client.error, &server.error), (&None, &None));
        assert!(client.end_of_file && server.end_of_file);
        assert_eq!((client.received, server.received), (client.sent, client.sent));
        assert_eq!(client.sent_sha256, server.received_sha256);
        assert_eq!(client.sent_sha256, client.received_sha256);
        client.sent
    }
}

/// A program of the library.
pub fn honest(daemon: &Daemon, arguments: &str) -> Program {
    let mut command = Command::new(program("dmm-peer"));
    command.env("DMM_SOCKET", daemon.socket());
    command.args(["--via", "dmm"]).args(arguments.split(' '));
    Program::start(command)
}
