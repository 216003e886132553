//! Payload on SYNs (RFC 7413).

use dmm_proto::op::SocketOption;
use dmm_stack::pair::{Client, End, Pair, Quota};
use dmm_stack::{Request, SocketId};
use etherparse::PacketBuilder;

use crate::{V4, clean, left, lossy, millis, right, secs};

/// A listener on the right that takes payload on so many SYNs at once, and a left side that knows its
/// cookie, unless the SYN that asked for it was lost. Returns the number of the first port and socket that is free.
fn world(wire: &dmm_port::wire::WireConfig, most: u32) -> (Pair, Quota, u16) {
    let mut pair = Pair::new("native", wire);
    let quota = Quota::new(512);
    pair.listen(End::Right, 0, right(80), 16);
    let (socket, option) = (SocketId(0), SocketOption::FastOpen);
    pair.submit(End::Right, Request::SetOption { socket, option, value: most });
    let server = pair.credit(End::Right, &quota, 0, 1);
    let client = open(&mut pair, &quota, 1, &[]);
    pair.expect(secs(60), "the handshake", |pair| {
        pair.of(&client).connected == Some(Ok(())) && pair.of(&server).accepted.is_some()
    });
    assert_eq!(pair.counter(End::Right, "tcp.fast_open_taken"), 0, "no cookie yet");
    close(&mut pair, &[&client, &server]);
    (pair, quota, 2)
}

/// Opens a connection whose SYN carries `bytes`, as far as they fit.
fn open(pair: &mut Pair, quota: &Quota, number: u16, bytes: &[u8]) -> Client {
    let mut client =
        pair.connect(End::Left, quota, number.into(), (left(2000 + number), right(80)));
    let (socket, option) = (client.socket, SocketOption::FastOpen);
    pair.submit(End::Left, Request::SetOption { socket, option, value: 1 });
    client.sent = client.writer.write(&[bytes], false) as u64;
    pair.submit(End::Left, Request::Send { socket });
    client
}

fn close(pair: &mut Pair, clients: &[&Client]) {
    clients.iter().for_each(|client| pair.close(client));
    pair.expect(secs(120), "the end", |pair| clients.iter().all(|client| pair.of(client).gone));
}

#[test]
fn a_request_is_answered_within_one_round_trip() {
    let (mut pair, quota, number) = world(&clean(), 4);
    assert!(pair.stack(End::Left).fast_open_room(V4.1).is_some());
    let mut server = pair.credit(End::Right, &quota, 0, number.into());
    let began = pair.now;
    let mut client = open(&mut pair, &quota, number, b"what is it?");
    let mut bytes = [0; 64];
    pair.expect(secs(1), "the request", |_| server.reader.read(&mut bytes) == 11);
    assert_eq!(&bytes[..11], b"what is it?");
    server.writer.write(&[b"that"], false);
    pair.submit(End::Right, Request::Send { socket: server.socket });
    pair.expect(secs(1), "the answer", |_| client.reader.read(&mut bytes) == 4);
    assert_eq!(&bytes[..4], b"that");
    // Both ways take 500 us and the time of a frame; a handshake before it would take as long again.
    assert!(pair.now.since(began) < millis(2), "{:?}", pair.now.since(began));
    assert_eq!(pair.counter(End::Right, "tcp.fast_open_taken"), 1);
    pair.clean_up(&[&client, &server], &[(End::Right, 0)], &[&quota]);
}

#[test]
fn a_syn_waits_for_what_its_owner_writes() {
    let (mut pair, quota, number) = world(&clean(), 4);
    let mut server = pair.credit(End::Right, &quota, 0, number.into());
    let connect = |pair: &mut Pair, number: u16| {
        let ends = (left(2000 + number), right(80));
        let client = pair.connect(End::Left, &quota, number.into(), ends);
        let (socket, option) = (client.socket, SocketOption::FastOpen);
        pair.submit(End::Left, Request::SetOption { socket, option, value: 1 });
        client
    };
    let (mut client, other) = (connect(&mut pair, number), connect(&mut pair, number + 1));
    let counted = |pair: &mut Pair| pair.counter(End::Left, "tx.tcp_segments");
    let before = counted(&mut pair);
    // Longer than a peer is waited for.
    pair.run(secs(600));
    assert!(pair.of(&client).deferred && pair.of(&other).deferred);
    assert_eq!((pair.of(&client).connected, counted(&mut pair)), (None, before));
    // What was never begun needs no end.
    close(&mut pair, &[&other]);
    assert_eq!(counted(&mut pair), before);
    assert_eq!(client.writer.write(&[b"at last"], false), 7, "the room was kept");
    pair.submit(End::Left, Request::Send { socket: client.socket });
    let mut bytes = [0; 64];
    pair.expect(secs(1), "the request", |_| server.reader.read(&mut bytes) == 7);
    assert_eq!(&bytes[..7], b"at last");
    pair.expect(secs(1), "the handshake", |pair| pair.of(&client).connected == Some(Ok(())));
    assert_eq!(pair.counter(End::Right, "tcp.fast_open_taken"), 1);
    pair.clean_up(&[&client, &server], &[(End::Right, 0)], &[&quota]);
}

