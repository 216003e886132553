//! Attaching, stacks by name, the end of the daemon, and forks.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crate::common::{BLACK_HOLE, DEADLINE, FakeDaemon, Setup, any, fake::let_it_sleep};
use dmm::{
    Client, Error, Event, Events, Interest, Poll, TcpListener, TcpStream, Token, UdpSocket, errno,
};
use nix::errno::Errno;

#[test]
fn without_a_daemon_one_message_says_what_to_do() {
    let error = Client::attach("/nonexistent/dmmd.sock").unwrap_err();
    let words = error.to_string();
    let wanted = "cannot reach dmmd at /nonexistent/dmmd.sock: start dmmd or set DMM_SOCKET";
    assert!(words.starts_with(wanted), "{words}");
    assert_eq!(error.errno(), Errno::ENOENT as i32);
    // A socket file that nobody listens on any more.
    let mut daemon = FakeDaemon::start();
    daemon.kill();
    let error = Client::attach(daemon.path()).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert_eq!(error.errno(), Errno::ECONNREFUSED as i32);
}

#[test]
fn a_user_who_may_not_is_told_what_decides() {
    use std::os::unix::fs::PermissionsExt;

    let daemon = FakeDaemon::start();
    // Nobody may use the socket, and everybody look into its folder.
    for (path, mode) in [(daemon.path(), 0o000), (daemon.path().parent().unwrap(), 0o755)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let path = daemon.path().to_owned();
    let error = as_nobody(move || Client::attach(path).unwrap_err());
    assert!(matches!(error, Error::Forbidden { .. }), "{error}");
    assert_eq!(error.errno(), Errno::EACCES as i32);
    let words = error.to_string();
    for word in ["clients.mode", "clients.users", "clients.groups", "root"] {
        assert!(words.contains(word), "{words}");
    }
    assert!(!words.contains("start dmmd"), "{words}");
}

/// Runs this as a user whom file modes bind: any but root.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    use nix::libc::{SYS_setresuid, c_long, syscall};

    const NOBODY: c_long = 65_534;
    let other_user = || {
        if !nix::unistd::geteuid().is_root() {
            return work();
        }
        // SAFETY: the system call, unlike the function of that name, concerns this thread alone,
        // which ends with its work.
        let done = unsafe { syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY) };
        assert_eq!(done, 0);
        work()
    };
    std::thread::scope(|scope| scope.spawn(other_user).join().unwrap())
}

#[test]
fn a_daemon_of_another_version_is_told_apart() {
    let daemon = FakeDaemon::start_as(Setup { refuses_version: true, ..Setup::default() });
    let error = Client::attach(daemon.path()).unwrap_err();
    assert!(matches!(error, Error::Attach { .. }));
    let words = error.to_string();
    assert!(words.contains("version 1") && words.contains("version 2"), "{words}");
    assert_eq!(error.errno(), Errno::EPROTO as i32);
}

#[test]
fn stacks_are_chosen_by_name() {
    let daemon = FakeDaemon::start();
    let client = Client::attach(daemon.path()).unwrap();
    assert_eq!(client.stacks(), ["fast", "lab"]);
    let error = client.listen(Some("slow"), any()).unwrap_err();
    assert_eq!(errno(&error), Errno::ENODEV as i32);
    assert!(error.to_string().contains("fast, lab"), "{error}");
    // Each stack has a world of its own.
    let listener = client.listen(Some("lab"), any()).unwrap();
    let to = listener.local_addr().unwrap();
    assert!(client.connect(Some("lab"), to).is_ok());
    assert_eq!(errno(&client.connect(None, to).unwrap_err()), Errno::ECONNREFUSED as i32);
}

#[test]
fn several_sessions_live_side_by_side() {
    let daemon = FakeDaemon::start();
    let (one, two) =
        (Client::attach(daemon.path()).unwrap(), Client::attach(daemon.path()).unwrap());
    let listener = one.listen(None, "10.0.0.1:80").unwrap();
    let _same_port_elsewhere = two.listen(None, "10.0.0.1:80").unwrap();
    drop(two);
    assert!(one.connect(None, listener.local_addr().unwrap()).is_ok());
}

#[test]
fn the_end_of_the_daemon_reaches_every_call() {
    let mut daemon = FakeDaemon::start();
    let client = Client::attach(daemon.path()).unwrap();
    let listener = client.listen(None, any()).unwrap();
    let to = listener.local_addr().unwrap();
    let a = client.connect(None, to).unwrap();
    let (b, _) = listener.accept().unwrap();
    let udp = client.bind_udp(None, any()).unwrap();
    let poll = Poll::new();
    poll.register(&udp, Token(1), Interest::READABLE).unwrap();
    let black_hole = SocketAddr::new(any().ip(), BLACK_HOLE);
    std::thread::scope(|scope| {
        let calls = [
            scope.spawn(|| (&a).read(&mut [0]).map(drop)),
            scope.spawn(|| (&b).write_all(&vec![0; 1 << 20])),
            scope.spawn(|| listener.accept().map(drop)),
            scope.spawn(|| udp.recv(&mut [0]).map(drop)),
            scope.spawn(|| client.connect(None, black_hole).map(drop)),
            scope.spawn(|| {
                let mut events = Events::with_capacity(4);
                poll.wait(&mut events, Some(DEADLINE))?;
                let event = events.iter().next().expect("an event");
                assert!(event.is_error() && event.is_hang_up() && event.is_readable());
                Err(std::io::Error::from_raw_os_error(Errno::ECONNRESET as i32))
            }),
        ];
        let_it_sleep();
        // The writer ends in a full FIFO because `a` reads one byte only.
        daemon.kill();
        for call in calls.into_iter().skip(1) {
            let error = call.join().unwrap().unwrap_err();
            assert_eq!(errno(&error), Errno::ECONNRESET as i32);
        }
    });
    assert!(client.is_dead());
    let reset = |error: std::io::Error| assert_eq!(errno(&error), Errno::ECONNRESET as i32);
    reset((&b).read(&mut [0]).unwrap_err());
    reset((&a).write(b"x").unwrap_err());
    reset(udp.send_to(b"x", to).unwrap_err());
    reset(a.shutdown(std::net::Shutdown::Both).unwrap_err());
    reset(a.set_nodelay(true).unwrap_err());
    reset(listener.accept().unwrap_err());
    reset(client.connect(None, to).unwrap_err());
    reset(a.take_error().unwrap().unwrap());
    a.set_nonblocking(true).unwrap();
    b.set_nonblocking(true).unwrap();
    reset((&b).read(&mut [0]).unwrap_err());
}

