//! A socket moves from one context to another.

use super::*;

/// Completions that wait for room.
const WAITING: u32 = 12;

fn refused(errno: u32) -> Completion {
    Completion::Refused { socket: SOCKET, option: SocketOption::NoDelay, errno }
}

pub fn client(path: &Path) {
    let (socket, attachment) = attach(path);
    let bell = Attachment::open_context(socket.as_fd(), 1).unwrap();
    assert!(Attachment::open_context(socket.as_fd(), 1).is_err(), "it is open already");
    assert!(Attachment::open_context(socket.as_fd(), 2).is_err(), "there is no such context");
    let memory = &attachment.memory;
    let mut submissions = Producer::new(memory.submissions(0));
    let [mut old, mut new] = [0, 1].map(|channel| Consumer::new(memory.completions(channel)));
    let submission = Submission::Rehome { socket: SOCKET, context: 1 };
    assert!(submissions.stage(&submission.encode()).unwrap() && submissions.publish());
    attachment.workers[0].ring();
    // The thread on the new context waits for the word that the socket is its own.
    let line = memory.context(1);
    while !new.look().unwrap() {
        sleep_unless(&line.asleep, &bell, || new.look().unwrap());
    }
    let pop =
        |ring: &mut Consumer| ring.pop().unwrap().map(|entry| Completion::decode(&entry).unwrap());
    assert_eq!(pop(&mut new), Some(Completion::Rehomed { socket: SOCKET }));
    // One last look at the old channel finds all that came before.
    let mut before = 0;
    while let Some(completion) = pop(&mut old) {
        assert_eq!(completion.socket(), SOCKET);
        before += 1;
    }
    old.release();
    assert_eq!(before, dmm_proto::layout::RING_ENTRIES);
    let mut after = 0;
    while after < WAITING {
        match pop(&mut new) {
            Some(completion) => {
                assert_eq!(completion, refused(after));
                after += 1;
            }
            None => sleep_unless(&line.asleep, &bell, || new.look().unwrap()),
        }
    }
    assert_eq!(pop(&mut old), None);
}

#[test]
fn a_socket_moves_between_contexts_in_order() {
    let place = Place::new();
    let other = Other::start("rehome", &place.path());
    let mut daemon = FakeDaemon::new(GEOMETRY).unwrap();
    let mut session = place.serve(&mut daemon);
    for _ in 0..3 {
        match session.request().unwrap() {
            Some((Request::OpenContext { context }, _)) => session.open_context(context).unwrap(),
            other => panic!("{other:?}"),
        }
    }
    let [mut old, mut new] = [0, 1].map(|context| session.completions(context, 0));
    // More than the ring holds: the rest waits, and is to come on the new channel.
    for _ in 0..dmm_proto::layout::RING_ENTRIES {
        old.push(Completion::Look { socket: SOCKET }).unwrap();
    }
    for errno in 0..WAITING {
        old.push(refused(errno)).unwrap();
    }
    let mut submissions = session.submissions(0, 0);
    let worker = daemon.beacon.worker(0);
    while !submissions.look().unwrap() {
        sleep_unless(&worker.asleep, &session.bells[0], || submissions.look().unwrap());
    }
    let entry = submissions.pop().unwrap().unwrap();
    let expected = Submission::Rehome { socket: SOCKET, context: 1 };
    assert_eq!(Submission::decode(&entry), Ok(expected));
    dmm_proto::rehome::rehome(&mut old, &mut new, SOCKET).unwrap();
    session.flush(&mut new, 1).unwrap();
    assert_eq!((old.waiting(), new.waiting()), (0, 0));
    assert!(session.request().unwrap().is_none());
    other.finish();
}
