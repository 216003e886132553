//! Connections that go on in another stack.

use dmm_port::wire::WireConfig;
use dmm_stack::config::{Congestion, StackConfig};
use dmm_stack::pair::{End, Pair, Quota, config};
use dmm_stack::{SocketId, build};
use nix::errno::Errno;

use crate::{V4, V6, clean, left, lossy, millis, right, secs};

/// A stack of a station with an algorithm.
fn stack(station: u8, congestion: Congestion) -> StackConfig {
    let mut config = config(station);
    config.tcp.congestion = congestion;
    config
}

/// Both ends move each few milliseconds, on a path that loses, reorders and doubles.
#[test]
fn a_connection_moves_while_bytes_are_under_way() {
    for congestion in [Congestion::Cubic, Congestion::Bbr, Congestion::Dctcp, Congestion::Reno] {
        for seed in 0..8 {
            let configs = [stack(1, congestion), stack(2, congestion)];
            let mut pair = Pair::with("native", &lossy(seed), &configs[0], &configs[1]);
            let quota = Quota::new(256);
            let ends = if seed % 2 == 0 { V4 } else { V6 };
            let (mut client, mut server) = pair.joined([&quota, &quota], ends);
            let total = 1_500_000;
            let mut moves = 0;
            let mut next = pair.now;
            pair.expect(secs(600), "all bytes", |pair| {
                pair.write_until(&mut client, total);
                pair.write_until(&mut server, total);
                pair.read_all(&mut client);
                pair.read_all(&mut server);
                if pair.now >= next {
                    next = pair.now + millis(3);
                    moves += 1;
                    let (end, which, socket) = match moves % 2 {
                        0 => (End::Left, 0, client.socket),
                        _ => (End::Right, 1, server.socket),
                    };
                    pair.replace(end, build("native", &configs[which]).unwrap(), &[socket]);
                }
                (client.received, server.received) == (total, total)
            });
            assert!(moves >= 8, "{congestion:?}, seed {seed}: {moves} moves");
            pair.clean_up(&[&client, &server], &[], &[&quota]);
        }
    }
}

/// What it knew of the path, its peer and its options goes along.
#[test]
fn what_a_connection_knows_goes_along() {
    let configs = [stack(1, Congestion::Cubic), stack(2, Congestion::Cubic)];
    let wire = WireConfig { delay: millis(20), ..clean() };
    let mut pair = Pair::with("native", &wire, &configs[0], &configs[1]);
    let quota = Quota::new(256);
    let (mut client, mut server) = pair.joined([&quota, &quota], V4);
    pair.exchange(secs(60), &mut client, &mut server, (1 << 20, 0));
    let info = |pair: &mut Pair| {
        let now = pair.now;
        pair.stack(End::Left).tcp_info(now, client.socket).expect("it is there")
    };
    let before = info(&mut pair);
    pair.replace(End::Left, build("native", &configs[0]).unwrap(), &[client.socket]);
    let after = info(&mut pair);
    assert_eq!(before, after);
    assert!(before.snd_cwnd > 20 && before.rtt.0 >= millis(40), "{before:?}");
}

/// What cannot be taken in comes back, and goes on where it was.
#[test]
fn a_stack_takes_what_it_has_room_and_an_address_for() {
    let mut pair = Pair::new("native", &clean());
    let quota = Quota::new(64);
    let (mut client, mut server) = pair.joined([&quota, &quota], V4);
    let (socket, now) = (client.socket, pair.now);
    assert!(pair.stack(End::Right).save(SocketId(0)).is_none(), "a listener is no connection");
    assert!(pair.stack(End::Right).save(SocketId(99)).is_none());
    let saved = pair.stack(End::Left).save(socket).expect("it is open");
    assert!(pair.sockets(End::Left).is_empty());
    let mut elsewhere = build("native", &config(3)).unwrap();
    let Err((errno, saved)) = elsewhere.restore(now, socket, saved) else { panic!("taken") };
    assert_eq!(errno, Errno::EADDRNOTAVAIL);
    let mut other_kind = build("smoltcp", &config(1)).unwrap();
    let Err((errno, mut saved)) = other_kind.restore(now, socket, saved) else { panic!("taken") };
    assert_eq!(errno, Errno::EOPNOTSUPP);
    // Each part of it is needed.
    let state = saved.state.clone();
    for len in 0..state.len() {
        saved.state.truncate(0);
        saved.state.extend_from_slice(&state[..len]);
        let Err((errno, back)) = pair.stack(End::Left).restore(now, socket, saved) else {
            panic!("{len} of {} bytes are enough", state.len())
        };
        assert_eq!(errno, Errno::EINVAL);
        saved = back;
    }
    saved.state = state;
    assert!(pair.stack(End::Left).restore(now, socket, saved).is_ok());
    pair.exchange(secs(10), &mut client, &mut server, (100_000, 100_000));
    // There is a connection with these ends by now.
    let saved = pair.stack(End::Left).save(socket).expect("it is open");
    let again = pair.connect(End::Left, &quota, 7, (left(50_000), right(80)));
    let Err((errno, _)) = pair.stack(End::Left).restore(now, socket, saved) else {
        panic!("taken")
    };
    assert_eq!(errno, Errno::EADDRINUSE);
    pair.clean_up(&[&again, &server], &[(End::Right, 0)], &[]);
}
