//! Two clients and a shortcut: 16 MiB each way.

use super::*;

const PAIR_BYTES: usize = 16 << 20;
pub const PAIR: PairGeometry = PairGeometry { connections: 4, contexts: [1, 1], chunks: 8 };
const CONNECTION: u32 = 2;
const GENERATION: u32 = 9;

pub fn client(path: &Path) {
    let (socket, _attachment) = attach(path);
    let mut mover = Mover::new(receive_pair(socket.as_fd()), 50_000);
    mover.finish();
    // The other side may still be reading: it needs our memory for that, which it maps, not us.
}

/// What the daemon hands out of a pair.
pub fn receive_pair(socket: BorrowedFd<'_>) -> AttachedPair {
    let (reply, fds) = Reply::receive(socket).unwrap();
    let Reply::Pair { side, geometry, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(geometry, PAIR);
    AttachedPair::open(geometry, side, fds).unwrap()
}

/// One side of a connection on which [`PAIR_BYTES`] go each way.
pub struct Mover {
    pair: AttachedPair,
    tx: PairTx,
    rx: PairRx,
    outgoing: Producer,
    incoming: Consumer,
    sent: usize,
    received: usize,
    finished: bool,
    random: Random,
    buffer: Vec<u8>,
}

impl Mover {
    /// A side that moves up to `step_max` bytes at a time.
    pub fn new(pair: AttachedPair, step_max: usize) -> Self {
        let (tx, rx) = open(&pair.memory.connection(CONNECTION), GENERATION, 0);
        Self {
            tx,
            rx,
            outgoing: Producer::new(pair.memory.outgoing(0, 0)),
            incoming: Consumer::new(pair.memory.incoming(0, 0)),
            sent: 0,
            received: 0,
            finished: false,
            random: Random::new(pair.memory.side() as u64),
            buffer: vec![0; step_max],
            pair,
        }
    }

    /// Bytes received so far, all of them as they should be.
    pub fn received(&self) -> usize {
        self.received
    }

    /// Moves everything, asleep where there is nothing to do.
    pub fn finish(&mut self) {
        while !(self.finished && self.rx.at_end().unwrap()) {
            if !self.step() {
                self.sleep();
            }
        }
        assert_eq!((self.sent, self.received), (PAIR_BYTES, PAIR_BYTES));
    }

    /// Sends and receives some. Returns whether that was anything.
    pub fn step(&mut self) -> bool {
        while let Some(entry) = self.incoming.pop().unwrap() {
            let expected = PairMessage::Look { connection: CONNECTION, generation: GENERATION };
            assert_eq!(PairMessage::decode(&entry, PAIR.connections), Ok(expected));
            self.rx.hear();
        }
        self.incoming.release();
        let len = 1 + self.random.below(self.buffer.len() as u64) as usize;
        let len = len.min(PAIR_BYTES - self.sent);
        pattern(self.sent, &mut self.buffer[..len]);
        let written = self.tx.write(&[&self.buffer[..len]], false).unwrap();
        self.sent += written;
        let ends = self.sent == PAIR_BYTES && !self.finished;
        self.finished |= ends;
        if ends {
            self.tx.finish();
        }
        let read = self.rx.read(&mut self.buffer).unwrap();
        check_pattern(self.received, &self.buffer[..read]);
        self.received += read;
        let wanted = read > 0 && self.rx.take_wanted();
        if (written > 0 || ends || wanted) && self.tx.must_tell() {
            self.tell();
        }
        written > 0 || read > 0 || ends
    }

    fn tell(&mut self) {
        let look = PairMessage::Look { connection: CONNECTION, generation: GENERATION };
        assert!(self.outgoing.stage(&look.encode()).unwrap());
        self.outgoing.publish();
        let memory = &self.pair.memory;
        if memory.context(memory.side().other(), 0).asleep.is_up() {
            self.pair.ringers[0].ring();
        }
    }

    fn sleep(&mut self) {
        let Self { pair, tx, rx, incoming, finished, .. } = self;
        if !*finished {
            tx.want_room();
        }
        let ours = pair.memory.context(pair.memory.side(), 0);
        sleep_unless(&ours.asleep, &pair.listeners[0], || {
            incoming.look().unwrap()
                || rx.available().unwrap() > 0
                || rx.at_end().unwrap()
                || (!*finished && tx.room(1).unwrap() > 0)
        });
    }
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
