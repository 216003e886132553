//! Either side dies, or sends more than the other can take.

use super::*;

pub fn daemon(path: &Path) {
    let listener = mock::listen(path).unwrap();
    // Tells the test that clients may connect.
    drop(mock::connect(&path.with_file_name("ready")).unwrap());
    let mut daemon = FakeDaemon::new(GEOMETRY).unwrap();
    let session = daemon.serve(mock::accept(&listener).unwrap()).unwrap();
    assert!(session.request().unwrap().is_some(), "the client died first");
    panic!("the client outlives its daemon");
}

#[test]
fn the_daemons_death_is_the_end_of_a_clients_doorbell() {
    let folder = tempfile::tempdir().unwrap();
    let ready = mock::listen(&folder.path().join("ready")).unwrap();
    let path = folder.path().join("socket");
    let mut other = Other::start("daemon", &path);
    mock::accept(&ready).unwrap();
    let (socket, attachment) = attach(&path);
    attachment.workers[0].ring();
    assert_eq!(attachment.listener.drain(), Heard::Nothing);
    other.0.kill().unwrap();
    wait_for_end(&attachment.listener);
    other.0.wait().unwrap();
    assert_eq!(receive(socket.as_fd(), &mut [0; 8]).unwrap().0, 0);
    // Its memory is still ours to read.
    assert_eq!(attachment.memory.read_stacks().len(), 1);
}

pub fn client(path: &Path) {
    let (_socket, attachment) = attach(path);
    attachment.workers[0].ring();
    wait_for_end(&attachment.listener);
    panic!("the daemon outlives its client");
}

#[test]
fn a_clients_death_is_the_end_of_its_doorbell() {
    let place = Place::new();
    let mut other = Other::start("client", &place.path());
    let mut daemon = FakeDaemon::new(GEOMETRY).unwrap();
    let session = place.serve(&mut daemon);
    let mut fds = [PollFd::new(session.bells[0].as_fd(), PollFlags::POLLIN)];
    assert_ne!(poll(&mut fds, PATIENCE_MS).unwrap(), 0);
    let rings = nix::unistd::read(&session.bells[0], &mut [0; 8]);
    assert_eq!(rings, Ok(8), "it was rung, and can be asked how often");
    other.0.kill().unwrap();
    // A process closes its descriptors in an order of its own, but all before it can be waited for.
    other.0.wait().unwrap();
    assert!(!session.contexts[0].as_ref().is_some_and(Ringer::ring));
    assert!(session.request().unwrap().is_none());
}

pub fn few_descriptors(_: &Path) {
    let kind = SockType::SeqPacket;
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, before as u64 + 10, hard).unwrap();
    for _ in 0..50 {
        send(ours.as_fd(), b"flood", &[theirs.as_fd(); 100]).unwrap();
        let received = receive(theirs.as_fd(), &mut [0; 16]);
        assert_eq!(
            received.map_err(|error: io::Error| error.raw_os_error()).err(),
            Some(Some(105))
        );
        assert_eq!(open(), before, "descriptors were left open");
    }
    send(ours.as_fd(), b"good", &[theirs.as_fd(); 3]).unwrap();
    assert_eq!(receive(theirs.as_fd(), &mut [0; 16]).unwrap().1.len(), 3);
}

#[test]
fn a_packet_with_too_many_descriptors_leaves_none_open() {
    Other::start("few", Path::new("/nonexistent")).finish();
}
