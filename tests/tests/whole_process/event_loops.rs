//! The adapters for event loops: a web server on axum, tasks of tokio, and mio's own poll.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dmm::{Client, Interest};
use dmm_async::mio::{Event, Events, Poll};
use dmm_async::tokio::{TcpListener, TcpStream, UdpSocket};
use dmm_tests::command::{program, run};
use dmm_tests::lab::{FAMILIES, Family, Lab, PortKind};
use mio::Token;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The axum example, killed when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(lab: &Lab, family: Family) -> (Server, SocketAddr) {
    let mut command = Command::new(program("examples/hello_axum"));
    command.arg(SocketAddr::new(lab.link().stack(family), 0).to_string());
    command.env("DMM_SOCKET", lab.daemon.socket());
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it was built");
    let stdout = child.stdout.take().expect("it is piped");
    let server = Server(child);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let address = line.trim().trim_start_matches("serving http://").trim_end_matches('/');
    (server, address.parse().unwrap_or_else(|_| panic!("{line:?}")))
}

#[test]
fn axum_serves_a_hundred_thousand_requests_without_an_error() {
    const REQUESTS: u64 = 100_000;
    let lab = Lab::new(PortKind::Tap, 2);
    let idle = lab.holdings();
    let (server, address) = serve(&lab, Family::V4);
    let mut served = 0;
    while served < REQUESTS {
        let mut wrk = lab.home.command("wrk");
        wrk.args(["--threads", "1", "--connections", "64", "--duration", "5s"]);
        let report = run(wrk.arg(format!("http://{address}/")));
        // It tells of errors if there are any.
        assert!(!report.contains("Socket errors"), "{report}");
        assert!(!report.contains("Non-2xx"), "{report}");
        let line = report.lines().find(|line| line.contains(" requests in ")).expect("a count");
        let count = line.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        let count = count.unwrap_or_else(|| panic!("{report}"));
        assert!(count > 0, "{report}");
        served += count;
    }
    // And it counted as many, and perhaps those that wrk did not wait for.
    let (other, v6) = serve(&lab, Family::V6);
    for (address, least) in [(address, served), (v6, 0)] {
        let mut curl = lab.home.command("curl");
        curl.args(["--silent", "--show-error", "--globoff", "--max-time", "30"]);
        let page = run(curl.arg(format!("http://{address}/")));
        let number = page.split(|c: char| !c.is_ascii_digit()).find(|word| !word.is_empty());
        let number: u64 = number.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{page}"));
        assert!(page.starts_with("Hello from DMM") && number > least, "{page}");
    }
    drop((server, other));
    lab.wait_for_holdings_ignoring(&idle, |holdings| {
        (holdings.stack_sockets, holdings.orphans) = (0, 0);
    });
    println!("{served} requests");
}

fn with_tokio(work: impl Future<Output = std::io::Result<()>>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_time();
    runtime.build().expect("threads").block_on(work).expect("no error");
}

#[test]
fn tasks_of_tokio_serve_and_ask_the_kernel() {
    const BYTES: u64 = 1 << 20;
    let lab = Lab::new(PortKind::Tap, 2);
    let idle = lab.holdings();
    {
        let client = Client::attach(lab.daemon.socket()).expect("the daemon runs");
        for family in FAMILIES {
            let link = lab.link();
            let listener = client.listen(None, (link.stack(family), 0)).expect("a free port");
            let to = listener.local_addr().expect("bound");
            let exchange = format!("--count 20 --together exchange --bytes {BYTES}");
            let peers = lab.peer(link, &format!("--connect {to} {exchange}"));
            with_tokio(async {
                let listener = TcpListener::from_dmm(listener)?;
                let mut tasks = Vec::new();
                for _ in 0..20 {
                    let (stream, _) = listener.accept().await?;
                    tasks.push(tokio::spawn(echo(stream)));
                }
                for task in tasks {
                    assert_eq!(task.await.expect("no panic")?, BYTES);
                }
                Ok(())
            });
            for outcome in peers.finish().outcomes {
                assert_eq!((&outcome.error, outcome.received), (&None, BYTES));
                assert_eq!(outcome.sent_sha256, outcome.received_sha256);
            }
            ask(&lab, &client, link.peer(family));
        }
    }
    lab.wait_for_holdings_ignoring(&idle, |holdings| {
        (holdings.stack_sockets, holdings.orphans) = (0, 0);
    });
}

