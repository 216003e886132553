//! Floods: connections go on, memory stays bounded, and each frame is accounted for.

use dmm_port::wire::WireConfig;
use dmm_stack::pair::{Client, End, Flood, Known, Pair, Quota};

use crate::{V4, clean, left, millis, right, secs};

const FRAMES: u64 = 50_000;
/// Frames between two looks at the connection beside it: 5 million a second.
const BURST: u64 = 50;

/// A listener, a connection that is flooded, and one beside it.
struct World {
    pair: Pair,
    quota: Quota,
    flooded: [Client; 2],
    beside: [Client; 2],
    known: Known,
}

fn world() -> World {
    let wire = WireConfig { in_flight_limit: 1 << 20, ..clean() };
    let mut pair = Pair::new("native", &wire);
    let quota = Quota::new(512);
    let (mut one, mut other) = pair.joined([&quota, &quota], V4);
    pair.keep_frames(End::Left);
    pair.exchange(secs(5), &mut one, &mut other, (1000, 1000));
    pair.run(secs(1));
    let known = pair.take_frames(End::Left).last().and_then(|frame| Known::from_frame(frame));
    let server = pair.credit(End::Right, &quota, 0, 2);
    let client = pair.connect(End::Left, &quota, 2, (left(50_001), right(80)));
    pair.expect(secs(5), "the second handshake", |pair| pair.of(&server).accepted.is_some());
    let (flooded, beside) = ([one, other], [client, server]);
    World { pair, quota, flooded, beside, known: known.expect("a segment") }
}

impl World {
    /// Sends the flood while bytes go both ways beside it. Returns the most chunks that were in use.
    fn flood(&mut self, flood: Flood) -> u32 {
        let [client, server] = &mut self.beside;
        let mut most = 0;
        let until = client.sent + 10 * FRAMES / BURST;
        for number in 0..FRAMES {
            self.pair.inject(End::Right, &flood.frame(number, self.known));
            if number % BURST != 0 {
                continue;
            }
            self.pair.write_until(client, (client.sent + 10).min(until));
            self.pair.write_until(server, (server.sent + 10).min(until));
            self.pair.run(millis(1) / 100);
            self.pair.read_all(client);
            self.pair.read_all(server);
            most = most.max(self.quota.pool.used());
        }
        self.pair.expect(secs(5), "the bytes beside the flood", |pair| {
            pair.read_all(client);
            pair.read_all(server);
            (client.received, server.received) == (server.sent, client.sent)
        });
        most
    }

    fn count(&mut self, names: &[&str]) -> u64 {
        names.iter().map(|name| self.pair.counter(End::Right, name)).sum()
    }

    fn clean_up(mut self) {
        let World { pair, quota, flooded: [a, b], beside: [c, d], .. } = &mut self;
        pair.clean_up(&[a, b, c, d], &[(End::Right, 0)], &[quota]);
    }
}

#[test]
fn syns_take_a_backlog_and_no_more() {
    let mut world = world();
    world.flood(Flood::Syn);
    // A listener, two connections, and as many half-open ones as its backlog of 8 has room for.
    let sockets = world.pair.sockets(End::Right).len();
    assert!(sockets <= 3 + 8, "{sockets} sockets");
    let counted = world.count(&[
        "drop.tcp_backlog_full",
        "tcp.syn_cookies_sent",
        "drop.tcp_half_open_evicted",
        "drop.tcp_half_open_expired",
        "drop.answer_no_neighbour",
    ]);
    assert!(counted >= FRAMES - 11, "{counted} of {FRAMES}");
    world.clean_up();
}

#[test]
fn acks_change_nothing() {
    let mut world = world();
    let before = world.pair.sockets(End::Right).len();
    world.flood(Flood::Ack);
    assert_eq!(world.pair.sockets(End::Right).len(), before);
    let counted = world.count(&["drop.tcp_no_connection", "drop.tcp_implausible"]);
    assert_eq!(counted, FRAMES);
    // RFC 5961 section 7: what does not fit is answered twice a second, not each time.
    assert!(world.count(&["tcp.challenges"]) < 10);
    let [one, other] = &mut world.flooded;
    world.pair.exchange(secs(5), one, other, (10_000, 10_000));
    world.clean_up();
}

#[test]
fn fragments_take_the_places_of_others() {
    let mut world = world();
    let most = world.flood(Flood::Fragments);
    assert!(most < 20, "{most} chunks");
    world.pair.run(secs(60));
    let counted = world.count(&["drop.fragment_evicted", "drop.fragment_timeout"]);
    assert_eq!(counted, FRAMES);
    world.clean_up();
}

/// The peer floods its own connection, which it harms alone.
#[test]
fn bytes_out_of_order_take_the_window_and_no_more() {
    let mut world = world();
    let before = world.quota.pool.used();
    let most = world.flood(Flood::OutOfOrder);
    // A window of 64 KiB is four chunks of 16, and a part at either end; the connection beside it has four.
    assert!(most <= before + 6 + 4, "{most} chunks, {before} before");
    let [one, other] = &mut world.flooded;
    world.pair.exchange(secs(30), one, other, (0, 10_000));
    world.clean_up();
}