#[test]
fn a_program_that_spins_on_its_own_notices_the_end() {
    let mut daemon = FakeDaemon::start();
    let client = Client::attach(daemon.path()).unwrap();
    let udp = client.bind_udp(None, any()).unwrap();
    udp.set_nonblocking(true).unwrap();
    std::thread::scope(|scope| {
        let spinner = scope.spawn(|| {
            loop {
                let error = udp.recv(&mut [0]).unwrap_err();
                if error.kind() != std::io::ErrorKind::WouldBlock {
                    return errno(&error);
                }
            }
        });
        let_it_sleep();
        daemon.kill();
        assert_eq!(spinner.join().unwrap(), Errno::ECONNRESET as i32);
    });
}

/// Runs one of the tests below, which use the environment, in a process of its own.
fn in_own_process(test: &str, daemon: &FakeDaemon) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("DMM_SOCKET", daemon.path())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && words.contains("1 passed"), "{words}");
}

#[test]
fn the_global_client_follows_the_environment() {
    in_own_process("attach::global_client", &FakeDaemon::start());
}

#[test]
#[ignore = "run by the_global_client_follows_the_environment, with DMM_SOCKET set"]
fn global_client() {
    let listener = TcpListener::bind(any()).unwrap();
    let to = listener.local_addr().unwrap();
    let mut a = TcpStream::connect_timeout(&to, DEADLINE).unwrap();
    let (mut b, _) = listener.accept().unwrap();
    a.write_all(b"x").unwrap();
    b.read_exact(&mut [0]).unwrap();
    assert!(TcpStream::connect(to).is_ok());
    let elsewhere = TcpListener::bind_via("lab", any()).unwrap();
    assert!(TcpStream::connect_via("lab", elsewhere.local_addr().unwrap()).is_ok());
    UdpSocket::bind(any()).unwrap();
    assert_eq!(errno(&UdpSocket::bind_via("slow", any()).unwrap_err()), Errno::ENODEV as i32);
    assert!(Client::global().unwrap().stacks().contains(&"fast".to_owned()));
}

#[test]
fn a_poll_outlives_its_daemon() {
    let mut daemon = FakeDaemon::start();
    let client = Client::attach(daemon.path()).unwrap();
    let poll = Poll::new();
    let old = client.bind_udp(None, any()).unwrap();
    poll.register(&old, Token(1), Interest::READABLE).unwrap();
    daemon.kill();
    let mut events = Events::with_capacity(4);
    poll.wait(&mut events, Some(DEADLINE)).unwrap();
    assert!(events.iter().any(Event::is_error));
    let daemon = daemon.restart(Setup::default());
    let client = Client::attach(daemon.path()).unwrap();
    let new = client.bind_udp(None, any()).unwrap();
    let refused = poll.register(&new, Token(2), Interest::WRITABLE).unwrap_err();
    assert_eq!(errno(&refused), Errno::EXDEV as i32);
    drop(old);
    poll.wait(&mut events, Some(Duration::from_millis(5))).unwrap();
    assert!(events.is_empty());
    poll.register(&new, Token(2), Interest::WRITABLE).unwrap();
    poll.wait(&mut events, Some(DEADLINE)).unwrap();
    assert!(events.iter().any(|event| event.token() == Token(2) && event.is_writable()));
}

#[test]
fn a_forked_child_is_refused_and_the_parent_goes_on() {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    let daemon = FakeDaemon::start();
    let client = Client::attach(daemon.path()).unwrap();
    let listener = client.listen(None, any()).unwrap();
    let mut a = client.connect(None, listener.local_addr().unwrap()).unwrap();
    let (mut b, _) = listener.accept().unwrap();
    // SAFETY: the child makes only calls that take no lock which another thread of this process
    // (the daemon's) could hold: none of them knows this client, and it leaves by _exit.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let refused = |error: std::io::Error| errno(&error) == Errno::EBADF as i32;
            let all = a.read(&mut [0]).is_err_and(refused)
                && a.set_nodelay(true).is_err_and(refused)
                && a.shutdown(std::net::Shutdown::Both).is_err_and(refused)
                && client.bind_udp(None, any()).is_err_and(refused)
                && listener.accept().is_err_and(refused);
            drop((a, b, listener));
            // SAFETY: ends the child without running the test harness's exit code.
            unsafe { nix::libc::_exit(i32::from(!all)) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            a.write_all(b"still here").unwrap();
            let mut bytes = [0; 10];
            b.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"still here");
        }
    }
}
