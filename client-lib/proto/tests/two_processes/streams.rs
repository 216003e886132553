//! A socket's FIFOs: 64 MiB each way, with sleep and wake.

use super::*;

const STREAM_BYTES: usize = 64 << 20;
/// The daemon takes back room that is empty each time it has received so much.
const LET_GO_BYTES: usize = 1 << 20;

/// A client's thread on context 0.
struct Client {
    _socket: OwnedFd,
    attachment: Attachment,
    submissions: Producer,
    completions: Consumer,
}

impl Client {
    fn attach(path: &Path) -> Self {
        let (socket, attachment) = attach(path);
        let memory = &attachment.memory;
        Self {
            submissions: Producer::new(memory.submissions(0)),
            completions: Consumer::new(memory.completions(0)),
            _socket: socket,
            attachment,
        }
    }

    fn submit(&mut self, submission: &Submission) {
        assert!(self.submissions.stage(&submission.encode()).unwrap(), "the ring is full");
        self.submissions.publish();
        let memory = &self.attachment.memory;
        memory.pending(0).contexts.fetch_or(1, Ordering::AcqRel);
        if self.attachment.beacon.worker(0).asleep.is_up() {
            self.attachment.workers[0].ring();
        }
    }

    fn sleep_unless(&mut self, mut work: impl FnMut() -> bool) {
        let Self { attachment, completions, .. } = self;
        let line = attachment.memory.context(0);
        sleep_unless(&line.asleep, &attachment.listener, || completions.look().unwrap() || work());
    }

    fn next(&mut self) -> Option<Completion> {
        let entry = self.completions.pop().unwrap();
        self.completions.release();
        entry.map(|entry| Completion::decode(&entry).unwrap())
    }

    fn wait(&mut self) -> Completion {
        loop {
            if let Some(completion) = self.next() {
                return completion;
            }
            self.sleep_unless(|| false);
        }
    }

    fn wait_past_looks(&mut self) -> Completion {
        loop {
            match self.wait() {
                Completion::Look { .. } => {}
                other => return other,
            }
        }
    }
}

pub fn client(path: &Path) {
    let mut client = Client::attach(path);
    let parts = client.attachment.memory.fifo(SOCKET.slot);
    parts.client.reset();
    let (mut reader, mut writer) = (RxReader::new(&parts), TxWriter::new(&parts));
    let any = "0.0.0.0:0".parse::<std::net::SocketAddr>().unwrap().into();
    client.submit(&Submission::Connect {
        socket: SOCKET,
        local: any,
        remote: any,
        opening: Opening::default(),
    });
    assert_eq!(client.wait(), Completion::Connected { socket: SOCKET, errno: 0, local: None });
    let (mut sent, mut received, mut random) = (0, 0, Random::new(1));
    let mut buffer = vec![0; 100_000];
    while sent < STREAM_BYTES || received < STREAM_BYTES {
        while let Some(completion) = client.next() {
            assert_eq!(completion, Completion::Look { socket: SOCKET });
            reader.hear();
        }
        let mut moved = false;
        let len = (1 + random.below(100_000) as usize).min(STREAM_BYTES - sent);
        if len > 0 {
            pattern(sent, &mut buffer[..len]);
            let written = writer.write(&[&buffer[..len]], false);
            sent += written;
            moved |= written > 0;
            if written > 0 && writer.must_tell() {
                client.submit(&Submission::Send { socket: SOCKET });
            }
        }
        let len = 1 + random.below(100_000) as usize;
        let read = reader.read(&mut buffer[..len]);
        check_pattern(received, &buffer[..read]);
        received += read;
        moved |= read > 0;
        if read > 0 && reader.owes_receive() {
            client.submit(&Submission::Receive { socket: SOCKET });
        }
        if !moved {
            let more = sent < STREAM_BYTES;
            if more {
                writer.want_room();
                if writer.room(1) == 0 && writer.must_tell() {
                    client.submit(&Submission::Send { socket: SOCKET });
                }
            }
            client.sleep_unless(|| reader.available() > 0 || (more && writer.room(1) > 0));
        }
    }
    assert!(reader.at_end() || received == STREAM_BYTES);
    client.submit(&Submission::Close { socket: SOCKET });
    assert_eq!(client.wait_past_looks(), Completion::Closed { socket: SOCKET });
}

/// The daemon's side of one socket, whose peer sends the pattern and checks it.
struct Peer {
    rx: RxFifo,
    tx: TxFifo,
    sent: usize,
    received: usize,
    stalled: bool,
    let_go_at: usize,
    lettings_go: usize,
}

