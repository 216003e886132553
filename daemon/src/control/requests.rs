//! What operators ask for: documents at once, echo requests once they end, captures through a pipe.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use dmm_admin::control::{
    PING_TIMEOUT_MS_MAX, Ping, Request, parse_request, reply, reply_with_pipe,
};
use dmm_admin::report::Pong as Report;
use dmm_stack::Pong;
use nix::errno::Errno;
use nix::unistd::geteuid;
use serde_json::Value;
use tracing::warn;

use super::Control;
use super::operators::Operator;
use super::report::{self, Document};
use crate::capture;
use crate::worker::message::ToWorker;

/// Why an echo request failed, as an operator is told.
const FAILURES: [(Errno, &str); 5] = [
    (Errno::EHOSTUNREACH, "no station answers for the address"),
    (Errno::ETIMEDOUT, "no answer"),
    (Errno::ENETUNREACH, "no route leads to one station of that address"),
    (Errno::EMSGSIZE, "too long for the MTU"),
    (Errno::EOPNOTSUPP, "this kind of stack sends no echo requests"),
];

impl Control {
    /// Answers an operator's request, now or later.
    pub(super) fn answer(&mut self, number: u64, operator: Operator, packet: &[u8]) {
        let request = match parse_request(packet) {
            Ok(request) => request,
            Err(message) => return self.reply(number, operator, Err(message)),
        };
        let document = match request {
            Request::Status {} => Document::Status,
            Request::Stats {} => Document::Stats,
            Request::Sockets {} => Document::Sockets,
            Request::Ports {} => Document::Ports,
            Request::Drops {} => Document::Drops,
            Request::Ping(ping) => return self.ping(number, operator, ping),
            Request::Capture { port } => return self.capture(number, operator, &port),
        };
        let document = report::document(self, document);
        self.reply(number, operator, Ok(document));
    }

    fn reply(&mut self, number: u64, operator: Operator, answer: Result<Value, String>) {
        let answered = reply(operator.connection.as_fd(), answer.as_ref().map_err(Clone::clone));
        self.keep_if(answered, number, operator);
    }

    fn keep_if<E: std::fmt::Display>(
        &mut self,
        answered: Result<(), E>,
        number: u64,
        operator: Operator,
    ) {
        match answered {
            Ok(()) => self.operators.keep(number, operator),
            Err(error) => {
                warn!(%error, "an operator's request went unanswered");
                self.hang_up_on_operator(operator);
            }
        }
    }

    /// Has the first shard of a stack send an echo request: what is about no flow comes to that one.
    fn ping(&mut self, number: u64, operator: Operator, ping: Ping) {
        let Ping { stack, address, bytes, timeout_ms } = ping;
        let configured = &self.config.stacks;
        let stack = match &stack {
            Some(name) => configured.iter().find(|stack| stack.name.as_str() == name),
            None => configured.iter().find(|stack| stack.reaches(address)).or(configured.first()),
        };
        let info = stack.and_then(|stack| {
            self.machine.stacks.iter().find(|info| info.name == stack.name.as_str())
        });
        let refusal = match info {
            None => "no stack of that name: `dmm status` lists them".to_owned(),
            Some(_) if !(1..=PING_TIMEOUT_MS_MAX).contains(&timeout_ms) => {
                format!("a timeout has 1 to {PING_TIMEOUT_MS_MAX} ms")
            }
            Some(info) => {
                let instance = info.first_instance;
                let worker = self.machine.instances[instance as usize].worker;
                self.machine.workers[worker as usize].tell(ToWorker::Ping {
                    instance,
                    token: number,
                    to: address,
                    bytes,
                    timeout: Duration::from_millis(timeout_ms.into()),
                });
                let awaits = Some(info.name.clone());
                return self.operators.keep(number, Operator { awaits, ..operator });
            }
        };
        self.reply(number, operator, Err(refusal));
    }

    /// Tells an operator what came of its echo request, if it still waits.
    pub(super) fn ponged(&mut self, number: u64, result: Result<Pong, Errno>) {
        let Some(mut operator) = self.operators.take(number) else { return };
        let Some(stack) = operator.awaits.take() else {
            return self.operators.keep(number, operator);
        };
        let text = |errno: Errno| {
            let known = FAILURES.into_iter().find(|(known, _)| *known == errno);
            known.map_or_else(|| errno.desc().to_owned(), |(_, text)| text.to_owned())
        };
        let report = Report {
            stack,
            round_trip_us: result.ok().map(|pong| pong.round_trip.as_nanos() as f64 / 1e3),
            hop_limit: result.ok().map(|pong| pong.hop_limit),
            error: result.err().map(text),
        };
        let document = serde_json::to_value(report).map_err(|error| error.to_string());
        self.reply(number, operator, document);
    }

    fn capture(&mut self, number: u64, operator: Operator, port: &str) {
        // It shows what others send and receive.
        let is_privileged = operator.uid == 0 || operator.uid == geteuid().as_raw();
        let pipe = match is_privileged {
            true => self.start_capture(port),
            false => Err("only root, or the daemon's own user, may capture".to_owned()),
        };
        let answered = match pipe {
            Ok(pipe) => reply_with_pipe(operator.connection.as_fd(), &pipe),
            Err(message) => reply(operator.connection.as_fd(), Err::<&Value, _>(message)),
        };
        self.keep_if(answered, number, operator);
    }

    fn start_capture(&self, port: &str) -> Result<OwnedFd, String> {
        let machine = &self.machine;
        if !machine.ports.iter().any(|started| started.name.as_str() == port) {
            return Err(format!("no port \"{port}\": `dmm ports` lists them"));
        }
        let stack = self.config.stacks.iter().position(|stack| stack.port.as_str() == port);
        let places: Vec<_> = (0_u32..)
            .zip(&machine.instances)
            .filter(|(_, place)| Some(place.stack) == stack)
            .collect();
        if places.is_empty() {
            return Err(format!("no stack uses port \"{port}\", so nothing passes it"));
        }
        if Arc::strong_count(&self.captures) > capture::CAPTURES_MAX {
            return Err(format!("{} captures are under way: end one", capture::CAPTURES_MAX));
        }
        let names: Vec<_> = match places.as_slice() {
            [_] => vec![port.to_owned()],
            several => several.iter().map(|(_, place)| format!("{port}.{}", place.shard)).collect(),
        };
        let (taps, pipe) = capture::start(&names, machine.origin, &self.captures)
            .map_err(|error| format!("the capture cannot start: {error}"))?;
        for ((instance, place), tap) in places.into_iter().zip(taps) {
            machine.workers[place.worker as usize].tell(ToWorker::Capture { instance, tap });
        }
        Ok(pipe)
    }
}
