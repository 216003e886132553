//! Listeners: backlogs and credits.

use dmm_stack::kinds::KINDS;
use dmm_stack::pair::{Client, End, Pair, Quota};
use dmm_stack::{Request, SocketId};
use nix::errno::Errno;

use crate::{IP_KINDS, clean, left, right, secs};

fn connect(pair: &mut Pair, quota: &Quota, count: u16) -> Vec<Client> {
    (1..=count)
        .map(|n| pair.connect(End::Left, quota, n.into(), (left(2000 + n), right(80))))
        .collect()
}

fn connected(pair: &mut Pair, clients: &[Client]) -> usize {
    clients.iter().filter(|client| pair.of(client).connected == Some(Ok(()))).count()
}

#[test]
fn a_full_backlog_drops_and_later_takes() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(512);
        pair.listen(End::Right, 0, right(80), 4);
        let mut clients = connect(&mut pair, &quota, 10);
        pair.run(secs(3));
        assert_eq!(connected(&mut pair, &clients), 4, "as many as the backlog");
        assert!(pair.counter(End::Right, "drop.tcp_backlog_full") >= 6);
        let waiting = pair.sockets(End::Right);
        assert_eq!(waiting.iter().filter(|report| report.socket.is_none()).count(), 4);
        // What is written before the credit waits with the connection.
        for client in &mut clients {
            if pair.of(client).connected == Some(Ok(())) {
                pair.write_until(client, 3000);
            }
        }
        pair.run(secs(1));
        let mut servers: Vec<_> = (1..=10).map(|n| pair.credit(End::Right, &quota, 0, n)).collect();
        pair.expect(secs(30), "the others", |pair| connected(pair, &clients) == 10);
        pair.expect(secs(30), "all accepts", |pair| {
            servers.iter().all(|server| pair.of(server).accepted.is_some())
        });
        for client in &mut clients {
            pair.write_until(client, 3000);
        }
        pair.expect(secs(10), "the bytes", |pair| {
            servers.iter_mut().all(|server| {
                pair.read_all(server);
                server.received == 3000
            })
        });
        let all: Vec<_> = clients.iter().chain(&servers).collect();
        pair.clean_up(&all, &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn credits_are_answered_in_order_with_both_addresses() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        pair.listen(End::Right, 0, "0.0.0.0:80".parse().unwrap(), 4);
        let servers: Vec<_> = (5..8).map(|n| pair.credit(End::Right, &quota, 0, n)).collect();
        let mut clients = Vec::new();
        for (n, server) in servers.iter().enumerate() {
            let port = 3000 + n as u16;
            clients.push(pair.connect(End::Left, &quota, n as u32, (left(port), right(80))));
            pair.expect(secs(5), "the accept", |pair| pair.of(server).accepted.is_some());
            assert_eq!(pair.of(server).accepted, Some((right(80), left(port))));
        }
        let all: Vec<_> = clients.iter().chain(&servers).collect();
        pair.clean_up(&all, &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn connections_reset_before_their_credit_are_forgotten() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        pair.listen(End::Right, 0, right(80), 4);
        let clients = connect(&mut pair, &quota, 3);
        pair.expect(secs(5), "the connections", |pair| connected(pair, &clients) == 3);
        pair.run(secs(1));
        pair.submit(End::Left, Request::Abort { socket: clients[0].socket });
        pair.run(secs(1));
        let first = pair.credit(End::Right, &quota, 0, 1);
        pair.run(secs(1));
        assert_eq!(pair.of(&first).accepted, Some((right(80), left(2002))));
        assert_eq!(pair.sockets(End::Right).len(), 3, "listener, accepted, waiting");
        let all = [&clients[0], &clients[1], &clients[2], &first];
        pair.clean_up(&all, &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn a_closed_listener_resets_what_waits_and_returns_its_credits() {
    for kind in KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        pair.listen(End::Right, 0, right(80), 4);
        let clients = connect(&mut pair, &quota, 2);
        pair.expect(secs(5), "the connections", |pair| connected(pair, &clients) == 2);
        pair.run(secs(1));
        pair.submit(End::Right, Request::Close { socket: SocketId(0) });
        pair.expect(secs(5), "the resets", |pair| {
            clients.iter().all(|client| pair.of(client).broken == Some(Errno::ECONNRESET))
        });
        assert!(pair.seen(End::Right, SocketId(0)).gone);
        pair.listen(End::Right, 3, right(80), 4);
        let credits = [4, 5].map(|n| pair.credit(End::Right, &quota, 3, n));
        pair.close(&credits[0]);
        pair.run(secs(1));
        assert!(pair.of(&credits[0]).gone && !pair.of(&credits[1]).gone);
        pair.submit(End::Right, Request::Close { socket: SocketId(3) });
        pair.run(secs(1));
        assert!(pair.of(&credits[1]).gone);
        let all: Vec<_> = clients.iter().collect();
        pair.clean_up(&all, &[], &[&quota]);
    }
}

#[test]
fn half_open_connections_expire() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        pair.listen(End::Right, 0, right(80), 4);
        // The neighbours get to know each other.
        let first = pair.connect(End::Left, &quota, 9, (left(1999), right(80)));
        pair.expect(secs(5), "a connection", |pair| pair.of(&first).connected.is_some());
        pair.keep_frames(End::Left);
        let clients = connect(&mut pair, &quota, 1);
        pair.expect(secs(5), "a connection", |pair| connected(pair, &clients) == 1);
        let syn = pair.take_frames(End::Left).remove(0);
        pair.submit(End::Left, Request::Abort { socket: clients[0].socket });
        pair.run(secs(1));
        pair.port(End::Left).set_link_up(false);
        pair.inject(End::Right, &syn);
        pair.run(secs(1));
        let half_open = |pair: &mut Pair| {
            pair.sockets(End::Right).iter().filter(|report| report.state == "SYN-RECV").count()
        };
        assert_eq!(half_open(&mut pair), 1);
        pair.run(secs(15));
        assert_eq!(half_open(&mut pair), 0);
        assert_eq!(pair.counter(End::Right, "drop.tcp_half_open_expired"), 1);
        pair.port(End::Left).set_link_up(true);
        pair.clean_up(&[&clients[0], &first], &[(End::Right, 0)], &[&quota]);
    }
}

#[test]
fn a_listener_on_an_address_goes_before_one_on_any() {
    for kind in IP_KINDS {
        let mut pair = Pair::new(kind, &clean());
        let quota = Quota::new(64);
        pair.listen(End::Right, 0, "0.0.0.0:80".parse().unwrap(), 4);
        pair.listen(End::Right, 1, right(80), 4);
        let again = Request::Listen { socket: SocketId(2), local: right(80), backlog: 1 };
        assert_eq!(pair.try_submit(End::Right, again), Err(Errno::EADDRINUSE));
        let server = pair.credit(End::Right, &quota, 1, 5);
        let clients = connect(&mut pair, &quota, 1);
        pair.expect(secs(5), "the accept", |pair| pair.of(&server).accepted.is_some());
        pair.clean_up(&[&clients[0], &server], &[(End::Right, 0), (End::Right, 1)], &[&quota]);
    }
}