#[test]
fn every_byte_arrives_whatever_is_lost() {
    let mut fast = 0;
    for seed in 0..40 {
        let (mut pair, quota, number) = world(&lossy(seed), 4);
        let mut server = pair.credit(End::Right, &quota, 0, number.into());
        let mut client =
            pair.connect(End::Left, &quota, number.into(), (left(2000 + number), right(80)));
        let (socket, option) = (client.socket, SocketOption::FastOpen);
        pair.submit(End::Left, Request::SetOption { socket, option, value: 1 });
        pair.write_until(&mut client, 100_000);
        let known = pair.stack(End::Left).fast_open_room(V4.1).is_some();
        assert_eq!(client.sent > 0, known, "there is room before the handshake");
        pair.expect(secs(60), "the accept", |pair| pair.of(&server).accepted.is_some());
        pair.expect(secs(600), "all bytes", |pair| {
            pair.write_until(&mut client, 100_000);
            pair.write_until(&mut server, 50_000);
            pair.read_all(&mut client);
            pair.read_all(&mut server);
            (server.received, client.received) == (100_000, 50_000)
        });
        fast += pair.counter(End::Right, "tcp.fast_open_taken");
        pair.clean_up(&[&client, &server], &[(End::Right, 0)], &[&quota]);
    }
    assert!(fast > 30, "{fast} of 40");
}

#[test]
fn no_more_wait_for_their_handshakes_than_the_listener_allows() {
    // A listener's backlog bounds it where its owner does not.
    for (most, bound) in [(2, 2), (u32::MAX, 16)] {
        fill(most, bound);
    }
}

fn fill(most: u32, bound: u64) {
    let (mut pair, quota, _) = world(&clean(), most);
    // The cookie that the right side gives to this address.
    pair.keep_frames(End::Right);
    let syn = |port: u16, options: &[u8], payload: &[u8]| {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(port, 80, 7, 1000)
            .syn()
            .options_raw(options)
            .unwrap()
            .write(&mut frame, payload)
            .unwrap();
        frame
    };
    pair.inject(End::Right, &syn(5000, &[34, 2, 1, 1], b""));
    pair.run(millis(1));
    let answer = pair.take_frames(End::Right);
    let mut option = [34, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    let at = answer[0].windows(2).position(|bytes| bytes == [34, 10]).expect("a cookie");
    option[..10].copy_from_slice(&answer[0][at..at + 10]);
    let taken = |pair: &mut Pair| pair.counter(End::Right, "tcp.fast_open_taken");
    let mut servers = Vec::new();
    for port in 5001..5100 {
        // They are accepted, and leave the backlog.
        servers.push(pair.credit(End::Right, &quota, 0, u32::from(port) - 4900));
        pair.inject(End::Right, &syn(port, &option, b"hello"));
    }
    assert_eq!(taken(&mut pair), bound, "the others go through a handshake");
    let mut wrong = option;
    wrong[5] ^= 1;
    pair.inject(End::Right, &syn(6010, &wrong, b"hello"));
    assert_eq!(taken(&mut pair), bound, "somebody else's cookie");
    // The left side answers what it did not ask for with resets, which make room.
    pair.run(secs(2));
    pair.inject(End::Right, &syn(6020, &option, b"hello"));
    assert_eq!(taken(&mut pair), bound + 1);
    pair.run(secs(2));
    let all: Vec<_> = servers.iter().collect();
    pair.clean_up(&all, &[(End::Right, 0)], &[&quota]);
}
