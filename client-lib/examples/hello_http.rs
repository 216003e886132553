//! A web server with one page, on a user-space stack.
//!
//! `cargo run -p dmm --example hello_http -- 10.0.0.2:80 [stack]`, then `curl http://10.0.0.2/`
//! from the other side of the wire. One thread serves all connections, kept alive as RFC 9112
//! section 9.3 has it, with a [`dmm::Poll`].

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};

use dmm::{Event, Events, Interest, Poll, TcpListener, TcpStream, Token};

const LISTENER: Token = Token(0);

/// Bytes of a request's head at most: more is no request for this page.
const HEAD_MAX: usize = 8 * 1024;

/// Connections at once; more wait in the listener.
const CONNECTIONS_MAX: usize = 1000;

const PAGE: &str = "<!doctype html>\n<html lang=\"en\"><head><title>DMM</title></head>\n\
    <body><h1>Hello from a user-space stack</h1>\n\
    <p>No kernel socket carried this page.</p></body></html>\n";

/// A connection: what arrived of the next request, and what is still to be sent.
struct Connection {
    stream: TcpStream,
    head: Vec<u8>,
    reply: Vec<u8>,
    closing: bool,
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "0.0.0.0:80".into());
    let listener = match arguments.next() {
        Some(stack) => TcpListener::bind_via(&stack, address)?,
        None => TcpListener::bind(address)?,
    };
    println!("serving http://{}/", listener.local_addr()?);
    serve(&listener)
}

/// Serves until the daemon ends.
pub fn serve(listener: &TcpListener) -> io::Result<()> {
    let poll = Poll::new();
    listener.set_nonblocking(true)?;
    poll.register(listener, LISTENER, Interest::READABLE)?;
    let mut connections = HashMap::new();
    let mut next_token = 1;
    let mut events = Events::with_capacity(64);
    loop {
        poll.wait(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                admit(listener, &poll, &mut connections, &mut next_token)?;
                continue;
            }
            let Some(connection) = connections.get_mut(&event.token()) else { continue };
            if !connection.go_on(&poll, event).unwrap_or(false) {
                connections.remove(&event.token());
                poll.modify(listener, LISTENER, Interest::READABLE)?;
            }
        }
    }
}

fn admit(
    listener: &TcpListener,
    poll: &Poll,
    connections: &mut HashMap<Token, Connection>,
    next_token: &mut usize,
) -> io::Result<()> {
    while connections.len() < CONNECTIONS_MAX {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let token = Token(*next_token);
        *next_token += 1;
        poll.register(&stream, token, Interest::READABLE)?;
        let (head, reply) = (Vec::new(), Vec::new());
        connections.insert(token, Connection { stream, head, reply, closing: false });
    }
    // Full: the listener is asked again when a connection has ended.
    poll.modify(listener, LISTENER, Interest::NONE)
}

impl Connection {
    /// Reads requests and sends replies as far as neither waits. False when it is over.
    fn go_on(&mut self, poll: &Poll, event: &Event) -> io::Result<bool> {
        if event.is_error() {
            return Ok(false);
        }
        let mut buffer = [0; 4096];
        while !self.closing && self.reply.is_empty() {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(len) => self.head.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            self.answer_requests();
        }
        while !self.reply.is_empty() {
            match self.stream.write(&self.reply) {
                Ok(len) => drop(self.reply.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let interest = match (self.reply.is_empty(), self.closing) {
            (true, true) => return Ok(false),
            (true, false) => Interest::READABLE,
            (false, _) => Interest::WRITABLE,
        };
        poll.modify(&self.stream, event.token(), interest)?;
        Ok(true)
    }

    /// Answers every request whose head is complete. Bodies are not read: none is asked for.
    fn answer_requests(&mut self) {
        while let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") {
            let head: Vec<u8> = self.head.drain(..end + 4).collect();
            self.answer(&String::from_utf8_lossy(&head));
        }
        if self.head.len() > HEAD_MAX {
            self.reply_with("431 Request Header Fields Too Large", "too large\n", false, true);
        }
    }

    fn answer(&mut self, head: &str) {
        let mut lines = head.lines();
        let mut request = lines.next().unwrap_or_default().split(' ');
        let (method, path) =
            (request.next().unwrap_or_default(), request.next().unwrap_or_default());
        let version = request.next().unwrap_or_default();
        let asked_to_close = lines.any(|line| {
            let (name, value) = line.split_once(':').unwrap_or_default();
            name.eq_ignore_ascii_case("connection") && value.trim().eq_ignore_ascii_case("close")
        });
        // RFC 9112 section 9.3: only HTTP/1.1 persists unless asked otherwise.
        let close = asked_to_close || version != "HTTP/1.1";
        match (method, path) {
            ("GET" | "HEAD", "/") => self.reply_with("200 OK", PAGE, method == "HEAD", close),
            ("GET" | "HEAD", _) => {
                self.reply_with("404 Not Found", "no such page\n", method == "HEAD", close)
            }
            _ => self.reply_with("405 Method Not Allowed", "only GET and HEAD\n", false, true),
        }
    }

    fn reply_with(&mut self, status: &str, body: &str, head_only: bool, close: bool) {
        let connection = if close { "close" } else { "keep-alive" };
        let length = body.len();
        let body = if head_only { "" } else { body };
        let reply = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\
             Connection: {connection}\r\n\r\n{body}"
        );
        self.reply.extend_from_slice(reply.as_bytes());
        self.closing |= close;
    }
}
