//! A socket passes from one process to another.

use super::*;

/// Sends a descriptor to the other process by a way of their own, as a program would.
fn pass(socket: BorrowedFd<'_>, fd: BorrowedFd<'_>) {
    send(socket, b"x", &[fd]).unwrap();
}

pub fn lessor(path: &Path) {
    let (daemon, attachment) = attach(path);
    let placeholder =
        socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let parts = attachment.memory.fifo(SOCKET.slot);
    parts.client.reset();
    let mut writer = TxWriter::new(&parts);
    let reader = RxReader::new(&parts);
    // The heir's number comes from the daemon here; a parent would ask in its child's session.
    Request::Identify.send(daemon.as_fd()).unwrap();
    let (reply, _) = Reply::receive(daemon.as_fd()).unwrap();
    let Reply::Identified { process: heir } = reply else { panic!("{reply:?}") };
    assert_eq!(writer.write(&[b"from the lessor"], true), 15);
    drop(reader);
    let mine = Request::Lease { socket: SOCKET, heir: Heir::Process(heir) };
    mine.send_with(daemon.as_fd(), placeholder.as_fd()).unwrap();
    assert!(matches!(Reply::receive(daemon.as_fd()), Ok((Reply::Leased { .. }, _))));
    // A second one, of a fork that then fails, is taken back.
    mine.send_with(daemon.as_fd(), placeholder.as_fd()).unwrap();
    let Ok((Reply::Leased { lease }, _)) = Reply::receive(daemon.as_fd()) else { panic!() };
    Request::Withdraw { lease }.send(daemon.as_fd()).unwrap();
    assert!(matches!(Reply::receive(daemon.as_fd()), Ok((Reply::Withdrawn, _))));
    let heir = mock::connect(&path.with_file_name("heir")).unwrap();
    pass(heir.as_fd(), placeholder.as_fd());
}

pub fn heir(path: &Path) {
    let own = mock::listen(&path.with_file_name("heir")).unwrap();
    let (daemon, attachment) = attach(path);
    let lessor = mock::accept(&own).unwrap();
    let (_, fds) = receive(lessor.as_fd(), &mut [0; 8]).unwrap();
    // The lessor is gone before the claim: its end of the connection is closed.
    assert_eq!(receive(lessor.as_fd(), &mut [0; 8]).unwrap().0, 0);
    let wrong =
        socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let ours = Socket { slot: 5, generation: 1 };
    let parts = attachment.memory.fifo(ours.slot);
    parts.client.reset();
    let claim = Request::Claim { socket: ours, context: 0 };
    claim.send_with(daemon.as_fd(), wrong.as_fd()).unwrap();
    let refused = Reply::receive(daemon.as_fd());
    assert!(matches!(refused, Err(AttachError::Refused { .. })), "not what was passed on");
    claim.send_with(daemon.as_fd(), fds[0].as_fd()).unwrap();
    let (reply, _) = Reply::receive(daemon.as_fd()).unwrap();
    let Reply::Claimed { kind: SocketKind::Stream, instance: 0, .. } = reply else {
        panic!("{reply:?}")
    };
    let (mut reader, mut writer) = (RxReader::new(&parts), TxWriter::new(&parts));
    let mut bytes = [0; 64];
    let read = reader.read(&mut bytes);
    assert_eq!(&bytes[..read], b"unread by the lessor");
    assert_eq!(writer.write(&[b", from the heir"], true), 15);
    claim.send_with(daemon.as_fd(), fds[0].as_fd()).unwrap();
    assert!(Reply::receive(daemon.as_fd()).is_err(), "a lease is claimed once");
}

#[test]
fn a_leased_socket_goes_from_a_process_that_exits_to_one_that_claims_it() {
    let place = Place::new();
    let mut daemon = FakeDaemon::new(GEOMETRY).unwrap();
    let other = Other::start("heir", &place.path());
    let heir = place.serve(&mut daemon);
    let lessor_process = Other::start("lessor", &place.path());
    let lessor = place.serve(&mut daemon);
    // Asked once the client's line is ready.
    assert!(matches!(lessor.request(), Ok(Some((Request::Identify, _)))));
    let (mut rx, mut tx) = lessor.open(SOCKET.slot, CAPACITY);
    rx.write(b"unread by the lessor");
    rx.publish();
    lessor.reply(Reply::Identified { process: heir.process }, &[]).unwrap();
    while let Some((request, fds)) = lessor.request().unwrap() {
        assert!(daemon.answer_lease(&lessor, request, &fds).unwrap());
    }
    lessor_process.finish();
    // The lessor is gone: what it held ends, what its heir holds does not.
    assert!(daemon.leases.expire(lessor.process).is_empty());
    assert_eq!(daemon.leases.len(), 1);
    tx.seal().unwrap();
    let mut new: Option<(RxFifo, TxFifo)> = None;
    while let Some((request, fds)) = heir.request().unwrap() {
        let Request::Claim { socket, context: 0 } = request else { panic!("{request:?}") };
        if !daemon.answer_lease(&heir, request, &fds).unwrap() {
            continue;
        }
        // The stream moves into the claimant's arena; what is unsent stays where it is.
        let mut unread = vec![0; usize::try_from(rx.unread()).unwrap()];
        assert_eq!(rx.copy_unread(0, &mut unread), 20);
        let (mut new_rx, new_tx) = heir.open(socket.slot, CAPACITY);
        new_rx.write(&unread);
        new_rx.publish();
        new = Some((new_rx, new_tx));
        let reply =
            Reply::Claimed { instance: 0, kind: SocketKind::Stream, local: None, peer: None };
        heir.reply(reply, &[]).unwrap();
    }
    other.finish();
    let (_, mut new_tx) = new.expect("nothing was claimed");
    new_tx.refresh().unwrap();
    let mut bytes = [0; 64];
    let first = tx.copy_out(0, &mut bytes);
    let second = new_tx.copy_out(0, &mut bytes[first..]);
    assert_eq!(&bytes[..first + second], b"from the lessor, from the heir");
    assert!(daemon.leases.is_empty());
}

#[test]
fn a_lease_of_a_bearer_ends_with_the_process_that_passed_it_on() {
    let mut daemon = FakeDaemon::new(GEOMETRY).unwrap();
    let sender = ProcessId(1);
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let cookie = dmm_proto::message::cookie_of(fd.as_fd()).unwrap();
    // A duplicate is the same socket; possession of either is possession.
    let duplicate = fd.try_clone().unwrap();
    assert_eq!(dmm_proto::message::cookie_of(duplicate.as_fd()).unwrap(), cookie);
    daemon.leases.grant(cookie, sender, Heir::Bearer).unwrap();
    assert_eq!(daemon.leases.expire(sender).len(), 1);
    assert!(!daemon.leases.is_leased(cookie));
}