async fn echo(mut stream: TcpStream) -> std::io::Result<u64> {
    let (mut buffer, mut total) = (vec![0; 50_000], 0);
    loop {
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            stream.shutdown().await?;
            return Ok(total);
        }
        stream.write_all(&buffer[..len]).await?;
        total += len as u64;
    }
}

/// As a client: a connection, one that is refused, and datagrams.
fn ask(lab: &Lab, client: &Client, peer: IpAddr) {
    let link = lab.link();
    let any = SocketAddr::new(peer, 0);
    let mut server = lab.peer(link, &format!("--listen {any} echo"));
    let to = server.ready();
    let mut datagrams = lab.peer(link, &format!("--listen {any} udp-echo --count 1"));
    let udp = datagrams.ready();
    let unspecified: SocketAddr =
        if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
    with_tokio(async {
        let mut stream = TcpStream::connect_with(client, None, to).await?;
        stream.write_all(b"from a task").await?;
        let mut answer = [0; 11];
        stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"from a task");
        // Reading waits while another task's time passes.
        let read = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut answer)).await;
        assert!(read.is_err());
        stream.shutdown().await?;
        assert_eq!(stream.read(&mut answer).await?, 0);
        let refused = TcpStream::connect_with(client, None, (peer, 9).into()).await;
        let refused = refused.err().expect("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

        let socket = UdpSocket::from_dmm(client.bind_udp(None, unspecified)?)?;
        socket.send_to(b"datagram", udp).await?;
        let (len, from) = socket.recv_from(&mut answer).await?;
        assert_eq!((&answer[..len], from), (&b"datagram"[..], udp));
        Ok(())
    });
    assert_eq!(server.outcome().error, None);
}

#[test]
fn one_poll_tells_of_mios_sources_and_of_ours() {
    const OURS: Token = Token(1);
    const LISTENER: Token = Token(2);
    const PIPE: Token = Token(3);
    let lab = Lab::new(PortKind::Tap, 1);
    let client = Client::attach(lab.daemon.socket()).expect("the daemon runs");
    let listener = client.listen(None, (lab.link().stack(Family::V4), 0)).expect("a free port");
    listener.set_nonblocking(true).expect("always");
    let (mut sender, mut receiver) = mio::unix::pipe::new().expect("a pipe");
    let mut poll = Poll::new().expect("an epoll");
    poll.registry().register(&mut receiver, PIPE, mio::Interest::READABLE).expect("a pipe");
    poll.register(&listener, LISTENER, Interest::READABLE).expect("a new one");
    let mut events = Events::with_capacity(8);
    poll.poll(&mut events, Some(Duration::from_millis(10))).expect("no error");
    assert!(events.is_empty());

    sender.write_all(b"x").expect("room");
    poll.poll(&mut events, None).expect("no error");
    let told: Vec<_> = events.iter().map(|event| event.token()).collect();
    assert_eq!(told, [PIPE]);
    assert!(matches!(events.iter().next(), Some(Event::Mio(event)) if event.is_readable()));
    assert_eq!(receiver.read(&mut [0; 8]).expect("a byte"), 1);

    let to = listener.local_addr().expect("bound");
    let peer = lab.peer(lab.link(), &format!("--connect {to} exchange --bytes 1000"));
    poll.poll(&mut events, None).expect("no error");
    assert!(events.iter().any(|event| event.token() == LISTENER && event.is_readable()));
    let (stream, _) = listener.accept().expect("one waits");
    stream.set_nonblocking(true).expect("always");
    poll.register(&stream, OURS, Interest::READABLE).expect("a new one");
    let mut all = Vec::new();
    let mut ended = false;
    while !ended {
        poll.poll(&mut events, None).expect("no error");
        for event in events.iter().filter(|event| event.token() == OURS) {
            assert!(event.is_readable() && !event.is_writable());
            let mut buffer = [0; 300];
            let len = (&stream).read(&mut buffer).expect("there is something");
            all.extend_from_slice(&buffer[..len]);
            ended = len == 0;
        }
    }
    (&stream).write_all(&all).expect("room");
    poll.reregister(&stream, OURS, Interest::WRITABLE).expect("registered");
    poll.poll(&mut events, None).expect("no error");
    assert!(events.iter().any(|event| event.token() == OURS && event.is_writable()));
    poll.deregister(&stream).expect("registered");
    drop(stream);
    let outcome = peer.outcome();
    assert_eq!((&outcome.error, outcome.received), (&None, 1000));
    assert_eq!(outcome.sent_sha256, outcome.received_sha256);
}
