//! Two clients and a shortcut: 16 MiB each way.

use super::*;

const PAIR_BYTES: usize = 16 << 20;
const PAIR: PairGeometry = PairGeometry { connections: 4, contexts: [1, 1], chunks: 8 };
const CONNECTION: u32 = 2;
const GENERATION: u32 = 9;

pub fn client(path: &Path) {
    let (socket, _attachment) = attach(path);
    let (reply, fds) = Reply::receive(socket.as_fd()).unwrap();
    let Reply::Pair { side, geometry, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(geometry, PAIR);
    let AttachedPair { memory, listeners, ringers } =
        AttachedPair::open(geometry, side, fds).unwrap();
    let (mut tx, mut rx) = open(&memory.connection(CONNECTION), GENERATION, 0);
    let mut outgoing = Producer::new(memory.outgoing(0, 0));
    let mut incoming = Consumer::new(memory.incoming(0, 0));
    let (ours, theirs) = (memory.context(side, 0), memory.context(side.other(), 0));
    let mut tell = || {
        let look = PairMessage::Look { connection: CONNECTION, generation: GENERATION };
        assert!(outgoing.stage(&look.encode()).unwrap());
        outgoing.publish();
        if theirs.asleep.is_up() {
            ringers[0].ring();
        }
    };
    let (mut sent, mut received, mut random) = (0, 0, Random::new(side as u64));
    let mut buffer = vec![0; 50_000];
    let mut finished = false;
    while !(finished && rx.at_end().unwrap()) {
        while let Some(entry) = incoming.pop().unwrap() {
            let expected = PairMessage::Look { connection: CONNECTION, generation: GENERATION };
            assert_eq!(PairMessage::decode(&entry, geometry.connections), Ok(expected));
            rx.hear();
        }
        incoming.release();
        let len = (1 + random.below(50_000) as usize).min(PAIR_BYTES - sent);
        pattern(sent, &mut buffer[..len]);
        let written = tx.write(&[&buffer[..len]], false).unwrap();
        sent += written;
        let ends = sent == PAIR_BYTES && !std::mem::replace(&mut finished, sent == PAIR_BYTES);
        if ends {
            tx.finish();
        }
        let read = rx.read(&mut buffer).unwrap();
        check_pattern(received, &buffer[..read]);
        received += read;
        let wanted = read > 0 && rx.take_wanted();
        if (written > 0 || ends || wanted) && tx.must_tell() {
            tell();
        }
        if written == 0 && read == 0 && !ends {
            if !finished {
                tx.want_room();
            }
            sleep_unless(&ours.asleep, &listeners[0], || {
                incoming.look().unwrap()
                    || rx.available().unwrap() > 0
                    || rx.at_end().unwrap()
                    || (!finished && tx.room(1).unwrap() > 0)
            });
        }
    }
    assert_eq!((sent, received), (PAIR_BYTES, PAIR_BYTES));
    // The other side may still be reading: it needs our memory for that, which it maps, not us.
}

#[test]
fn sixteen_mebibytes_go_each_way_between_two_clients() {
    let place = Place::new();
    let others = [(); 2].map(|()| Other::start("pair", &place.path()));
    let mut daemon = FakeDaemon::new(GEOMETRY).unwrap();
    let [first, second] = [(); 2].map(|()| place.serve(&mut daemon));
    FakeDaemon::pair(&first, &second, PAIR).unwrap();
    // The daemon has no part in what follows, and nothing of the pair's.
    others.into_iter().for_each(Other::finish);
}
