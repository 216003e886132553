//! The server of datagrams: one socket, and an empty datagram as a client's farewell.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;

use anyhow::Context;

use super::super::DATAGRAM_MAX;
use super::super::flow::pause;
use super::super::report::ServerReport;
use super::super::sockets::{Datagram, is_idle};

/// Clients that are told apart at most; source addresses may be made up, so more are served but not
/// remembered.
const CLIENTS_MAX: usize = 65_536;

/// Sends back every datagram. With `once`, ends when every client that came has said goodbye.
pub(super) fn serve(socket: &Datagram, once: bool) -> anyhow::Result<ServerReport> {
    let mut bytes = vec![0; DATAGRAM_MAX];
    let mut report = ServerReport::default();
    let mut clients: HashSet<SocketAddr> = HashSet::new();
    loop {
        let (len, from) = match socket.recv_from(&mut bytes) {
            Ok(received) => received,
            // recv(2): an error that a datagram sent earlier caused (ECONNREFUSED) is told here.
            Err(error) if is_idle(&error) || is_bounced(&error) => {
                pause();
                continue;
            }
            Err(error) => return Err(error).context("cannot receive"),
        };
        report.bytes_received += len as u64;
        if len > 0 && clients.len() < CLIENTS_MAX {
            report.connections += u64::from(clients.insert(from));
        }
        match socket.send_to(&bytes[..len], from) {
            Ok(sent) => report.bytes_sent += sent as u64,
            // As a full queue on the way would have done, it drops the datagram.
            Err(error) if is_idle(&error) || is_bounced(&error) => {}
            Err(error) => return Err(error).context("cannot send"),
        }
        if len == 0 && clients.remove(&from) && clients.is_empty() && once {
            return Ok(report);
        }
    }
}

fn is_bounced(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}
