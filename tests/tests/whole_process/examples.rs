//! The example configurations of `daemon/examples`: sound, and, where a machine needs nothing for them,
//! at work.

use std::fs;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::Arc;

use dmm_tests::command::{program, run};
use dmm_tests::daemon::Daemon;
use dmm_tests::deadline::eventually;
use dmm_tests::namespace::Namespace;
use serde_json::{Value, json};

use crate::c_api::repository;

#[test]
fn all_are_sound() {
    let mut count = 0;
    for file in fs::read_dir(repository().join("daemon/examples")).expect("it exists") {
        let path = file.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "json") {
            run(Command::new(program("dmmd")).arg("--check").arg("--config").arg(&path));
            count += 1;
        }
    }
    assert!(count >= 5, "{count}");
}

/// Two stacks of one daemon, joined by rings.
#[test]
fn rings_join_two_stacks() {
    let stack = |number: u8| {
        json!({
            "name": format!("s{number}"), "kind": "native", "port": format!("p{number}"),
            "cores": [0, 0], "addresses": [format!("10.80.0.{number}/24")],
        })
    };
    let config = json!({
        "ports": [{"name": "p1", "device": "ring:lab"}, {"name": "p2", "device": "ring:lab"}],
        "stacks": [stack(1), stack(2)],
        "memory": {"hugepages": "never"},
    });
    let daemon = Daemon::start(&Arc::new(Namespace::new("home")), &config);
    let client = dmm::Client::attach(daemon.socket()).expect("the daemon runs");
    let listener = client.listen(Some("s1"), "10.80.0.1:0").expect("a free port");
    let to = listener.local_addr().expect("bound");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (stream, _) = listener.accept().expect("one comes");
            std::io::copy(&mut &stream, &mut &stream).expect("an echo")
        });
        let mut stream = client.connect(Some("s2"), to).expect("it listens");
        let data = vec![7; 1 << 20];
        let mut answer = vec![0; data.len()];
        std::thread::scope(|scope| {
            scope.spawn(|| (&stream).write_all(&data).expect("it is read"));
            (&stream).read_exact(&mut answer).expect("it comes back");
        });
        assert!(answer == data);
        stream.flush().expect("always");
    });
    // The last acknowledgement may still be in a ring.
    eventually("equal counts", || {
        let ports = daemon.status().ports;
        let [one, other] = [ports[0].stats, ports[1].stats];
        // The driver counts no bytes.
        assert!(one.rx_frames > (1 << 20) / 1500);
        let equal = (one.tx_frames, one.rx_frames) == (other.rx_frames, other.tx_frames);
        if equal { Ok(()) } else { Err(format!("{one:?}, {other:?}")) }
    });
}

/// Each pair as it stands, with sockets in a folder of the test's own.
#[test]
fn those_that_meet_ping_each_other() {
    for (listens, comes) in [("vhost-user", "virtio-user"), ("memif-server", "memif-client")] {
        let folder = tempfile::Builder::new().prefix("dmm-tests-").tempdir().expect("writable");
        let home = Arc::new(Namespace::new("home"));
        let start = |name: &str| {
            let path = repository().join(format!("daemon/examples/{name}.json"));
            let text = fs::read_to_string(path).expect("it exists");
            let here = text.replace("/run/dmm", &folder.path().display().to_string());
            Daemon::start(&home, &serde_json::from_str::<Value>(&here).expect("JSON"))
        };
        let (listens, comes) = (start(listens), start(comes));
        eventually("the link", || {
            match [&listens, &comes].iter().all(|daemon| daemon.status().ports[0].link_up) {
                true => Ok(()),
                false => Err("down".to_owned()),
            }
        });
        for (daemon, peer) in
            [(&listens, ["10.1.0.2", "fd00:1::2"]), (&comes, ["10.1.0.1", "fd00:1::1"])]
        {
            for address in peer {
                let mut dmm = Command::new(program("dmm"));
                dmm.arg("--socket")
                    .arg(daemon.socket())
                    .args(["ping", "-c", "3", "-i", "0", address]);
                let told = run(&mut dmm);
                assert!(told.contains("3 sent, 3 received"), "{told}");
            }
        }
    }
}