impl Peer {
    fn new((rx, tx): (RxFifo, TxFifo)) -> Self {
        Self { rx, tx, sent: 0, received: 0, stalled: false, let_go_at: 0, lettings_go: 0 }
    }

    fn deliver(&mut self, session: &FakeSession, outbox: &mut Outbox) -> bool {
        if self.stalled || self.sent == STREAM_BYTES {
            return false;
        }
        self.rx.refresh().unwrap();
        let mut bytes = vec![0; 9000.min(STREAM_BYTES - self.sent)];
        pattern(self.sent, &mut bytes);
        let written = self.rx.write(&bytes);
        self.sent += written;
        if self.rx.publish() && self.rx.must_tell() {
            session.tell(outbox, 0, Completion::Look { socket: SOCKET }).unwrap();
        }
        if written == 0 {
            self.rx.stall();
            self.rx.refresh().unwrap();
            self.stalled = self.rx.room() == 0;
        }
        true
    }

    fn take(&mut self, session: &FakeSession, outbox: &mut Outbox) -> bool {
        self.tx.refresh().unwrap();
        let mut bytes = vec![0; 9000];
        let len = self.tx.copy_out(0, &mut bytes);
        check_pattern(self.received, &bytes[..len]);
        self.received += len;
        self.tx.consume(len);
        if len == 0 {
            // Seldom: a client whose room goes whenever it is empty gets nowhere.
            if self.received - self.let_go_at > LET_GO_BYTES && self.tx.let_go().unwrap() {
                self.let_go_at = self.received;
                self.lettings_go += 1;
            }
            return false;
        }
        self.make_room(session, outbox);
        true
    }

    fn make_room(&mut self, session: &FakeSession, outbox: &mut Outbox) {
        if self.tx.grant() && self.tx.take_wanted() && self.rx.must_tell() {
            session.tell(outbox, 0, Completion::Look { socket: SOCKET }).unwrap();
        }
    }
}

#[test]
fn sixty_four_mebibytes_go_each_way_with_sleep_and_wake() {
    let place = Place::new();
    let other = Other::start("streams", &place.path());
    let mut daemon = FakeDaemon::new(GEOMETRY).unwrap();
    let session = place.serve(&mut daemon);
    let (mut submissions, mut outbox) = (session.submissions(0, 0), session.completions(0, 0));
    let (pending, worker) = (session.memory.pending(0), daemon.beacon.worker(0));
    let mut peer: Option<Peer> = None;
    let mut sleeps = 0;
    loop {
        let mut moved = false;
        if pending.contexts.swap(0, Ordering::AcqRel) != 0 {
            while let Some(entry) = submissions.pop().unwrap() {
                moved = true;
                match (Submission::decode(&entry).unwrap(), &mut peer) {
                    (Submission::Connect { socket, .. }, None) => {
                        peer = Some(Peer::new(session.open(socket.slot, CAPACITY)));
                        let answer = Completion::Connected { socket, errno: 0, local: None };
                        session.tell(&mut outbox, 0, answer).unwrap();
                    }
                    (Submission::Send { .. }, Some(peer)) => {
                        peer.tx.hear().unwrap();
                        peer.make_room(&session, &mut outbox);
                    }
                    (Submission::Receive { .. }, Some(peer)) => peer.stalled = false,
                    (Submission::Close { socket }, Some(peer)) => {
                        peer.tx.seal().unwrap();
                        while peer.take(&session, &mut outbox) {}
                        assert_eq!((peer.sent, peer.received), (STREAM_BYTES, STREAM_BYTES));
                        session.tell(&mut outbox, 0, Completion::Closed { socket }).unwrap();
                        submissions.release();
                        other.finish();
                        let lettings_go = peer.lettings_go;
                        println!(
                            "{STREAM_BYTES} bytes each way, {sleeps} sleeps, {lettings_go} lettings go"
                        );
                        return;
                    }
                    (submission, _) => panic!("{submission:?}"),
                }
            }
            submissions.release();
        }
        if let Some(peer) = &mut peer {
            moved |= peer.deliver(&session, &mut outbox) | peer.take(&session, &mut outbox);
        }
        if !moved {
            sleeps += 1;
            sleep_unless(&worker.asleep, &session.bells[0], || {
                pending.contexts.load(Ordering::Acquire) != 0
            });
        }
    }
}
